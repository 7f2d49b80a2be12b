package store

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"iter"

	"espalier/internal/desired"
	"espalier/merkle"
)

// Origin is what the objects of a restored set come from.
type Origin struct {
	// Known are epochs that the new one follows besides those that the store
	// knows of.
	Known []desired.Position
	// Salt is that of the tree, unless the set has one; 0: a new one.
	Salt uint64
}

// Origin returns what a set that is restored from the file comes from: agents
// that knew the backup's set will accept the new epoch even if the store never
// knew it; and if it didn't, the tree keeps the backup's shape, so that they
// only need what differs.
func (f *File) Origin() Origin {
	return Origin{Known: epochsOf(f.meta.head), Salt: f.meta.salt}
}

// Restore is what a restore asks for.
type Restore struct {
	// Objects are all that the set will hold. They are read once, ascending by
	// key; their digests are recomputed, and their memory is only read until the
	// next is asked for.
	Objects iter.Seq2[desired.Change, error]
	// Count and Bytes are how many objects there are and what their keys and
	// envelopes add up to, for which room on the disk is asked for before
	// anything is written; 0: nobody knows.
	Count, Bytes uint64
	From         Origin
	// Expect is the revision that must be the head, as for a Commit.
	Expect *desired.Position
	// MaxDelete guards against deleting too much of what the set holds; nil, or
	// 100 percent: no limit. It has no Prefix. If what the set holds can't be
	// read, any other limit refuses the restore.
	MaxDelete *DeleteLimit
	// DryRun finds out what would be done, and does nothing.
	DryRun bool
	// Who restores and Why are kept in the set's journal.
	Who, Why string
}

// Restored is what a restore did, or what a dry run would have done.
type Restored struct {
	// Head is the set's after it, zero in a dry run.
	Head desired.Head
	// Replaced is the head before it; zero: there was no set, or nothing of it
	// could be read.
	Replaced desired.Head
	// The counts are zero if there is Damage.
	Created, Updated, Deleted, Unchanged uint64
	// Damage says why what the set held could not be counted; nil: it was.
	Damage error
	// Refused says that a guard would have held a dry run back, and why.
	Refused error
}

// Restore makes the set's content exactly what r says, in a new epoch that
// follows the current or retired one, whether the set exists, is quarantined,
// or neither. Its history is dropped. Objects that come after each other in a
// cycle are refused with ErrCycle, also in a dry run.
func (s *Store) Restore(ctx context.Context, name desired.Name, r Restore) (Restored, error) {
	if err := r.check(name); err != nil {
		return Restored{}, err
	}
	set, err := s.hold(name)
	if err != nil {
		return Restored{}, err
	}
	defer s.letGo(set)
	if err := set.lock(ctx); err != nil {
		return Restored{}, err
	}
	defer set.unlock()
	run := restoring{Restore: &r, store: s, set: set}
	if err := run.prepare(ctx); err != nil {
		return Restored{}, fmt.Errorf("restore %s: %w", name, err)
	}
	if run.file != nil {
		err = s.publish(set, run.file, run.result.Head)
	}
	return run.result, err
}

// RestoreFile is Restore of the objects in a backup, of whichever set that is.
func (s *Store) RestoreFile(ctx context.Context, name desired.Name, f *File, r Restore) (Restored, error) {
	var result Restored
	err := f.View(func(snap *Snapshot) error {
		var err error
		r.Objects, r.From = snap.Objects(nil, nil), f.Origin()
		r.Count, r.Bytes = snap.Head().Objects, snap.Head().Bytes
		result, err = s.Restore(ctx, name, r)
		return err
	})
	return result, err
}

func (r *Restore) check(name desired.Name) error {
	if r.MaxDelete != nil && len(r.MaxDelete.Prefix) > 0 {
		return fmt.Errorf("%w restore: its limit of deletions has a prefix", desired.ErrInvalid)
	}
	return checkWords(name, r.Who, r.Why)
}

// limited reports whether the restore may not delete everything.
func (r *Restore) limited() bool { return r.MaxDelete != nil && r.MaxDelete.Percent < 100 }

// restoring is a restore under way, of a set that is locked: it goes through
// the objects to restore and those that the set holds side by side.
type restoring struct {
	*Restore
	store  *Store
	set    *set
	result Restored
	file   *handle // the set's new one; nil in a dry run
	// current are the epochs of the set.
	current []desired.Position

	held  *Snapshot // nil: the set holds nothing, or can't be read
	next  func() (merkle.Row, error, bool)
	row   *merkle.Row // the next of the set's objects; nil: none
	seen  uint64      // how many of them there were
	guard *deleteGuard
	order ordering // of the objects to restore
}

// prepare writes the set's new file, or, in a dry run, only counts.
func (run *restoring) prepare(ctx context.Context) error {
	st := run.set.state.Load()
	if st == nil {
		if err := expect(run.Expect, desired.Head{}); err != nil {
			return err
		}
		return run.load(ctx)
	}
	run.result.Replaced, run.current = st.head, st.epochs()
	if run.Expect != nil && st.head.Epoch.IsZero() {
		return fmt.Errorf("%w: which, can't be read, expected was %v", ErrConflict, *run.Expect)
	}
	if err := expect(run.Expect, st.head); err != nil {
		return err
	}
	return run.replace(ctx)
}

// replace is load beside what the set holds, as far as that can be read.
func (run *restoring) replace(ctx context.Context) error {
	var own error
	opened, returned := false, false
	err := run.store.read(run.set, func(snap *Snapshot) error {
		opened = true
		own = run.loadOver(ctx, snap)
		returned = true
		return own
	})
	switch {
	case returned: // what else there is to say of the old file doesn't matter any more
		return own
	case opened:
		return err
	}
	if err := run.damaged(err); err != nil {
		return err
	}
	return run.load(ctx)
}

// loadOver is load beside snap.
func (run *restoring) loadOver(ctx context.Context, snap *Snapshot) error {
	run.held, run.From.Salt = snap, snap.meta.salt
	if run.limited() {
		run.guard = run.MaxDelete.of(snap.meta.held.objects)
	}
	var stop func()
	run.next, stop = iter.Pull2(snap.Rows(0, nil, nil))
	defer stop()
	if err := run.advance(); err != nil {
		return err
	}
	return run.load(ctx)
}

// load goes through the objects to restore.
func (run *restoring) load(ctx context.Context) error {
	var l *loader
	if !run.DryRun {
		err := needRoom(run.store.dir, fileBytes(desired.Head{Objects: run.Count, Bytes: run.Bytes}))
		if err != nil {
			return err
		}
		path := setPath(run.store.dir, run.set.name, newSuffix)
		if l, err = newLoader(run.store.opener, path, run.set.name, cmp.Or(run.From.Salt, newSalt())); err != nil {
			return err
		}
		defer l.abort()
	}
	next, stop := iter.Pull2(run.Objects)
	defer stop()
	r := &changeReader{next: next}
	for {
		object, ok, err := r.read(ctx)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if object.Deleted() {
			return fmt.Errorf("%w object %q: it has no content", desired.ErrInvalid, object.Key)
		}
		if err := run.count(&object); err != nil {
			return err
		}
		if err := run.order.add(object.Key, object.Envelope); err != nil {
			return err
		}
		if l == nil || run.guard.check(run.result.Deleted) != nil { // from here on it only counts
			continue
		}
		if err := l.add(&object); err != nil {
			return err
		}
	}
	if err := run.deleteUntil(nil); err != nil {
		return err
	}
	if err := run.order.check(); err != nil {
		return err
	}
	return run.finish(l)
}

// count holds the next object to restore against what the set holds.
func (run *restoring) count(object *desired.Change) error {
	if err := run.deleteUntil(object.Key); err != nil {
		return err
	}
	if run.row == nil || !bytes.Equal(run.row.Key, object.Key) {
		run.result.Created++
		return nil
	}
	if run.row.Digest == merkle.Digest(object.Digest) {
		run.result.Unchanged++
	} else {
		run.result.Updated++
	}
	return run.advance()
}

// deleteUntil counts what the set holds below key as deleted; nil: the rest.
func (run *restoring) deleteUntil(key []byte) error {
	for run.row != nil && (key == nil || bytes.Compare(run.row.Key, key) < 0) {
		run.result.Deleted++
		if err := run.advance(); err != nil {
			return err
		}
	}
	return nil
}

// advance moves on to the next object that the set holds.
func (run *restoring) advance() error {
	row, err, ok := run.next()
	switch of := run.held.meta.held.objects; {
	case err != nil:
		return run.damaged(err)
	case ok:
		run.row = &row
		run.seen++
		return nil
	case run.seen != of:
		return run.damaged(run.held.fail(fmt.Errorf("%w: it has %d objects, its head counts %d", ErrCorrupt, run.seen, of)))
	}
	run.row = nil
	return nil
}

// damaged gives up counting, since what the set holds can't be read. That is
// refused, unless all of it may go.
func (run *restoring) damaged(why error) error {
	run.row, run.guard, run.result.Damage = nil, nil, why
	if !run.limited() {
		return nil
	}
	return run.refuse(fmt.Errorf("%w: what the set holds can't be read, so they can't be counted, and only a limit of 100%% lets it be restored: %w",
		ErrTooManyDeletes, why))
}

// refuse ends the restore because of what a guard says, which a dry run only
// notes.
func (run *restoring) refuse(err error) error {
	if run.DryRun && err != nil {
		run.result.Refused = err
		return nil
	}
	return err
}

// finish makes what was loaded the set's first revision in a new epoch.
func (run *restoring) finish(l *loader) error {
	if run.result.Damage != nil {
		run.result.Created, run.result.Updated, run.result.Deleted, run.result.Unchanged = 0, 0, 0, 0
	}
	if err := run.refuse(run.guard.check(run.result.Deleted)); err != nil || l == nil {
		return err
	}
	head, err := run.store.fleet.begin(run.set.name, run.current, run.From.Known)
	if err != nil {
		return err
	}
	run.file, err = l.finish(func(e *edit) error {
		head = e.held.on(head)
		return e.rebase(head, run.Who, run.Why)
	})
	run.result.Head = head
	return err
}
