package store

import (
	"bytes"
	"fmt"
	"iter"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"espalier/merkle"
)

// rows reads a set's tree: merkle.Reader over the buckets of a transaction.
type rows struct {
	objects, nodes *bolt.Bucket
	bad            *error // where the first error of a read is noted; nil: nowhere
}

var _ merkle.Reader = rows{}

// buckets is where a tree's buckets lie: a transaction, or a bucket of its.
type buckets interface {
	Bucket(name []byte) *bolt.Bucket
}

func openRows(in buckets) (rows, error) {
	r := rows{objects: in.Bucket(bucketObjects), nodes: in.Bucket(bucketTree)}
	if r.objects == nil || r.nodes == nil {
		return rows{}, fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
	}
	return r, nil
}

// fail notes err and returns it.
func (r rows) fail(err error) error {
	if err != nil && r.bad != nil && *r.bad == nil {
		*r.bad = err
	}
	return err
}

// Height implements merkle.Reader: rows above the root's don't exist.
func (r rows) Height() (int, error) {
	key, _, err := last(r.nodes.Cursor())
	if err != nil || key == nil {
		return 0, r.fail(err)
	}
	return int(key[0]), nil
}

// Before implements merkle.Reader.
func (r rows) Before(level int, key []byte) ([]byte, bool, error) {
	bucket, at := r.objects, key
	if level > 0 {
		bucket, at = r.nodes, appendTreeKey(nil, level, key)
	}
	found, _, err := before(bucket.Cursor(), at)
	switch {
	case err != nil || found == nil:
		return nil, false, r.fail(err)
	case level == 0:
		return found, true, nil
	case int(found[0]) != level:
		return nil, false, nil
	}
	return found[1:], true, nil
}

// Rows implements merkle.Reader.
func (r rows) Rows(level int, from, until []byte) iter.Seq2[merkle.Row, error] {
	if level == 0 {
		return r.leaves(from, until)
	}
	return func(yield func(merkle.Row, error) bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // iter.Pull runs this elsewhere
		c := r.nodes.Cursor()
		key, v, err := seek(c, appendTreeKey(nil, level, from))
		for ; err == nil && key != nil && int(key[0]) == level; key, v, err = next(c) {
			if until != nil && bytes.Compare(key[1:], until) >= 0 {
				return
			}
			row, err := decodeNode(key, v)
			if !yield(row, r.fail(err)) || err != nil {
				return
			}
		}
		if err != nil {
			yield(merkle.Row{}, r.fail(err))
		}
	}
}

// leaves returns the objects of a range as rows of level 0.
func (r rows) leaves(from, until []byte) iter.Seq2[merkle.Row, error] {
	return func(yield func(merkle.Row, error) bool) {
		defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
		c := r.objects.Cursor()
		key, v, err := seek(c, from)
		for ; err == nil && key != nil; key, v, err = next(c) {
			if until != nil && bytes.Compare(key, until) >= 0 {
				return
			}
			if len(v) < minObjectRow {
				_, err = decodeObject(key, v)
				break
			}
			if !yield(merkle.Row{Key: key, Digest: merkle.Digest(v[:digestBytes]), Count: 1}, nil) {
				return
			}
		}
		if err != nil {
			yield(merkle.Row{}, r.fail(err))
		}
	}
}

// count returns how many objects of a set lie in [from, until).
func (r rows) count(held content, from, until []byte) (uint64, error) {
	end := held.objects
	var err error
	if until != nil {
		if end, err = r.countBefore(until); err != nil {
			return 0, err
		}
	}
	start, err := r.countBefore(from)
	if err != nil || start > end {
		return 0, err
	}
	return end - start, nil
}

// countBefore returns how many objects there are below key, reading about as
// many rows as a node has children at each level.
func (r rows) countBefore(key []byte) (uint64, error) {
	if len(key) == 0 {
		return 0, nil // nil would stand for the end
	}
	height, err := r.Height()
	if err != nil {
		return 0, err
	}
	var total uint64
	var first []byte // of the node that covers key
	for level := height - 1; level >= 0; level-- {
		var straddles uint64 // the count of the last row that starts below key
		for row, err := range r.Rows(level, first, key) {
			if err != nil {
				return 0, err
			}
			total += straddles
			first, straddles = row.Key, row.Count
		}
		if level == 0 {
			total += straddles
		}
	}
	return total, nil
}

// nodeAt returns the first key of the node of level 1 that holds the object with
// that many before it.
func (r rows) nodeAt(index uint64) (first []byte, err error) {
	height, err := r.Height()
	if err != nil {
		return nil, err
	}
	for level := height - 1; level > 0; level-- {
		for row, err := range r.Rows(level, first, nil) {
			if err != nil {
				return nil, err
			}
			if first = row.Key; index < row.Count {
				break
			}
			index -= row.Count
		}
	}
	return first, nil
}

// The functions below are a bbolt cursor's, with its panics on damaged pages
// as errors.

func seek(c *bolt.Cursor, key []byte) (k, v []byte, err error) {
	defer catch(&err)
	k, v = c.Seek(key)
	return k, v, nil
}

func next(c *bolt.Cursor) (k, v []byte, err error) {
	defer catch(&err)
	k, v = c.Next()
	return k, v, nil
}

func last(c *bolt.Cursor) (k, v []byte, err error) {
	defer catch(&err)
	k, v = c.Last()
	return k, v, nil
}

// before moves c to the last row below key.
func before(c *bolt.Cursor, key []byte) (k, v []byte, err error) {
	defer catch(&err)
	if k, _ = c.Seek(key); k == nil {
		k, v = c.Last()
	} else {
		k, v = c.Prev()
	}
	return k, v, nil
}

func get(b *bolt.Bucket, key []byte) (v []byte, err error) {
	defer catch(&err)
	return b.Get(key), nil
}

// find is get with a cursor that is used for many keys, where a get makes one for
// each.
func find(c *bolt.Cursor, key []byte) ([]byte, error) {
	k, v, err := seek(c, key)
	if err != nil || !bytes.Equal(k, key) {
		return nil, err
	}
	return v, nil
}

// catch turns a panic of bbolt's, and there must be no other code in its
// function, into an error.
func catch(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: %v", ErrCorrupt, r)
	}
}
