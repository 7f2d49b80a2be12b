// Package audit answers: what was changed, by whom, and does the record still
// say so? It keeps an append-only file of JSON lines, each of which holds the
// digest of the line before, so that none can be changed or taken out without
// a trace.
package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
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
	number uint64
	before string // the digest of the last line
	failed error  // of the last write: what it left is cut off before the next
}

// Open opens the file at path for appending, and makes it if need be. A last
// line that a crash has cut short was never acknowledged, and is cut off. It
// returns an error that matches ErrBroken if the last whole line can't be read.
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
	if end == 0 && size > MaxRecordBytes {
		return fmt.Errorf("%w: it ends in a line of more than %d bytes", ErrBroken, MaxRecordBytes)
	}
	if err := l.f.Truncate(from + int64(end)); err != nil {
		return err
	}
	if _, err := l.f.Seek(0, io.SeekEnd); err != nil || end == 0 {
		return err
	}
	line := tail[:end-1]
	line = line[bytes.LastIndexByte(line, '\n')+1:]
	var last Record
	if err := json.Unmarshal(line, &last); err != nil {
		return fmt.Errorf("%w: its last line is no record: %w", ErrBroken, err)
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
// first, of those that are there when it begins. It returns an error that
// matches ErrBroken where a line doesn't follow from the one before, and fn's.
func (l *Log) Read(fn func(line []byte, r Record) error) error {
	return Read(l.path, l.Last(), fn)
}

// Read is Log.Read of a file that need not be open, up to the record last;
// math.MaxUint64: all that are there.
func Read(path string, last uint64, fn func(line []byte, r Record) error) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, MaxRecordBytes+1)
	number, before := uint64(0), ""
	for number < last && lines.Scan() {
		line := lines.Bytes()
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("%w: line %d is no record: %w", ErrBroken, number+1, err)
		}
		if number++; r.Number != number || r.Before != before {
			return fmt.Errorf("%w: line %d does not follow from the one before", ErrBroken, number)
		}
		before = digest(line)
		if err := fn(line, r); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if number < last && last != math.MaxUint64 {
		return fmt.Errorf("%w: it ends at record %d of %d", ErrBroken, number, last)
	}
	return nil
}
