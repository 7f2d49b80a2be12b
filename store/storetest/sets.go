package storetest

import (
	"bytes"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/store"
)

// RunSets runs the suite of a server's sets. open returns a store without any, and
// a function that opens it again, after a loss of power if that can be had.
func RunSets(t *testing.T, open func(*testing.T) (s Sets, again func() Sets)) {
	for name, test := range map[string]func(*testing.T, Sets, func() Sets){
		"histories": histories, "refusals": refusals, "cycles": cycles, "requests": requests, "epochs": epochs, "restores": restores, "lists": lists,
	} {
		t.Run(name, func(t *testing.T) {
			s, again := open(t)
			test(t, s, again)
		})
	}
}

// must makes a commit that has to succeed.
func must(t *testing.T, s Sets, e edit) store.Result {
	t.Helper()
	r, err := s.Commit(t.Context(), "set", store.Commit{Changes: e.stream()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fails makes a commit that has to end with that error.
func fails(t *testing.T, s Sets, c store.Commit, want error) {
	t.Helper()
	if c.Changes == nil {
		c.Changes = edit{"a": "\x00refused"}.stream()
	}
	if _, err := s.Commit(t.Context(), "set", c); !errors.Is(err, want) {
		t.Errorf("Commit = %v, want %v", err, want)
	}
}

// revision is one that a history had, and what it touched.
type revision struct {
	head    desired.Head
	touched edit
}

// histories holds random ones against a plain map, with the store opened again now
// and then.
func histories(t *testing.T, s Sets, again func() Sets) {
	if _, err := s.Head("set"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Head of no set = %v", err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	c := content{}
	var past []revision
	for i := range 30 {
		e := c.draw(r)
		result := must(t, s, e)
		was := c
		c = c.with(e)
		maps.DeleteFunc(e, func(k, _ string) bool { return was[k] == c[k] })
		past = append(past, revision{head: result.Head, touched: e})
		if n := uint64(len(past)); result.Head.Number != n || result.Head.Epoch != past[0].head.Epoch {
			t.Fatalf("commit %d leads to %v", n, result.Head.Position)
		}
		if got := result.Created + result.Updated + result.Deleted; got != uint64(len(e)) {
			t.Errorf("commit %d changed %d objects, want %d", i, got, len(e))
		}
		if i%5 == 0 {
			s = again()
		}
		c.verifySet(t, s, "set")
		verifyTouched(t, s, past)
	}
	if r := must(t, s, edit{"none": ""}); r.Head.Revision != past[len(past)-1].head.Revision || r.Missing != 1 {
		t.Errorf("a commit that changes nothing = %+v", r)
	}
}

// verifyTouched asks for what happened since each revision.
func verifyTouched(t *testing.T, s Sets, past []revision) {
	t.Helper()
	err := s.View("set", func(src delta.Source) error {
		union := edit{}
		for _, p := range slices.Backward(past) {
			root, keys, ok, err := src.Touched(p.head.Number, 1<<20)
			var want [][]byte
			for _, k := range slices.Sorted(maps.Keys(union)) {
				want = append(want, []byte(k))
			}
			if err != nil || !ok || root != p.head.Root || !slices.EqualFunc(keys, want, bytes.Equal) {
				t.Fatalf("Touched(%d) = %v, %q, %v, %v, want %v, %q", p.head.Number, root, keys, ok, err, p.head.Root, want)
			}
			if root, _, ok, err := src.Touched(p.head.Number, len(want)-1); ok || err != nil || root != p.head.Root {
				t.Errorf("Touched(%d) within %d keys = %v, %v, %v", p.head.Number, len(want)-1, root, ok, err)
			}
			maps.Copy(union, p.touched)
		}
		root, _, ok, err := src.Touched(uint64(len(past)+1), 1<<20)
		if ok || err != nil || !root.IsZero() {
			t.Errorf("Touched of a revision to come = %v, %v, %v", root, ok, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// refusals makes commits that must change nothing.
func refusals(t *testing.T, s Sets, again func() Sets) {
	at := func(n uint64) *desired.Position { return &desired.Position{Number: n} }
	fails(t, s, store.Commit{Expect: at(1)}, store.ErrConflict)
	fails(t, s, store.Commit{Changes: edit{"a": ""}.stream()}, store.ErrNotFound)
	c := content{"a": "\x001", "b": "\x002", "c": "\x003"}
	head := must(t, s, edit(c)).Head
	fails(t, s, store.Commit{Expect: at(0)}, store.ErrConflict)
	fails(t, s, store.Commit{Expect: at(2)}, store.ErrConflict)
	fails(t, s, store.Commit{Expect: &desired.Position{Epoch: desired.Epoch{1}, Number: 1}}, store.ErrConflict)
	fails(t, s, store.Commit{Changes: edit{"a": "", "b": ""}.stream(), MaxDelete: &store.DeleteLimit{Count: 1}}, store.ErrTooManyDeletes)
	fails(t, s, store.Commit{Changes: edit{"a": "\xff"}.stream()}, desired.ErrInvalid)
	fails(t, s, store.Commit{Changes: edit{"a//b": "\x00"}.stream()}, desired.ErrInvalid)
	fails(t, s, store.Commit{Changes: func(yield func(desired.Change, error) bool) {
		_ = yield(desired.Change{Key: []byte("b")}, nil) && yield(desired.Change{Key: []byte("a")}, nil)
	}}, desired.ErrInvalid)
	s = again()
	c.verifySet(t, s, "set")
	if _, err := s.Commit(t.Context(), "set", store.Commit{Changes: edit{"a": ""}.stream(), Expect: &head.Position}); err != nil {
		t.Errorf("a commit that expects the head = %v", err)
	}
}

// cycles are refused, whichever way objects come to wait for each other; what is
// come after need not be there.
func cycles(t *testing.T, s Sets, again func() Sets) {
	after := func(keys ...string) string {
		env, err := desired.Encode(desired.Object{After: keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(env)
	}
	whole := edit{"a": after("b"), "b": after("c", "x"), "c": after("a"), "d": "\x00"}
	fails(t, s, store.Commit{Changes: whole.stream()}, store.ErrCycle)
	if _, err := s.Restore(t.Context(), "set", store.Restore{Objects: whole.stream()}); !errors.Is(err, store.ErrCycle) {
		t.Errorf("Restore = %v, want %v", err, store.ErrCycle)
	}
	if _, err := s.Head("set"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Head of a set that was refused = %v", err)
	}
	c := content{"a": after("b"), "b": after("c", "x"), "d": "\x00"}
	must(t, s, edit(c))
	s = again()
	fails(t, s, store.Commit{Changes: edit{"c": after("a")}.stream()}, store.ErrCycle)
	fails(t, s, store.Commit{Changes: edit{"a": "", "x": after("b")}.stream()}, store.ErrCycle)
	fails(t, s, store.Commit{Changes: edit{"c": after("d"), "d": after("a")}.stream()}, store.ErrCycle)
	c.verifySet(t, s, "set")
	for _, e := range []edit{{"c": after("d")}, {"b": after("x"), "c": after("a")}, {"c": "", "b": after("c")}, {"c": after("d"), "d": after("x")}} {
		must(t, s, e)
		c = c.with(e)
	}
	s = again()
	c.verifySet(t, s, "set")
}

// requests come again, with the same content and with another.
func requests(t *testing.T, s Sets, again func() Sets) {
	ask := func(id string, digest byte, e edit) (store.Result, error) {
		return s.Commit(t.Context(), "set", store.Commit{Changes: e.stream(), Request: store.Request{ID: id, Digest: desired.Digest{digest}}})
	}
	first, err := ask("1", 1, edit{"a": "\x001"})
	if err != nil {
		t.Fatal(err)
	}
	nothing, err := ask("2", 2, edit{"a": "\x001"})
	if err != nil || nothing.Head.Revision != first.Head.Revision {
		t.Fatalf("a request for nothing = %v, %v", nothing.Head.Position, err)
	}
	must(t, s, edit{"b": "\x002"})
	for range 2 {
		if r, err := ask("1", 1, edit{"a": "\x001"}); err != nil || !r.Replayed || r.Head.Revision != first.Head.Revision || r.Created != 1 {
			t.Errorf("the request again = %+v, %v", r, err)
		}
		if r, err := ask("2", 2, edit{"a": "\x001"}); err != nil || !r.Replayed || r.Unchanged != 1 {
			t.Errorf("the request for nothing again = %+v, %v", r, err)
		}
		if _, err := ask("1", 3, edit{"a": "\x003"}); !errors.Is(err, store.ErrRequestReused) {
			t.Errorf("another request of that id = %v", err)
		}
		s = again()
	}
}

// epochs are begun by forks that are resolved, and by sets that are made anew.
func epochs(t *testing.T, s Sets, again func() Sets) {
	c := content{"a": "\x001"}
	first := must(t, s, edit(c)).Head
	for _, n := range []uint64{7, 5} { // the highest counts
		if err := s.Fork(t.Context(), "set", desired.Position{Epoch: first.Epoch, Number: n}); err != nil {
			t.Fatal(err)
		}
	}
	s = again()
	fails(t, s, store.Commit{}, store.ErrForked)
	c.verifySet(t, s, "set")
	second, err := s.Renew(t.Context(), "set", "", "")
	if err != nil || second.Root != first.Root || second.Number <= 7 || second.Epoch == first.Epoch || !second.Follows(first.Revision) {
		t.Fatalf("Renew = %+v, %v", second, err)
	}
	if err := s.Fork(t.Context(), "set", desired.Position{Epoch: first.Epoch, Number: 9}); err != nil {
		t.Errorf("a fork in an epoch that was left: %v", err)
	}
	s = again()
	third := must(t, s, edit{"b": "\x002"}).Head
	if _, err := s.DeleteAt(t.Context(), "set", &second.Position); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a deletion that expects another revision = %v", err)
	}
	if was, err := s.DeleteAt(t.Context(), "set", &third.Position); err != nil || was.Revision != third.Revision {
		t.Errorf("DeleteAt = %v, %v", was.Position, err)
	}
	s = again()
	if _, err := s.Head("set"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Head of a set that was deleted = %v", err)
	}
	if _, err := s.DeleteAt(t.Context(), "set", nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a second deletion = %v", err)
	}
	fourth := must(t, s, edit(c)).Head
	if fourth.Number <= third.Number || !fourth.Follows(first.Revision) || !fourth.Follows(third.Revision) {
		t.Errorf("made anew it is at %+v, after %v", fourth, third.Position)
	}
}

// restores begin epochs too, of sets that are there and that aren't.
func restores(t *testing.T, s Sets, again func() Sets) {
	foreign := desired.Position{Epoch: desired.Epoch{9}, Number: 40}
	c := content{"a": "\x001", "b": "\x002"}
	restore := func(r store.Restore) desired.Head {
		t.Helper()
		restored, err := s.Restore(t.Context(), "set", r)
		if err != nil {
			t.Fatal(err)
		}
		s = again()
		return restored.Head
	}
	first := restore(store.Restore{Objects: edit(c).stream(), From: store.Origin{Known: []desired.Position{foreign}, Salt: 3}})
	c.verifySet(t, s, "set")
	if first.Number <= 40 || !first.Follows(desired.Revision{Position: foreign}) {
		t.Errorf("it is restored at %+v", first)
	}
	must(t, s, edit{"c": "\x003"})
	c = content{"b": "\x004"}
	second := restore(store.Restore{Objects: edit(c).stream(), From: store.Origin{Salt: 4}})
	c.verifySet(t, s, "set")
	if !second.Follows(first.Revision) || second.Number <= first.Number+1 {
		t.Errorf("it is restored at %+v, after %v", second, first.Position)
	}
	err := s.View("set", func(src delta.Source) error {
		if salt := src.Shape().Salt; salt != 3 {
			t.Errorf("its salt is %d, want the one that it had", salt)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := s.Restore(t.Context(), "set", store.Restore{Objects: edit(c).stream(), Expect: &first.Position}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a restore that expects another revision = %v", err)
	}
}

// lists of hosts are kept.
func lists(t *testing.T, s Sets, again func() Sets) {
	for version := range uint64(3) {
		l := desired.List{Version: version, Sets: []desired.Name{"a", "b"}, Left: []desired.Name{"c"}}
		if version == 2 {
			l = l.Pause(0, "why").ReleaseRoot(0, desired.Digest{1})
		}
		if err := s.PutList("host", l); err != nil {
			t.Fatal(err)
		}
		s = again()
		if all, err := s.Lists(); err != nil || len(all) != 1 || all["host"].Sum() != l.Sum() {
			t.Errorf("Lists = %v, %v, want %v", all, err, l)
		}
	}
	if err := s.PutList("host", desired.List{Version: 9}); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("an empty list = %v", err)
	}
}
