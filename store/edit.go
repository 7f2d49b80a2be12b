package store

import (
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// edit is a write transaction on a set: the one core of commits, adoptions and
// stagings. First compare, which reads, then write.
type edit struct {
	tx *bolt.Tx
	rows
	meta
	journal journal
}

func openEdit(tx *bolt.Tx) (*edit, error) {
	e := &edit{tx: tx}
	var err error
	if e.meta, err = readMeta(tx); err != nil {
		return nil, err
	}
	if e.rows, err = openRows(tx); err != nil {
		return nil, err
	}
	e.journal, err = openJournal(tx)
	return e, err
}

// plan is what a batch does to a set.
type plan struct {
	tally
	kept []pending // what changes something
	tree merkle.Updated
	held content // after it
}

// tally counts what changes do.
type tally struct {
	created, updated, deleted, unchanged, missing uint64
	came, went                                    uint64 // bytes of keys and values
}

// count adds a change of the object whose row was old, nil for none, and
// reports whether it changes anything.
func (t *tally) count(old []byte, c *desired.Change) bool {
	switch {
	case old == nil && c.Deleted():
		t.missing++
		return false
	case old == nil:
		t.created++
	case c.Deleted():
		t.deleted++
	case string(old[:digestBytes]) == string(c.Digest[:]):
		t.unchanged++
		return false
	default:
		t.updated++
	}
	if old != nil {
		t.went += payload(c.Key, old)
	}
	if !c.Deleted() {
		t.came += uint64(c.PayloadBytes())
	}
	return true
}

// follow returns the counts of c after the changes.
func (t *tally) follow(c content) content {
	c.objects += t.created - t.deleted
	c.bytes += t.came - t.went
	return c
}

// compare finds out what the batch does, without the tree.
func (e *edit) compare(b *batch) (*plan, error) {
	p := &plan{kept: make([]pending, 0, len(b.changes))}
	for _, c := range b.changes {
		old := e.objects.Get(c.key)
		if old != nil && len(old) < minObjectRow {
			_, err := decodeObject(c.key, old)
			return nil, err
		}
		change := c.change()
		if p.count(old, &change) {
			p.kept = append(p.kept, c)
		}
	}
	p.held = p.follow(e.held)
	return p, nil
}

// grow computes how the tree follows, under the shape, and so the new root.
func (e *edit) grow(p *plan, shape merkle.Shape) error {
	changes := make([]merkle.Change, len(p.kept))
	for i, c := range p.kept {
		changes[i].Key = c.key
		if changes[i].Gone = c.row == nil; !changes[i].Gone {
			copy(changes[i].Digest[:], c.row)
		}
	}
	var err error
	p.tree, err = shape.Update(e.rows, changes)
	switch {
	case errors.Is(err, merkle.ErrTooWide):
		return fmt.Errorf("%w: %w", desired.ErrInvalid, err)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case p.tree.Root.Count != p.held.objects:
		return fmt.Errorf("%w: the tree counts %d objects, the head %d", ErrCorrupt, p.tree.Root.Count, p.held.objects)
	}
	p.held.root = p.tree.Root.Digest
	return nil
}

// write writes the plan's objects and nodes.
func (e *edit) write(p *plan) error {
	for _, c := range p.kept {
		var err error
		if c.row == nil {
			err = e.objects.Delete(c.key)
		} else {
			err = e.objects.Put(c.key, c.row)
		}
		if err != nil {
			return err
		}
	}
	return writeNodes(e.nodes, p.tree.Rows)
}

func writeNodes(nodes *bolt.Bucket, changes []merkle.RowChange) error {
	for i := range changes {
		c := &changes[i]
		key := appendTreeKey(make([]byte, 0, 1+len(c.Key)), c.Level, c.Key)
		var err error
		if c.Gone {
			err = nodes.Delete(key)
		} else {
			err = nodes.Put(key, encodeNode(&c.Row))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// record writes the plan's keys to the journal, as the revision head, and the
// head.
func (e *edit) record(p *plan, head desired.Head, who, why string) error {
	w := journalWriter{number: head.Number}
	for _, c := range p.kept {
		if err := w.touch(e.journal, c.key); err != nil {
			return err
		}
	}
	return e.recordAs(&w, head, who, why)
}

// recordAs is record for keys that were handed to w.
func (e *edit) recordAs(w *journalWriter, head desired.Head, who, why string) error {
	r := revision{number: head.Number, root: head.Root, time: time.Now(), who: who, why: why}
	if err := w.finish(e.journal, r); err != nil {
		return err
	}
	var err error
	e.journalled, err = e.journal.trim(e.journalled+w.count, journalLimit(head.Objects))
	if err != nil {
		return err
	}
	return e.setHead(head)
}

// setHead writes a head that is what is there.
func (e *edit) setHead(head desired.Head) error {
	e.head, e.held = head, contentOf(head)
	return e.meta.write(e.tx)
}

// rebase makes head the set's revision and forgets how it came about.
func (e *edit) rebase(head desired.Head, who, why string) error {
	err := rebase(e.tx, revision{number: head.Number, root: head.Root, time: time.Now(), who: who, why: why})
	if err != nil {
		return err
	}
	e.journal = journal{e.tx.Bucket(bucketJournal)}
	e.journalled = 0
	return e.setHead(head)
}
