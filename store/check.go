package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// Problem is something that a check found.
type Problem struct {
	// Where names the row, such as `object "a/b"` or `tree level 1 at "a/b"`.
	Where string
	// What is wrong with it.
	What string
}

func (p Problem) String() string { return p.Where + ": " + p.What }

// Report is the result of a check.
type Report struct {
	// Head is the revision that was checked.
	Head desired.Head
	// Objects and Nodes count the rows that were read, of objects and of the
	// tree.
	Objects, Nodes uint64
	// Problems are the first MaxProblems, Found counts all of them.
	Problems []Problem
	Found    uint64
}

func (r *Report) add(where, format string, args ...any) {
	if r.Found++; len(r.Problems) < MaxProblems {
		r.Problems = append(r.Problems, Problem{Where: where, What: fmt.Sprintf(format, args...)})
	}
}

// Check recomputes everything of the set, quarantined or not, from its objects
// and reports each row that disagrees. A set that can't be read at all is an
// error.
//
// It reads one revision, in one read transaction, so that a set which is being
// written to can be checked; progress, which may be nil, is called within it
// and must not wait for anything.
func (s *Store) Check(ctx context.Context, name desired.Name, progress func(done, total uint64)) (Report, error) {
	set, err := s.hold(name)
	if err != nil {
		return Report{}, err
	}
	defer s.letGo(set)
	if set.state.Load() == nil {
		return Report{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	h, err := s.borrow(set)
	if err != nil {
		return Report{}, err
	}
	defer h.release()
	report, err := checkHandle(ctx, h, progress)
	if _, out := set.head(); err == nil && out != nil && report.Found == 0 {
		report.add("set", "%v", out) // for a reason that lies beyond its rows
	}
	if err == nil && report.Found > 0 {
		set.quarantine(s.log, fmt.Errorf("%w: a check found %d problems; the first: %v", ErrCorrupt, report.Found, report.Problems[0]))
	}
	return report, err
}

// checkHandle checks the set in h.
func checkHandle(ctx context.Context, h *handle, progress func(done, total uint64)) (Report, error) {
	var c *checker
	err := h.view(func(tx *bolt.Tx) error {
		snap, err := openSnapshot(tx)
		if err != nil {
			return err
		}
		c = newChecker(tx, snap)
		return c.check(ctx, progress)
	})
	if c == nil && errors.Is(err, ErrCorrupt) { // it can't even be begun
		c = &checker{}
		c.report.add("head", "%v", err)
		err = nil
	}
	if c == nil {
		return Report{}, err
	}
	if errors.Is(err, ErrCorrupt) { // it ended at a page that can't be read
		c.report.add("file", "%v", err)
		err = nil
	}
	return c.report, err
}

// checker holds what a set stores against what follows from its objects.
type checker struct {
	tx     *bolt.Tx
	snap   *Snapshot
	report Report
	// stored stand, by level, at the next row of the tree that wasn't held
	// against the computed one.
	stored [merkle.MaxLevel + 1]nodeCursor
	bytes  uint64
}

type nodeCursor struct {
	c      *bolt.Cursor
	key, v []byte // nil: no more of this level
}

func newChecker(tx *bolt.Tx, snap *Snapshot) *checker {
	return &checker{tx: tx, snap: snap, report: Report{Head: snap.Head()}}
}

func (c *checker) check(ctx context.Context, progress func(done, total uint64)) error {
	for level := 1; level <= merkle.MaxLevel; level++ {
		n := &c.stored[level]
		n.c = c.snap.nodes.Cursor()
		n.key, n.v = n.c.Seek([]byte{byte(level)})
		n.bound(level)
	}
	b := merkle.Shape{Salt: c.snap.meta.salt}.NewBuilder(c.node)
	if err := c.objects(ctx, b, progress); err != nil {
		return err
	}
	root, _, err := b.Finish()
	if err != nil {
		return err
	}
	for level := 1; level <= merkle.MaxLevel; level++ {
		for c.stored[level].key != nil {
			c.extra(level)
		}
	}
	c.head(root)
	c.journal()
	c.requests()
	return nil
}

// bound ends the cursor where its level ends.
func (n *nodeCursor) bound(level int) {
	if n.key != nil && int(n.key[0]) != level {
		n.key, n.v = nil, nil
	}
}

// objects checks every object and feeds b with the digests that are stored: an
// object whose content went bad is reported once, not again for each node that
// covers it.
func (c *checker) objects(ctx context.Context, b *merkle.Builder, progress func(done, total uint64)) error {
	cur := c.snap.objects.Cursor()
	for k, v := cur.First(); k != nil; k, v = cur.Next() {
		if c.report.Objects++; c.report.Objects%4096 == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if progress != nil {
				progress(c.report.Objects, c.snap.meta.head.Objects)
			}
		}
		if !c.object(k, v) {
			continue
		}
		c.bytes += payload(k, v)
		if err := b.Add(k, merkle.Digest(v[:digestBytes])); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return nil
}

// object reports what is wrong with an object, and whether it has a digest.
func (c *checker) object(k, v []byte) bool {
	where := func() string { return fmt.Sprintf("object %q", k) }
	change, err := decodeObject(k, v)
	if err != nil {
		c.report.add(where(), "its row has %d bytes, want %d or more", len(v), minObjectRow)
		return false
	}
	if err := desired.CheckKey(k); err != nil {
		c.report.add(where(), "%v", err)
	}
	if err := verify(&c.snap.hasher, change); err != nil {
		c.report.add(where(), "its content does not match its digest")
	} else if err := desired.CheckEnvelope(k, change.Envelope); err != nil {
		c.report.add(where(), "%v", err)
	}
	return true
}

func nodeName(level int, first []byte) string {
	return fmt.Sprintf("tree level %d at %q", level, first)
}

// node holds a computed row against the one that is stored.
func (c *checker) node(level int, want merkle.Row) error {
	n := &c.stored[level]
	for n.key != nil && bytes.Compare(n.key[1:], want.Key) < 0 {
		c.extra(level)
	}
	if n.key == nil || !bytes.Equal(n.key[1:], want.Key) {
		c.report.add(nodeName(level, want.Key), "it is missing")
		return nil
	}
	c.report.Nodes++
	switch got, err := decodeNode(n.key, n.v); {
	case err != nil:
		c.report.add(nodeName(level, want.Key), "%v", err)
	case got.Digest != want.Digest:
		c.report.add(nodeName(level, want.Key), "its digest is not that of its children")
	case got.Count != want.Count:
		c.report.add(nodeName(level, want.Key), "it counts %d objects, there are %d", got.Count, want.Count)
	}
	c.advance(level)
	return nil
}

// extra reports the stored row that stands next: no node begins there.
func (c *checker) extra(level int) {
	c.report.Nodes++
	c.report.add(nodeName(level, c.stored[level].key[1:]), "no node begins there")
	c.advance(level)
}

func (c *checker) advance(level int) {
	n := &c.stored[level]
	n.key, n.v = n.c.Next()
	n.bound(level)
}

func (c *checker) head(root merkle.Row) {
	held := c.snap.meta.held
	if root.Digest != held.root {
		c.report.add("head", "its root %v is not that of the objects, %v", held.root, desired.Digest(root.Digest))
	}
	if root.Count != held.objects {
		c.report.add("head", "it counts %d objects, there are %d", held.objects, root.Count)
	}
	if c.bytes != held.bytes {
		c.report.add("head", "it counts %d bytes, there are %d", held.bytes, c.bytes)
	}
}

// journal checks that the journal can be read, that it leads to the head, and
// that it has as many keys as the head says.
func (c *checker) journal() {
	var at revision
	var keys, listed uint64
	cur := c.snap.journal.Cursor()
	for k, v := cur.First(); k != nil; k, v = cur.Next() {
		where := fmt.Sprintf("journal row %x", k)
		coded := v
		switch {
		case len(k) == 8:
			var err error
			if at, coded, err = decodeRevision(k, v); err != nil {
				c.report.add(where, "%v", err)
				continue
			}
			keys += at.count
		case len(k) != 12 || binary.BigEndian.Uint64(k) != at.number:
			c.report.add(where, "it belongs to no revision")
			continue
		}
		if err := decodeKeys(coded, func([]byte) { listed++ }); err != nil {
			c.report.add(where, "%v", err)
		}
	}
	head := c.snap.meta.head
	if at.number != head.Number || at.root != head.Root {
		c.report.add("journal", "it ends at revision %d with root %v, the head is %d with root %v", at.number, at.root, head.Number, head.Root)
	}
	if keys != c.snap.meta.journalled || listed != keys {
		c.report.add("journal", "it has %d keys, its rows count %d, the head %d", listed, keys, c.snap.meta.journalled)
	}
}

func (c *checker) requests() {
	b := c.tx.Bucket(bucketRequests)
	if b == nil {
		c.report.add("requests", "the bucket is missing")
		return
	}
	cur := b.Cursor()
	for k, v := cur.First(); k != nil; k, v = cur.Next() {
		if _, _, err := decodeAnswer(v); len(k) < 4 || err != nil {
			c.report.add(fmt.Sprintf("request %q", k), "malformed")
		}
	}
}
