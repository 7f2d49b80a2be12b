package agent

import (
	"bytes"
	"context"
	"errors"

	"espalier/store"
)

// scrubber goes around the mirrors and reads what nobody asks for, a little at a
// time: a flipped bit leaves all digests, and so every root, as they were.
type scrubber struct {
	mirror int
	from   []byte // where in the mirror to go on
}

// scrub reads some bytes of the mirrors, which checks them against their
// digests. A mirror with damage is repaired: it owns up to what is really there,
// and the next Sync fetches what is wrong.
func (a *Agent) scrub(ctx context.Context, budget int) error {
	s := &a.scrubber
	if s.mirror >= len(a.mirrors) {
		s.mirror = 0
	}
	m := a.mirrors[s.mirror]
	var next []byte
	err := m.View(func(snapshot *store.Snapshot) error {
		for c, err := range snapshot.Objects(s.from, nil) {
			if err != nil {
				return err
			}
			if budget <= 0 { // not before one was read, however large
				next = bytes.Clone(c.Key)
				return nil
			}
			budget -= len(c.Key) + len(c.Envelope)
		}
		return nil
	})
	if s.from = next; next == nil {
		s.mirror++
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case !errors.Is(err, store.ErrCorrupt):
		return err
	}
	_, err = m.Repair(ctx)
	return err
}
