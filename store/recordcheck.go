package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"espalier/internal/desired"
	"espalier/merkle"
)

// errDisagrees says that what follows from a set's rows is not what is stored.
var errDisagrees = errors.New("it does not follow from the rows")

// Check holds every row of every set against its checksum, and the trees, counts
// and edges against the rows. What disagrees is made anew, with a warning in the
// log, since else a host might seem to differ for ever from what it should be; it
// returns how many sets that were. A row that is damaged is an error that matches
// ErrCorrupt, as it is in a View. It reads everything: 1,000,000 rows take about a
// second.
func (a *Applied) Check(ctx context.Context) (repaired int, err error) {
	wrong := map[desired.Name]error{}
	err = a.View(func(v *AppliedView) error {
		for _, name := range v.Sets() {
			switch err := v.check(ctx, name); {
			case errors.Is(err, errDisagrees):
				wrong[name] = err
			case err != nil:
				return err
			}
		}
		return nil
	})
	if err != nil || len(wrong) == 0 {
		return 0, err
	}
	err = a.update(func(r *record) error {
		for name := range wrong {
			s, err := openRecordSet(r.tx, name)
			if err != nil {
				return err
			}
			if s == nil { // it was forgotten meanwhile
				continue
			}
			if err := s.rebuild(ctx); err != nil {
				return fmt.Errorf("set %s: %w", name, err)
			}
			repaired++
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for name, why := range wrong {
		a.log.Warn("the record of a set was damaged beside its rows, and was made anew from them", "host", a.host, "set", name, "error", why)
	}
	return repaired, nil
}

// census is what follows from the rows of a set.
type census struct {
	tree   merkle.Memory // without level 0
	root   desired.Digest
	counts [appliedStates]uint64
	edges  uint64
}

// take reads all rows of the set and hands the edges of each to fn.
func (c *census) take(ctx context.Context, s *recordSet, fn func(edge []byte) error) error {
	b := s.shape().NewBuilder(c.tree.Append)
	var names routes
	n := 0
	for row, err := range scan(s.objects, nil, nil) {
		if err != nil {
			return err
		}
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r, err := decodeApplied(row.key, row.value, names.name)
		if err != nil {
			return err
		}
		if err := b.Add(r.Key, merkle.Digest(r.Digest)); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		c.counts[r.State]++
		for _, key := range r.edges() {
			c.edges++
			if err := fn(appendAfterKey(nil, key, r.Key)); err != nil {
				return err
			}
		}
	}
	root, _, err := b.Finish()
	c.root = root.Digest
	return err
}

// check returns an error that matches errDisagrees if what is stored of the set
// is not what follows from its rows.
func (v *AppliedView) check(ctx context.Context, name desired.Name) error {
	s, err := v.set(name)
	if err != nil {
		return err
	}
	var c census
	err = c.take(ctx, s, func(edge []byte) error {
		b, err := get(s.after, edge)
		if err != nil {
			return err
		}
		if _, err := unsealRow(edge, b); err != nil {
			return fmt.Errorf("%w: an edge is missing: %q", errDisagrees, edge)
		}
		return nil
	})
	if err != nil {
		return v.noteDamage(err)
	}
	if c.root != s.head.root || c.counts != s.head.counts {
		return fmt.Errorf("%w: root %v and counts %d, want %v and %d", errDisagrees, s.head.root, s.head.counts, c.root, c.counts)
	}
	edges := uint64(0)
	for _, err := range scan(s.after, nil, nil) {
		if edges++; err != nil {
			return v.noteDamage(err)
		}
	}
	if edges != c.edges {
		return fmt.Errorf("%w: %d edges, want %d", errDisagrees, edges, c.edges)
	}
	return c.hold(s)
}

// noteDamage notes err if it says that the file is damaged.
func (v *AppliedView) noteDamage(err error) error {
	if errors.Is(err, ErrCorrupt) {
		return v.fail(err)
	}
	return err
}

// hold compares the tree that is stored, if it is not an empty one, with c's.
func (c *census) hold(s *recordSet) error {
	var stored []metaRow
	for row, err := range scan(s.nodes, nil, nil) {
		if err != nil {
			return err
		}
		stored = append(stored, row)
	}
	if len(stored) == 0 && c.root == desired.Digest(merkle.EmptyRoot()) {
		return nil
	}
	for level := 1; level <= merkle.MaxLevel; level++ {
		for want, err := range c.tree.Rows(level, nil, nil) {
			if err != nil {
				return err
			}
			name := nodeName(level, want.Key)
			if len(stored) == 0 || !bytes.Equal(stored[0].key, appendTreeKey(nil, level, want.Key)) {
				return fmt.Errorf("%w: %s is missing", errDisagrees, name)
			}
			if !bytes.Equal(stored[0].value, encodeNode(&want)) {
				return fmt.Errorf("%w: %s", errDisagrees, name)
			}
			stored = stored[1:]
		}
	}
	if len(stored) > 0 {
		return fmt.Errorf("%w: no node begins at %q", errDisagrees, stored[0].key)
	}
	return nil
}

// rebuild makes what follows from the set's rows anew.
func (s *recordSet) rebuild(ctx context.Context) error {
	var c census
	var edges [][]byte
	err := c.take(ctx, s, func(edge []byte) error { edges = append(edges, edge); return nil })
	if err != nil {
		return err
	}
	if err := s.bucket.DeleteBucket(bucketAfter); err != nil {
		return err
	}
	if s.after, err = s.bucket.CreateBucket(bucketAfter); err != nil {
		return err
	}
	s.after.FillPercent = appendFill
	slices.SortFunc(edges, bytes.Compare)
	for _, edge := range edges {
		if err := s.after.Put(edge, sealRow(edge, nil)); err != nil {
			return err
		}
	}
	s.head.counts = c.counts
	return s.reshape(ctx, s.head.salt)
}
