package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// CompactOptions says what a compaction leaves out.
type CompactOptions struct {
	// DropHistory forgets which keys earlier revisions touched.
	DropHistory bool
}

// CompactResult is the size of a set's file, in bytes.
type CompactResult struct{ Before, After int64 }

// Compact rewrites the set's file without the space that is free in it. Every
// object is checked against its digest, and the tree is built anew and must
// have the same root.
func (s *Store) Compact(ctx context.Context, name desired.Name, o CompactOptions) (CompactResult, error) {
	var r CompactResult
	set, done, err := s.own(ctx, name)
	if err != nil {
		return r, err
	}
	defer done()
	old, err := s.borrow(set)
	if err != nil {
		return r, err
	}
	defer old.release()
	var file *handle
	var head desired.Head
	err = old.view(func(tx *bolt.Tx) error {
		snap, err := openSnapshot(tx)
		if err != nil {
			return err
		}
		head = snap.Head()
		file, err = s.compactInto(ctx, set, tx, snap, o)
		return err
	})
	if err != nil {
		return r, s.judge(set, old, err)
	}
	if r.Before, err = fileSize(old.name()); err != nil {
		return r, err
	}
	if err := s.publish(set, file, head); err != nil {
		return r, err
	}
	r.After, err = fileSize(set.path)
	return r, err
}

// own returns the set, in service and locked for writing until done is called.
func (s *Store) own(ctx context.Context, name desired.Name) (own *set, done func(), err error) {
	set, err := s.hold(name)
	if err != nil {
		return nil, nil, err
	}
	if err := set.lock(ctx); err != nil {
		s.letGo(set)
		return nil, nil, err
	}
	done = func() { set.unlock(); s.letGo(set) }
	if _, err := set.head(); err != nil {
		done()
		return nil, nil, err
	}
	return set, done, nil
}

func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, fmt.Errorf("size of file: %w", err)
	}
	return info.Size(), nil
}

// compactInto writes the set in old to a new file.
func (s *Store) compactInto(ctx context.Context, set *set, old *bolt.Tx, snap *Snapshot, o CompactOptions) (*handle, error) {
	if err := needRoom(filepath.Dir(set.path), fileBytes(snap.Head())); err != nil {
		return nil, err
	}
	l, err := newLoader(s.opener, setPath(s.dir, set.name, newSuffix), set.name, snap.meta.salt)
	if err != nil {
		return nil, err
	}
	defer l.abort()
	kept := [][]byte{bucketRequests}
	if !o.DropHistory {
		kept = append(kept, bucketJournal)
	}
	for _, name := range kept {
		if err := l.copyBucket(old, name); err != nil {
			return nil, err
		}
	}
	if err := l.copyObjects(ctx, snap); err != nil {
		return nil, err
	}
	return l.finish(func(e *edit) error {
		if err := e.held.is(snap.Head()); err != nil {
			return err
		}
		e.meta = snap.meta
		if o.DropHistory {
			return e.rebase(snap.Head(), "", "history dropped")
		}
		return e.meta.write(e.tx)
	})
}

// copyObjects adds the objects of snap, which must outlive the loader.
func (l *loader) copyObjects(ctx context.Context, snap *Snapshot) error {
	for c, err := range snap.Objects(nil, nil) {
		if err != nil {
			return err
		}
		if l.meta.head.Objects%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := l.add(&c); err != nil {
			return err
		}
	}
	return nil
}

// is returns nil if what was built from the objects of head is what head says.
func (c content) is(head desired.Head) error {
	if c == contentOf(head) {
		return nil
	}
	return fmt.Errorf("%w: its objects, %d of %d bytes with root %v, are not those of its head, %d of %d bytes with root %v",
		ErrCorrupt, c.objects, c.bytes, c.root, head.Objects, head.Bytes, head.Root)
}

// DropHistory forgets which keys earlier revisions touched; agents that are
// behind compare trees instead. The space is free for later commits.
func (s *Store) DropHistory(ctx context.Context, name desired.Name) error {
	set, done, err := s.own(ctx, name)
	if err != nil {
		return err
	}
	defer done()
	_, err = s.update(set, func(e *edit) error { return e.rebase(e.head, "", "history dropped") })
	return err
}
