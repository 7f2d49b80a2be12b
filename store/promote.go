package store

import (
	"bytes"
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// Mark returns the mark last written, nil if there is none.
func (st *Staging) Mark() []byte {
	st.mu.Lock()
	defer st.mu.Unlock()
	return bytes.Clone(st.mark)
}

// Objects returns how many objects are staged.
func (st *Staging) Objects() uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.held.objects
}

// Bytes returns what the staged keys and values add up to.
func (st *Staging) Bytes() uint64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.held.bytes
}

// Salt returns the salt of the staged tree.
func (st *Staging) Salt() uint64 { return st.salt }

func (st *Staging) borrow() (*handle, error) {
	return st.slot.borrow(func() (*handle, error) {
		return nil, fmt.Errorf("staging of %s: %w: it was promoted, discarded or closed", st.m.name, ErrNotFound)
	})
}

// View calls fn with a snapshot of what is staged, after the tree is completed;
// its head has a root and counts, and no position. fn must not change the
// staging.
func (st *Staging) View(fn func(*Snapshot) error) error {
	h, err := st.complete()
	if err != nil {
		return err
	}
	defer h.release()
	return viewHandle(h, fn)
}

// complete returns the file, its tree complete, with a reference for the
// caller.
func (st *Staging) complete() (*handle, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if err := st.finishTree(); err != nil {
		return nil, st.named(err)
	}
	return st.borrow()
}

// Root returns the root of what is staged, after the tree is completed.
func (st *Staging) Root() (desired.Digest, error) {
	h, err := st.complete()
	if err != nil {
		return desired.Digest{}, err
	}
	h.release()
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.held.root, nil
}

// DiscardStaging deletes the staging, if there is one.
func (m *Mirror) DiscardStaging() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shutStaging()
	return removeFile(m.path(stagingSuffix))
}

// Promote puts the staging in the place of the mirror and makes head its
// revision, but for the counts, which are computed. If the staging's root isn't
// head.Root it returns an error that matches ErrRootMismatch, and both stay as
// they are.
//
// The mirror's journal goes on: what differs between the two counts as touched
// by the new revision.
func (st *Staging) Promote(ctx context.Context, head desired.Head) error {
	if err := st.m.checkHead(head); err != nil {
		return err
	}
	h, err := st.complete()
	if err != nil {
		return err
	}
	defer h.release()
	m := st.m
	m.mu.Lock()
	defer m.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.held.root != head.Root {
		return fmt.Errorf("staging of %s: %w: what is staged has root %v, the head of %v has %v",
			m.name, ErrRootMismatch, st.held.root, head.Position, head.Root)
	}
	head = st.held.on(head)
	state := *m.state.Load()
	if err := m.succeed(ctx, h, head, state); err != nil {
		return st.named(err)
	}
	state.head, state.tree = head, head.Root
	err = m.replace(h, state)
	if m.slot.holds(h) {
		st.slot.give()
		m.staging = nil
	}
	return err
}

// succeed makes head the revision in h, with what has to outlive the mirror.
func (m *Mirror) succeed(ctx context.Context, h *handle, head desired.Head, state mirrorState) error {
	old, err := m.borrow()
	if err != nil { // there is none
		return m.seal(h, nil, nil, head, state)
	}
	defer old.release()
	return old.view(func(tx *bolt.Tx) error {
		if head.Number <= state.head.Number || state.tree != state.head.Root {
			return m.seal(h, nil, nil, head, state)
		}
		snap, err := openSnapshot(tx)
		if err != nil {
			return err
		}
		var keys *keyList
		err = viewHandle(h, func(staged *Snapshot) error {
			keys, err = differing(ctx, snap, staged)
			return err
		})
		if err != nil {
			return err
		}
		return m.seal(h, tx, keys, head, state)
	})
}

// keyList is a bounded list of keys.
type keyList struct{ keys [][]byte }

// differing returns the keys on which two revisions differ; nil: too many to
// keep, or too costly to tell.
func differing(ctx context.Context, old, staged *Snapshot) (*keyList, error) {
	if old.meta.salt != staged.meta.salt {
		return nil, nil
	}
	list := &keyList{}
	limit := min(journalLimit(staged.meta.held.objects), inheritKeys)
	for d, err := range merkle.Diff(old, staged) {
		if err != nil {
			return nil, err
		}
		if uint64(len(list.keys)) == limit {
			return nil, nil
		}
		if len(list.keys)%1024 == 0 && ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		list.keys = append(list.keys, bytes.Clone(d.Key))
	}
	return list, nil
}

// seal writes head, the journal and what was delivered into h. The journal
// takes up old's with keys on top; nil: it begins anew.
func (m *Mirror) seal(h *handle, old *bolt.Tx, keys *keyList, head desired.Head, state mirrorState) error {
	_, err := h.update(func(tx *bolt.Tx) error {
		e, err := openEdit(tx)
		if err != nil {
			return err
		}
		if !state.delivered.Epoch.IsZero() {
			if err := tx.Bucket(bucketMeta).Put(metaDelivered, appendPosition(nil, state.delivered)); err != nil {
				return err
			}
		}
		if err := e.rebase(head, "", ""); err != nil || keys == nil {
			return err
		}
		return e.inherit(old, keys, head)
	})
	return err
}

// inherit puts the journal of old, and keys on top of it, into e's.
func (e *edit) inherit(old *bolt.Tx, keys *keyList, head desired.Head) error {
	of, err := readMeta(old)
	if err != nil {
		return err
	}
	if of.journalled > inheritKeys { // too much for one transaction
		if err := e.rebase(of.head, "", ""); err != nil {
			return err
		}
	} else {
		c := old.Bucket(bucketJournal).Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			if err := e.journal.Put(k, v); err != nil {
				return err
			}
		}
		e.journalled = of.journalled
	}
	w := journalWriter{number: head.Number}
	for _, k := range keys.keys {
		if err := w.touch(e.journal, k); err != nil {
			return err
		}
	}
	return e.recordAs(&w, head, "", "")
}
