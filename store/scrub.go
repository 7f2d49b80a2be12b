package store

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/time/rate"

	"espalier/internal/desired"
)

// read hands objects of snap from a key on to fn, as far as the bounds allow but
// at least one, and returns the key to go on from, nil at the end, and how many
// bytes it read.
func (b bounds) read(snap *Snapshot, from []byte, fn func(desired.Change)) (next []byte, bytes int, err error) {
	rows := 0
	for c, err := range snap.Objects(from, nil) {
		if err != nil {
			return nil, bytes, err
		}
		if rows > 0 && b.exceeded(rows+1, bytes+len(c.Envelope)) {
			return append([]byte{}, c.Key...), bytes, nil
		}
		fn(c)
		rows++
		bytes += len(c.Key) + len(c.Envelope)
	}
	return nil, bytes, nil
}

// Scrub reads every value of every set once and holds it against its digest,
// taking a token of limit for each byte; nil: as fast as it can. A set with a
// damaged value is quarantined. The error names all that could not be read.
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

func (s *Store) scrub(ctx context.Context, name desired.Name, limit *rate.Limiter) error {
	from := []byte{}
	for from != nil {
		var bytes int
		err := s.View(name, func(snap *Snapshot) (err error) {
			from, bytes, err = s.opener.chunk.read(snap, from, func(desired.Change) {})
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
