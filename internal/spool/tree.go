package spool

import (
	"errors"
	"iter"

	"espalier/merkle"
)

// Tree is a Sorted with the tree over it: a merkle.Reader. Level 0 is read from
// the spool's file, level 1 from one of its own, and those above are in memory.
// It is not safe for concurrent use.
type Tree struct {
	root   merkle.Row
	height int
	rows   table
	nodes  table // level 1; a record's number counts its objects
	file   *storage
	upper  merkle.Memory
}

// errDeletions: what deletes has no digest, and no place in a tree.
var errDeletions = errors.New("a spool with deletions has no tree")

// Tree builds the tree over s in one pass. The caller closes it, before s.
func (s *Sorted) Tree(shape merkle.Shape) (*Tree, error) {
	t := &Tree{rows: newTable(s.rows, &s.run), file: &storage{dir: s.rows.dir, limit: treeBytes}}
	if err := t.build(s, shape); err != nil {
		t.Close() //nolint:errcheck // the first error is the one to tell
		return nil, err
	}
	return t, nil
}

func (t *Tree) build(s *Sorted, shape merkle.Shape) error {
	out := runWriter{to: t.file}
	out.begin(newIndex())
	var scratch []byte
	builder := shape.NewBuilder(func(level int, row merkle.Row) error {
		if level > 1 {
			return t.upper.Append(level, row)
		}
		scratch = appendNode(scratch[:0], row)
		return out.add(row.Key, row.Count, scratch)
	})
	c := newCursor(s.rows, &s.run)
	for {
		ok, err := c.advance()
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if c.rec.digest.IsZero() {
			return errDeletions
		}
		if err := builder.Add(c.rec.key, c.rec.digest); err != nil {
			return err
		}
	}
	var err error
	if t.root, t.height, err = builder.Finish(); err != nil {
		return err
	}
	r, err := out.finish()
	if err != nil {
		return err
	}
	t.nodes = newTable(t.file, &r)
	return t.file.flush()
}

// Root returns the row of the root.
func (t *Tree) Root() merkle.Row { return t.root }

// Close removes the tree's file.
func (t *Tree) Close() error { return t.file.close() }

// Height implements merkle.Reader.
func (t *Tree) Height() (int, error) { return t.height, nil }

// Before implements merkle.Reader.
func (t *Tree) Before(level int, key []byte) ([]byte, bool, error) {
	switch level {
	case 0:
		return t.rows.before(key)
	case 1:
		return t.nodes.before(key)
	default:
		return t.upper.Before(level, key)
	}
}

// Rows implements merkle.Reader.
func (t *Tree) Rows(level int, from, until []byte) iter.Seq2[merkle.Row, error] {
	if level > 1 {
		return t.upper.Rows(level, from, until)
	}
	rows := &t.rows
	if level == 1 {
		rows = &t.nodes
	}
	return func(yield func(merkle.Row, error) bool) {
		for rec, err := range rows.records(from, until) {
			if err != nil {
				yield(merkle.Row{}, err)
				return
			}
			row := merkle.Row{Key: rec.key, Digest: rec.digest, Count: 1}
			if level == 1 {
				row.Count = rec.number
			}
			if !yield(row, nil) {
				return
			}
		}
	}
}
