package follow

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// keeper keeps what a pull receives: a little in memory, to be applied to the
// mirror in one transaction; more of it in a staging beside the mirror, which
// takes its place once it verifies. The mirror itself holds what was verified
// last until then.
//
// A staging is written to by a goroutine of its own, a batch behind, so that
// receiving and writing overlap.
type keeper struct {
	set     *Set
	beside  func(func()) // runs something beside
	limits  Limits
	staging Staging // nil: nothing is staged
	pending []desired.Change
	bytes   int
	writing chan error // a Write under way sends its outcome; nil: there is none
	failed  error      // of a Write: what it had is lost, so no mark may pass it
}

// openKeeper goes on with what an earlier pull has staged.
func openKeeper(s *Set, beside func(func()), limits Limits) (*keeper, error) {
	staging, err := s.Staging()
	return &keeper{set: s, beside: beside, limits: limits, staging: staging}, err
}

// have tells a receiver what to start from.
func (k *keeper) have() (delta.Have, error) {
	if k.staging != nil && k.staging.Mark() == nil { // nothing has come since it was made
		if err := k.set.DiscardStaging(); err != nil {
			return delta.Have{}, err
		}
		k.staging = nil
	}
	have := delta.Have{Set: k.set.Name, Verified: k.set.Head().Revision, Damaged: k.set.Damaged()}
	if k.staging != nil {
		have.Salt = k.staging.Salt()
		mark, err := delta.DecodeMark(k.staging.Mark())
		if err != nil { // it is of another version: compare what is staged
			mark = delta.Mark{Mode: delta.Descent}
		}
		have.Mark = &mark
		return have, nil
	}
	err := k.set.View(func(s Snapshot) error {
		have.Salt = s.Shape().Salt
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return have, nil
	}
	return have, err
}

// ask calls fn with the view that the receiver compares with, where it does.
func (k *keeper) ask(r *delta.Receiver, fn func(merkle.Reader) (delta.Effects, error)) (e delta.Effects, err error) {
	if !r.Descending() {
		return fn(nil)
	}
	view := k.set.View
	if k.staging != nil {
		view = k.staging.View
	}
	err = view(func(s Snapshot) error {
		e, err = fn(s)
		return err
	})
	return e, err
}

// carryOut does what the receiver wants done, except for sending. over says
// that the round has ended.
func (k *keeper) carryOut(ctx context.Context, r *delta.Receiver, e delta.Effects) (over bool, err error) {
	if e.Forget {
		k.pending, k.bytes = nil, 0
	}
	if e.Restage {
		if err := k.stage(ctx, store.StageEmpty, e.Salt); err != nil {
			return true, err
		}
		if err := k.set.NeedRoom(r.Stats().Head); err != nil {
			return true, err
		}
	}
	for _, c := range e.Changes {
		k.pending = append(k.pending, c)
		k.bytes += c.PayloadBytes()
	}
	switch {
	case e.Verify != nil:
		return true, k.verify(ctx, r, *e.Verify)
	case k.staging != nil && (len(k.pending) >= k.limits.StageChanges || k.bytes >= k.limits.StageBytes),
		k.staging == nil && (len(k.pending) > k.limits.AdoptChanges || k.bytes > k.limits.AdoptBytes):
		err = k.flush(ctx, r.Mark())
	}
	return e.Reopen, err
}

// stage begins a staging, in the place of an earlier one.
func (k *keeper) stage(ctx context.Context, kind store.StageKind, salt uint64) error {
	if err := k.wait(); err != nil {
		return err
	}
	staging, err := k.set.Stage(ctx, kind, salt)
	k.staging = staging
	return err
}

// flush hands what is pending to the staging, and makes one of the mirror if
// need be. It returns once the flush before is durable.
//
// mark covers exactly what was handed out: what is pending, and what was flushed
// before.
func (k *keeper) flush(ctx context.Context, mark delta.Mark) error {
	if k.staging == nil { // then there is a mirror: a full pull begins with a staging
		var salt uint64
		err := k.set.View(func(s Snapshot) error {
			salt = s.Shape().Salt
			return nil
		})
		if err == nil {
			err = k.stage(ctx, store.StageCopy, salt)
		}
		if err != nil {
			return err
		}
	}
	if err := k.wait(); err != nil {
		return err
	}
	batch, encoded, done := settle(k.pending), mark.Encode(), make(chan error, 1)
	k.pending, k.bytes, k.writing = make([]desired.Change, 0, cap(batch)), 0, done
	staging := k.staging
	ctx = context.WithoutCancel(ctx) // a pull that is called off keeps what it has
	k.beside(func() { done <- staging.Write(ctx, batch, encoded) })
	return nil
}

// wait waits for the write under way, if there is one, and returns the error of
// the first that failed.
func (k *keeper) wait() error {
	if k.writing != nil {
		k.failed = cmp.Or(k.failed, <-k.writing)
		k.writing = nil
	}
	return k.failed
}

// save makes what is pending durable, so that it need not be sent again, also
// once ctx is done.
func (k *keeper) save(ctx context.Context, mark delta.Mark) error {
	ctx = context.WithoutCancel(ctx)
	if len(k.pending) > 0 {
		if err := k.flush(ctx, mark); err != nil {
			return err
		}
	}
	return k.wait()
}

// verify makes what was received the mirror, if it gives head's root.
func (k *keeper) verify(ctx context.Context, r *delta.Receiver, head desired.Head) error {
	if err := admit(k.set.Floor(), head); err != nil {
		return err
	}
	var err error
	if k.staging == nil {
		k.pending = settle(k.pending)
		err = k.set.Adopt(ctx, head, all(k.pending))
	} else {
		if err := k.save(ctx, r.Mark()); err != nil {
			return err
		}
		err = k.staging.Promote(ctx, head)
	}
	if err != nil && !errors.Is(err, store.ErrRootMismatch) {
		return err
	}
	if err == nil {
		k.staging, k.pending, k.bytes = nil, nil, 0
	}
	return r.Verified(err == nil)
}

// settle returns changes, whose memory it uses, in key order; of several to one
// key, the last.
func settle(changes []desired.Change) []desired.Change {
	ordered := func(a, b desired.Change) int { return bytes.Compare(a.Key, b.Key) }
	if !slices.IsSortedFunc(changes, ordered) {
		slices.SortStableFunc(changes, ordered)
	}
	kept := changes[:0]
	for i, c := range changes {
		if i+1 < len(changes) && bytes.Equal(c.Key, changes[i+1].Key) {
			continue
		}
		kept = append(kept, c)
	}
	return kept
}
