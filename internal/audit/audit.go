// Package audit answers: what was changed, by whom, and does the record still
// say so? It keeps an append-only file of JSON lines, each of which holds the
// digest of the line before, so that none can be changed or taken out without
// a trace.
package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// MaxRecordBytes bounds a line.
const MaxRecordBytes = 16 << 10

// ErrBroken is what errors match that say that the file is not what was
// written.
var ErrBroken = errors.New("the audit log was changed")

// Record is what is kept of one change, or of one that was refused. It never
// holds values of objects, tokens or keys.
type Record struct {
	// Number counts the records, from 1.
	Number uint64    `json:"number"`
	Time   time.Time `json:"time"`
	// Who did it, as pki.Identity.String has it, and From which address.
	Who  string `json:"who"`
	From string `json:"from,omitempty"`
	// What was done, On which set, host or operator.
	What string `json:"what"`
	On   string `json:"on,omitempty"`
	// Epoch and Revision are those that a set has then.
	Epoch    string `json:"epoch,omitempty"`
	Revision uint64 `json:"revision,omitempty"`
	Why      string `json:"why,omitempty"`
	// Error says why it was refused, or failed; empty: it was done.
	Error string `json:"error,omitempty"`
	// Before is the hexadecimal SHA-256 digest of the line before, without its
	// end; empty in the first.
	Before string `json:"before,omitempty"`
}

// Log is an open file. It is safe for concurrent use.
type Log struct {
	path string

	mu     sync.Mutex
	f      *os.File
	size   int64
	number uint64
	before string // the digest of the last line
	failed error  // of the last write: what it left is cut off before the next
}

// Open opens the file at path for appending, and makes it if need be. A last
// line that a crash has cut short was never acknowledged, and is cut off. It
// looks at no more of what is there, and goes on behind it: Log.Read says whether
// that is what was written.
func Open(path string) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open audit log: %w", err)
	}
	l := &Log{path: path, f: f}
	if err := l.resume(); err != nil {
		return nil, errors.Join(fmt.Errorf("audit log %s: %w", path, err), f.Close())
	}
	return l, nil
}

// resume goes on behind the last whole line.
func (l *Log) resume() error {
	size, err := l.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	from := max(0, size-2*MaxRecordBytes)
	tail := make([]byte, size-from)
	if _, err := l.f.ReadAt(tail, from); err != nil {
		return err
	}
	end := bytes.LastIndexByte(tail, '\n') + 1
	if end == 0 && from > 0 { // it is no line of ours: what comes begins a new one
		if _, err := l.f.WriteString("\n"); err != nil {
			return err
		}
		end, tail = len(tail)+1, append(tail, '\n')
	}
	l.size = from + int64(end)
	if err := l.f.Truncate(l.size); err != nil {
		return err
	}
	if _, err := l.f.Seek(0, io.SeekEnd); err != nil || end == 0 {
		return err
	}
	line := tail[:end-1]
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	var last Record
	if err := json.Unmarshal(line, &last); err != nil || last.Number == 0 {
		if last.Number, err = read(io.NewSectionReader(l.f, 0, l.size), func([]byte, Record) error { return nil }); !errors.Is(err, ErrBroken) {
			return err
		}
	}
	l.number, l.before = last.Number, digest(line)
	return nil
}

func digest(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// Append writes r, with its number, time and chain. It is in the file when
// Append returns; Sync makes it durable.
func (l *Log) Append(r Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil { // it may have left a part of a line, which goes
		if err := l.resume(); err != nil {
			return l.failed
		}
		l.failed = nil
	}
	r.Number, r.Time, r.Before = l.number+1, time.Now().UTC(), l.before
	line, err := json.Marshal(r)
	if err != nil || len(line) >= MaxRecordBytes {
		return fmt.Errorf("audit record of %d bytes: %w", len(line), errors.Join(err, errors.ErrUnsupported))
	}
	if _, err := l.f.Write(append(line, '\n')); err != nil {
		l.failed = fmt.Errorf("write audit log %s: %w", l.path, err)
		return l.failed
	}
	l.size += int64(len(line)) + 1
	l.number, l.before = r.Number, digest(line)
	return nil
}

// Sync makes what was appended durable.
func (l *Log) Sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.f.Sync(); err != nil {
		return fmt.Errorf("sync audit log %s: %w", l.path, err)
	}
	return nil
}

// Close makes what was appended durable and closes the file.
func (l *Log) Close() error {
	return errors.Join(l.Sync(), l.f.Close())
}

// Last returns the number of the last record; 0: there is none.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.number
}

// Read calls fn with each line, without its end, and its record, the oldest
// first, of those that are there when it begins. Where a line is no record, or
// doesn't follow from the one before, it goes on, and returns an error in the
// end that matches ErrBroken and names the first such line; it ends with fn's.
func (l *Log) Read(fn func(line []byte, r Record) error) error {
	l.mu.Lock()
	size, number := l.size, l.number
	l.mu.Unlock()
	f, err := os.Open(l.path)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	defer f.Close()
	last, err := read(io.LimitReader(f, size), fn)
	if err == nil && last != number {
		err = fmt.Errorf("%w: it ends at record %d of %d", ErrBroken, last, number)
	}
	return err
}

// Read is Log.Read of a file that need not be open.
func Read(path string, fn func(line []byte, r Record) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	defer f.Close()
	_, err = read(f, fn)
	return err
}

// read returns the number of the last record. What has no end of a line is being
// written, or was cut short by a crash.
func read(f io.Reader, fn func(line []byte, r Record) error) (number uint64, broken error) {
	lines := bufio.NewReaderSize(f, MaxRecordBytes+1)
	before := ""
	for n := 1; ; n++ {
		line, err := lines.ReadSlice('\n')
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if errors.Is(err, io.EOF) {
			return number, broken
		}
		if err != nil {
			return number, fmt.Errorf("read audit log: %w", err)
		}
		var r Record
		line = bytes.TrimSuffix(line, []byte("\n"))
		if long || json.Unmarshal(line, &r) != nil {
			broken = cmp.Or(broken, fmt.Errorf("%w: line %d is no record", ErrBroken, n))
			number, before = number+1, digest(line)
			continue
		}
		if r.Number != number+1 || r.Before != before {
			broken = cmp.Or(broken, fmt.Errorf("%w: line %d does not follow from the one before", ErrBroken, n))
		}
		number, before = r.Number, digest(line)
		if err := fn(line, r); err != nil {
			return number, err
		}
	}
}
