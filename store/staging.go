package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"sync"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// StageKind is what a staging begins as.
type StageKind int

// The kinds of stagings.
const (
	StageEmpty StageKind = iota // of no objects
	StageCopy                   // of the mirror's
)

// Staging is a set in the making beside a mirror. It survives crashes, and
// nobody sees it before Promote. It is safe for concurrent use.
type Staging struct {
	m    *Mirror
	salt uint64
	slot slot // of the file, unless appending has it

	mu   sync.Mutex // held while the staging changes, which takes I/O
	held content
	mark []byte
	// batch is what Write works on, kept for its memory.
	batch batch
	// appending is how a staging that began empty grows; nil: the tree is
	// complete, and held has its root.
	appending *appending
}

// Staging returns the staging that an earlier run left, or Stage made; nil if
// there is none. What was left is verified down to the content of its objects,
// which nobody has watched meanwhile: one that is damaged is deleted.
func (m *Mirror) Staging() (*Staging, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.staging != nil {
		return m.staging, nil
	}
	st := &Staging{m: m}
	err := st.open()
	if err == nil {
		if err = st.verify(); err != nil {
			st.shut()
		}
	}
	switch {
	case err == nil:
		m.staging = st
		return st, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrFormat):
		m.log.Warn("what an interrupted pull had received is damaged, and is deleted", "set", m.name, "error", err)
		return nil, removeFile(m.path(stagingSuffix))
	default:
		return nil, st.named(err)
	}
}

func (st *Staging) named(err error) error {
	if err != nil {
		err = fmt.Errorf("staging of %s: %w", st.m.name, err)
	}
	return err
}

// open opens the file and reads what is staged in it.
func (st *Staging) open() error {
	h, err := st.m.opener.open(st.m.path(stagingSuffix))
	if err != nil {
		return err
	}
	st.slot.swap(h)
	if err := h.view(st.load); err != nil {
		st.slot.swap(nil)
		return err
	}
	return nil
}

// verify checks a staging that was just opened.
func (st *Staging) verify() error {
	h, err := st.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	if err := verifyFile(h.name()); err != nil {
		return h.breakDown(err)
	}
	if st.appending != nil {
		return st.appending.resume(h, st.salt)
	}
	return viewHandle(h, func(s *Snapshot) error {
		_, _, err := s.scrub(nil, bounds{math.MaxInt, math.MaxInt})
		return err
	})
}

func (st *Staging) load(tx *bolt.Tx) error {
	m, err := readMeta(tx)
	if err != nil {
		return err
	}
	b := tx.Bucket(bucketMeta)
	st.salt, st.held = m.salt, m.held
	st.mark = bytes.Clone(b.Get(metaMark))
	if st.appending = nil; b.Get(metaBuilding) != nil {
		last, _ := tx.Bucket(bucketObjects).Cursor().Last()
		st.appending = &appending{last: bytes.Clone(last)}
	}
	return nil
}

// Stage begins a staging and discards an older one. salt is that of the set's
// tree at the server; StageCopy needs a mirror with the same salt, or without
// objects.
func (m *Mirror) Stage(ctx context.Context, kind StageKind, salt uint64) (*Staging, error) {
	if err := m.DiscardStaging(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	st := &Staging{m: m, salt: salt}
	var err error
	if kind == StageEmpty || m.Head().Objects == 0 && !m.Damaged() {
		err = st.create()
	} else {
		err = st.copyMirror()
	}
	if err != nil {
		_ = removeFile(m.path(newSuffix))
		return nil, st.named(err)
	}
	m.staging = st
	return st, nil
}

// copyMirror makes the staging a copy of the mirror.
func (st *Staging) copyMirror() error {
	old, err := st.m.borrow()
	if err != nil {
		return err
	}
	defer old.release()
	path := st.m.path(newSuffix)
	err = old.view(func(tx *bolt.Tx) error {
		of, err := readMeta(tx)
		if err != nil {
			return err
		}
		if of.salt != st.salt {
			return fmt.Errorf("%w: the mirror's tree has another salt than the set's", desired.ErrInvalid)
		}
		if err := needRoom(st.m.dir, uint64(tx.Size())); err != nil {
			return err
		}
		return copyFile(tx, path)
	})
	if err != nil {
		return err
	}
	return st.adoptCopy(path)
}

// adoptCopy makes the copy of a mirror at path the staging.
func (st *Staging) adoptCopy(path string) error {
	if err := verifyFile(path); err != nil { // a page may have gone bad since the mirror was opened
		return err
	}
	h, err := st.m.opener.created(path)
	if err != nil {
		return err
	}
	_, err = h.update(clearMirror)
	if err == nil {
		err = h.sync()
	}
	if err == nil {
		err = h.moveTo(st.m.path(stagingSuffix))
	}
	if err == nil {
		err = h.view(st.load)
	}
	if err != nil {
		h.drop()
		return err
	}
	st.slot.swap(h)
	return nil
}

// clearMirror makes the copy of a mirror a staging.
func clearMirror(tx *bolt.Tx) error {
	e, err := openEdit(tx)
	if err != nil {
		return err
	}
	root, err := merkle.Root(e.rows) // which is what is there, if the mirror is damaged
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if err := tx.Bucket(bucketMeta).Delete(metaMark); err != nil {
		return err
	}
	staged := content{root: root.Digest, objects: root.Count, bytes: e.held.bytes}
	return e.rebase(staged.on(desired.Head{}), "", "")
}

// copyFile writes all that tx sees to a new file at path.
func copyFile(tx *bolt.Tx, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return fmt.Errorf("copy file: %w", err)
	}
	_, err = tx.WriteTo(f)
	if e := f.Close(); err == nil {
		err = e
	}
	if full(err) {
		err = fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	if err != nil {
		return fmt.Errorf("copy file to %s: %w", path, err)
	}
	return nil
}

// Write writes changes, which ascend by key, along with the mark, which Mark
// returns from then on. When it returns nil they are durable; after a crash
// either all is there or nothing. More changes than one transaction should have
// (20,000 or 8 MiB while appending, else MaxAdoptChanges or MaxAdoptBytes) are
// written in several, the mark with the last.
//
// As long as a staging that began empty is only added to behind its last key,
// this is a bulk load. Keep changes large then: each Write waits for the disk.
func (st *Staging) Write(ctx context.Context, changes []desired.Change, mark []byte) error {
	if len(mark) > MaxMarkBytes {
		return fmt.Errorf("%w mark: %d bytes, at most %d are allowed", desired.ErrInvalid, len(mark), MaxMarkBytes)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	var in intake
	b := &st.batch
	for first := true; first || len(changes) > 0; first = false {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b.reset()
		var err error
		if changes, err = st.take(&in, b, changes); err != nil {
			return st.named(err)
		}
		newMark := st.mark
		if len(changes) == 0 {
			newMark = bytes.Clone(mark)
		}
		if err := st.write(b, newMark); err != nil {
			return st.named(err)
		}
	}
	return nil
}

// take checks as many changes as make a transaction, adds them to b, and
// returns the rest.
func (st *Staging) take(in *intake, b *batch, changes []desired.Change) ([]desired.Change, error) {
	most := st.m.opener.inPlace
	if st.appending != nil {
		most = bounds{batchRows, batchBytes}
	}
	for i := range changes {
		if most.exceeded(len(b.changes)+1, b.bytes) {
			return changes[i:], nil
		}
		c := &changes[i]
		digest, err := in.check(*c)
		if err != nil {
			return nil, err
		}
		b.add(c.Key, digest, c.Envelope)
	}
	return nil, nil
}

// write writes b and the mark in one transaction.
func (st *Staging) write(b *batch, mark []byte) error {
	if a := st.appending; a != nil && a.accepts(b) {
		return st.append(b, mark)
	}
	if err := st.finishTree(); err != nil {
		return err
	}
	h, err := st.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	var p *plan
	_, err = h.update(func(tx *bolt.Tx) error {
		e, err := openEdit(tx)
		if err != nil {
			return err
		}
		if p, err = e.compare(b); err != nil {
			return err
		}
		if err := e.grow(p, merkle.Shape{Salt: e.salt}); err != nil {
			return err
		}
		if err := e.write(p); err != nil {
			return err
		}
		if err := e.setHead(p.held.on(e.head)); err != nil {
			return err
		}
		return putMark(tx, mark)
	})
	if err == nil {
		st.held, st.mark = p.held, mark
	}
	return err
}

func putMark(tx *bolt.Tx, mark []byte) error {
	if mark == nil {
		return nil
	}
	return tx.Bucket(bucketMeta).Put(metaMark, mark)
}
