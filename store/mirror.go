package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/internal/durable"
	"espalier/merkle"
)

// Mirror is an agent's verified copy of one set. It is safe for concurrent use.
type Mirror struct {
	dir    string
	name   desired.Name
	opener opener
	log    *slog.Logger
	slot   slot
	state  atomic.Pointer[mirrorState]

	mu      sync.Mutex // held while the mirror changes, which takes I/O
	staging *Staging   // nil: none is open
}

type mirrorState struct {
	head      desired.Head // zero: there is no mirror yet
	tree      desired.Digest
	floor     desired.Revision
	floorDue  bool // the floor's files are not all at it
	delivered desired.Position
}

// OpenMirror opens the mirror of the set name in the data folder dir, which the
// caller has locked with LockDir. Of a mirror that is damaged so that it can't
// be opened it keeps what can be read, as Repair does, and if that is nothing it
// puts the file aside, for the server has it all; the floor stays.
func OpenMirror(dir string, name desired.Name, o Options) (*Mirror, error) {
	if _, err := desired.ParseName(string(name)); err != nil {
		return nil, err
	}
	if err := makeFolders(dir); err != nil {
		return nil, err
	}
	opener := newOpener(o)
	m := &Mirror{dir: dir, name: name, opener: opener, log: opener.log}
	if err := removeFile(m.path(newSuffix)); err != nil {
		return nil, err
	}
	floor := m.readFloor()
	m.state.Store(&mirrorState{floor: floor.latest()})
	switch err := m.open(); {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrFormat): // of a flipped bit, as likely as not
		if err := m.rescue(context.Background(), err); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, fmt.Errorf("mirror of %s: %w", name, err)
	}
	if err := m.settle(floor); err != nil {
		m.slot.swap(nil)
		return nil, fmt.Errorf("mirror of %s: %w", name, err)
	}
	return m, nil
}

// Mirrors returns the names of the sets that are mirrored in an agent's data
// folder.
func Mirrors(dir string) (names []desired.Name, err error) {
	files, err := os.ReadDir(filepath.Join(dir, setsFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read data folder: %w", err)
	}
	for _, f := range files {
		base, isSet := strings.CutSuffix(f.Name(), setSuffix)
		if !isSet {
			continue
		}
		name, err := desired.ParseName(base)
		if err != nil { // it was too long for a file's name
			found, err := readFileMeta(filepath.Join(dir, setsFolder, f.Name()))
			if err != nil {
				return nil, err
			}
			name = found.name
		}
		names = append(names, name)
	}
	return names, nil
}

// Remove closes the mirror and removes its files. Its floor stays: should the
// host mirror the set again, it begins where it was left.
func (m *Mirror) Remove() error {
	if err := m.DiscardStaging(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slot.swap(nil)
	old := m.state.Load()
	m.state.Store(&mirrorState{floor: old.floor, floorDue: old.floorDue})
	return removeFile(m.path(setSuffix))
}

// Path returns the path of the mirror's file, which is a backup of the set once
// the mirror is closed.
func (m *Mirror) Path() string { return m.path(setSuffix) }

func (m *Mirror) path(suffix string) string { return setPath(m.dir, m.name, suffix) }

// open opens the mirror's file.
func (m *Mirror) open() error {
	h, err := m.opener.open(m.path(setSuffix))
	if err != nil {
		return err
	}
	m.slot.swap(h)
	if err := m.load(h); err != nil {
		m.slot.swap(nil)
		return fmt.Errorf("file %s: %w", h.name(), err)
	}
	return nil
}

// load reads the state of the mirror in h.
func (m *Mirror) load(h *handle) error {
	st := *m.state.Load()
	err := h.view(func(tx *bolt.Tx) error {
		snap, err := openSnapshot(tx)
		if err != nil {
			return err
		}
		if snap.meta.name != m.name {
			return fmt.Errorf("%w: it mirrors the set %q, not %q; it was renamed or copied", ErrCorrupt, snap.meta.name, m.name)
		}
		st.head, st.tree = snap.Head(), desired.Digest{}
		if root, err := merkle.Root(snap); err == nil { // else the mirror is damaged
			st.tree = root.Digest
		}
		if v := tx.Bucket(bucketMeta).Get(metaDelivered); len(v) == positionBytes {
			st.delivered = decodePosition(v)
		}
		return nil
	})
	if err == nil {
		m.state.Store(&st)
	}
	return err
}

// putAside moves a mirror that can't be read out of the way.
func (m *Mirror) putAside(why error) error {
	m.slot.swap(nil)
	m.log.Error("the mirror can't be read and will be fetched again", "set", m.name, "error", why, "kept", m.path(damagedSuffix))
	old := m.state.Load()
	m.state.Store(&mirrorState{floor: old.floor, floorDue: old.floorDue})
	return durable.Rename(m.path(setSuffix), m.path(damagedSuffix))
}

// setState makes st, which is in the file, the mirror's state. Its floor is the
// later of st's and the head, also while that can't be written: then it is due
// with the next revision.
func (m *Mirror) setState(st mirrorState) error {
	if !st.head.Epoch.IsZero() && (st.floor.Epoch.IsZero() || st.head.Follows(st.floor)) {
		st.floor, st.floorDue = st.head.Revision, true
	}
	var err error
	if st.floorDue {
		err = m.writeFloor(st.floor)
		st.floorDue = err != nil
	}
	m.state.Store(&st)
	return err
}

// Close closes the mirror and its staging, which survives, once the views have
// ended.
func (m *Mirror) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shutStaging()
	m.slot.swap(nil)
	return nil
}

// shutStaging closes the staging if there is one.
func (m *Mirror) shutStaging() {
	if st := m.staging; st != nil {
		m.staging = nil
		st.mu.Lock()
		defer st.mu.Unlock()
		st.shut()
	}
}

// Head returns the verified revision; zero if there is none yet.
func (m *Mirror) Head() desired.Head { return m.state.Load().head }

// Floor returns the latest revision that this mirror ever held; zero if it
// never held any.
func (m *Mirror) Floor() desired.Revision { return m.state.Load().floor }

// TreeRoot returns the root of what is stored, as far as the tree knows: see
// Repair.
func (m *Mirror) TreeRoot() desired.Digest { return m.state.Load().tree }

// Damaged reports whether what is stored is known not to be Head.
func (m *Mirror) Damaged() bool {
	st := m.state.Load()
	return st.tree != st.head.Root
}

// Delivered returns the position that was last marked, zero if none was.
func (m *Mirror) Delivered() desired.Position { return m.state.Load().delivered }

// View calls fn with a snapshot of the mirror, which is valid until fn returns.
// It returns ErrNotFound where there is no mirror yet, and an error that
// matches ErrCorrupt if the snapshot comes upon damage: then it is time for
// Repair. fn must not change the mirror.
func (m *Mirror) View(fn func(*Snapshot) error) error {
	h, err := m.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	return viewHandle(h, fn)
}

func (m *Mirror) borrow() (*handle, error) {
	return m.slot.borrow(func() (*handle, error) { return nil, fmt.Errorf("mirror of %s: %w", m.name, ErrNotFound) })
}

// viewHandle calls fn with a snapshot of the set in h.
func viewHandle(h *handle, fn func(*Snapshot) error) error {
	return h.view(func(tx *bolt.Tx) error {
		snap, err := openSnapshot(tx)
		if err != nil {
			return err
		}
		if err := fn(snap); err != nil {
			return err
		}
		return snap.damage
	})
}

// Adopt applies changes, which ascend by key, in one transaction. It commits
// only if they lead to head.Root; else it returns an error that matches
// ErrRootMismatch and nothing has changed. Changes that change nothing are
// fine. The head's counts are computed, not taken over.
//
// It returns an error that matches ErrTooLarge if there are more than
// MaxAdoptChanges or MaxAdoptBytes: those have to be staged.
func (m *Mirror) Adopt(ctx context.Context, head desired.Head, changes iter.Seq2[desired.Change, error]) error {
	if err := m.checkHead(head); err != nil {
		return err
	}
	next, stop := iter.Pull2(changes)
	defer stop()
	r := &changeReader{next: next}
	b, more, err := r.batch(ctx, m.opener.inPlace)
	if err == nil && more {
		err = ErrTooLarge
	}
	if err != nil {
		return fmt.Errorf("mirror of %s: %w", m.name, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	h, err := m.borrow()
	if errors.Is(err, ErrNotFound) {
		return m.adoptFirst(head, b)
	}
	if err != nil {
		return err
	}
	defer h.release()
	st := *m.state.Load()
	_, err = h.update(func(tx *bolt.Tx) error {
		e, err := openEdit(tx)
		if err != nil {
			return err
		}
		st.head, err = e.adopt(head, b, st.tree)
		return err
	})
	if err != nil {
		return fmt.Errorf("mirror of %s: %w", m.name, err)
	}
	st.tree = st.head.Root
	return m.setState(st)
}

// checkHead returns nil if head can be that of a mirror.
func (m *Mirror) checkHead(head desired.Head) error {
	if head.Epoch.IsZero() || head.Number == 0 {
		return fmt.Errorf("mirror of %s: %w head: it is at %v", m.name, desired.ErrInvalid, head.Position)
	}
	return nil
}

// adopt makes b lead to head and returns it with its counts. tree is the root
// of what is stored before.
func (e *edit) adopt(head desired.Head, b *batch, tree desired.Digest) (desired.Head, error) {
	p, err := e.compare(b)
	if err != nil {
		return head, err
	}
	if err := e.grow(p, merkle.Shape{Salt: e.salt}); err != nil {
		return head, err
	}
	if p.held.root != head.Root {
		return head, fmt.Errorf("%w: the changes lead to %v, the head of %v is %v", ErrRootMismatch, p.held.root, head.Position, head.Root)
	}
	head = p.held.on(head)
	if err := e.write(p); err != nil {
		return head, err
	}
	if err := e.tx.Bucket(bucketMeta).Delete(metaMark); err != nil { // of the staging that this was
		return head, err
	}
	switch {
	case tree == e.head.Root && head.Number > e.head.Number:
		return head, e.record(p, head, "", "")
	case head.Revision == e.head.Revision && tree == e.head.Root:
		return head, e.setHead(head)
	}
	// What went wrong before, or when, doesn't show in the keys.
	return head, e.rebase(head, "", "")
}

// adoptFirst is Adopt where there is no mirror. Its tree has no salt, which
// only matters once there are objects, so that it is good for an empty head.
func (m *Mirror) adoptFirst(head desired.Head, b *batch) error {
	l, err := newLoader(m.opener, m.path(newSuffix), m.name, 0)
	if err != nil {
		return err
	}
	defer l.abort()
	for _, p := range b.changes {
		if p.row == nil {
			continue
		}
		if err := l.addRow(p.key, p.row); err != nil {
			return err
		}
	}
	h, err := l.finish(func(e *edit) error {
		if e.head.Root != head.Root {
			return fmt.Errorf("mirror of %s: %w: the changes lead to %v, the head of %v is %v",
				m.name, ErrRootMismatch, e.head.Root, head.Position, head.Root)
		}
		head.Objects, head.Bytes = e.head.Objects, e.head.Bytes
		return e.rebase(head, "", "")
	})
	if err != nil {
		return err
	}
	return m.replaceNew(h, mirrorState{head: head, tree: head.Root})
}

// replace puts a file that is durable in the place of the mirror's, and makes
// st its state, but for the floor. The file is the mirror's own if it is in its
// slot afterwards, even if there is an error.
func (m *Mirror) replace(h *handle, st mirrorState) error {
	err := h.moveTo(m.path(setSuffix))
	if h.name() != m.path(setSuffix) {
		return err
	}
	m.slot.swap(h)
	old := m.state.Load()
	st.floor, st.floorDue = old.floor, old.floorDue
	if e := m.setState(st); err == nil {
		err = e
	}
	return err
}

// replaceNew is replace with a file that is of no use otherwise.
func (m *Mirror) replaceNew(h *handle, st mirrorState) error {
	err := m.replace(h, st)
	if err != nil && !m.slot.holds(h) {
		h.drop()
	}
	return err
}

// MarkDelivered remembers what an embedder's handler has acknowledged. The mark
// stays with the mirror, whatever replaces it.
func (m *Mirror) MarkDelivered(p desired.Position) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, err := m.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	_, err = h.update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(metaDelivered, appendPosition(nil, p))
	})
	if err != nil {
		return fmt.Errorf("mirror of %s: %w", m.name, err)
	}
	st := *m.state.Load()
	st.delivered = p
	m.state.Store(&st)
	return nil
}
