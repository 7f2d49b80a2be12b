package store

import (
	"bytes"
	"iter"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// AppliedView is a record at one moment. It, and every slice that it hands out,
// is valid until the View that it was handed to returns. It is for one goroutine.
// A set that isn't in the record is one without rows.
type AppliedView struct {
	*record
	tx      *bolt.Tx
	overlay int
	routes  routes
	asked   map[desired.Name]*recordSet // those that were asked for; nil: not there
	damage  error                       // the first that was found
}

// fail notes err and returns it.
func (v *AppliedView) fail(err error) error {
	if err != nil && v.damage == nil {
		v.damage = err
	}
	return err
}

// set returns nil if the set is not in the record.
func (v *AppliedView) set(name desired.Name) (*recordSet, error) {
	if s, ok := v.asked[name]; ok {
		return s, nil
	}
	s, err := openRecordSet(v.tx, name)
	if err != nil {
		return nil, v.fail(err)
	}
	if s != nil {
		s.bad = &v.damage
	}
	if v.asked == nil {
		v.asked = map[desired.Name]*recordSet{}
	}
	v.asked[name] = s
	return s, nil
}

// Sets returns the sets of which there are rows, or that were begun, by name.
func (v *AppliedView) Sets() []desired.Name {
	names, err := v.sets()
	if v.fail(err) != nil {
		return nil
	}
	return names
}

// Tree returns the set's tree. Its objects are those that were taken account of,
// in whichever state, with their digests.
func (v *AppliedView) Tree(set desired.Name) merkle.Reader {
	s, err := v.set(set)
	switch {
	case err != nil:
		return unreadable{err}
	case s == nil:
		return new(merkle.Memory)
	}
	return s.rows
}

// Shape returns the shape of the set's tree; false: the set is not in the record.
func (v *AppliedView) Shape(set desired.Name) (merkle.Shape, bool) {
	s, err := v.set(set)
	if err != nil || s == nil {
		return merkle.Shape{}, false
	}
	return s.shape(), true
}

// Root returns the root of the set's tree.
func (v *AppliedView) Root(set desired.Name) (desired.Digest, error) {
	s, err := v.set(set)
	if err != nil || s == nil {
		return merkle.EmptyRoot(), err
	}
	return s.head.root, nil
}

// Objects returns how many rows there are of the set.
func (v *AppliedView) Objects(set desired.Name) (uint64, error) {
	s, err := v.set(set)
	if err != nil || s == nil {
		return 0, err
	}
	return s.head.objects(), nil
}

// Count returns how many rows of the set are in the state.
func (v *AppliedView) Count(set desired.Name, state AppliedState) (uint64, error) {
	s, err := v.set(set)
	if err != nil || s == nil || state >= appliedStates {
		return 0, err
	}
	return s.head.counts[state], nil
}

// Row returns the row that the set has of key.
func (v *AppliedView) Row(set desired.Name, key []byte) (AppliedRow, bool, error) {
	s, err := v.set(set)
	if err != nil || s == nil {
		return AppliedRow{}, false, err
	}
	return v.row(s, key)
}

func (v *AppliedView) row(s *recordSet, key []byte) (AppliedRow, bool, error) {
	b, err := get(s.objects, key)
	if err != nil || b == nil {
		return AppliedRow{}, false, v.fail(err)
	}
	r, err := decodeApplied(key, b, v.routes.name)
	return r, err == nil, v.fail(err)
}

// Rows returns the set's rows with from <= key < until, ascending; a nil until
// stands for the end. It ends with the first error.
func (v *AppliedView) Rows(set desired.Name, from, until []byte) iter.Seq2[AppliedRow, error] {
	s, err := v.set(set)
	return func(yield func(AppliedRow, error) bool) {
		if s == nil {
			if err != nil {
				yield(AppliedRow{}, err)
			}
			return
		}
		for b, err := range scan(s.objects, from, until) {
			var r AppliedRow
			if err == nil {
				r, err = decodeApplied(b.key, b.value, v.routes.name)
			}
			if !yield(r, v.fail(err)) || err != nil {
				return
			}
		}
	}
}

// Drifts returns the drifts whose keys are not below from, ascending. It ends with
// the first error.
func (v *AppliedView) Drifts(from []byte) iter.Seq2[Drift, error] {
	return func(yield func(Drift, error) bool) {
		for b, err := range scan(v.drifts, from, nil) {
			var d Drift
			if err == nil {
				d, err = decodeDrift(b.key, b.value)
			}
			if !yield(d, v.fail(err)) || err != nil {
				return
			}
		}
	}
}

// Drift returns the drift of key.
func (v *AppliedView) Drift(key []byte) (Drift, bool, error) {
	b, err := get(v.drifts, key)
	if err != nil || b == nil {
		return Drift{}, false, v.fail(err)
	}
	d, err := decodeDrift(key, b)
	return d, err == nil, v.fail(err)
}

// DriftCount returns how many drifts there are.
func (v *AppliedView) DriftCount() uint64 { return v.count.drifts }

// State returns the value that is kept under name; nil: none is.
func (v *AppliedView) State(name string) []byte {
	key := []byte(name)
	b, err := get(v.state, key)
	if err == nil && b != nil {
		b, err = unsealRow(key, b)
	}
	if v.fail(err) != nil {
		return nil
	}
	return b
}

// Dependents returns the keys of rows, of any set, that are true and come after
// key, ascending, each once. It ends with the first error.
func (v *AppliedView) Dependents(key []byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // iter.Pull runs this elsewhere
		prefix := appendAfterKey(nil, key, nil)
		var heads []edgeCursor
		names, err := v.sets()
		if err != nil {
			yield(nil, v.fail(err))
			return
		}
		for _, name := range names {
			s, err := v.set(name)
			if err == nil {
				e := edgeCursor{c: s.after.Cursor(), prefix: prefix}
				e.seek()
				heads, err = append(heads, e), e.err
			}
			if err != nil {
				yield(nil, v.fail(err))
				return
			}
		}
		for {
			least := lowest(heads)
			if least == nil {
				return
			}
			for i := range heads {
				if e := &heads[i]; e.key != nil && bytes.Equal(e.key, least) {
					e.next()
					if e.err != nil {
						yield(nil, v.fail(e.err))
						return
					}
				}
			}
			if !yield(least, nil) {
				return
			}
		}
	}
}

// lowest returns the lowest key that a cursor stands at; nil: all are at the end.
func lowest(cursors []edgeCursor) (least []byte) {
	for i := range cursors {
		if key := cursors[i].key; key != nil && (least == nil || bytes.Compare(key, least) < 0) {
			least = key
		}
	}
	return least
}

// edgeCursor goes through what comes after a key, in one set.
type edgeCursor struct {
	c      *bolt.Cursor
	prefix []byte
	key    []byte // of the dependent; nil: at the end
	err    error
}

func (e *edgeCursor) seek() { e.at(seek(e.c, e.prefix)) }

func (e *edgeCursor) next() { e.at(next(e.c)) }

func (e *edgeCursor) at(k, v []byte, err error) {
	e.key, e.err = nil, err
	if err != nil || !bytes.HasPrefix(k, e.prefix) {
		return
	}
	if _, e.err = unsealRow(k, v); e.err == nil {
		e.key = k[len(e.prefix):]
	}
}

// scan returns the rows of a bucket with from <= key < until.
func scan(b *bolt.Bucket, from, until []byte) iter.Seq2[metaRow, error] {
	return func(yield func(metaRow, error) bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		c := b.Cursor()
		key, v, err := seek(c, from)
		for ; err == nil && key != nil; key, v, err = next(c) {
			if until != nil && bytes.Compare(key, until) >= 0 || !yield(metaRow{key, v}, nil) {
				return
			}
		}
		if err != nil {
			yield(metaRow{}, err)
		}
	}
}

// unreadable is a tree that can't be read.
type unreadable struct{ err error }

func (u unreadable) Height() (int, error) { return 0, u.err }

func (u unreadable) Before(int, []byte) ([]byte, bool, error) { return nil, false, u.err }

func (u unreadable) Rows(int, []byte, []byte) iter.Seq2[merkle.Row, error] {
	return func(yield func(merkle.Row, error) bool) { yield(merkle.Row{}, u.err) }
}
