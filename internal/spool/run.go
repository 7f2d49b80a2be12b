package spool

import (
	"bytes"
	"sort"
)

// run is a sequence of records in key order: blocks, one after the other.
type run struct {
	start, end int64 // in the storage
	records    int
	largest    int    // bytes of its largest block
	index      *index // nil: it is only read from its start
}

// runWriter appends runs to a storage.
type runWriter struct {
	to     *storage
	run    run
	block  []byte
	last   []byte // the key before
	number uint64 // and its number
}

// begin starts a run.
func (w *runWriter) begin(x *index) {
	w.run = run{start: w.to.end(), index: x}
	w.last = w.last[:0]
}

// ascends reports whether key may be the next one of the run.
func (w *runWriter) ascends(key []byte) bool {
	return w.run.records == 0 || bytes.Compare(key, w.last) > 0
}

// add appends a record. Its key has to be above the one before; if it is the
// same, the error is a *DuplicateError.
func (w *runWriter) add(key []byte, number uint64, raw []byte) error {
	if !w.ascends(key) {
		return duplicate(key, w.number, number)
	}
	if len(w.block) >= blockHeader+blockBytes {
		if err := w.closeBlock(); err != nil {
			return err
		}
	}
	if len(w.block) == 0 {
		w.block = append(w.block, make([]byte, blockHeader)...)
		if w.run.index != nil {
			w.run.index.add(key, w.to.end())
		}
	}
	w.block = append(w.block, raw...)
	w.last, w.number = append(w.last[:0], key...), number
	w.run.records++
	return nil
}

func (w *runWriter) closeBlock() error {
	if len(w.block) == 0 {
		return nil
	}
	sealBlock(w.block)
	w.run.largest = max(w.run.largest, len(w.block))
	err := w.to.append(w.block)
	w.block = w.block[:0]
	return err
}

// finish ends the run, which can be read once the storage is flushed.
func (w *runWriter) finish() (run, error) {
	err := w.closeBlock()
	w.run.end = w.to.end()
	return w.run, err
}

// index knows where some of a run's blocks begin, and with which keys.
type index struct {
	keys    []byte
	ends    []int   // of keys
	offsets []int64 // in the storage
	blocks  int     // all of the run
	stride  int     // it knows one block of so many
	limit   int     // bytes
}

func newIndex() *index { return &index{stride: 1, limit: indexBytes} }

// add takes the next block.
func (x *index) add(key []byte, offset int64) {
	if x.blocks%x.stride == 0 {
		x.push(key, offset)
	}
	x.blocks++
	if len(x.keys)+16*len(x.ends) > x.limit && len(x.ends) > 1 {
		x.thin()
	}
}

func (x *index) push(key []byte, offset int64) {
	x.keys = append(x.keys, key...)
	x.ends = append(x.ends, len(x.keys))
	x.offsets = append(x.offsets, offset)
}

// thin forgets every other block.
func (x *index) thin() {
	old := *x
	*x = index{blocks: old.blocks, stride: 2 * old.stride, limit: old.limit}
	for i := 0; i < len(old.ends); i += 2 {
		x.push(old.key(i), old.offsets[i])
	}
}

func (x *index) key(i int) []byte {
	start := 0
	if i > 0 {
		start = x.ends[i-1]
	}
	return x.keys[start:x.ends[i]]
}

// last returns the last entry for which less(its key) holds, or 0.
func (x *index) last(less func(key []byte) bool) int {
	return max(0, sort.Search(len(x.ends), func(i int) bool { return !less(x.key(i)) })-1)
}

// cursor reads a run's records in order.
type cursor struct {
	from    *storage
	largest int
	next    int64 // offset of the next block
	end     int64 // of the run
	at      int64 // offset of the block that is loaded
	buf     []byte
	block   []byte // its records
	rest    []byte // those still to be decoded
	rec     record
	valid   bool // rec is a record of block
}

func newCursor(from *storage, r *run) *cursor {
	return &cursor{from: from, largest: r.largest, next: r.start, end: r.end, at: -1}
}

// advance decodes the next record into rec; ok is false at the end of the run.
// The record before is not valid any more.
func (c *cursor) advance() (ok bool, err error) {
	c.valid = false
	if len(c.rest) == 0 {
		if c.next >= c.end {
			return false, nil
		}
		if err := c.load(c.next); err != nil {
			return false, err
		}
	}
	if c.rest, err = c.rec.decode(c.rest); err != nil {
		return false, err
	}
	c.valid = true
	return true, nil
}

// load reads the block at offset.
func (c *cursor) load(offset int64) error {
	c.valid, c.rest, c.at = false, nil, -1
	size := int(min(int64(c.largest), c.end-offset))
	if cap(c.buf) < size {
		c.buf = make([]byte, c.largest)
	}
	buf := c.buf[:size]
	if err := c.from.readAt(buf, offset); err != nil {
		return err
	}
	records, err := openBlock(buf)
	if err != nil {
		return err
	}
	c.block, c.rest = records, records
	c.at, c.next = offset, offset+int64(blockHeader+len(records))
	return nil
}

// rewind goes back to the beginning of the block that is loaded.
func (c *cursor) rewind() { c.rest, c.valid = c.block, false }
