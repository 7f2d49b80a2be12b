package wire

import (
	"fmt"

	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// RestoreToWire returns the terms of a restore, without its objects.
func RestoreToWire(set desired.Name, r store.Restore) *espalierv1.CommitTerms {
	m := &espalierv1.Restore{Salt: r.From.Salt, DryRun: r.DryRun}
	for _, p := range r.From.Known {
		m.Known = append(m.Known, PositionToWire(p))
	}
	return &espalierv1.CommitTerms{
		Set: string(set), Why: r.Why, Expect: ExpectToWire(r.Expect), MaxDelete: LimitToWire(r.MaxDelete), Restore: m,
	}
}

// RestoreFromWire reads the terms of a restore, without its objects.
func RestoreFromWire(m *espalierv1.CommitTerms) (store.Restore, error) {
	r := store.Restore{
		From: store.Origin{Salt: m.GetRestore().GetSalt()}, DryRun: m.GetRestore().GetDryRun(), Why: m.GetWhy(),
	}
	known := m.GetRestore().GetKnown()
	switch {
	case m.GetRequestId() != "":
		return store.Restore{}, fmt.Errorf("%w restore: it takes no request id", desired.ErrInvalid)
	case len(known) > desired.MaxLineage+1:
		return store.Restore{}, fmt.Errorf("%w restore: a lineage of %d epochs", desired.ErrInvalid, len(known))
	}
	for _, k := range known {
		p, err := PositionFromWire(k)
		if err != nil {
			return store.Restore{}, err
		}
		r.From.Known = append(r.From.Known, p)
	}
	var err error
	if r.Expect, err = ExpectFromWire(m.GetExpect()); err != nil {
		return store.Restore{}, err
	}
	r.MaxDelete, err = limitFromWire(m.GetMaxDelete())
	return r, err
}

// RestoredToWire returns what a restore did.
func RestoredToWire(r store.Restored) *espalierv1.CommitResponse {
	m := &espalierv1.CommitResponse{Created: r.Created, Updated: r.Updated, Deleted: r.Deleted, Unchanged: r.Unchanged}
	if !r.Head.Epoch.IsZero() {
		m.Head = HeadToWire(r.Head)
	}
	if !r.Replaced.Epoch.IsZero() {
		m.Replaced = HeadToWire(r.Replaced)
	}
	if r.Damage != nil {
		m.Damage = validText(r.Damage.Error())
	}
	if r.Refused != nil {
		m.Refused = validText(r.Refused.Error())
	}
	return m
}

// RestoredFromWire reads what a restore did. Refused matches
// store.ErrTooManyDeletes, the one guard that a dry run gets past.
func RestoredFromWire(m *espalierv1.CommitResponse) (store.Restored, error) {
	r := store.Restored{
		Created: m.GetCreated(), Updated: m.GetUpdated(), Deleted: m.GetDeleted(), Unchanged: m.GetUnchanged(),
	}
	if text := m.GetDamage(); text != "" {
		r.Damage = &statusError{message: text, matches: store.ErrCorrupt}
	}
	if text := m.GetRefused(); text != "" {
		r.Refused = &statusError{message: text, matches: store.ErrTooManyDeletes}
	}
	for _, h := range []struct {
		from *espalierv1.Head
		to   *desired.Head
	}{{m.GetHead(), &r.Head}, {m.GetReplaced(), &r.Replaced}} {
		if h.from == nil {
			continue
		}
		var err error
		if *h.to, err = HeadFromWire(h.from); err != nil {
			return store.Restored{}, err
		}
	}
	return r, nil
}
