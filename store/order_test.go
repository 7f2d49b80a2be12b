package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/store"
)

// graph is what objects come after, by key.
type graph map[string][]string

func ptrTo[T any](v T) *T { return &v }

// graphEdit is changes to a graph; nil deletes.
type graphEdit map[string]*[]string

func (g graph) with(e graphEdit) graph {
	next := maps.Clone(g)
	for k, after := range e {
		if after == nil {
			delete(next, k)
		} else {
			next[k] = *after
		}
	}
	return next
}

func (g graph) puts() graphEdit {
	e := graphEdit{}
	for k, after := range g {
		e[k] = &after
	}
	return e
}

func (e graphEdit) changes() iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(e)) {
			c := desired.Change{Key: []byte(k)}
			var err error
			if after := e[k]; after != nil {
				c.Envelope, err = desired.Encode(desired.Object{Key: k, Value: []byte(fmt.Sprint(len(k))), After: *after})
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// cyclic is the oracle: it takes away, again and again, what comes after nothing
// that is left.
func (g graph) cyclic() bool {
	left := maps.Clone(g)
	for {
		n := len(left)
		maps.DeleteFunc(left, func(_ string, after []string) bool {
			return !slices.ContainsFunc(after, func(k string) bool { _, ok := left[k]; return ok })
		})
		if len(left) == n {
			return n > 0
		}
	}
}

// named demands that a refusal names a cycle that is there.
func (g graph) named(t *testing.T, err error) {
	t.Helper()
	_, text, ok := strings.Cut(err.Error(), store.ErrCycle.Error()+": ")
	if !ok {
		t.Fatalf("%v names no cycle", err)
	}
	var keys []string
	for _, part := range strings.Split(strings.Replace(text, " comes after ", ", which comes after ", 1), ", which comes after ") {
		keys = append(keys, strings.Trim(part, `"`))
	}
	if len(keys) < 3 || keys[0] != keys[len(keys)-1] || keys[0] != slices.Min(keys) {
		t.Fatalf("%v names %q, which is no cycle", err, keys)
	}
	for i, k := range keys[1:] {
		if !strings.Contains(text, "more)") && !slices.Contains(g[keys[i]], k) {
			t.Errorf("%v: %s does not come after %s", err, keys[i], k)
		}
	}
}

// random returns changes to a graph whose edges mostly lead upward.
func (g graph) random(rng *rand.Rand, keys, most int) graphEdit {
	e := graphEdit{}
	for range 1 + rng.IntN(most) {
		i := rng.IntN(keys)
		if rng.IntN(4) == 0 {
			e[fmt.Sprintf("k%02d", i)] = nil
			continue
		}
		var after []string
		for range rng.IntN(3) {
			j := rng.IntN(keys)
			if j < i && rng.IntN(20) > 0 {
				j = keys - 1 - j
			}
			if k := fmt.Sprintf("k%02d", j); j != i && !slices.Contains(after, k) {
				after = append(after, k)
			}
		}
		e[fmt.Sprintf("k%02d", i)] = &after
	}
	return e
}

// TestCyclesRefused holds commits, in place and by rewrite, and restores against
// the oracle.
func TestCyclesRefused(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for i := range 6 {
		t.Run(fmt.Sprintf("seed %d", seed+uint64(i)), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed+uint64(i), 0))
			s := openStore(t, t.TempDir(), store.Small(quiet, 5))
			g, refused := graph{}, 0
			for range 120 {
				e := g.random(rng, 12+rng.IntN(20), []int{3, 12}[rng.IntN(2)])
				next := g.with(e)
				var err error
				if restore := rng.IntN(8) == 0; restore {
					_, err = s.Restore(t.Context(), "set", store.Restore{Objects: next.puts().changes(), DryRun: true})
					_, again := s.Restore(t.Context(), "set", store.Restore{Objects: next.puts().changes()})
					if errors.Is(err, store.ErrCycle) != errors.Is(again, store.ErrCycle) {
						t.Fatalf("a dry run = %v, the restore %v", err, again)
					}
				} else {
					_, err = s.Commit(t.Context(), "set", store.Commit{Changes: e.changes()})
				}
				switch {
				case next.cyclic():
					refused++
					if !errors.Is(err, store.ErrCycle) || errors.Is(err, desired.ErrInvalid) {
						t.Fatalf("%v became %v: %v, want %v", g, next, err, store.ErrCycle)
					}
					next.named(t, err)
				case err == nil:
					g = next
				case !errors.Is(err, store.ErrNotFound) || len(g) > 0:
					t.Fatalf("%v became %v: %v", g, next, err)
				}
				if err := store.CheckOrder(next.puts().changes()); errors.Is(err, store.ErrCycle) != next.cyclic() {
					t.Fatalf("CheckOrder(%v) = %v, want a cycle: %v", next, err, next.cyclic())
				}
			}
			if refused == 0 || refused == 120 {
				t.Errorf("%d of 120 were refused", refused)
			}
			if len(g) > 0 {
				checkClean(t, s, "set")
			}
		})
	}
}

// ring returns n objects each of which comes after the next.
func ring(n int) graph {
	g := graph{}
	for i := range n {
		g[fmt.Sprintf("k%06d", i)] = []string{fmt.Sprintf("k%06d", (i+1)%n)}
	}
	return g
}

// TestLongCycles: a path as long as a set neither overflows a stack nor a message.
func TestLongCycles(t *testing.T) {
	t.Parallel()
	const n = 30_000
	whole := ring(n)
	s := openStore(t, t.TempDir(), quiet)
	last := fmt.Sprintf("k%06d", n-1)
	closing := graphEdit{last: ptrTo(whole[last])}
	check := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, store.ErrCycle) || !strings.Contains(err.Error(), fmt.Sprintf("(%d more)", n-8)) || len(err.Error()) > 400 {
			t.Errorf("%s = %v, want %v of %d objects", what, err, store.ErrCycle, n)
		}
		whole.named(t, err)
	}
	_, err := s.Commit(t.Context(), "set", store.Commit{Changes: whole.puts().changes()})
	check("a first commit", err)
	if _, err := s.Head("set"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Head after a first commit that was refused = %v, want %v", err, store.ErrNotFound)
	}
	delete(whole, last)
	open := whole.puts()
	whole[last] = *closing[last]
	if _, err := s.Commit(t.Context(), "set", store.Commit{Changes: open.changes()}); err != nil {
		t.Fatal(err)
	}
	_, err = s.Commit(t.Context(), "set", store.Commit{Changes: closing.changes()})
	check("a commit that closes the ring", err)
	if r, err := s.Commit(t.Context(), "set", store.Commit{Changes: graphEdit{last: ptrTo([]string{})}.changes()}); err != nil || r.Created != 1 {
		t.Errorf("a commit that doesn't = %+v, %v", r, err)
	}
}

// TestCycleOfLongKeys: a message shows as much of a key as tells it apart.
func TestCycleOfLongKeys(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("a", desired.MaxKeyBytes), strings.Repeat("b", desired.MaxKeyBytes)
	err := store.CheckOrder(graph{a: {b}, b: {a}}.puts().changes())
	if !errors.Is(err, store.ErrCycle) || len(err.Error()) > 500 || !strings.Contains(err.Error(), a[:100]) {
		t.Errorf("CheckOrder = %v, want %v in few words", err, store.ErrCycle)
	}
}

// TestOrderOfDamaged: nobody is refused because a bit flipped.
func TestOrderOfDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	if _, err := s.Commit(t.Context(), "set", store.Commit{Changes: graph{"a": {"b"}, "b": {"C"}}.puts().changes()}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	path := dir + "/sets/set.db"
	withFile(t, path, func(tx *bolt.Tx) error {
		objects := tx.Bucket([]byte("objects"))
		return objects.Put([]byte("b"), bytes.ReplaceAll(objects.Get([]byte("b")), []byte("C"), []byte("c")))
	})
	s = openStore(t, dir, quiet)
	_, err := s.Commit(t.Context(), "set", store.Commit{Changes: graphEdit{"c": ptrTo([]string{"a"})}.changes()})
	if errors.Is(err, store.ErrCycle) || !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Commit = %v, want %v", err, store.ErrCorrupt)
	}
}

func BenchmarkCheckOrder(b *testing.B) {
	n := benchObjects()
	changes := func(yield func(desired.Change, error) bool) {
		for i := range n {
			key := fmt.Sprintf("svc/%06d/obj/%06d", i/500, i)
			o := desired.Object{Key: key, Value: []byte("v")}
			if i > 0 {
				o.After = []string{fmt.Sprintf("svc/%06d/obj/%06d", (i-1)/500, i-1)}
			}
			env, err := desired.Encode(o)
			if !yield(desired.Change{Key: []byte(key), Envelope: env}, err) {
				return
			}
		}
	}
	var made, checked cost
	var heap float64
	for range b.N {
		made.measure(func() {
			for range changes {
			}
		})
		base := heapPeak()()
		stop := heapPeak()
		checked.measure(func() {
			if err := store.CheckOrder(changes); err != nil {
				b.Fatal(err)
			}
		})
		heap = max(heap, stop()-base)
	}
	b.ReportMetric((checked.cpu-made.cpu)/float64(b.N), "cpu-s")
	b.ReportMetric(heap, "heap-MiB")
	b.ReportMetric(0, "ns/op")
}
