package server

import (
	"context"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"espalier/internal/desired"
	"espalier/store"
)

// recall reads from the sets' journals how often they changed of late, a set after
// the other, so that a restart doesn't forget which hosts should poll often.
func (s *Server) recall(ctx context.Context) error {
	limit := rate.NewLimiter(RecallRate, 1)
	for _, h := range s.store.Heads() {
		if limit.Wait(ctx) != nil {
			return nil
		}
		changes, over, err := s.changesOf(h.Name, time.Now())
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrQuarantined) {
			s.log.Warn("a set's journal can't be read; its changes are counted from now on", "set", h.Name, "error", err)
		}
		if err == nil && over > 0 {
			s.lead.Recall(h.Name, changes, over, time.Now())
		}
	}
	return nil
}

// changesOf counts a set's revisions in RecallTime before now, RecallRevisions at
// most, and says over which time that is.
func (s *Server) changesOf(set desired.Name, now time.Time) (changes int, over time.Duration, err error) {
	over = RecallTime
	err = s.store.View(set, func(snapshot *store.Snapshot) error {
		for e, err := range snapshot.Log(0) {
			if err != nil {
				return err
			}
			if now.Sub(e.Time) > RecallTime {
				break
			}
			changes++
			if e.Base || changes == RecallRevisions { // what was before is not known, or doesn't matter
				over = now.Sub(e.Time)
				break
			}
		}
		return nil
	})
	return changes, over, err
}
