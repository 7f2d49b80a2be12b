package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/desired"
	"espalier/store"
)

// both runs a test with commits in place and with commits by rewrite.
func both(t *testing.T, fn func(t *testing.T, o store.Options)) {
	t.Run("in place", func(t *testing.T) { fn(t, quiet) })
	t.Run("rewrite", func(t *testing.T) { fn(t, store.Small(quiet, 1)) })
}

// numbered returns the objects k/000 to k/(n-1).
func numbered(n int, value string) edit {
	e := edit{}
	for i := range n {
		e[fmt.Sprintf("k/%03d", i)] = &value
	}
	return e
}

// refused commits c and demands that it is refused with want and that nothing
// has changed.
func refused(t *testing.T, s *store.Store, c store.Commit, want error) error {
	t.Helper()
	before, beforeErr := s.Head("set")
	_, err := s.Commit(context.Background(), "set", c)
	if !errors.Is(err, want) {
		t.Errorf("Commit = %v, want %v", err, want)
	}
	if after, afterErr := s.Head("set"); after.Revision != before.Revision || (afterErr == nil) != (beforeErr == nil) {
		t.Errorf("head after a refused commit = %v, %v, want %v", after.Position, afterErr, before.Position)
	}
	if beforeErr == nil {
		checkClean(t, s, "set")
	}
	return err
}

func TestExpect(t *testing.T) {
	both(t, func(t *testing.T, o store.Options) {
		s := openStore(t, t.TempDir(), o)
		more := numbered(5, "1")
		refused(t, s, store.Commit{Changes: more.changes(), Expect: &desired.Position{Number: 1}}, store.ErrConflict)
		r, err := s.Commit(t.Context(), "set", store.Commit{Changes: more.changes(), Expect: &desired.Position{}})
		if err != nil {
			t.Fatal(err)
		}
		more = numbered(5, "2")
		refused(t, s, store.Commit{Changes: more.changes(), Expect: &desired.Position{}}, store.ErrConflict)
		refused(t, s, store.Commit{Changes: more.changes(), Expect: &desired.Position{Number: 2}}, store.ErrConflict)
		refused(t, s, store.Commit{Changes: more.changes(), Expect: &desired.Position{Epoch: desired.NewEpoch(), Number: 1}}, store.ErrConflict)
		_, err = s.Commit(t.Context(), "set", store.Commit{Changes: more.changes(), Expect: &desired.Position{Number: 1}})
		if err != nil {
			t.Fatal(err)
		}
		more = numbered(5, "3")
		_, err = s.Commit(t.Context(), "set", store.Commit{Changes: more.changes(), Expect: &desired.Position{Epoch: r.Head.Epoch, Number: 2}})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestMaxDelete(t *testing.T) {
	both(t, func(t *testing.T, o store.Options) {
		s := openStore(t, t.TempDir(), o)
		e := numbered(100, "1")
		for i := range 50 {
			e[fmt.Sprintf("other/%03d", i)] = ptr("")
		}
		commit(t, s, "set", e)
		deletes := func(n int) iter.Seq2[desired.Change, error] {
			e := edit{}
			for i := range n {
				e[fmt.Sprintf("k/%03d", i)] = nil
			}
			return e.changes()
		}
		for _, c := range []struct {
			limit   store.DeleteLimit
			deletes int
			of      uint64
			most    uint64
		}{
			{store.DeleteLimit{}, 1, 150, 0},
			{store.DeleteLimit{Count: 10}, 11, 150, 10},
			{store.DeleteLimit{Percent: 10}, 16, 150, 15},
			{store.DeleteLimit{Percent: 10, Prefix: []byte("k/")}, 11, 100, 10},
			{store.DeleteLimit{Percent: 10, Count: 12, Prefix: []byte("k/")}, 13, 100, 12},
		} {
			err := refused(t, s, store.Commit{Changes: deletes(c.deletes), MaxDelete: &c.limit}, store.ErrTooManyDeletes)
			var g *store.DeleteGuardError
			if !errors.As(err, &g) || g.Limit != c.most || g.Of != c.of || g.Deletes <= g.Limit {
				t.Errorf("%+v: the error is %+v, want a limit of %d of %d", c.limit, g, c.most, c.of)
			}
		}
		limit := store.DeleteLimit{Percent: 10, Prefix: []byte("k/")}
		if _, err := s.Commit(t.Context(), "set", store.Commit{Changes: deletes(10), MaxDelete: &limit}); err != nil {
			t.Error(err)
		}
		limit = store.DeleteLimit{Percent: 100}
		if _, err := s.Commit(t.Context(), "set", store.Commit{Changes: deletes(100), MaxDelete: &limit}); err != nil {
			t.Error(err)
		}
	})
}

func TestRequests(t *testing.T) {
	both(t, func(t *testing.T, o store.Options) {
		dir := t.TempDir()
		s := openStore(t, dir, o)
		ask := func(id string, digest byte, e edit) (store.Result, error) {
			return s.Commit(t.Context(), "set", store.Commit{
				Changes: e.changes(), Request: store.Request{ID: id, Digest: desired.Digest{digest}},
			})
		}
		first, err := ask("a", 1, numbered(7, "1"))
		if err != nil {
			t.Fatal(err)
		}
		noop, err := ask("b", 2, numbered(7, "1"))
		if err != nil || noop.Unchanged != 7 || noop.Head.Number != 1 || noop.Replayed {
			t.Fatalf("a commit of no changes = %+v, %v", noop, err)
		}
		commit(t, s, "set", edit{"k/000": ptr("2"), "k/001": nil})
		again := func(what string) {
			t.Helper()
			for _, c := range []struct {
				id     string
				digest byte
				want   store.Result
			}{{"a", 1, first}, {"b", 2, noop}} {
				r, err := ask(c.id, c.digest, edit{"x": ptr("y"), "z": ptr("")})
				if err != nil || !r.Replayed || r.Head.Revision != c.want.Head.Revision ||
					r.Created != c.want.Created || r.Unchanged != c.want.Unchanged || r.Head.Objects != 7 {
					t.Errorf("%s: request %s again = %+v, %v, want %+v", what, c.id, r, err, c.want)
				}
				if _, err := ask(c.id, c.digest+1, edit{"x": ptr("y")}); !errors.Is(err, store.ErrRequestReused) {
					t.Errorf("%s: request %s with other content = %v, want %v", what, c.id, err, store.ErrRequestReused)
				}
			}
			if head, err := s.Head("set"); err != nil || head.Number != 2 {
				t.Errorf("%s: head = %v, %v, want number 2", what, head.Position, err)
			}
		}
		again("at once")
		if _, err := s.Compact(t.Context(), "set", store.CompactOptions{DropHistory: true}); err != nil {
			t.Fatal(err)
		}
		again("after a compaction")
		s.Close()
		s = openStore(t, dir, o)
		again("after reopening")
		checkClean(t, s, "set")
	})
}

// TestRequestsAge lets requests grow old.
func TestRequestsAge(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(dir, quiet)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ask := func(id string) store.Result {
			r, err := s.Commit(t.Context(), "set", store.Commit{
				Changes: edit{"k": ptr(time.Now().String())}.changes(), Request: store.Request{ID: id},
			})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		ask("old")
		for range 23 {
			time.Sleep(time.Hour)
			ask(time.Now().String())
		}
		if !ask("old").Replayed {
			t.Error("a request was forgotten after 23 hours")
		}
		time.Sleep(6 * time.Hour)
		ask("another") // sweeps
		if ask("old").Replayed {
			t.Error("a request was remembered for 29 hours")
		}
	})
}

func TestInvalidChanges(t *testing.T) {
	list := func(changes ...desired.Change) iter.Seq2[desired.Change, error] {
		return func(yield func(desired.Change, error) bool) {
			for _, c := range changes {
				if !yield(c, nil) {
					return
				}
			}
		}
	}
	v := ptr("v")
	both(t, func(t *testing.T, o store.Options) {
		s := openStore(t, t.TempDir(), o)
		for name, changes := range map[string]iter.Seq2[desired.Change, error]{
			"empty key":       list(change("a", v), change("b", v), change("", v)),
			"long key":        list(change("a", v), change("b", v), change(strings.Repeat("k", 1025), v)),
			"not UTF-8":       list(change("a", v), change("b", v), change("c\xff", v)),
			"twice":           list(change("a", v), change("b", v), change("b", nil)),
			"descending":      list(change("b", v), change("c", v), change("a", v)),
			"empty envelope":  list(change("a", v), change("b", v), desired.Change{Key: []byte("c"), Envelope: desired.Envelope{}}),
			"bad envelope":    list(change("a", v), change("b", v), desired.Change{Key: []byte("c"), Envelope: desired.Envelope{9, 9}}),
			"value too large": list(change("a", v), change("b", v), change("c", ptr(string(make([]byte, desired.MaxValueBytes+1))))),
		} {
			t.Run(name, func(t *testing.T) { refused(t, s, store.Commit{Changes: changes}, desired.ErrInvalid) })
		}
		commit(t, s, "set", numbered(5, "1"))
		failure := errors.New("the stream broke")
		broken := func(yield func(desired.Change, error) bool) {
			_ = yield(change("k/001", ptr("2")), nil) && yield(change("k/002", ptr("2")), nil) &&
				yield(change("k/003", nil), nil) && yield(desired.Change{}, failure)
		}
		refused(t, s, store.Commit{Changes: broken}, failure)
		refused(t, s, store.Commit{Changes: list(change("a", v)), Why: strings.Repeat("x", 1025)}, desired.ErrInvalid)
		refused(t, s, store.Commit{Changes: list(change("a", v)), Who: strings.Repeat("x", 257)}, desired.ErrInvalid)
		refused(t, s, store.Commit{Changes: list(change("a", v)), Request: store.Request{ID: strings.Repeat("x", 129)}}, desired.ErrInvalid)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Commit(ctx, "set", store.Commit{Changes: numbered(5000, "3").changes()}); !errors.Is(err, context.Canceled) {
			t.Errorf("Commit with a cancelled context = %v", err)
		}
	})
}

// TestNothingCreatesNothing: only an object creates a set.
func TestNothingCreatesNothing(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	for _, e := range []edit{{}, {"a": nil}} {
		refused(t, s, store.Commit{Changes: e.changes(), Request: store.Request{ID: "id"}}, store.ErrNotFound)
	}
	if heads := s.Heads(); len(heads) != 0 {
		t.Errorf("Heads = %v, want none", heads)
	}
}

// TestLargest sends values and attributes of the largest size through.
func TestLargest(t *testing.T) {
	both(t, func(t *testing.T, o store.Options) {
		s := openStore(t, t.TempDir(), o)
		attributes := map[string]string{}
		for i := range desired.MaxAttributes {
			attributes[fmt.Sprintf("%0*d", desired.MaxAttributeBytes, i)] = strings.Repeat("v", desired.MaxAttributeBytes)
		}
		large := desired.Object{Key: strings.Repeat("k", desired.MaxKeyBytes), Value: bytes.Repeat([]byte("v"), desired.MaxValueBytes), Attributes: attributes}
		env, err := desired.Encode(large)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			_, err = s.Commit(t.Context(), "set", store.Commit{Changes: func(yield func(desired.Change, error) bool) {
				_ = yield(change("a", ptr("1")), nil) && yield(change("b", ptr("1")), nil) &&
					yield(desired.Change{Key: []byte(large.Key), Envelope: env}, nil)
			}})
			if err != nil {
				t.Fatal(err)
			}
		}
		view(t, s, "set", func(snap *store.Snapshot) {
			c, ok, err := snap.Get([]byte(large.Key))
			if err != nil || !ok || !bytes.Equal(c.Envelope, env) {
				t.Errorf("Get of the largest object = %d bytes, %v, %v", len(c.Envelope), ok, err)
			}
		})
		checkClean(t, s, "set")
	})
}

// TestInPlaceEqualsRewrite: the same commits lead to the same content both
// ways, the larger ones rewriting.
func TestInPlaceEqualsRewrite(t *testing.T) {
	a, b := openStore(t, t.TempDir(), quiet), openStore(t, t.TempDir(), store.Small(quiet, 2))
	m := model{}
	for i := range 10 {
		e := edit{}
		for j := range 10 * i * i {
			if k := fmt.Sprintf("k/%d", j*7%500); j%5 == 4 {
				e[k] = nil
			} else {
				e[k] = ptr(fmt.Sprint(i))
			}
		}
		if e["k/0"] = ptr(fmt.Sprint(i)); i == 9 {
			e = m.puts()
			for k := range e {
				e[k] = nil
			}
		}
		x, y := commit(t, a, "set", e), commit(t, b, "set", e)
		if m = m.apply(e); x.Head.Number != y.Head.Number || x.Created != y.Created || x.Updated != y.Updated ||
			x.Deleted != y.Deleted || x.Unchanged != y.Unchanged || x.Missing != y.Missing || x.Head.Bytes != y.Head.Bytes {
			t.Fatalf("in place: %+v, by rewrite: %+v", x, y)
		}
		for _, s := range []*store.Store{a, b} {
			view(t, s, "set", func(snap *store.Snapshot) { m.verify(t, snap) })
			checkClean(t, s, "set")
		}
	}
}
