// Package spool answers one question: how does a stream of changes of any size,
// in any order, become one sorted sequence that can be read again, in bounded
// memory?
//
// A Writer takes the changes, sorts as many as fit into a buffer, and puts them
// on disk as a run; what comes in order goes on in the same run. Finish merges
// the runs to one, where there is more than one, and returns it as a Sorted:
// to be read from its beginning, by key, or, with the tree that it has under a
// salt, as a merkle.Reader. Digests are kept as they were given, so that they
// are computed once.
//
// The files live for one run of the program. They have no name, and vanish with
// the process; small spools never touch the disk.
package spool

import (
	"cmp"
	"fmt"
	"os"

	"espalier/internal/desired"
	"espalier/merkle"
)

// Options configures a Writer; the zero value works.
type Options struct {
	// Ordered says that changes have to come in order: one that does not is an
	// error that matches merkle.ErrOrder, and nothing is ever sorted.
	Ordered bool
	// MemoryBytes is how much may be kept in memory before a file is made; 0: a
	// small amount, less than 0: nothing.
	MemoryBytes int
}

// Writer takes the changes of a spool. It is not safe for concurrent use.
type Writer struct {
	ordered  bool
	limits   limits
	large    *storage // envelopes that lie apart
	rows     *storage // runs
	out      runWriter
	runs     []run // all but the last
	buffer   buffer
	disorder bool // a change did not come in order: they go through the buffer
	scratch  []byte
	bytes    uint64
	err      error
}

// limits are those of this package; tests lower them.
type limits struct{ buffer, fanIn int }

// New returns a Writer whose files are made in dir; empty: the system's folder
// for temporary files. It has to be closed, whether it was finished or not.
func New(dir string, o Options) *Writer {
	if dir == "" {
		dir = os.TempDir()
	}
	limit := max(0, cmp.Or(o.MemoryBytes, memoryBytes))
	w := &Writer{
		ordered: o.Ordered, limits: limits{buffer: bufferBytes, fanIn: fanIn},
		large: &storage{dir: dir, limit: limit}, rows: &storage{dir: dir, limit: limit},
	}
	w.out.to = w.rows
	w.out.begin(newIndex())
	return w
}

// Add takes a change that came in that line; 0: it is not known. It copies what
// it keeps. Its errors match desired.ErrInvalid for a change that no spool
// holds, merkle.ErrOrder, or ErrDiskFull; a *DuplicateError may show now or in
// Finish. After an error every call returns it.
func (w *Writer) Add(c desired.Change, line int) error {
	if w.err == nil {
		w.err = w.add(c, uint64(line))
	}
	return w.err
}

func (w *Writer) add(c desired.Change, line uint64) error {
	if err := checkChange(c); err != nil {
		return err
	}
	inOrder := !w.disorder && w.out.ascends(c.Key)
	if w.ordered && !inOrder {
		return fmt.Errorf("%w: key %q after %q", merkle.ErrOrder, c.Key, w.out.last)
	}
	apart, err := w.putApart(c.Envelope)
	if err != nil {
		return err
	}
	w.bytes += uint64(len(c.Key) + len(c.Envelope))
	w.scratch = appendRecord(w.scratch[:0], c, line, apart)
	if inOrder {
		return w.out.add(c.Key, line, w.scratch)
	}
	w.disorder = true
	w.buffer.add(w.scratch)
	if w.buffer.size >= w.limits.buffer {
		return w.spill()
	}
	return nil
}

// putApart stores an envelope that is too large for its record.
func (w *Writer) putApart(e desired.Envelope) (extent, error) {
	if len(e) <= inlineBytes {
		return extent{}, nil
	}
	x := extent{size: len(e), offset: w.large.end(), sum: checksum(e)}
	return x, w.large.append(e)
}

// spill puts what is in the buffer on disk: behind the last run, if it comes
// after it, or as a run of its own.
func (w *Writer) spill() error {
	w.buffer.sort()
	var rec record
	for i, e := range w.buffer.entries {
		if _, err := rec.decode(w.buffer.raw(e)); err != nil {
			return err
		}
		if i == 0 && !w.out.ascends(rec.key) {
			if err := w.nextRun(); err != nil {
				return err
			}
		}
		if err := w.out.add(rec.key, rec.number, rec.raw); err != nil {
			return err
		}
	}
	w.buffer.reset()
	return nil
}

// nextRun ends the run that is written and begins another. Runs that are merged
// need no index.
func (w *Writer) nextRun() error {
	r, err := w.out.finish()
	if err != nil {
		return err
	}
	r.index = nil
	w.runs = append(w.runs, r)
	w.out.begin(nil)
	return nil
}

// Finish returns what was added in key order, or the error that Add would
// return. The Writer takes nothing more.
func (w *Writer) Finish() (*Sorted, error) {
	if w.err != nil {
		return nil, w.err
	}
	s, err := w.finish()
	if w.err = err; err != nil {
		return nil, err
	}
	w.large, w.rows, w.err = nil, nil, ErrClosed
	return s, nil
}

func (w *Writer) finish() (*Sorted, error) {
	if err := w.spill(); err != nil {
		return nil, err
	}
	last, err := w.out.finish()
	if err != nil {
		return nil, err
	}
	w.buffer = buffer{}
	w.runs = append(w.runs, last)
	for _, s := range []*storage{w.large, w.rows} {
		if err := s.flush(); err != nil {
			return nil, err
		}
	}
	for len(w.runs) > 1 {
		if err := w.merge(); err != nil {
			return nil, err
		}
	}
	r := &w.runs[0]
	return &Sorted{large: w.large, rows: w.rows, run: *r, bytes: w.bytes, finder: newTable(w.rows, r)}, nil
}

// Close gives up what was added, unless it was finished.
func (w *Writer) Close() error {
	var err error
	if w.rows != nil {
		err = cmp.Or(w.rows.close(), w.large.close())
	}
	w.large, w.rows, w.buffer = nil, nil, buffer{}
	w.err = cmp.Or(w.err, ErrClosed)
	return err
}
