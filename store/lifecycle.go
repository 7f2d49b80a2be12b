package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"

	"espalier/internal/desired"
)

// newSalt returns a random salt for a set's tree, so that nobody can make keys
// that it has no room for without having seen it.
func newSalt() uint64 {
	var b [8]byte
	rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// Delete deletes the set, quarantined or not, and retires its epoch: a later
// set of the name begins another one, which follows it.
func (s *Store) Delete(ctx context.Context, name desired.Name) error {
	_, err := s.DeleteAt(ctx, name, nil)
	return err
}

// DeleteAt is Delete of a set that has to be at that revision, as a Commit
// expects it; nil: any. It returns the head that the set had.
func (s *Store) DeleteAt(ctx context.Context, name desired.Name, at *desired.Position) (desired.Head, error) {
	set, err := s.hold(name)
	if err != nil {
		return desired.Head{}, err
	}
	defer s.letGo(set)
	if err := set.lock(ctx); err != nil {
		return desired.Head{}, err
	}
	defer set.unlock()
	st := set.state.Load()
	if st == nil {
		return desired.Head{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err := expect(at, st.head); err != nil {
		return desired.Head{}, fmt.Errorf("delete %s: %w", name, err)
	}
	if epochs := st.epochs(); epochs != nil { // else fleet.db knows best
		if err := s.fleet.note(name, epochs); err != nil {
			return desired.Head{}, fmt.Errorf("retire the epoch of %s: %w", name, err)
		}
	}
	return st.head, set.slot.exclusively(func() error {
		err := removeFile(set.path)
		if _, there := os.Lstat(set.path); err != nil && there == nil {
			return err
		}
		set.state.Store(nil)
		set.watcher.tell(name)
		set.slot.swap(nil)
		return err
	})
}
