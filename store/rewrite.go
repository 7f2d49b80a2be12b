package store

import (
	"bytes"
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// rewrite merges a stream of changes with a set's objects into a new file. That
// is faster than changing a large part of a file in place, keeps no more than a
// transaction of the loader in memory, and leaves a compact file.
type rewrite struct {
	tally
	l     *loader
	guard *deleteGuard // nil: no limit

	// base is the set's head before, zero for a set that is new; old stands at
	// its next object.
	base     desired.Head
	old      *bolt.Cursor // nil: the set is new
	key, row []byte

	order  ordering
	gained bool // an object comes after one that it did not come after before

	journal   journalWriter
	forgetful bool // more keys were touched than a journal keeps
}

// newRewrite begins a rewrite into l of the set in old, nil for a new one, and
// takes over what isn't objects. old must outlive the rewrite.
func newRewrite(l *loader, old *bolt.Tx, base desired.Head) (*rewrite, error) {
	r := &rewrite{l: l, base: base, forgetful: old == nil}
	r.journal.number = base.Number + 1
	if old == nil {
		return r, nil
	}
	for _, name := range [][]byte{bucketRequests, bucketJournal} {
		if err := l.copyBucket(old, name); err != nil {
			return nil, err
		}
	}
	r.old = old.Bucket(bucketObjects).Cursor()
	r.key, r.row = r.old.First()
	return r, nil
}

// apply applies the next change.
func (r *rewrite) apply(c *desired.Change) error {
	if err := r.copyUntil(c.Key); err != nil {
		return err
	}
	var old []byte
	if r.key != nil && bytes.Equal(r.key, c.Key) {
		old = r.row
		if len(old) < minObjectRow {
			_, err := decodeObject(r.key, old)
			return err
		}
		r.key, r.row = r.old.Next()
	}
	switch changed := r.count(old, c); {
	case !changed && old != nil && !c.Deleted():
		return r.keep(c.Key, old)
	case !changed:
		return nil
	}
	if err := r.touch(c.Key); err != nil {
		return err
	}
	if c.Deleted() {
		return r.guard.check(r.deleted)
	}
	return r.put(old, c)
}

// put adds an object that changed; old is its row before, nil for none.
func (r *rewrite) put(old []byte, c *desired.Change) error {
	if !r.gained {
		var err error
		if r.gained, err = gains(c.Key, old, c.Envelope); err != nil {
			return err
		}
	}
	if err := r.order.add(c.Key, c.Envelope); err != nil {
		return err
	}
	return r.l.add(c)
}

// keep adds an object that stays as it is.
func (r *rewrite) keep(key, row []byte) error {
	if err := r.l.addRow(key, row); err != nil {
		return err
	}
	if err := r.order.add(key, row[digestBytes:]); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return nil
}

// copyUntil copies the old objects below key; nil: all that are left.
func (r *rewrite) copyUntil(key []byte) error {
	for r.key != nil && (key == nil || bytes.Compare(r.key, key) < 0) {
		if err := r.keep(r.key, r.row); err != nil {
			return err
		}
		r.key, r.row = r.old.Next()
	}
	return nil
}

// touch journals key, unless there are already more keys than will be kept,
// whatever comes: the limit grows by one for eight objects, the keys by one for
// each.
func (r *rewrite) touch(key []byte) error {
	if r.forgetful {
		return nil
	}
	if r.journal.count >= journalLimit(r.base.Objects+r.created) {
		r.forgetful = true
		return nil
	}
	return r.l.failed(r.journal.touch(r.l.w.Bucket(bucketJournal), key))
}

func (r *rewrite) changed() bool { return r.created+r.updated+r.deleted > 0 }

// record makes head, whose root and counts are set, the revision in e.
func (r *rewrite) record(e *edit, head desired.Head, journalled uint64, who, why string) error {
	if r.forgetful {
		return e.rebase(head, who, why)
	}
	e.journalled = journalled
	return e.recordAs(&r.journal, head, who, why)
}

// commitByRewrite applies b and what r still has to read.
func (s *Store) commitByRewrite(ctx context.Context, set *set, c *Commit, b *batch, r *changeReader) (Result, error) {
	run := rewriteCommit{store: s, set: set, c: c, batch: b, reader: r}
	if set.state.Load() == nil {
		if err := run.create(ctx); err != nil {
			return Result{}, err
		}
	} else {
		h, err := s.borrow(set)
		if err != nil {
			return Result{}, err
		}
		defer h.release()
		err = h.view(func(tx *bolt.Tx) error { return run.follow(ctx, tx) })
		if err != nil && err == run.foreign { //nolint:errorlint // that very error, of the caller's own stream
			return Result{}, err
		}
		if err := s.judge(set, h, err); err != nil {
			return Result{}, err
		}
	}
	if run.file == nil {
		return run.unchanged()
	}
	if err := s.publish(set, run.file, run.result.Head); err != nil {
		return Result{}, err
	}
	return run.result, nil
}

// rewriteCommit is a commit by rewrite.
type rewriteCommit struct {
	store  *Store
	set    *set
	c      *Commit
	batch  *batch
	reader *changeReader

	foreign error // what ended the stream of changes
	result  Result
	file    *handle // nil: nothing has changed
}

// create makes the commit the first of a set.
func (run *rewriteCommit) create(ctx context.Context) error {
	if err := expect(run.c.Expect, desired.Head{}); err != nil {
		return err
	}
	return run.rewrite(ctx, nil, meta{name: run.set.name, salt: newSalt()}, nil)
}

// follow makes the commit the next of the set in old.
func (run *rewriteCommit) follow(ctx context.Context, old *bolt.Tx) error {
	e, err := openEdit(old)
	if err != nil {
		return err
	}
	a, ok, err := replay(old, e.head, run.c.Request)
	if run.result = a; ok || err != nil {
		return err
	}
	if err := run.c.follows(&e.meta); err != nil {
		return err
	}
	var guard *deleteGuard
	if run.c.MaxDelete != nil {
		if guard, err = run.c.MaxDelete.on(e.rows, e.held); err != nil {
			return err
		}
	}
	return run.rewrite(ctx, old, e.meta, guard)
}

// rewrite merges the commit with the set in old, nil for none, that m is of.
func (run *rewriteCommit) rewrite(ctx context.Context, old *bolt.Tx, m meta, guard *deleteGuard) error {
	s := run.store
	if err := needRoom(s.dir, fileBytes(m.head)+uint64(run.batch.bytes)); err != nil {
		return err
	}
	l, err := newLoader(s.opener, setPath(s.dir, run.set.name, newSuffix), m.name, m.salt)
	if err != nil {
		return err
	}
	defer l.abort()
	rw, err := newRewrite(l, old, m.head)
	if err != nil {
		return err
	}
	rw.guard = guard
	if err := run.merge(ctx, rw); err != nil {
		return err
	}
	run.result = rw.result(m.head)
	if !rw.changed() {
		return nil
	}
	if rw.gained {
		if err := rw.order.check(); err != nil {
			return err
		}
	}
	return run.finish(rw, m.journalled)
}

// merge applies all changes.
func (run *rewriteCommit) merge(ctx context.Context, rw *rewrite) error {
	for i := range run.batch.changes {
		c := run.batch.changes[i].change()
		if err := rw.apply(&c); err != nil {
			return err
		}
	}
	for {
		c, ok, err := run.reader.read(ctx)
		if err != nil {
			run.foreign = err
			return err
		}
		if !ok {
			return rw.copyUntil(nil)
		}
		if err := rw.apply(&c); err != nil {
			return err
		}
	}
}

// finish makes the new file a revision.
func (run *rewriteCommit) finish(rw *rewrite, journalled uint64) error {
	head := rw.base
	if head.Number++; rw.old == nil {
		var err error
		if head, err = run.store.fleet.begin(run.set.name); err != nil {
			return err
		}
		rw.journal.number = head.Number
	}
	file, err := rw.l.finish(func(e *edit) error {
		head = e.held.on(head)
		if rw.created > 0 { // deletions are never refused
			if err := rw.l.checkWidth(); err != nil {
				return err
			}
		}
		if err := rw.record(e, head, journalled, run.c.Who, run.c.Why); err != nil {
			return err
		}
		run.result.Head = head
		return remember(e.tx, run.c.Request, run.result)
	})
	if err != nil {
		return err
	}
	run.file = file
	run.result.Pages, run.result.BytesWritten = rw.l.wrote.pages, rw.l.wrote.bytes
	return nil
}

// unchanged answers a commit that had nothing to rewrite.
func (run *rewriteCommit) unchanged() (Result, error) {
	if run.set.state.Load() == nil { // and there is nothing to create one with
		return Result{}, fmt.Errorf("%w: %s", ErrNotFound, run.set.name)
	}
	if run.result.Replayed || run.c.Request.ID == "" {
		return run.result, nil
	}
	_, err := run.store.update(run.set, func(e *edit) error { return remember(e.tx, run.c.Request, run.result) })
	return run.result, err
}
