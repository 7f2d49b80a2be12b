package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// Repair recomputes the mirror from its objects. Where that finds damage it
// rewrites the file so that the tree describes honestly what is stored: an
// object whose content doesn't match its digest gets the digest of what it is
// now, one that isn't an object any more is dropped, and every node is built
// anew. A descent then fetches exactly what is wrong. It returns how many rows
// were damaged.
//
// Head stays what was verified, and Damaged and TreeRoot tell how what is
// stored compares to it. A mirror of which nothing can be read is put aside:
// Head is zero then.
func (m *Mirror) Repair(ctx context.Context) (damaged int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, err := m.borrow()
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer h.release()
	report, err := checkHandle(ctx, h, nil)
	switch {
	case errors.Is(err, ErrCorrupt): // the handle is broken, or the head can't be read
		return 1, m.rescue(ctx, err)
	case err != nil:
		return 0, fmt.Errorf("mirror of %s: %w", m.name, err)
	case report.Found == 0:
		return 0, nil
	}
	m.log.Warn("the mirror is damaged and is being repaired", "set", m.name, "rows", report.Found, "first", report.Problems[0])
	if err := m.rewriteFrom(ctx, h); err != nil {
		return 0, fmt.Errorf("mirror of %s: %w", m.name, err)
	}
	return int(report.Found), nil
}

// rescue makes a mirror of what can be read of a file that can't be opened for
// writing, or puts it aside.
func (m *Mirror) rescue(ctx context.Context, why error) error {
	m.slot.swap(nil)
	h, err := openReadOnly(m.path(setSuffix))
	if err != nil {
		return m.putAside(why)
	}
	defer h.retire()
	if err := m.load(h); err != nil {
		return m.putAside(why)
	}
	m.log.Warn("the mirror is damaged and is being repaired", "set", m.name, "err", why)
	err = m.rewriteFrom(ctx, h)
	if errors.Is(err, ErrCorrupt) {
		return m.putAside(err)
	}
	return err
}

// rewriteFrom makes a mirror of what can be read of the one in h.
func (m *Mirror) rewriteFrom(ctx context.Context, h *handle) error {
	state := *m.state.Load()
	file, err := m.salvage(ctx, h, &state)
	if err != nil {
		return err
	}
	return m.replaceNew(file, state)
}

// salvage writes what can be read of the mirror in h to a new file, and its
// root to state.
func (m *Mirror) salvage(ctx context.Context, h *handle, state *mirrorState) (file *handle, err error) {
	err = h.view(func(tx *bolt.Tx) error {
		snap, err := openSnapshot(tx)
		if err != nil {
			return err
		}
		l, err := newLoader(m.opener, m.path(newSuffix), m.name, snap.meta.salt)
		if err != nil {
			return err
		}
		defer l.abort()
		s := salvager{l: l, snap: snap}
		if err := s.run(ctx); err != nil {
			return err
		}
		file, err = l.finish(func(e *edit) error {
			held := e.held
			state.tree = held.root
			if err := e.rebase(snap.Head(), "", ""); err != nil {
				return err
			}
			if !state.delivered.Epoch.IsZero() {
				if err := e.tx.Bucket(bucketMeta).Put(metaDelivered, appendPosition(nil, state.delivered)); err != nil {
					return err
				}
			}
			e.held = held
			return e.meta.write(e.tx)
		})
		return err
	})
	return file, err
}

// salvager copies the objects that can be read, whatever they have become.
type salvager struct {
	l    *loader
	snap *Snapshot
	last []byte
}

// run copies node by node of level 1, so that a page which can't be read costs
// the rest of one node.
func (s *salvager) run(ctx context.Context) error {
	for from := []byte{}; from != nil; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		until := s.nextNode(from)
		if err := s.copyRange(from, until); err != nil {
			return err
		}
		from = until
	}
	return nil
}

// nextNode returns the first key of the first readable node behind from; nil:
// there is none.
func (s *salvager) nextNode(from []byte) (first []byte) {
	defer ignoreDamage()
	for row, err := range s.snap.Rows(1, append(bytes.Clone(from), 0), nil) {
		if err == nil && bytes.Compare(row.Key, from) > 0 {
			first = bytes.Clone(row.Key)
		}
		break
	}
	return first
}

// copyRange copies the objects of a range up to the first that can't be read.
func (s *salvager) copyRange(from, until []byte) error {
	c := s.snap.objects.Cursor()
	k, v, err := seek(c, from)
	for ; err == nil && k != nil && (until == nil || bytes.Compare(k, until) < 0); k, v, err = next(c) {
		change, ok := s.honest(k, v)
		if !ok {
			continue
		}
		s.last = append(s.last[:0], k...)
		if err := s.l.add(&change); err != nil {
			return err
		}
	}
	return nil
}

// honest returns the object with the digest of what it is; ok: it is one.
func (s *salvager) honest(k, v []byte) (c desired.Change, ok bool) {
	defer ignoreDamage()
	c, err := decodeObject(k, v)
	if err != nil || bytes.Compare(k, s.last) <= 0 || desired.CheckKey(k) != nil || desired.CheckEnvelope(k, c.Envelope) != nil {
		return c, false
	}
	c.Digest = s.snap.hasher.Sum(k, c.Envelope)
	return c, true
}

// ignoreDamage, deferred, makes a fault in a mapped file end the function.
func ignoreDamage() {
	if r := recover(); r != nil && !damage(r) {
		panic(r)
	}
}
