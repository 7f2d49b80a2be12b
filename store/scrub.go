package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"golang.org/x/time/rate"

	"espalier/internal/desired"
	"espalier/merkle"
)

// Scrub reads every object of every set once and holds it against its digest,
// and the digests against the tree and the head. It takes a token of limit for
// each byte; nil: as fast as it can. A set with damage is quarantined. The error
// names all that could not be read.
func (s *Store) Scrub(ctx context.Context, limit *rate.Limiter) error {
	var bad []error
	for _, h := range s.Heads() {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		err := s.scrub(ctx, h.Name, limit)
		if err != nil && !errors.Is(err, ErrNotFound) && ctx.Err() == nil {
			bad = append(bad, err)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(bad...)
}

// Scrub is Store.Scrub of the mirror from a key on, as far as it takes to read so
// many bytes; at the beginning it verifies the structure of the file as well. It
// returns the key to go on from, nil at the end. An error that matches
// ErrCorrupt says that it is time for Repair.
func (m *Mirror) Scrub(from []byte, bytes int) (next []byte, err error) {
	if len(from) == 0 {
		if err := m.verify(); err != nil {
			return nil, err
		}
	}
	err = m.View(func(snap *Snapshot) error {
		next, _, err = snap.scrub(from, bounds{math.MaxInt, bytes})
		return err
	})
	return next, err
}

// verify verifies the structure of the mirror's file.
func (m *Mirror) verify() error {
	m.mu.Lock() // nobody must write to it meanwhile
	defer m.mu.Unlock()
	if m.Head().Epoch.IsZero() {
		return nil
	}
	return verifyFile(m.path(setSuffix))
}

func (s *Store) scrub(ctx context.Context, name desired.Name, limit *rate.Limiter) error {
	from := []byte{}
	for from != nil {
		var bytes int
		err := s.View(name, func(snap *Snapshot) (err error) {
			from, bytes, err = snap.scrub(from, s.opener.chunk)
			return err
		})
		if err != nil {
			return err
		}
		if err := pace(ctx, limit, bytes); err != nil {
			return err
		}
	}
	return nil
}

// pace waits for n tokens, of which the limiter may have fewer than n at once.
func pace(ctx context.Context, limit *rate.Limiter, n int) error {
	for limit != nil && n > 0 && limit.Limit() != rate.Inf {
		some := min(n, limit.Burst())
		if some == 0 {
			return fmt.Errorf("%w limiter: it allows no bytes at once", desired.ErrInvalid)
		}
		if err := limit.WaitN(ctx, some); err != nil {
			return err
		}
		n -= some
	}
	return nil
}

// scrub verifies nodes of the tree: those that cover the objects from a key on,
// as far as the bounds allow but at least one, down to what their objects hold;
// and at the beginning all that stands above them. It returns the key to go on
// from, nil at the end, and how many bytes of objects it read.
func (s *Snapshot) scrub(from []byte, most bounds) (next []byte, bytes int, err error) {
	if len(from) == 0 {
		err = s.scrubUpper()
	} else if first, ok, e := s.Before(1, append(from[:len(from):len(from)], 0)); ok {
		from = first // there may be no such node any more
	} else {
		err = e
	}
	if err != nil {
		return nil, 0, err
	}
	rows := 0
	for n, err := range s.spans(1, from) {
		if err != nil {
			return nil, bytes, err
		}
		if rows > 0 && most.exceeded(rows+int(n.Count), bytes) {
			return append([]byte{}, n.Key...), bytes, nil
		}
		err := s.verifyNode(1, n, func(yield func(merkle.Row, error) bool) {
			for c, err := range s.Objects(n.Key, n.until) {
				rows++
				bytes += len(c.Key) + len(c.Envelope)
				if !yield(merkle.Row{Key: c.Key, Digest: c.Digest, Count: 1}, err) {
					return
				}
			}
		})
		if err != nil {
			return nil, bytes, err
		}
	}
	return nil, bytes, nil
}

// scrubUpper verifies the levels above the first, and the head.
func (s *Snapshot) scrubUpper() error {
	height, err := s.Height()
	for level := 2; level <= height && err == nil; level++ {
		for n, err := range s.spans(level, nil) {
			if err == nil {
				err = s.verifyNode(level, n, s.Rows(level-1, n.Key, n.until))
			}
			if err != nil {
				return err
			}
		}
	}
	if err != nil {
		return err
	}
	root, err := merkle.Root(s)
	if held := s.meta.held; err == nil && (root.Digest != held.root || root.Count != held.objects) {
		err = fmt.Errorf("%w: the head has %d objects and root %v, the tree %d and %v",
			ErrCorrupt, held.objects, held.root, root.Count, desired.Digest(root.Digest))
	}
	return s.fail(err)
}

// verifyNode holds a node against its children.
func (s *Snapshot) verifyNode(level int, n span, children iter.Seq2[merkle.Row, error]) error {
	digest, count, err := merkle.Node(level, children)
	if err == nil && (digest != n.Digest || count != n.Count) {
		err = fmt.Errorf("%w: %s: it is not what its children make of it", ErrCorrupt, nodeName(level, n.Key))
	}
	return s.fail(err)
}

// span is a node and the key where the next one of its level begins; nil: there
// is none.
type span struct {
	merkle.Row
	until []byte
}

// spans returns the nodes of a level that begin at a key or later.
func (s *Snapshot) spans(level int, from []byte) iter.Seq2[span, error] {
	return func(yield func(span, error) bool) {
		var n span
		found := false
		for row, err := range s.Rows(level, from, nil) {
			if err != nil {
				yield(span{}, err)
				return
			}
			if n.until = row.Key; found && !yield(n, nil) {
				return
			}
			n, found = span{Row: row}, true
		}
		if found {
			yield(n, nil)
		}
	}
}
