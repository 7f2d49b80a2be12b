package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/internal/durable"
	"espalier/merkle"
	"espalier/store/internal/boltfile"
)

// appending is how a staging that began empty grows as long as keys ascend: its
// tree lags behind its objects. The file is written front to back, with a
// checkpoint for each transaction; when it was reopened in between it goes on
// through bbolt, which takes longer.
type appending struct {
	w    *boltfile.Writer // nil: the file is open in bbolt
	bulk *bulk            // nil: its state was lost
	last []byte           // the last key
}

// accepts reports whether b lies behind the last key.
func (a *appending) accepts(b *batch) bool {
	return len(b.changes) == 0 || bytes.Compare(b.changes[0].key, a.last) > 0
}

// create makes the staging an empty one.
func (st *Staging) create() error {
	path, to := st.m.path(newSuffix), st.m.path(stagingSuffix)
	if err := removeFile(path); err != nil {
		return err
	}
	w, err := boltfile.Create(path, fileMode, setBuckets...)
	if err != nil {
		return err
	}
	st.appending = &appending{w: w, bulk: newBulk(st.salt, w.Bucket(bucketTree))}
	if err = st.checkpoint(st.held, nil); err == nil {
		err = durable.Rename(path, to)
	}
	if err != nil {
		_ = w.Close()
		_ = os.Remove(to)
	}
	return err
}

// checkpoint makes the file that is being written durable, with its meta rows.
func (st *Staging) checkpoint(held content, mark []byte) error {
	m := meta{name: st.m.name, salt: st.salt, head: held.on(desired.Head{}), held: held}
	rows := m.rows()
	if mark != nil {
		rows = append(rows, metaRow{metaMark, mark})
	}
	if st.appending.bulk != nil {
		rows = append(rows, metaRow{metaBuilding, []byte{1}})
	}
	sortRows(rows)
	b := st.appending.w.Bucket(bucketMeta)
	b.Reset()
	for _, r := range rows {
		if err := b.Put(r.key, r.value); err != nil {
			return err
		}
	}
	err := st.appending.w.Checkpoint()
	if full(err) {
		err = fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// append writes b behind the last key.
func (st *Staging) append(b *batch, mark []byte) error {
	a, held := st.appending, st.held
	var err error
	if a.w != nil {
		if err = a.add(b, a.w.Bucket(bucketObjects), &held); err == nil {
			err = st.checkpoint(held, mark)
		}
		if err != nil {
			return errors.Join(err, st.reopen())
		}
	} else if err = st.appendThrough(b, mark, &held); err != nil {
		a.bulk = nil // it may be ahead of the file
		return err
	}
	st.held, st.mark = held, mark
	return nil
}

// add puts the objects of b, and what that makes of the tree.
func (a *appending) add(b *batch, objects rowWriter, held *content) error {
	for _, p := range b.changes {
		if p.row == nil {
			continue // behind the last key there is nothing to delete
		}
		if err := a.bulk.builder.Add(p.key, merkle.Digest(p.row[:digestBytes])); err != nil {
			return err
		}
		if err := objects.Put(p.key, p.row); err != nil {
			return err
		}
		a.last = append(a.last[:0], p.key...)
		held.objects++
		held.bytes += payload(p.key, p.row)
	}
	return nil
}

// reopen gives up writing the file front to back, after an error: it is what it
// was at the last checkpoint.
func (st *Staging) reopen() error {
	err := st.appending.w.Close()
	st.appending.w = nil
	return errors.Join(err, st.open())
}

// appendThrough appends b through bbolt.
func (st *Staging) appendThrough(b *batch, mark []byte, held *content) error {
	h, err := st.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	a := st.appending
	if err := a.resume(h, st.salt); err != nil {
		return err
	}
	last := bytes.Clone(a.last)
	_, err = h.update(func(tx *bolt.Tx) error {
		m, err := readMeta(tx)
		if err != nil {
			return err
		}
		objects := tx.Bucket(bucketObjects)
		objects.FillPercent = appendFill
		a.bulk.nodes = tx.Bucket(bucketTree)
		if err := a.add(b, objects, held); err != nil {
			return err
		}
		m.head, m.held = held.on(m.head), *held
		if err := m.write(tx); err != nil {
			return err
		}
		return putMark(tx, mark)
	})
	if err != nil {
		a.last = last
	}
	return err
}

// resume brings the tree in the making to where the objects are, if its state
// was lost, and holds what is stored against it: the objects against their
// digests, and those against the tree.
func (a *appending) resume(h *handle, salt uint64) error {
	if a.bulk != nil {
		return nil
	}
	b := newBulk(salt, nil)
	err := viewHandle(h, func(s *Snapshot) error {
		for row, err := range s.Rows(1, nil, nil) {
			if err != nil {
				return err
			}
			row.Key = bytes.Clone(row.Key)
			b.stored = append(b.stored, row)
		}
		var held content
		for c, err := range s.Objects(nil, nil) {
			if err == nil {
				err = b.builder.Add(c.Key, c.Digest)
			}
			if err != nil {
				return err
			}
			held.objects++
			held.bytes += uint64(c.PayloadBytes())
		}
		if len(b.stored) > 0 || held != s.meta.held {
			return fmt.Errorf("%w: %d objects, of %d; %d nodes too many", ErrCorrupt, held.objects, s.meta.held.objects, len(b.stored))
		}
		return nil
	})
	if errors.Is(err, merkle.ErrOrder) {
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err == nil {
		a.bulk = b
	}
	return err
}

// finishTree completes the tree: from then on the staging changes in place.
func (st *Staging) finishTree() error {
	a := st.appending
	if a == nil {
		return nil
	}
	if a.w == nil {
		return st.finishThrough()
	}
	root, err := a.bulk.finish()
	if err == nil {
		a.bulk, st.held.root = nil, root.Digest
		err = st.checkpoint(st.held, st.mark)
	}
	return errors.Join(err, st.reopen())
}

// finishThrough is finishTree through bbolt.
func (st *Staging) finishThrough() error {
	h, err := st.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	a := st.appending
	if err := a.resume(h, st.salt); err != nil {
		return err
	}
	var root merkle.Row
	_, err = h.update(func(tx *bolt.Tx) error {
		m, err := readMeta(tx)
		if err != nil {
			return err
		}
		a.bulk.nodes = tx.Bucket(bucketTree)
		if root, err = a.bulk.finish(); err != nil {
			return err
		}
		m.head.Root, m.held.root = root.Digest, root.Digest
		if err := tx.Bucket(bucketMeta).Delete(metaBuilding); err != nil {
			return err
		}
		return m.write(tx)
	})
	if a.bulk = nil; err == nil {
		st.appending, st.held.root = nil, root.Digest
	}
	return err
}

// shut closes the file, which stays as it is.
func (st *Staging) shut() {
	if st.appending != nil && st.appending.w != nil {
		_ = st.appending.w.Close() // what was acknowledged is durable
		st.appending = nil
	}
	st.slot.swap(nil)
}
