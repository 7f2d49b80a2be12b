package wire

import (
	"fmt"
	"math"

	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// CommitFromWire reads the terms of a commit, without its changes.
func CommitFromWire(m *espalierv1.CommitTerms) (store.Commit, error) {
	c := store.Commit{Why: m.GetWhy(), Request: store.Request{ID: m.GetRequestId()}}
	var err error
	if c.Expect, err = ExpectFromWire(m.GetExpect()); err != nil {
		return store.Commit{}, err
	}
	c.MaxDelete, err = limitFromWire(m.GetMaxDelete())
	return c, err
}

// ExpectToWire returns the revision that is expected, nil for any.
func ExpectToWire(p *desired.Position) *espalierv1.Position {
	if p == nil {
		return nil
	}
	return PositionToWire(*p)
}

// ExpectFromWire reads the revision that is expected; an absent one is any.
func ExpectFromWire(m *espalierv1.Position) (*desired.Position, error) {
	if m == nil {
		return nil, nil
	}
	p, err := PositionFromWire(m)
	return &p, err
}

func limitFromWire(m *espalierv1.DeleteLimit) (*store.DeleteLimit, error) {
	if m == nil {
		return nil, nil
	}
	if math.IsNaN(m.GetPercent()) || m.GetPercent() < 0 || len(m.GetPrefix()) > desired.MaxKeyBytes {
		return nil, fmt.Errorf("%w limit of deletions", desired.ErrInvalid)
	}
	return &store.DeleteLimit{Count: m.GetCount(), Percent: m.GetPercent(), Prefix: m.GetPrefix()}, nil
}

// ResultToWire returns what a commit did.
func ResultToWire(r store.Result) *espalierv1.CommitResponse {
	return &espalierv1.CommitResponse{
		Head: HeadToWire(r.Head), Created: r.Created, Updated: r.Updated, Deleted: r.Deleted,
		Unchanged: r.Unchanged, Missing: r.Missing, Replayed: r.Replayed,
	}
}
