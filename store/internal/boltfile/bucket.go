package boltfile

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrOrder is returned by a Put whose key is not above the one before.
var ErrOrder = errors.New("boltfile: keys are not in ascending order")

// minBranch is the fewest children that bbolt's branch pages have: its
// rebalancing relies on a sibling.
const minBranch = 2

// Bucket is a bucket of a file that is being written.
type Bucket struct {
	w    *Writer
	name []byte
	leaf leaf
	// branches are the children, by level, that no written page refers to yet.
	branches [][]entry
	last     []byte
}

// leaf is a leaf page in the making.
type leaf struct {
	rows []leafRow
	data []byte // keys and values
}

type leafRow struct{ flags, key, value uint32 }

func (l *leaf) size() int { return len(l.rows)*element + len(l.data) }

func (l *leaf) add(key, value []byte, flags uint32) {
	l.rows = append(l.rows, leafRow{flags: flags, key: uint32(len(key)), value: uint32(len(value))})
	l.data = append(append(l.data, key...), value...)
}

func (l *leaf) first() []byte { return l.data[:l.rows[0].key] }

func (l *leaf) reset() { l.rows, l.data = l.rows[:0], l.data[:0] }

// entry is a child of a branch page.
type entry struct {
	key  []byte
	page uint64
}

func branchSize(entries []entry) int {
	size := len(entries) * element
	for _, e := range entries {
		size += len(e.key)
	}
	return size
}

// Put adds a row. Keys are not empty, and ascend. Neither slice is kept.
func (b *Bucket) Put(key, value []byte) error {
	if bytes.Compare(key, b.last) <= 0 {
		return fmt.Errorf("%w: %q after %q", ErrOrder, key, b.last)
	}
	b.last = append(b.last[:0], key...)
	size := pageHeader + b.leaf.size() + element + len(key) + len(value)
	if len(b.leaf.rows) > 0 && size > b.budget() {
		page, err := b.w.writeLeaf(&b.leaf)
		if err != nil {
			return err
		}
		if err := b.addChild(0, entry{key: bytes.Clone(b.leaf.first()), page: page}); err != nil {
			return err
		}
		b.leaf.reset()
	}
	b.leaf.add(key, value, 0)
	return nil
}

// Reset forgets the rows of a bucket that fits into one page.
func (b *Bucket) Reset() {
	if len(b.branches) > 0 {
		panic("boltfile: Reset of a bucket that has pages")
	}
	b.leaf.reset()
	b.last = b.last[:0]
}

func (b *Bucket) budget() int { return int(fill * float64(b.w.pageSize)) }

// addChild adds a child at a level of branches, and writes a page of them if
// enough are left for the next one.
func (b *Bucket) addChild(level int, child entry) error {
	if level == len(b.branches) {
		b.branches = append(b.branches, nil)
	}
	entries := append(b.branches[level], child)
	b.branches[level] = entries
	full := entries[:max(0, len(entries)-minBranch)]
	if len(full) < minBranch || pageHeader+branchSize(full) < b.budget() {
		return nil
	}
	page, err := b.w.writeBranch(full)
	if err != nil {
		return err
	}
	parent := entry{key: full[0].key, page: page}
	b.branches[level] = append(b.branches[level][:0], entries[len(full):]...)
	return b.addChild(level+1, parent)
}

// root writes copies of all open pages, and returns the bucket's root. The
// bucket stays as it is.
func (b *Bucket) root() (uint64, error) {
	page, err := b.w.writeLeaf(&b.leaf)
	if err != nil || len(b.branches) == 0 {
		return page, err
	}
	// The open leaf is never empty once there are others.
	carry := []entry{{key: b.leaf.first(), page: page}}
	for level := 0; level < len(b.branches) || len(carry) > 1; level++ {
		var entries []entry
		if level < len(b.branches) {
			entries = append(entries, b.branches[level]...)
		}
		entries = append(entries, carry...)
		if len(entries) == 1 {
			continue
		}
		if carry, err = b.writeBranches(entries); err != nil {
			return 0, err
		}
	}
	return carry[0].page, nil
}

// writeBranches writes entries to one page, or to two if they don't fit.
func (b *Bucket) writeBranches(entries []entry) ([]entry, error) {
	parts := [][]entry{entries}
	if pageHeader+branchSize(entries) > b.w.pageSize && len(entries) >= 2*minBranch {
		parts = [][]entry{entries[:len(entries)/2], entries[len(entries)/2:]}
	}
	var written []entry
	for _, part := range parts {
		page, err := b.w.writeBranch(part)
		if err != nil {
			return nil, err
		}
		written = append(written, entry{key: part[0].key, page: page})
	}
	return written, nil
}
