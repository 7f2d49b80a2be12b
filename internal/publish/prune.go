package publish

import (
	"context"
	"errors"
	"fmt"

	"espalier/internal/desired"
	"espalier/store"
)

// prune makes what is under the prefix be the input. It compares, and commits
// what differs against the revision that it compared with, until a comparison
// finds nothing; that costs nothing where the roots tell.
func (a *applier) prune(ctx context.Context) (Result, error) {
	if err := a.guardEmpty(); err != nil && !a.o.DryRun {
		return Result{}, err
	}
	b, err := a.base(ctx)
	if err != nil {
		return Result{}, err
	}
	var done Result // by commits
	for failures := 0; failures < maxAttempts; {
		committed := done.Head.Number > 0
		r, over, err := a.pruneOnce(ctx, &b, committed)
		done.add(r)
		done.Unchanged = a.unchanged(done)
		moved := errors.Is(err, errMoved)
		switch {
		case moved && committed:
			return done, nil // by others, after our commit: what is there now is theirs
		case err != nil && committed && !errors.Is(err, errMissed):
			return done, fmt.Errorf("committed as %v, but not checked: %w", done.Head.Position, err)
		case over || err != nil && !moved && !errors.Is(err, errMissed):
			return done, err
		case err != nil:
			failures++
			a.o.Logger.Info("comparing again", "because", err)
		case committed:
			failures++ // something differed still
		}
		if moved {
			if b, err = a.base(ctx); err != nil {
				return done, err
			}
		}
	}
	return done, fmt.Errorf("%w each of the %d times that it was compared, or differs still; try again when it is quiet",
		store.ErrConflict, maxAttempts)
}

// pruneOnce compares the input with the set and commits what differs; b is then
// the revision that the set is at. over says that nothing is left to do.
func (a *applier) pruneOnce(ctx context.Context, b *base, committed bool) (r Result, over bool, err error) {
	p, err := a.difference(ctx, b, committed)
	if err != nil {
		return Result{}, false, err
	}
	defer p.Close()
	if a.o.DryRun {
		if err := p.each(a.o.Each); err != nil {
			return Result{}, true, err
		}
		return a.planned(*b, p), true, a.guard(p)
	}
	if p.len() == 0 {
		return Result{Head: b.head}, true, a.needSet(*b)
	}
	if err := a.guard(p); err != nil {
		return Result{}, true, err
	}
	r, err = a.commit(ctx, p, &b.head.Position)
	if errors.Is(err, store.ErrConflict) && (committed || a.o.Expect == nil) {
		return Result{}, false, fmt.Errorf("%w: %w", errMoved, err)
	}
	if err != nil {
		return Result{}, true, err
	}
	over = !b.exists // what was created as a whole has been compared by nobody, but was sent as a whole
	b.exists, b.head = true, r.Head
	return r, over, p.eachDeleted(a.o.Each)
}

// guardEmpty returns an error that matches store.ErrTooManyDeletes if the input
// is empty by mistake, as far as one can tell.
func (a *applier) guardEmpty() error {
	if a.in.Len() > 0 || a.limit.Percent >= 100 {
		return nil
	}
	what := "the set"
	if a.in.prefix != "" {
		what = fmt.Sprintf("what is under %q", a.in.prefix)
	}
	return fmt.Errorf("%w: the input is empty, so all of %s would be deleted; if that is meant, allow to delete 100%%",
		store.ErrTooManyDeletes, what)
}

// guard returns an error that matches store.ErrTooManyDeletes for a plan that
// the server would refuse: before everything is sent to it.
func (a *applier) guard(p *plan) error {
	if err := a.guardEmpty(); err != nil {
		return err
	}
	of := a.unchanged(Result{Created: p.created, Updated: p.updated}) + p.updated + p.deleted
	limit := max(a.limit.Count, uint64(min(max(a.limit.Percent, 0), 100)/100*float64(of)))
	if p.deleted <= limit {
		return nil
	}
	return &store.DeleteGuardError{Deletes: p.deleted, Limit: limit, Of: of}
}

// unchanged returns how many objects of the input the set had already.
func (a *applier) unchanged(r Result) uint64 {
	n := uint64(a.in.Len())
	return n - min(n, r.Created+r.Updated)
}

// add adds what another commit did, or found to be done.
func (r *Result) add(o Result) {
	if o.Head.Number > 0 {
		r.Head = o.Head
	}
	r.Created += o.Created
	r.Updated += o.Updated
	r.Deleted += o.Deleted
	r.Uploaded += o.Uploaded
	r.UploadedBytes += o.UploadedBytes
}

// eachDeleted calls fn for each deletion.
func (p *plan) eachDeleted(fn func(Action, []byte) error) error {
	if fn == nil || p.deleted == 0 {
		return nil
	}
	return p.each(func(action Action, key []byte) error {
		if action != Delete {
			return nil
		}
		return fn(action, key)
	})
}

// prefixRange returns the keys of a prefix: from <= key < until.
func prefixRange(prefix string) (from, until []byte) {
	return []byte(prefix), desired.PrefixEnd([]byte(prefix))
}
