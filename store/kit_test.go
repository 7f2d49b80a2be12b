package store_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" {
		os.Exit(runChild(child))
	}
	os.Exit(m.Run())
}

// quiet are options without a log.
var quiet = store.Options{Logger: slog.New(slog.DiscardHandler)}

// model is what a set should hold: the oracle.
type model map[string]string

func (m model) keys() []string { return slices.Sorted(maps.Keys(m)) }

// edit is a change of a model; nil deletes.
type edit map[string]*string

func (m model) apply(e edit) model {
	next := maps.Clone(m)
	for k, v := range e {
		if v == nil {
			delete(next, k)
		} else {
			next[k] = *v
		}
	}
	return next
}

func ptr(s string) *string { return &s }

// puts returns the edit that writes all of m.
func (m model) puts() edit {
	e := edit{}
	for k, v := range m {
		e[k] = &v
	}
	return e
}

func envelope(value string) desired.Envelope { return append([]byte{0}, value...) }

func change(key string, value *string) desired.Change {
	c := desired.Change{Key: []byte(key)}
	if value != nil {
		var h desired.Hasher
		c.Envelope = envelope(*value)
		c.Digest = h.Sum(c.Key, c.Envelope)
	}
	return c
}

func (e edit) list() []desired.Change {
	var all []desired.Change
	for _, k := range slices.Sorted(maps.Keys(e)) {
		all = append(all, change(k, e[k]))
	}
	return all
}

// changes returns the edit as a stream whose memory is reused, and whose
// digests are wrong: neither may matter.
func (e edit) changes() iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		var key, env []byte
		for _, c := range e.list() {
			key = append(key[:0], c.Key...)
			next := desired.Change{Key: key}
			if !c.Deleted() {
				env = append(env[:0], c.Envelope...)
				next.Envelope = env
			}
			if !yield(next, nil) {
				return
			}
			clear(key)
			clear(env)
		}
	}
}

// root returns the root of m's tree, built from nothing.
func (m model) root(salt uint64) desired.Digest {
	b := merkle.Shape{Salt: salt}.NewBuilder(func(int, merkle.Row) error { return nil })
	for _, k := range m.keys() {
		if err := b.Add([]byte(k), change(k, ptr(m[k])).Digest); err != nil {
			panic(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return root.Digest
}

func (m model) bytes() uint64 {
	var n uint64
	for k, v := range m {
		n += uint64(len(k) + len(v))
	}
	return n
}

// verify holds a snapshot against m: every object, by scan and by key, counts,
// head and root.
func (m model) verify(t testing.TB, s *store.Snapshot) {
	t.Helper()
	head := s.Head()
	if want := m.root(s.Shape().Salt); head.Root != want {
		t.Errorf("root of %v = %v, want %v", head.Position, head.Root, want)
	}
	if head.Objects != uint64(len(m)) || head.Bytes != m.bytes() {
		t.Errorf("head of %v counts %d objects of %d bytes, want %d of %d", head.Position, head.Objects, head.Bytes, len(m), m.bytes())
	}
	if root, err := merkle.Root(s); err != nil || root.Digest != head.Root || root.Count != head.Objects {
		t.Errorf("root of the tree = %x of %d, %v, want the head's", root.Digest, root.Count, err)
	}
	keys := m.keys()
	for c, err := range s.Objects(nil, nil) {
		if err != nil {
			t.Fatalf("Objects: %v", err)
		}
		if len(keys) == 0 || string(c.Key) != keys[0] || !bytes.Equal(c.Envelope, envelope(m[keys[0]])) {
			t.Fatalf("Objects yields %q = %q, want %.1q", c.Key, c.Envelope, keys)
		}
		keys = keys[1:]
	}
	if len(keys) > 0 {
		t.Fatalf("Objects ends before %q", keys[0])
	}
}

// probe asks a snapshot for random keys and ranges.
func (m model) probe(t testing.TB, s *store.Snapshot, rng *rand.Rand) {
	t.Helper()
	keys := m.keys()
	for range 10 {
		key := randomKey(rng, 400)
		c, ok, err := s.Get([]byte(key))
		if v, want := m[key]; err != nil || ok != want || ok && !bytes.Equal(c.Envelope, envelope(v)) {
			t.Errorf("Get(%q) = %v, %v, %v, want %q, %v", key, c, ok, err, v, want)
		}
		from, until := randomKey(rng, 400), []byte(randomKey(rng, 400))
		if rng.IntN(4) == 0 {
			until = nil
		}
		if rng.IntN(4) == 0 {
			from = ""
		}
		var want uint64
		for _, k := range keys {
			if k >= from && (until == nil || k < string(until)) {
				want++
			}
		}
		if n, err := s.Count([]byte(from), until); err != nil || n != want {
			t.Errorf("Count(%q, %q) = %d, %v, want %d", from, until, n, err, want)
		}
	}
}

// randomKey returns one of some n keys, some of which are prefixes of others.
func randomKey(rng *rand.Rand, n int) string {
	i := rng.IntN(n)
	if i%7 == 0 {
		return fmt.Sprintf("k/%03d", i)
	}
	return fmt.Sprintf("k/%03d/%d", i/2, i)
}

// randomEdit returns up to most changes of m, of which the greater part change
// something.
func (m model) randomEdit(rng *rand.Rand, keys, most int) edit {
	e := edit{}
	deletes := rng.IntN(5)
	for range rng.IntN(most) + 1 {
		k := randomKey(rng, keys)
		switch {
		case rng.IntN(5) < deletes:
			e[k] = nil
		case rng.IntN(10) == 0 && m[k] != "":
			e[k] = ptr(m[k])
		default:
			e[k] = ptr(fmt.Sprint("value", rng.IntN(1000)))
		}
	}
	return e
}

func randomModel(rng *rand.Rand, keys, n int) model {
	m := model{}
	for len(m) < n {
		m[randomKey(rng, keys)] = fmt.Sprint("value", rng.IntN(1000))
	}
	return m
}

func openStore(t testing.TB, dir string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() }) // most tests have closed it
	return s
}

func commit(t testing.TB, s *store.Store, name desired.Name, e edit) store.Result {
	t.Helper()
	r, err := s.Commit(context.Background(), name, store.Commit{Changes: e.changes(), Who: "test"})
	if err != nil {
		t.Fatalf("commit: %v", err)
	}
	return r
}

func view(t testing.TB, s *store.Store, name desired.Name, fn func(*store.Snapshot)) {
	t.Helper()
	err := s.View(name, func(snap *store.Snapshot) error { fn(snap); return nil })
	if err != nil {
		t.Fatalf("view: %v", err)
	}
}

// checkClean lets the store check the set.
func checkClean(t testing.TB, s *store.Store, name desired.Name) {
	t.Helper()
	r, err := s.Check(context.Background(), name, nil)
	if err != nil || r.Found != 0 {
		t.Fatalf("check: %d problems, %v, %v", r.Found, r.Problems, err)
	}
}
