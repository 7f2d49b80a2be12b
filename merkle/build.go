package merkle

import (
	"bytes"
	"errors"
	"fmt"
)

// Builder makes a tree from all of its objects, given in key order, in memory
// for one open node a level.
//
// Its rows come out as their nodes close: ascending within each level, a lower
// level's before the row above that covers them.
type Builder struct {
	shape Shape
	emit  func(level int, row Row) error
	open  [MaxLevel + 1]node
	top   int // the highest level that has a node open; every one below has closed one
	last  []byte
	err   error
}

var errFinished = errors.New("the tree is finished, and takes no more objects")

// NewBuilder returns a Builder that hands each row of level 1 and above to
// emit, which may keep the row's key.
func (s Shape) NewBuilder(emit func(level int, row Row) error) *Builder {
	b := &Builder{shape: s, emit: emit, top: 1}
	b.open[1].reset(1, nil)
	return b
}

// Add adds the next object. It returns ErrOrder unless key is above the one
// before, ErrTooWide if a node exceeds the shape's bound, or emit's error. After
// an error every call returns it.
func (b *Builder) Add(key []byte, digest Digest) error {
	if b.err == nil {
		b.err = b.add(key, &digest)
	}
	return b.err
}

func (b *Builder) add(key []byte, digest *Digest) error {
	if bytes.Compare(key, b.last) <= 0 {
		return fmt.Errorf("%w: %q after %q", ErrOrder, key, b.last)
	}
	b.last = append(b.last[:0], key...)
	if level := b.shape.Level(key); level > 0 {
		first := bytes.Clone(key)
		for l := 1; l <= level; l++ {
			if err := b.close(l); err != nil {
				return err
			}
			b.open[l].reset(l, first)
		}
	}
	b.open[1].add(digest, 1)
	return b.shape.tooWide(1, &b.open[1])
}

// close ends the open node of the level and makes it a child of the one above.
func (b *Builder) close(level int) error {
	if level == b.top {
		b.top++
		b.open[b.top].reset(b.top, nil)
	}
	row := b.open[level].row()
	if err := b.emit(level, row); err != nil {
		return err
	}
	parent := &b.open[level+1]
	parent.add(&row.Digest, row.Count)
	return b.shape.tooWide(level+1, parent)
}

// Finish ends the tree and returns the root's row and its level.
func (b *Builder) Finish() (root Row, height int, err error) {
	for l := 1; l < b.top && b.err == nil; l++ {
		b.err = b.close(l)
	}
	if b.err != nil {
		return Row{}, 0, b.err
	}
	root = b.open[b.top].row()
	if b.err = b.emit(b.top, root); b.err != nil {
		return Row{}, 0, b.err
	}
	b.err = errFinished
	return root, b.top, nil
}
