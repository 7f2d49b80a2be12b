package spool

import (
	"bytes"
	"cmp"
	"iter"

	"espalier/internal/desired"
)

// Sorted is a finished spool: its changes, ascending by key. Iterations of All
// may run beside each other and beside anything else; otherwise it is not safe
// for concurrent use.
type Sorted struct {
	large, rows *storage
	run         run
	bytes       uint64
	finder      table
	reader      envelopes
}

// Len returns the number of changes.
func (s *Sorted) Len() int { return s.run.records }

// Bytes returns what their keys and envelopes add up to.
func (s *Sorted) Bytes() uint64 { return s.bytes }

// All returns the changes, ascending by key. The memory of one is valid until
// the next iteration.
func (s *Sorted) All() iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		c, reader := newCursor(s.rows, &s.run), envelopes{from: s.large}
		for {
			ok, err := c.advance()
			if err != nil {
				yield(desired.Change{}, err)
				return
			}
			if !ok {
				return
			}
			change, err := reader.change(&c.rec)
			if !yield(change, err) || err != nil {
				return
			}
		}
	}
}

// Get returns the change of key; ok is false where there is none. Its memory is
// valid until the next call. Keys that ascend are found fastest.
func (s *Sorted) Get(key []byte) (c desired.Change, ok bool, err error) {
	if ok, err = s.finder.seek(key); !ok || err != nil {
		return desired.Change{}, false, err
	}
	rec := &s.finder.cursor.rec
	if !bytes.Equal(rec.key, key) {
		return desired.Change{}, false, nil
	}
	s.reader.from = s.large
	c, err = s.reader.change(rec)
	return c, err == nil, err
}

// Close removes the spool's files.
func (s *Sorted) Close() error { return cmp.Or(s.rows.close(), s.large.close()) }

// envelopes reads those that lie apart, one at a time.
type envelopes struct {
	from *storage
	buf  []byte
}

func (e *envelopes) change(r *record) (desired.Change, error) {
	c := desired.Change{Key: r.key, Envelope: r.envelope, Digest: r.digest}
	if r.apart.size == 0 {
		return c, nil
	}
	if cap(e.buf) < r.apart.size {
		e.buf = make([]byte, r.apart.size)
	}
	c.Envelope = e.buf[:r.apart.size]
	if err := e.from.readAt(c.Envelope, r.apart.offset); err != nil {
		return desired.Change{}, err
	}
	if checksum(c.Envelope) != r.apart.sum {
		return desired.Change{}, damaged("the checksum of the envelope of %q is wrong", r.key)
	}
	return c, nil
}

// table finds records of a run by their keys.
type table struct {
	cursor *cursor
	run    *run
	last   []byte // what before returned
}

func newTable(from *storage, r *run) table {
	return table{cursor: newCursor(from, r), run: r}
}

// seek moves the cursor to the first record that is not below key; ok is false
// where there is none.
func (t *table) seek(key []byte) (ok bool, err error) {
	x, c := t.run.index, t.cursor
	if t.run.records == 0 {
		return false, nil
	}
	i := x.last(func(first []byte) bool { return bytes.Compare(first, key) <= 0 })
	within := c.at >= x.offsets[i] && (i+1 == len(x.offsets) || c.at < x.offsets[i+1])
	switch {
	case within && c.valid && bytes.Compare(c.rec.key, key) <= 0:
		// It is this record, or one of the next.
	case c.at == x.offsets[i]:
		c.rewind()
	default:
		if err := c.load(x.offsets[i]); err != nil {
			return false, err
		}
	}
	for !c.valid || bytes.Compare(c.rec.key, key) < 0 {
		if ok, err := c.advance(); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// before returns the last key that is less than key; ok is false where there is
// none. It is valid until the next call.
func (t *table) before(key []byte) (last []byte, ok bool, err error) {
	if t.run.records == 0 {
		return nil, false, nil
	}
	x, c := t.run.index, t.cursor
	i := x.last(func(first []byte) bool { return bytes.Compare(first, key) < 0 })
	if c.at == x.offsets[i] {
		c.rewind()
	} else if err := c.load(x.offsets[i]); err != nil {
		return nil, false, err
	}
	for {
		more, err := c.advance()
		if err != nil {
			return nil, false, err
		}
		if !more || bytes.Compare(c.rec.key, key) >= 0 {
			break
		}
		t.last, ok = append(t.last[:0], c.rec.key...), true
	}
	if !ok {
		return nil, false, nil
	}
	return t.last, true, nil
}

// records returns those with from <= key < until; a nil until stands for the
// end. A record is valid until the next iteration or call.
func (t *table) records(from, until []byte) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		ok, err := t.seek(from)
		for ok && err == nil {
			rec := &t.cursor.rec
			if until != nil && bytes.Compare(rec.key, until) >= 0 || !yield(rec, nil) {
				return
			}
			ok, err = t.cursor.advance()
		}
		if err != nil {
			yield(nil, err)
		}
	}
}
