package store

import (
	"bytes"
	"iter"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// Snapshot is one revision of a set. It, and every slice that it hands out, is
// valid until the View that it was handed to returns. It is for one goroutine.
type Snapshot struct {
	rows
	meta    meta
	journal journal
	hasher  desired.Hasher
	finder  *bolt.Cursor // of objects
	damage  error        // the first that was found
}

var _ merkle.Reader = (*Snapshot)(nil)

func openSnapshot(tx *bolt.Tx) (*Snapshot, error) {
	s := &Snapshot{}
	var err error
	if s.meta, err = readMeta(tx); err != nil {
		return nil, err
	}
	if s.rows, err = openRows(tx); err != nil {
		return nil, err
	}
	s.bad, s.finder = &s.damage, s.objects.Cursor()
	s.journal, err = openJournal(tx)
	return s, err
}

// Head returns the revision.
func (s *Snapshot) Head() desired.Head { return s.meta.head }

// Forked returns nil if commits to the set are accepted, and otherwise an error
// that matches ErrForked; see Store.Fork.
func (s *Snapshot) Forked() error {
	if s.meta.forked == 0 {
		return nil
	}
	return s.meta.forkError()
}

// Shape returns the shape of the set's tree.
func (s *Snapshot) Shape() merkle.Shape { return s.meta.shape() }

// Get returns the object under key, checked against its digest. An object that
// doesn't match it is an error that matches ErrCorrupt.
func (s *Snapshot) Get(key []byte) (desired.Change, bool, error) {
	row, err := find(s.finder, key)
	if err != nil || row == nil {
		return desired.Change{}, false, s.fail(err)
	}
	c, err := s.object(key, row)
	return c, err == nil, err
}

func (s *Snapshot) object(key, row []byte) (desired.Change, error) {
	c, err := decodeObject(key, row)
	if err == nil {
		err = verify(&s.hasher, c)
	}
	return c, s.fail(err)
}

// Objects returns the objects with from <= key < until, ascending, each checked
// against its digest as Get does; a nil until stands for the end. It ends with
// the first error.
func (s *Snapshot) Objects(from, until []byte) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		c := s.objects.Cursor()
		key, row, err := seek(c, from)
		for ; err == nil && key != nil; key, row, err = next(c) {
			if until != nil && bytes.Compare(key, until) >= 0 {
				return
			}
			change, err := s.object(key, row)
			if !yield(change, err) || err != nil {
				return
			}
		}
		if err != nil {
			yield(desired.Change{}, s.fail(err))
		}
	}
}

// Count returns how many objects there are with from <= key < until, reading
// the tree, not the objects; a nil until stands for the end.
func (s *Snapshot) Count(from, until []byte) (uint64, error) {
	return s.count(s.meta.held, from, until)
}

// NodeAt returns the first key of the node of the tree's level 1 that holds the
// object with index others before it; nil: it is the first node.
func (s *Snapshot) NodeAt(index uint64) ([]byte, error) {
	first, err := s.nodeAt(index)
	return bytes.Clone(first), err
}

// Touched is what happened to a set after an earlier revision of it.
type Touched struct {
	// Root is the set's root at that revision; zero: the journal no longer
	// reaches back to it.
	Root desired.Digest
	// Keys are those written or deleted since, ascending. Their memory is their
	// own.
	Keys [][]byte
}

// Touched returns what happened after the revision number. It returns false if
// the journal no longer reaches back to it, or, without the keys, if there are
// more than limit. A number means something only within the epoch, and to whoever
// compares Root with the root that they hold.
func (s *Snapshot) Touched(number uint64, limit int) (Touched, bool, error) {
	t, ok, err := s.journal.touched(number, limit)
	return t, ok, s.fail(err)
}
