package merkle_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/cespare/xxhash/v2"

	"espalier/merkle"
)

// objects is a set: the digest of each key.
type objects map[string]merkle.Digest

// tree is the oracle: it makes all rows of the tree over a set, level by level,
// straight from the rules in the package's comment.
func (o objects) tree(salt uint64) [][]merkle.Row {
	var rows []merkle.Row
	for _, key := range slices.Sorted(maps.Keys(o)) {
		rows = append(rows, merkle.Row{Key: []byte(key), Digest: o[key], Count: 1})
	}
	levels := [][]merkle.Row{rows}
	for level := 1; ; level++ {
		groups := [][]merkle.Row{nil}
		firsts := [][]byte{nil}
		for _, row := range levels[level-1] {
			if len(row.Key) > 0 && levelOf(salt, row.Key) >= level {
				groups = append(groups, nil)
				firsts = append(firsts, row.Key)
			}
			groups[len(groups)-1] = append(groups[len(groups)-1], row)
		}
		var nodes []merkle.Row
		for i, group := range groups {
			nodes = append(nodes, nodeOver(level, firsts[i], group))
		}
		levels = append(levels, nodes)
		if len(nodes) == 1 {
			return levels
		}
	}
}

func nodeOver(level int, first []byte, children []merkle.Row) merkle.Row {
	node := merkle.Row{Key: first}
	preimage := []byte{1, byte(level)}
	for _, child := range children {
		preimage = append(preimage, child.Digest[:]...)
		node.Count += child.Count
	}
	node.Digest = sha256.Sum256(preimage)
	return node
}

func levelOf(salt uint64, key []byte) int {
	h := xxhash.NewWithSeed(salt)
	if _, err := h.Write(key); err != nil {
		panic(err)
	}
	zeros := 0
	for mask := uint64(1) << 63; mask != 0 && h.Sum64()&mask == 0; mask >>= 1 {
		zeros++
	}
	return zeros / 5
}

// dump reads all rows of a tree, as the oracle would return them.
func dump(r merkle.Reader) ([][]merkle.Row, error) {
	var levels [][]merkle.Row
	for level := range merkle.MaxLevel + 1 {
		var rows []merkle.Row
		for row, err := range r.Rows(level, nil, nil) {
			if err != nil {
				return nil, err
			}
			row.Key = bytes.Clone(row.Key)
			rows = append(rows, row)
		}
		levels = append(levels, rows)
	}
	for len(levels) > 1 && len(levels[len(levels)-1]) == 0 {
		levels = levels[:len(levels)-1]
	}
	return levels, nil
}

// compareTrees returns how got differs from want.
func compareTrees(got, want [][]merkle.Row) error {
	for level := range max(len(got), len(want)) {
		if level >= len(got) || level >= len(want) {
			return fmt.Errorf("height %d, want %d", len(got)-1, len(want)-1)
		}
		g, w := got[level], want[level]
		for i := range max(len(g), len(w)) {
			switch {
			case i >= len(g):
				return fmt.Errorf("level %d lacks %q", level, w[i].Key)
			case i >= len(w):
				return fmt.Errorf("level %d has %q, which should be gone", level, g[i].Key)
			case !equalRows(g[i], w[i]):
				return fmt.Errorf("level %d, row %d: %s, want %s", level, i, show(g[i]), show(w[i]))
			}
		}
	}
	return nil
}

func equalRows(a, b merkle.Row) bool {
	return bytes.Equal(a.Key, b.Key) && a.Digest == b.Digest && a.Count == b.Count
}

func show(r merkle.Row) string { return fmt.Sprintf("%q %x… of %d", r.Key, r.Digest[:4], r.Count) }

// build returns the rows that a Builder makes of a set, with its objects.
func build(shape merkle.Shape, o objects) (*merkle.Memory, merkle.Row, int, error) {
	m := new(merkle.Memory)
	b := shape.NewBuilder(m.Append)
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if err := m.Append(0, merkle.Row{Key: []byte(key), Digest: o[key], Count: 1}); err != nil {
			return nil, merkle.Row{}, 0, err
		}
		// The builder must not hold on to the key.
		lent := []byte(key)
		if err := b.Add(lent, o[key]); err != nil {
			return nil, merkle.Row{}, 0, err
		}
		spoil(lent)
	}
	root, height, err := b.Finish()
	return m, root, height, err
}

func spoil(key []byte) {
	for i := range key {
		key[i] = 0xff
	}
}

// strict is a Reader that takes its contract at its word: a key that it hands
// out is spoilt by the next call or iteration, and it panics if it is called
// while an iteration goes on.
type strict struct {
	merkle.Reader
	lent []byte
	busy bool
	// calls counts seeks, rows the rows that were read.
	calls, rows int
}

func (s *strict) lend(key []byte) []byte {
	s.reclaim()
	s.lent = bytes.Clone(key)
	return s.lent
}

func (s *strict) reclaim() {
	if s.busy {
		panic("the reader is called while an iteration goes on")
	}
	spoil(s.lent)
}

func (s *strict) Height() (int, error) {
	s.reclaim()
	return s.Reader.Height()
}

func (s *strict) Before(level int, key []byte) ([]byte, bool, error) {
	s.reclaim()
	s.calls++
	first, ok, err := s.Reader.Before(level, key)
	return s.lend(first), ok, err
}

func (s *strict) Rows(level int, from, until []byte) iter.Seq2[merkle.Row, error] {
	s.reclaim()
	return func(yield func(merkle.Row, error) bool) {
		s.reclaim()
		s.calls++
		for row, err := range s.Reader.Rows(level, from, until) {
			s.rows++
			row.Key = s.lend(row.Key)
			s.busy = true
			more := yield(row, err)
			s.busy = false
			if !more {
				return
			}
		}
		s.reclaim()
	}
}

// failing is a Reader of which the nth answer from now, counted from 0, is err.
type failing struct {
	merkle.Reader
	n   int
	err error
}

func (f *failing) fail() error {
	if f.n--; f.n == -1 {
		return f.err
	}
	return nil
}

func (f *failing) Height() (int, error) {
	if err := f.fail(); err != nil {
		return 0, err
	}
	return f.Reader.Height()
}

func (f *failing) Before(level int, key []byte) ([]byte, bool, error) {
	if err := f.fail(); err != nil {
		return nil, false, err
	}
	return f.Reader.Before(level, key)
}

func (f *failing) Rows(level int, from, until []byte) iter.Seq2[merkle.Row, error] {
	return func(yield func(merkle.Row, error) bool) {
		for row, err := range f.Reader.Rows(level, from, until) {
			if failed := f.fail(); failed != nil {
				yield(merkle.Row{}, failed)
				return
			}
			if !yield(row, err) {
				return
			}
		}
	}
}
