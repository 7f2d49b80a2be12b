package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"espalier/store"
)

// scrubber goes around the mirrors and reads what nobody asks for, a little at a
// time: a flipped bit leaves all digests, and so every root, as they were.
type scrubber struct {
	begun  bool
	last   time.Time // when Run scrubbed last
	mirror int
	from   []byte // where in the mirror to go on
}

// Scrub verifies a part of the mirrors, the next at each call, the first
// anywhere: of a mirror with a million objects a sixtieth or so. A mirror with
// damage is repaired: it owns up to what is really there, and the next Sync
// fetches what is wrong.
func (a *Agent) Scrub(ctx context.Context) error { return a.scrub(ctx, scrubBytes) }

// scrubOn is Scrub at the pace of time, not of polls. Its error goes to the log.
func (a *Agent) scrubOn(ctx context.Context) {
	bytes, now := scrubBytes, time.Now()
	if last := a.scrubber.last; !last.IsZero() {
		since := now.Sub(last)
		if since < scrubEvery {
			return
		}
		bytes = int(min(float64(scrubBytes)*since.Seconds()/scrubEvery.Seconds(), scrubMost))
	}
	a.scrubber.last = now
	if err := a.scrub(ctx, bytes); err != nil {
		a.log.Error("scrub", "error", err)
	}
}

func (a *Agent) scrub(ctx context.Context, bytes int) error {
	s := &a.scrubber
	if !s.begun {
		if err := a.beginAnywhere(); err != nil {
			return err
		}
	}
	sets := a.follower.Sets()
	s.mirror %= len(sets) // the list may have changed
	m := mirrorOf(sets[s.mirror])
	next, err := m.Scrub(s.from, bytes)
	if s.from = next; next == nil {
		s.mirror = (s.mirror + 1) % len(sets)
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

// beginAnywhere lets the scrub begin at random: an agent that is started again
// and again would else read the same part each time.
func (a *Agent) beginAnywhere() error {
	s := &a.scrubber
	sets := a.follower.Sets()
	s.begun, s.mirror = true, rand.IntN(len(sets))
	err := mirrorOf(sets[s.mirror]).View(func(snapshot *store.Snapshot) (err error) {
		s.from, err = snapshot.NodeAt(rand.Uint64N(snapshot.Head().Objects + 1))
		return err
	})
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		return nil // the scrub will come upon it
	}
	return err
}
