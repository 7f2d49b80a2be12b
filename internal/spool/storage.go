package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// storage is a sequence of bytes that is appended to, and then read: in memory
// as long as it is small, then in a file that only this process sees.
type storage struct {
	dir   string
	limit int // bytes that are kept in memory
	file  file
	name  string // of a file that could not be removed while it is open
	tail  []byte // not in the file
	size  int64  // of the file
}

// file is an *os.File, or in tests one on a disk that is full.
type file interface {
	io.Writer
	io.ReaderAt
	io.Closer
	Name() string
}

// createTemp makes a file with mode 0600; tests replace it.
var createTemp = func(dir string) (file, error) { return os.CreateTemp(dir, "espalier-spool-*") }

// end returns the offset at which the next byte will lie.
func (s *storage) end() int64 { return s.size + int64(len(s.tail)) }

func (s *storage) append(b []byte) error {
	if s.file == nil && len(s.tail)+len(b) <= s.limit {
		s.tail = append(s.tail, b...)
		return nil
	}
	if s.file == nil {
		if err := s.create(); err != nil {
			return err
		}
	}
	if len(s.tail)+len(b) >= writeBytes {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if len(b) >= writeBytes {
		return s.write(b)
	}
	s.tail = append(s.tail, b...)
	return nil
}

// create makes the file and removes its name, so that it vanishes with the
// process.
func (s *storage) create() error {
	f, err := createTemp(s.dir)
	if err != nil {
		return explain(s.dir, err)
	}
	s.file = f
	if os.Remove(f.Name()) != nil {
		s.name = f.Name() // some systems keep a file that is open
	}
	return nil
}

func (s *storage) write(b []byte) error {
	n, err := s.file.Write(b)
	s.size += int64(n)
	if err != nil {
		return explain(s.dir, err)
	}
	return nil
}

// flush makes all that was appended readable.
func (s *storage) flush() error {
	if s.file == nil || len(s.tail) == 0 {
		return nil
	}
	err := s.write(s.tail)
	if s.tail = s.tail[:0]; cap(s.tail) > 2*writeBytes {
		s.tail = nil // what was kept before there was a file
	}
	return err
}

// readAt fills b from offset on. Everything was flushed before.
func (s *storage) readAt(b []byte, offset int64) error {
	if offset < 0 || offset > s.end()-int64(len(b)) {
		return damaged("%d bytes at %d of %d", len(b), offset, s.end())
	}
	if s.file == nil {
		copy(b, s.tail[offset:])
		return nil
	}
	n, err := s.file.ReadAt(b, offset)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return damaged("it has been cut short")
	}
	return fmt.Errorf("read the spool's file in %s: %w", s.dir, err)
}

// close gives up what is stored.
func (s *storage) close() error {
	if s.file == nil {
		s.tail = nil
		return nil
	}
	err := s.file.Close()
	if s.name != "" {
		err = errors.Join(err, os.Remove(s.name))
	}
	s.file, s.tail, s.name = nil, nil, ""
	return err
}
