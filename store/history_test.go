package store_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"espalier/internal/desired"
	"espalier/store"
)

// step is what a history did: the model after it, and the keys it touched.
type step struct {
	head    desired.Head
	touched []string
}

// TestHistories runs random histories against a plain map: commits, in place
// and by rewrite, reopening, compaction, dropping the history.
func TestHistories(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); history(t, seed) })
	}
}

func history(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 2))
	dir := t.TempDir()
	o := store.Small(quiet, 40)
	s := openStore(t, dir, o)
	m := model{}
	var steps []step
	keys := 20 << rng.IntN(6)
	for range 25 {
		e := m.randomEdit(rng, keys, 80)
		next := m.apply(e)
		if len(steps) == 0 && len(next) == 0 {
			continue
		}
		m = historyCommit(t, s, m, e, &steps)
		switch rng.IntN(12) {
		case 0:
			if _, err := s.Compact(t.Context(), "set", store.CompactOptions{}); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := s.DropHistory(t.Context(), "set"); err != nil {
				t.Fatal(err)
			}
			steps = steps[len(steps)-1:]
		case 2, 3:
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = openStore(t, dir, o)
		}
		view(t, s, "set", func(snap *store.Snapshot) {
			m.verify(t, snap)
			m.probe(t, snap, rng)
			verifyTouched(t, snap, steps)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	checkClean(t, s, "set")
}

// historyCommit commits e and holds the result against the model.
func historyCommit(t *testing.T, s *store.Store, m model, e edit, steps *[]step) model {
	t.Helper()
	var want store.Result
	var touched []string
	for k, v := range e {
		old, there := m[k]
		switch {
		case v == nil && !there:
			want.Missing++
			continue
		case v == nil:
			want.Deleted++
		case !there:
			want.Created++
		case *v == old:
			want.Unchanged++
			continue
		default:
			want.Updated++
		}
		touched = append(touched, k)
	}
	r := commit(t, s, "set", e)
	if r.Created != want.Created || r.Updated != want.Updated || r.Deleted != want.Deleted ||
		r.Unchanged != want.Unchanged || r.Missing != want.Missing {
		t.Fatalf("Commit = %+v, want %+v", r, want)
	}
	var last desired.Head
	if len(*steps) > 0 {
		last = (*steps)[len(*steps)-1].head
	}
	number := last.Number
	if len(touched) > 0 {
		number++
		slices.Sort(touched)
		*steps = append(*steps, step{head: r.Head, touched: touched})
	}
	if r.Head.Number != number || !last.Epoch.IsZero() && r.Head.Epoch != last.Epoch {
		t.Fatalf("Commit leads to %v after %v, want number %d", r.Head.Position, last.Position, number)
	}
	if head, err := s.Head("set"); err != nil || head.Revision != r.Head.Revision {
		t.Fatalf("Head = %v, %v, want %v", head.Position, err, r.Head.Position)
	}
	return m.apply(e)
}

// verifyTouched asks for the union since every earlier step.
func verifyTouched(t *testing.T, snap *store.Snapshot, steps []step) {
	t.Helper()
	union := map[string]bool{}
	for i := len(steps) - 1; i >= 0; i-- {
		at := steps[i].head
		got, ok, err := snap.Touched(at.Number, 1<<20)
		if err != nil || !ok || got.Root != at.Root || !equalKeys(got.Keys, union) {
			t.Fatalf("Touched(%d) = %q, root %v, %v, %v, want %v, root %v", at.Number, got.Keys, got.Root, ok, err, union, at.Root)
		}
		if _, ok, err := snap.Touched(at.Number, len(union)-1); ok || err != nil {
			t.Fatalf("Touched(%d) with a limit of %d = %v, %v, want false", at.Number, len(union)-1, ok, err)
		}
		for _, k := range steps[i].touched {
			union[k] = true
		}
	}
	if _, ok, err := snap.Touched(snap.Head().Number+1, 1<<20); ok || err != nil {
		t.Fatalf("Touched of a revision to come = %v, %v, want false", ok, err)
	}
}

func equalKeys(got [][]byte, want map[string]bool) bool {
	if len(got) != len(want) {
		return false
	}
	for i, k := range got {
		if !want[string(k)] || i > 0 && string(got[i-1]) >= string(k) {
			return false
		}
	}
	return true
}

// TestJournalTrim commits until the journal forgets, with a plain list as the
// oracle: it keeps 4,096 keys at least, an eighth of the objects at most beyond
// that, and what it tells is exact.
func TestJournalTrim(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	rng := rand.New(rand.NewPCG(3, 3))
	m := model{}
	var steps []step
	for i := range 60 {
		e := edit{}
		for range 300 {
			e[fmt.Sprintf("k/%05d", rng.IntN(6000))] = ptr(fmt.Sprint(i))
		}
		m = historyCommit(t, s, m, e, &steps)
		if i%7 > 0 {
			continue
		}
		kept := 0
		view(t, s, "set", func(snap *store.Snapshot) {
			reached := len(steps)
			for j := len(steps) - 1; j >= 0; j-- {
				if _, ok, err := snap.Touched(steps[j].head.Number, 1<<20); err != nil {
					t.Fatal(err)
				} else if !ok {
					break
				}
				reached = j
			}
			for _, st := range steps[reached+1:] {
				kept += len(st.touched)
			}
			if kept > 4096 || reached > 0 && kept+len(steps[reached].touched) <= 4096-4096/64 {
				t.Fatalf("after %d commits the journal keeps %d keys of %d revisions", i, kept, len(steps)-reached)
			}
			verifyTouched(t, snap, steps[reached:])
		})
	}
	checkClean(t, s, "set")
}

// TestSmallKeys lets a set shrink to one object and to none and grow again.
func TestSmallKeys(t *testing.T) {
	s := openStore(t, t.TempDir(), store.Small(quiet, 3))
	m := model{}
	var steps []step
	for _, e := range []edit{
		{"a": ptr("1")},
		{"a": nil},
		{"a": ptr("1"), "a/b": ptr("2"), "a/b/c": ptr("3")},
		{"a": nil, "a/b/c": nil},
		{"b": ptr("1"), "c": ptr(""), "d": ptr("3"), "e": ptr("4"), "f": ptr("5")},
		{"a/b": nil, "b": nil, "c": nil, "d": nil, "e": nil, "f": nil},
		{"z": ptr("26")},
	} {
		m = historyCommit(t, s, m, e, &steps)
		view(t, s, "set", func(snap *store.Snapshot) { m.verify(t, snap) })
	}
	checkClean(t, s, "set")
}

func TestHeads(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	if _, err := s.Head("none"); err == nil {
		t.Error("Head of an unknown set succeeded")
	}
	long := desired.Name(fmt.Sprintf("%0253d", 7))
	names := []desired.Name{"a", "a.db", "a.db.new", "b-1", long}
	for i, name := range names {
		commit(t, s, name, edit{fmt.Sprint(i): ptr("")})
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/sets/a.db.new", []byte("left over"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, quiet)
	heads := s.Heads()
	slices.Sort(names)
	if len(heads) != len(names) {
		t.Fatalf("Heads = %d sets, want %d", len(heads), len(names))
	}
	for i, h := range heads {
		if h.Name != names[i] || h.Err != nil || h.Head.Objects != 1 || h.Head.Number != 1 {
			t.Errorf("Heads[%d] = %+v, want %v", i, h, names[i])
		}
	}
	if _, err := os.Stat(dir + "/sets/a.db.new"); err == nil {
		t.Error("a left-over temporary file was kept")
	}
	info, err := os.Stat(dir + "/sets/a.db")
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode of a set's file = %v, %v, want 0600", info.Mode(), err)
	}
	if _, err := s.Commit(context.Background(), "NotAName", store.Commit{Changes: edit{"a": ptr("")}.changes()}); err == nil {
		t.Error("Commit to an invalid name succeeded")
	}
}
