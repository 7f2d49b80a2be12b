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
	if m.GetExpect() != nil {
		p, err := PositionFromWire(m.GetExpect())
		if err != nil {
			return store.Commit{}, err
		}
		c.Expect = &p
	}
	if l := m.GetMaxDelete(); l != nil {
		if math.IsNaN(l.GetPercent()) || l.GetPercent() < 0 || len(l.GetPrefix()) > desired.MaxKeyBytes {
			return store.Commit{}, fmt.Errorf("%w limit of deletions", desired.ErrInvalid)
		}
		c.MaxDelete = &store.DeleteLimit{Count: l.GetCount(), Percent: l.GetPercent(), Prefix: l.GetPrefix()}
	}
	return c, nil
}

// ResultToWire returns what a commit did.
func ResultToWire(r store.Result) *espalierv1.CommitResponse {
	return &espalierv1.CommitResponse{
		Head: HeadToWire(r.Head), Created: r.Created, Updated: r.Updated, Deleted: r.Deleted,
		Unchanged: r.Unchanged, Missing: r.Missing, Replayed: r.Replayed,
	}
}

// OriginToWire returns where a restored set comes from.
func OriginToWire(o store.Origin) *espalierv1.Restore {
	m := &espalierv1.Restore{Salt: o.Salt}
	for _, p := range o.Known {
		m.Known = append(m.Known, PositionToWire(p))
	}
	return m
}

// OriginFromWire reads where a restored set comes from.
func OriginFromWire(m *espalierv1.Restore) (store.Origin, error) {
	o := store.Origin{Salt: m.GetSalt()}
	if len(m.GetKnown()) > desired.MaxLineage+1 {
		return store.Origin{}, fmt.Errorf("%w restore: a lineage of %d epochs", desired.ErrInvalid, len(m.GetKnown()))
	}
	for _, k := range m.GetKnown() {
		p, err := PositionFromWire(k)
		if err != nil {
			return store.Origin{}, err
		}
		o.Known = append(o.Known, p)
	}
	return o, nil
}
