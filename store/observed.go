package store

import (
	"bytes"
	"fmt"
	"iter"

	"espalier/internal/desired"
	"espalier/merkle"
)

// Observed returns the root of what is on the host of the set: of its tree with,
// for each drift of a key that the set made true, what is there instead. It costs
// as much as the drifts change, and as a walk over all rows at most.
func (v *AppliedView) Observed(set desired.Name) (desired.Digest, error) {
	s, err := v.set(set)
	if err != nil || s == nil {
		return merkle.EmptyRoot(), err
	}
	if v.count.drifts > uint64(v.overlay) {
		return v.observeAll(s)
	}
	var changes []merkle.Change
	for c, err := range v.driftsOf(s) {
		if err != nil {
			return desired.Digest{}, err
		}
		changes = append(changes, c)
	}
	if len(changes) == 0 {
		return s.head.root, nil
	}
	updated, err := s.shape().Update(s.rows, changes)
	if err != nil {
		return desired.Digest{}, v.fail(fmt.Errorf("%w: %w", ErrCorrupt, err))
	}
	return updated.Root.Digest, nil
}

// driftsOf returns how the drifts change the set's tree, ascending.
func (v *AppliedView) driftsOf(s *recordSet) iter.Seq2[merkle.Change, error] {
	return func(yield func(merkle.Change, error) bool) {
		for d, err := range v.Drifts(nil) {
			var r AppliedRow
			ok := false
			if err == nil {
				r, ok, err = v.row(s, d.Key)
			}
			switch {
			case err != nil:
				yield(merkle.Change{}, err)
				return
			case !ok || r.State != AppliedTrue || d.Seen == r.Digest:
				continue
			}
			c := merkle.Change{Key: d.Key, Digest: merkle.Digest(d.Seen), Gone: d.Seen == desired.Digest{}}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// observeAll is Observed in memory that doesn't grow with the drifts.
func (v *AppliedView) observeAll(s *recordSet) (desired.Digest, error) {
	next, stop := iter.Pull2(v.driftsOf(s))
	defer stop()
	change, err, more := next()
	b := s.shape().NewBuilder(func(int, merkle.Row) error { return nil })
	for row, rowErr := range s.Rows(0, nil, nil) {
		if err != nil || rowErr != nil {
			break // rowErr is noted
		}
		digest, gone := row.Digest, false
		if more && bytes.Equal(change.Key, row.Key) {
			digest, gone = change.Digest, change.Gone
			change, err, more = next()
		}
		if !gone && err == nil {
			err = b.Add(row.Key, digest)
		}
	}
	if err == nil {
		err = v.damage
	}
	if err != nil {
		return desired.Digest{}, v.fail(err)
	}
	root, _, err := b.Finish()
	return root.Digest, v.fail(err)
}
