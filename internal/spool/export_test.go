package spool

import (
	"os"

	"espalier/internal/desired"
)

// Lower makes w sort so many bytes at once, and merge so many runs.
func Lower(w *Writer, buffer, fanIn int) { w.limits.buffer, w.limits.fanIn = buffer, fanIn }

// LowerIndex bounds the index of the first run.
func LowerIndex(w *Writer, bytes int) { w.out.run.index.limit = bytes }

// Runs returns how many runs w has begun.
func Runs(w *Writer) int { return len(w.runs) + 1 }

// File returns the file that s's records are in; nil: they are in memory.
func File(s *Sorted) *os.File { return osFile(s.rows) }

// LargeFile returns the file that s's large envelopes are in.
func LargeFile(s *Sorted) *os.File { return osFile(s.large) }

func osFile(s *storage) *os.File {
	f, _ := s.file.(*os.File)
	return f
}

// FailWrites makes writes to new files fail with err once they hold so many
// bytes, until the function that it returns is called.
func FailWrites(after int, err error) (restore func()) {
	old := createTemp
	createTemp = func(dir string) (file, error) {
		f, e := os.CreateTemp(dir, "")
		return &failingFile{File: f, left: after, err: err}, e
	}
	return func() { createTemp = old }
}

type failingFile struct {
	*os.File
	left int
	err  error
}

func (f *failingFile) Write(b []byte) (int, error) {
	n, err := f.File.Write(b[:min(len(b), f.left)])
	if f.left -= n; err == nil && n < len(b) {
		err = &os.PathError{Op: "write", Path: f.Name(), Err: f.err}
	}
	return n, err
}

// ErrDamaged is what errors of files match that hold something else.
var ErrDamaged = errDamaged

// Roundtrip decodes the records of b and encodes them again.
func Roundtrip(b []byte) (changes []desired.Change, encoded []byte, err error) {
	for len(b) > 0 {
		var r record
		if b, err = r.decode(b); err != nil {
			return nil, nil, err
		}
		c := desired.Change{Key: r.key, Envelope: r.envelope, Digest: r.digest}
		if r.apart.size > 0 {
			c.Envelope = []byte{0}
		}
		changes = append(changes, c)
		encoded = appendRecord(encoded, c, r.number, r.apart)
	}
	return changes, encoded, nil
}

// OpenBlock returns the records of a block.
func OpenBlock(b []byte) ([]byte, error) { return openBlock(b) }

// SealedBlock returns records as a block.
func SealedBlock(records []byte) []byte {
	b := append(make([]byte, blockHeader), records...)
	sealBlock(b)
	return b
}
