// Package storetest answers whether something keeps sets and mirrors as package
// store does, seen from outside: it is the one suite that the store on a real
// disk and the one that simulations run on both pass.
package storetest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// Sets is a server's sets; see store.Store.
type Sets interface {
	Head(desired.Name) (desired.Head, error)
	View(set desired.Name, fn func(delta.Source) error) error
	Commit(ctx context.Context, set desired.Name, c store.Commit) (store.Result, error)
	Fork(ctx context.Context, set desired.Name, p desired.Position) error
	Renew(ctx context.Context, set desired.Name, who, why string) (desired.Head, error)
	Restore(ctx context.Context, set desired.Name, r store.Restore) (store.Restored, error)
	DeleteAt(ctx context.Context, set desired.Name, at *desired.Position) (desired.Head, error)
	PutList(host desired.Name, l desired.List) error
	Lists() (map[desired.Name]desired.List, error)
}

// content is what a set should hold: envelopes by key.
type content map[string]string

// edit is changes to it; an empty envelope deletes.
type edit map[string]string

func (c content) with(e edit) content {
	next := maps.Clone(c)
	for k, v := range e {
		if v == "" {
			delete(next, k)
		} else {
			next[k] = v
		}
	}
	return next
}

// stream returns the edit as a store reads it.
func (e edit) stream() iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for _, c := range e.list() {
			if !yield(c, nil) {
				return
			}
		}
	}
}

func (e edit) list() (all []desired.Change) {
	for _, k := range slices.Sorted(maps.Keys(e)) {
		c := desired.Change{Key: []byte(k)}
		if e[k] != "" {
			c.Envelope = desired.Envelope(e[k])
		}
		all = append(all, c)
	}
	return all
}

// draw returns changes to c.
func (c content) draw(r *rand.Rand) edit {
	e := edit{}
	have := slices.Sorted(maps.Keys(c))
	for range 1 + r.IntN(40) {
		e[fmt.Sprintf("k/%d/%d", r.IntN(8), r.IntN(40))] = fmt.Sprintf("\x00%x", r.Uint64())
		if len(have) > 0 && r.IntN(3) == 0 {
			e[have[r.IntN(len(have))]] = ""
		}
	}
	return e
}

// root returns the root of c's tree, built from nothing.
func (c content) root(t *testing.T, salt uint64) desired.Digest {
	t.Helper()
	b := merkle.Shape{Salt: salt}.NewBuilder(func(int, merkle.Row) error { return nil })
	var h desired.Hasher
	for _, k := range slices.Sorted(maps.Keys(c)) {
		if err := b.Add([]byte(k), h.Sum([]byte(k), desired.Envelope(c[k]))); err != nil {
			t.Fatal(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return root.Digest
}

// tree is what sets, mirrors and stagings have in common.
type tree interface {
	merkle.Reader
	Shape() merkle.Shape
}

// verify holds a tree against c.
func (c content) verify(t *testing.T, s tree) {
	t.Helper()
	root, err := merkle.Root(s)
	if want := c.root(t, s.Shape().Salt); err != nil || desired.Digest(root.Digest) != want || root.Count != uint64(len(c)) {
		t.Errorf("the tree has root %x of %d objects, %v, want %v of %d", root.Digest, root.Count, err, want, len(c))
	}
	keys, h := slices.Sorted(maps.Keys(c)), desired.Hasher{}
	for row, err := range s.Rows(0, nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if len(keys) == 0 || string(row.Key) != keys[0] || desired.Digest(row.Digest) != h.Sum(row.Key, desired.Envelope(c[keys[0]])) {
			t.Fatalf("the tree has %q, want %.1q", row.Key, keys)
		}
		keys = keys[1:]
	}
	if len(keys) > 0 {
		t.Errorf("the tree ends before %q", keys[0])
	}
}

// verifySet holds a set against c.
func (c content) verifySet(t *testing.T, s Sets, name desired.Name) {
	t.Helper()
	err := s.View(name, func(src delta.Source) error {
		c.verify(t, src)
		c.verifyObjects(t, src)
		head := src.Head()
		if is, err := s.Head(name); err != nil || is.Revision != head.Revision {
			t.Errorf("Head = %v, %v, and the set is at %v", is.Position, err, head.Position)
		}
		if head.Root != c.root(t, src.Shape().Salt) || head.Objects != uint64(len(c)) {
			t.Errorf("the head has root %v of %d objects", head.Root, head.Objects)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (c content) verifyObjects(t *testing.T, src delta.Source) {
	t.Helper()
	n := 0
	for o, err := range src.Objects(nil, nil) {
		if n++; err != nil || c[string(o.Key)] != string(o.Envelope) {
			t.Errorf("object %q = %q, %v, want %q", o.Key, o.Envelope, err, c[string(o.Key)])
		}
	}
	for _, k := range append(slices.Sorted(maps.Keys(c)), "k", "z") {
		want, there := c[k]
		o, ok, err := src.Get([]byte(k))
		if err != nil || ok != there || ok && string(o.Envelope) != want {
			t.Errorf("Get(%q) = %q, %v, %v, want %q", k, o.Envelope, ok, err, want)
		}
	}
	if n != len(c) {
		t.Errorf("there are %d objects, want %d", n, len(c))
	}
}
