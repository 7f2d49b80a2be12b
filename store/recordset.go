package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// recordSet is what a transaction sees of the record of one set.
type recordSet struct {
	rows
	name   []byte // of the bucket
	bucket *bolt.Bucket
	after  *bolt.Bucket
	finder *bolt.Cursor // of objects
	head   recordHead
}

func recordSetKey(name desired.Name) []byte { return append(bytes.Clone(prefixSet), name...) }

// openRecordSet returns nil if the set is not in the record.
func openRecordSet(tx *bolt.Tx, name desired.Name) (*recordSet, error) {
	b := tx.Bucket(recordSetKey(name))
	if b == nil {
		return nil, nil
	}
	s := &recordSet{bucket: b, after: b.Bucket(bucketAfter)}
	var err error
	if s.rows, err = openRows(b); err != nil {
		return nil, err
	}
	if s.after == nil {
		return nil, fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
	}
	s.name, s.finder = recordSetKey(name), s.objects.Cursor()
	s.head, err = decodeRecordHead(s.name, b.Get(metaHead))
	return s, err
}

func (s *recordSet) shape() merkle.Shape { return merkle.Shape{Salt: s.head.salt} }

// begin makes the set one of the record, without rows.
func (r *record) begin(set desired.Name, salt uint64) error {
	key := recordSetKey(set)
	b, err := r.tx.CreateBucket(key)
	if err != nil {
		return err
	}
	for _, name := range [][]byte{bucketObjects, bucketTree, bucketAfter} {
		if _, err := b.CreateBucket(name); err != nil {
			return err
		}
	}
	head := recordHead{salt: salt, root: merkle.EmptyRoot()}
	if err := b.Put(metaHead, head.encode(key)); err != nil {
		return err
	}
	r.count.sets++
	return r.writeCounts()
}

// reshape builds the tree anew from its rows.
func (s *recordSet) reshape(ctx context.Context, salt uint64) error {
	if err := s.bucket.DeleteBucket(bucketTree); err != nil {
		return err
	}
	nodes, err := s.bucket.CreateBucket(bucketTree)
	if err != nil {
		return err
	}
	nodes.FillPercent = appendFill
	s.nodes = nodes
	tree := newBulk(salt, nodes)
	n := uint64(0)
	for row, err := range s.Rows(0, nil, nil) {
		if err != nil {
			return err
		}
		if n++; n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := tree.builder.Add(row.Key, row.Digest); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	root, err := tree.finish()
	if err != nil {
		return err
	}
	if n != s.head.objects() {
		return fmt.Errorf("%w: there are %d rows, the head counts %d", ErrCorrupt, n, s.head.objects())
	}
	s.head.salt, s.head.root = salt, root.Digest
	return s.bucket.Put(metaHead, s.head.encode(s.name))
}

// recordEdit is a change to the rows of a set: first compare, which reads, then
// write.
type recordEdit struct {
	*recordSet
	arena arena
	kept  []pending // rows that change
	tree  []merkle.Change
	// came and went are the keys of edges.
	came, went [][]byte
	routes     routes
}

func (e *recordEdit) apply(r *AppliedRows) error {
	if err := e.compare(r); err != nil {
		return err
	}
	if len(e.kept) == 0 {
		return nil
	}
	updated, err := e.shape().Update(e.rows, e.tree)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	case updated.Root.Count != e.head.objects():
		return fmt.Errorf("%w: the tree counts %d objects, the head %d", ErrCorrupt, updated.Root.Count, e.head.objects())
	}
	e.head.root = updated.Root.Digest
	if err := e.fill(); err != nil {
		return err
	}
	if err := e.write(); err != nil {
		return err
	}
	if err := writeNodes(e.nodes, updated.Rows); err != nil {
		return err
	}
	return e.bucket.Put(metaHead, e.head.encode(e.name))
}

// compare finds out what changes, and counts it.
func (e *recordEdit) compare(r *AppliedRows) error {
	puts, deletes := r.Put, r.Delete
	for len(puts)+len(deletes) > 0 {
		var err error
		if len(deletes) == 0 || len(puts) > 0 && bytes.Compare(puts[0].Key, deletes[0]) < 0 {
			err = e.put(&puts[0])
			puts = puts[1:]
		} else {
			err = e.remove(deletes[0])
			deletes = deletes[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// old returns the row under key as it is stored, nil if there is none, and what it
// says.
func (e *recordEdit) old(key []byte) (v []byte, r AppliedRow, err error) {
	if v, err = find(e.finder, key); v != nil {
		r, err = decodeApplied(key, v, e.routes.name)
	}
	return v, r, err
}

func (e *recordEdit) put(r *AppliedRow) error {
	v, old, err := e.old(r.Key)
	if err != nil {
		return err
	}
	row := r.encode(e.arena.alloc(r.size()))
	if bytes.Equal(v, row) {
		return nil
	}
	if v != nil {
		e.head.counts[old.State]--
	}
	e.head.counts[r.State]++
	e.kept = append(e.kept, pending{key: r.Key, row: row})
	if v == nil || old.Digest != r.Digest {
		e.tree = append(e.tree, merkle.Change{Key: r.Key, Digest: merkle.Digest(r.Digest)})
	}
	e.edges(r.Key, old.edges(), r.edges())
	return nil
}

func (e *recordEdit) remove(key []byte) error {
	v, old, err := e.old(key)
	if err != nil || v == nil {
		return err
	}
	e.head.counts[old.State]--
	e.kept = append(e.kept, pending{key: key})
	e.tree = append(e.tree, merkle.Change{Key: key, Gone: true})
	e.edges(key, old.edges(), nil)
	return nil
}

// edges returns the keys that whoever asks what comes after them is told of r for.
func (r *AppliedRow) edges() [][]byte {
	if r.State != AppliedTrue {
		return nil
	}
	return r.After
}

// edges notes what becomes of those of key; both lists ascend.
func (e *recordEdit) edges(key []byte, old, now [][]byte) {
	for len(old)+len(now) > 0 {
		order := 0
		switch {
		case len(old) == 0:
			order = 1
		case len(now) == 0:
			order = -1
		default:
			order = bytes.Compare(old[0], now[0])
		}
		if order < 0 {
			e.went = append(e.went, e.edge(old[0], key))
		}
		if order > 0 {
			e.came = append(e.came, e.edge(now[0], key))
		}
		if order <= 0 {
			old = old[1:]
		}
		if order >= 0 {
			now = now[1:]
		}
	}
}

func (e *recordEdit) edge(key, dependent []byte) []byte {
	return appendAfterKey(e.arena.alloc(2+len(key)+len(dependent)), key, dependent)
}

// fill lets pages that are appended be left full.
func (e *recordEdit) fill() error {
	key, _, err := last(e.objects.Cursor())
	if err == nil && bytes.Compare(e.kept[0].key, key) > 0 {
		e.objects.FillPercent, e.nodes.FillPercent, e.after.FillPercent = appendFill, appendFill, appendFill
	}
	return err
}

// write writes the rows and the edges.
func (e *recordEdit) write() error {
	for _, p := range e.kept {
		var err error
		if p.row == nil {
			err = e.objects.Delete(p.key)
		} else {
			err = e.objects.Put(p.key, p.row)
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(e.went, bytes.Compare)
	for _, edge := range e.went {
		if err := e.after.Delete(edge); err != nil {
			return err
		}
	}
	slices.SortFunc(e.came, bytes.Compare)
	for _, edge := range e.came {
		if err := e.after.Put(edge, sealRow(edge, e.arena.alloc(sealBytes))); err != nil {
			return err
		}
	}
	return nil
}

// routes hands out one string for each name, since many rows have the same.
type routes map[string]string

func (r *routes) name(b []byte) string {
	if s, ok := (*r)[string(b)]; ok {
		return s
	}
	if *r == nil {
		*r = routes{}
	}
	s := string(b)
	(*r)[s] = s
	return s
}
