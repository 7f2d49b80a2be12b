package store

import (
	"bytes"
	"context"
	"fmt"

	"espalier/internal/desired"
)

// intake checks changes as they come from outside, and computes their digests:
// what a caller says of an object's digest is not believed.
type intake struct {
	hasher desired.Hasher
	last   []byte // the key before; keys are never empty
}

// check returns the digest of c's object, or an error that matches
// desired.ErrInvalid.
func (in *intake) check(c desired.Change) (desired.Digest, error) {
	if err := desired.CheckKey(c.Key); err != nil {
		return desired.Digest{}, err
	}
	switch order := bytes.Compare(c.Key, in.last); {
	case order == 0:
		return desired.Digest{}, fmt.Errorf("%w changes: key %q is there twice", desired.ErrInvalid, c.Key)
	case order < 0:
		return desired.Digest{}, fmt.Errorf("%w changes: key %q comes after %q; they must ascend", desired.ErrInvalid, c.Key, in.last)
	}
	in.last = append(in.last[:0], c.Key...)
	if c.Deleted() {
		return desired.Digest{}, nil
	}
	if err := desired.CheckEnvelope(c.Key, c.Envelope); err != nil {
		return desired.Digest{}, err
	}
	return in.hasher.Sum(c.Key, c.Envelope), nil
}

// pending is a checked change, as it will be stored. Its memory is a batch's.
type pending struct {
	key []byte
	row []byte // digest and envelope; nil: the object is deleted
}

func (p *pending) change() desired.Change {
	c := desired.Change{Key: p.key}
	if p.row != nil {
		copy(c.Digest[:], p.row)
		c.Envelope = p.row[digestBytes:]
	}
	return c
}

// payload returns what an object's row counts for in Head.Bytes.
func payload(key, row []byte) uint64 {
	return uint64(len(key) + len(row) - minObjectRow)
}

// arena is memory that is given back all at once. It grows as it is used, so
// that a small batch costs little.
type arena struct {
	chunks [][]byte
	next   int    // the first chunk that isn't in use
	free   []byte // of the chunk before
}

// The sizes of an arena's first and largest chunks. What is larger than a
// quarter of the largest is left to the garbage collector.
const (
	firstChunk   = 1 << 10
	largestChunk = 256 << 10
)

// alloc returns an empty slice of that capacity.
func (a *arena) alloc(size int) []byte {
	if size > largestChunk/4 {
		return make([]byte, 0, size)
	}
	for size > len(a.free) {
		if a.next == len(a.chunks) {
			a.chunks = append(a.chunks, make([]byte, min(firstChunk<<min(a.next, 20), largestChunk)))
		}
		a.free = a.chunks[a.next]
		a.next++
	}
	m := a.free[:0:size]
	a.free = a.free[size:]
	return m
}

// reset takes back all that was given.
func (a *arena) reset() { a.next, a.free = 0, nil }

// row returns the row of an object.
func (a *arena) row(digest desired.Digest, e desired.Envelope) []byte {
	return append(append(a.alloc(len(digest)+len(e)), digest[:]...), e...)
}

// batch holds changes in memory of its own, so that its caller may reuse what
// it handed in, and bbolt may keep what it was given until it commits.
type batch struct {
	changes []pending
	bytes   int
	arena   arena
}

// reset empties the batch. Nobody may refer to its memory any more.
func (b *batch) reset() {
	b.changes, b.bytes = b.changes[:0], 0
	b.arena.reset()
}

func (b *batch) add(key []byte, digest desired.Digest, e desired.Envelope) {
	p := pending{key: append(b.arena.alloc(len(key)), key...)}
	if e != nil {
		p.row = b.arena.row(digest, e)
	}
	b.changes = append(b.changes, p)
	b.bytes += len(p.key) + len(p.row)
}

// changeReader reads changes from outside, checks them and computes their
// digests.
type changeReader struct {
	next func() (desired.Change, error, bool)
	in   intake
	n    int
}

// read returns the next change, whose memory is the caller's; ok: there is one.
func (r *changeReader) read(ctx context.Context) (c desired.Change, ok bool, err error) {
	if r.n++; r.n%1024 == 0 && ctx.Err() != nil {
		return desired.Change{}, false, context.Cause(ctx)
	}
	c, err, ok = r.next()
	if err != nil || !ok {
		return desired.Change{}, false, err
	}
	c.Digest, err = r.in.check(c)
	return c, err == nil, err
}

// batch reads until the changes end or exceed the bounds; more: they may go on.
func (r *changeReader) batch(ctx context.Context, most bounds) (b *batch, more bool, err error) {
	b = &batch{}
	for !most.exceeded(len(b.changes), b.bytes) {
		c, ok, err := r.read(ctx)
		if err != nil || !ok {
			return b, false, err
		}
		b.add(c.Key, c.Digest, c.Envelope)
	}
	return b, true, nil
}
