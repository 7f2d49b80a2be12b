package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"iter"
	"os"

	bolt "go.etcd.io/bbolt"

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
	set, err := s.hold(name)
	if err != nil {
		return err
	}
	defer s.letGo(set)
	if err := set.lock(ctx); err != nil {
		return err
	}
	defer set.unlock()
	st := set.state.Load()
	if st == nil {
		return fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if epochs := st.epochs(); epochs != nil { // else fleet.db knows best
		if err := s.fleet.note(name, epochs); err != nil {
			return fmt.Errorf("retire the epoch of %s: %w", name, err)
		}
	}
	return set.slot.exclusively(func() error {
		err := removeFile(set.path)
		if _, there := os.Lstat(set.path); err != nil && there == nil {
			return err
		}
		set.state.Store(nil)
		set.slot.swap(nil)
		return err
	})
}

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

// Restore makes the set's content exactly objects, which ascend by key, in a
// new epoch that follows the current or retired one, whether the set exists, is
// quarantined, or neither. Its history is dropped.
func (s *Store) Restore(ctx context.Context, name desired.Name, objects iter.Seq2[desired.Change, error], from Origin, who, why string) (desired.Head, error) {
	c := Commit{Changes: objects, Who: who, Why: why}
	if err := c.check(name); err != nil {
		return desired.Head{}, err
	}
	set, err := s.hold(name)
	if err != nil {
		return desired.Head{}, err
	}
	defer s.letGo(set)
	if err := set.lock(ctx); err != nil {
		return desired.Head{}, err
	}
	defer set.unlock()
	var current []desired.Position
	if st := set.state.Load(); st != nil {
		if current = st.epochs(); current != nil {
			from.Salt = s.saltOf(set, from.Salt)
		}
	}
	head, err := s.fleet.begin(name, current, from.Known)
	if err != nil {
		return desired.Head{}, err
	}
	file, err := s.loadRestored(ctx, set, &c, from.Salt, &head)
	if err != nil {
		return desired.Head{}, fmt.Errorf("restore %s: %w", name, err)
	}
	return head, s.publish(set, file, head)
}

// RestoreFile is Restore from a backup.
func (s *Store) RestoreFile(ctx context.Context, name desired.Name, f *File, who, why string) (desired.Head, error) {
	var head desired.Head
	err := f.View(func(snap *Snapshot) error {
		var err error
		head, err = s.Restore(ctx, name, snap.Objects(nil, nil), f.Origin(), who, why)
		return err
	})
	return head, err
}

// saltOf returns the salt of the set, or other if it can't be read.
func (s *Store) saltOf(set *set, other uint64) uint64 {
	h, err := s.borrow(set)
	if err != nil {
		return other
	}
	defer h.release()
	err = h.view(func(tx *bolt.Tx) error {
		m, err := readMeta(tx)
		if err == nil {
			other = m.salt
		}
		return err
	})
	_ = err // the set is being replaced whatever is wrong with it
	return other
}

// loadRestored writes the file of a restored set, whose objects are c's changes,
// and completes its head. A salt of 0 stands for a new one.
func (s *Store) loadRestored(ctx context.Context, set *set, c *Commit, salt uint64, head *desired.Head) (*handle, error) {
	if salt == 0 {
		salt = newSalt()
	}
	l, err := newLoader(s.opener, setPath(s.dir, set.name, newSuffix), set.name, salt)
	if err != nil {
		return nil, err
	}
	defer l.abort()
	next, stop := iter.Pull2(c.Changes)
	defer stop()
	r := &changeReader{next: next}
	for {
		object, ok, err := r.read(ctx)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if object.Deleted() {
			return nil, fmt.Errorf("%w object %q: it has no content", desired.ErrInvalid, object.Key)
		}
		if err := l.add(&object); err != nil {
			return nil, err
		}
	}
	return l.finish(func(e *edit) error {
		*head = e.held.on(*head)
		return e.rebase(*head, c.Who, c.Why)
	})
}
