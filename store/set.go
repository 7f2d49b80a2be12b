package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// set is a set that a store holds, held or is about to hold.
type set struct {
	name desired.Name
	path string
	slot slot

	// writing has room for one: who writes to the set, from the comparison
	// with what it holds to the swap of its file.
	writing chan struct{}
	// state is nil while there is no such set.
	state   atomic.Pointer[setState]
	watcher *watcher

	// held counts those who hold the set. Store.mu guards it.
	held int
}

type setState struct {
	head   desired.Head
	forked uint64 // as in meta
	err    error  // why the set is quarantined
}

// epochs returns those of the set, the latest first. The number of the first is
// the highest that anybody holds.
func (st *setState) epochs() []desired.Position {
	if st.head.Epoch.IsZero() { // its file could not even be read
		return nil
	}
	all := epochsOf(st.head)
	all[0].Number = max(all[0].Number, st.forked)
	return all
}

func newSet(dir string, name desired.Name, w *watcher) *set {
	return &set{name: name, path: setPath(dir, name, setSuffix), writing: make(chan struct{}, 1), watcher: w}
}

// watcher is who wants to know of changes, if anybody does.
type watcher struct {
	fn atomic.Pointer[func(desired.Name)]
}

func (w *watcher) tell(name desired.Name) {
	if fn := w.fn.Load(); fn != nil {
		(*fn)(name)
	}
}

// Watch makes the store call fn with the name of each set from now on that is
// changed, made, deleted or quarantined, once others can see it. fn must return at
// once, and not call the store. There is one fn; nil ends it.
func (s *Store) Watch(fn func(desired.Name)) {
	if fn == nil {
		s.watcher.fn.Store(nil)
		return
	}
	s.watcher.fn.Store(&fn)
}

// lock waits for its turn to write.
func (s *set) lock(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *set) unlock() { <-s.writing }

// head returns the set's head, from memory.
func (s *set) head() (desired.Head, error) {
	st := s.state.Load()
	if st == nil {
		return desired.Head{}, fmt.Errorf("%w: %s", ErrNotFound, s.name)
	}
	return st.head, st.err
}

// setHead notes the head that a commit led to.
func (s *set) setHead(head desired.Head) {
	s.change(func(st setState) setState { st.head = head; return st })
}

// quarantine takes the set out of service because of err.
func (s *set) quarantine(log *slog.Logger, err error) {
	s.change(func(st setState) setState {
		if st.err == nil {
			log.Error("a set is quarantined: restore it from a backup, or delete it", "set", s.name, "error", err)
			st.err = fmt.Errorf("set %s is %w: %w", s.name, ErrQuarantined, err)
		}
		return st
	})
}

func (s *set) change(fn func(setState) setState) {
	for {
		old := s.state.Load()
		var st setState
		if old != nil {
			st = *old
		}
		st = fn(st)
		if s.state.CompareAndSwap(old, &st) {
			s.watcher.tell(s.name)
			return
		}
	}
}

// borrow returns the set's open file, with a reference for the caller.
func (s *Store) borrow(set *set) (*handle, error) {
	h, err := set.slot.borrow(func() (*handle, error) { return s.opener.open(set.path) })
	switch {
	case errors.Is(err, fs.ErrNotExist) && set.state.Load() == nil: // it was deleted just now
		return nil, fmt.Errorf("%w: %s", ErrNotFound, set.name)
	case errors.Is(err, ErrCorrupt):
		set.quarantine(s.log, err)
	}
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", set.name, err)
	}
	s.pool.use(&set.slot)
	return h, nil
}

// judge quarantines the set if its file can't be used any more, or if err, how
// a use of it ended, says that it contradicts itself. It returns err with the
// set's name.
func (s *Store) judge(set *set, h *handle, err error) error {
	bad := h.usable()
	if bad == nil && errors.Is(err, ErrCorrupt) {
		bad = err
	}
	if bad != nil && set.slot.holds(h) { // it may have been replaced meanwhile
		set.quarantine(s.log, bad)
	}
	if err != nil {
		err = fmt.Errorf("set %s: %w", set.name, err)
	}
	return err
}

// read calls fn with a snapshot of the set, in service or not.
func (s *Store) read(set *set, fn func(*Snapshot) error) error {
	h, err := s.borrow(set)
	if err != nil {
		return err
	}
	defer h.release()
	var own error // of fn, which may have failed for its own reasons
	var damage error
	err = h.view(func(tx *bolt.Tx) error {
		snap, err := openSnapshot(tx)
		if err != nil {
			return err
		}
		own = fn(snap)
		damage = snap.damage
		return nil
	})
	if err == nil {
		err = damage
	}
	err = s.judge(set, h, err)
	switch {
	case own == nil:
		return err
	case damage != nil && errors.Is(own, damage):
		return fmt.Errorf("set %s: %w", set.name, own)
	}
	return own
}

// update calls fn with a write transaction on the set, which the caller has
// locked.
func (s *Store) update(set *set, fn func(*edit) error) (written, error) {
	h, err := s.borrow(set)
	if err != nil {
		return written{}, err
	}
	defer h.release()
	w, err := h.update(func(tx *bolt.Tx) error {
		e, err := openEdit(tx)
		if err != nil {
			return err
		}
		return fn(e)
	})
	return w, s.judge(set, h, err)
}

// publish puts a file that a loader has finished in the place of the set's,
// whose revision is then head. The caller has locked the set.
func (s *Store) publish(set *set, h *handle, head desired.Head) error {
	err := set.slot.exclusively(func() error {
		if err := h.moveTo(set.path); err != nil {
			return err
		}
		set.slot.swap(h)
		st := setState{head: head}
		if old := set.state.Load(); old != nil && old.head.Epoch == head.Epoch {
			st.forked = old.forked
		}
		set.state.Store(&st)
		return nil
	})
	switch {
	case err == nil:
		set.watcher.tell(set.name)
		s.pool.use(&set.slot)
		return nil
	case h.name() == set.path:
		h.retire()
		set.quarantine(s.log, err)
	default:
		h.drop()
	}
	return fmt.Errorf("set %s: %w", set.name, err)
}
