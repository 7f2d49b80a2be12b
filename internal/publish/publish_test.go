package publish_test

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/publish"
	"espalier/internal/wire"
	"espalier/store"
)

// content is a set's content as these tests write it: value by key.
type content map[string]string

func (c content) envelopes() map[string]desired.Envelope {
	all := map[string]desired.Envelope{}
	for k, v := range c {
		all[k] = desired.Envelope("\x00" + v)
	}
	return all
}

// input returns content in any order, as an input.
func (c content) input(t *testing.T, prefix string) *publish.Input {
	t.Helper()
	var text strings.Builder
	for k, v := range c {
		fmt.Fprintf(&text, "{\"key\":%q,\"value\":%q}\n", strings.TrimPrefix(k, prefix), v)
	}
	in, err := publish.ReadJSONL(t.Context(), strings.NewReader(text.String()),
		publish.ReadOptions{KeyPrefix: prefix, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// of returns what the set holds.
func (f *fake) of(name string) content {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := content{}
	if s := f.sets[name]; s != nil {
		for k, e := range s.objects {
			c[k] = string(e[1:])
		}
	}
	return c
}

// numbers returns n objects whose keys begin with prefix.
func numbers(prefix string, n int) content {
	c := content{}
	for i := range n {
		c[fmt.Sprintf("%s%03d/%05d", prefix, i%37, i)] = fmt.Sprint("value ", i)
	}
	return c
}

func union(all ...content) content {
	u := content{}
	for _, c := range all {
		maps.Copy(u, c)
	}
	return u
}

// try is one run of Apply in a bubble of virtual time.
type try struct {
	t       *testing.T
	ctx     context.Context //nolint:containedctx // of the one call
	fake    *fake
	options publish.Options
	prefix  string
	listed  []string // what Each was told
}

func (r *try) apply(in content) (publish.Result, error) {
	r.t.Helper()
	s, stop := serve(r.t, r.fake)
	defer stop()
	input := in.input(r.t, r.prefix)
	defer func() {
		if err := input.Close(); err != nil {
			r.t.Error(err)
		}
	}()
	r.listed = nil
	r.options.Set = "s"
	r.options.Each = func(action publish.Action, key []byte) error {
		r.listed = append(r.listed, action.String()+" "+string(key))
		return nil
	}
	return publish.Apply(r.ctx, s, input, r.options)
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, name string, fn func(*testing.T, *try)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { fn(t, &try{t: t, ctx: t.Context(), fake: newFake()}) })
	})
}

func want(t *testing.T, got publish.Result, created, updated, deleted, unchanged uint64) {
	t.Helper()
	if got.Created != created || got.Updated != updated || got.Deleted != deleted || got.Unchanged != unchanged {
		t.Errorf("%d created, %d updated, %d deleted, %d unchanged, want %d, %d, %d, %d",
			got.Created, got.Updated, got.Deleted, got.Unchanged, created, updated, deleted, unchanged)
	}
}

// TestApply publishes random inputs onto random sets, both ways.
func TestApply(t *testing.T) {
	for seed := range uint64(25) {
		bubble(t, fmt.Sprint(seed), func(t *testing.T, r *try) {
			rng := rand.New(rand.NewPCG(seed, 6))
			r.prefix = []string{"", "a/", "a/00", "zz"}[rng.IntN(4)]
			r.options.Prune = rng.IntN(3) > 0
			r.options.MaxDelete = &store.DeleteLimit{Percent: 100}
			sizes := []int{0, 1, 30, 600, 3000}
			before := union(numbers("a/", sizes[rng.IntN(5)]), numbers("b/", sizes[rng.IntN(4)]))
			in := content{}
			for k, v := range union(before, numbers("a/0", sizes[rng.IntN(5)])) {
				switch {
				case !strings.HasPrefix(k, r.prefix) || rng.IntN(20) == 0:
				case rng.IntN(20) == 0:
					in[k] = v + " changed"
				default:
					in[k] = v
				}
			}
			if len(before) > 0 || rng.IntN(2) == 0 {
				r.fake.change("s", before.envelopes())
			}
			after := union(before, in)
			if r.options.Prune {
				maps.DeleteFunc(after, func(k, _ string) bool {
					_, ok := in[k]
					return strings.HasPrefix(k, r.prefix) && !ok
				})
			}
			r.check(before, in, after)
		})
	}
}

// check makes a dry run, then a real one, and one that has nothing to do.
func (r *try) check(before, in, after content) {
	t := r.t
	created, updated, deleted := uint64(0), uint64(0), uint64(0)
	var listed, deletions []string
	for _, k := range slices.Sorted(maps.Keys(union(before, after))) {
		was, had := before[k]
		is, has := after[k]
		switch {
		case !had:
			created++
			listed = append(listed, "create "+k)
		case !has:
			deleted++
			deletions = append(deletions, "delete "+k)
			listed = append(listed, "delete "+k)
		case was != is:
			updated++
			listed = append(listed, "update "+k)
		}
	}
	unchanged := uint64(len(in)) - created - updated
	none := r.fake.sets["s"] == nil && len(in) == 0

	r.options.DryRun = true
	got, err := r.apply(in)
	if err != nil {
		t.Fatal(err)
	}
	want(t, got, created, updated, deleted, unchanged)
	if !slices.Equal(r.listed, listed) {
		t.Errorf("a dry run lists %q, want %q", r.listed, listed)
	}
	if !maps.Equal(r.fake.of("s"), before) {
		t.Fatal("a dry run changed something")
	}

	r.options.DryRun = false
	got, err = r.apply(in)
	if none {
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("no set and no object: %v, want store.ErrNotFound", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	want(t, got, created, updated, deleted, unchanged)
	if !maps.Equal(r.fake.of("s"), after) {
		t.Fatal("the set is not as it should be")
	}
	if got.Head.Revision != r.fake.sets["s"].head.Revision {
		t.Errorf("the head is %v, want %v", got.Head, r.fake.sets["s"].head)
	}
	if !slices.Equal(r.listed, deletions) {
		t.Errorf("a run lists %q, want %q", r.listed, deletions)
	}
	again, err := r.apply(in)
	if err != nil {
		t.Fatal(err)
	}
	want(t, again, 0, 0, 0, uint64(len(in)))
	if again.Head.Revision != got.Head.Revision {
		t.Errorf("nothing to do, but from %v to %v", got.Head, again.Head)
	}
}

// TestUnchanged shows what crosses the wire for objects that have not changed:
// no object, whichever way.
func TestUnchanged(t *testing.T) {
	all := numbers("a/", 20_000)
	for _, prune := range []bool{false, true} {
		for _, prefix := range []string{"", "a/"} {
			bubble(t, fmt.Sprintf("prune=%t,prefix=%s", prune, prefix), func(t *testing.T, r *try) {
				r.fake.change("s", all.envelopes())
				r.fake.change("s", content{"b": "another"}.envelopes())
				in := maps.Clone(all)
				if prefix == "" {
					in["b"] = "another"
				}
				r.prefix, r.options.Prune = prefix, prune
				got, err := r.apply(in)
				if err != nil {
					t.Fatal(err)
				}
				want(t, got, 0, 0, 0, uint64(len(in)))
				if len(r.fake.uploaded) > 0 || got.Uploaded > 0 {
					t.Errorf("%d objects were uploaded", len(r.fake.uploaded))
				}
				t.Log(r.fake.steps)
				switch steps := r.fake.steps; {
				case prune && prefix == "" && steps["pull"]+steps["match"]+steps["commit"] > 0:
					t.Errorf("%v: equal roots should end it", steps)
				case prune && (steps["pull"] > 10 || steps["match"]+steps["commit"] > 0):
					t.Errorf("%v: a comparison should be all", steps)
				case !prune && (steps["match"] > 8 || steps["commit"] != 1):
					t.Errorf("%v: want a few frames of digests, and an empty commit", steps)
				}
			})
		}
	}
}

// TestFewChanges shows that only what changed is uploaded.
func TestFewChanges(t *testing.T) {
	for _, prune := range []bool{false, true} {
		bubble(t, fmt.Sprint("prune=", prune), func(t *testing.T, r *try) {
			all := numbers("a/", 6000)
			r.fake.change("s", all.envelopes())
			in := maps.Clone(all)
			in["a/000/00000"], in["a/new"] = "changed", "new"
			delete(in, "a/001/00001")
			r.options.Prune = prune
			got, err := r.apply(in)
			if err != nil {
				t.Fatal(err)
			}
			deleted := uint64(0)
			uploads := map[string]int{"a/000/00000": 1, "a/new": 1}
			if prune {
				deleted = 1
				uploads["a/001/00001"] = 1
			}
			want(t, got, 1, 1, deleted, uint64(len(in))-2)
			if !maps.Equal(r.fake.uploaded, uploads) || got.Uploaded != 2 {
				t.Errorf("uploaded were %v, want %v", r.fake.uploaded, uploads)
			}
		})
	}
}

// TestSmall shows that a small patch is one call.
func TestSmall(t *testing.T) {
	bubble(t, "", func(t *testing.T, r *try) {
		for i := range 2 {
			got, err := r.apply(numbers("a/", 100))
			if err != nil {
				t.Fatal(err)
			}
			want(t, got, uint64(100-100*i), 0, 0, uint64(100*i))
		}
		if steps := r.fake.steps; steps["commit"] != 2 || steps["head"]+steps["match"]+steps["pull"] > 0 {
			t.Errorf("calls: %v, want two commits", steps)
		}
	})
}

// TestMoved moves the set between the comparison and the commit, and in the
// middle of a comparison.
func TestMoved(t *testing.T) {
	for _, prefix := range []string{"", "a/"} {
		for _, step := range []string{"pull", "pulled", "commit", "commit all"} {
			for _, moves := range []int{0, 1, publish.MaxAttempts - 1, publish.MaxAttempts} {
				bubble(t, fmt.Sprint(prefix, step, moves), func(t *testing.T, r *try) {
					all := numbers("a/", 3000)
					r.fake.change("s", all.envelopes())
					in := maps.Clone(all)
					in["a/000/00000"] = "ours"
					moved, calls := 0, map[string]int{}
					r.fake.hook = func(s string) error {
						if s == "head" {
							clear(calls)
						}
						// Once in each attempt, and during a pull after its beginning.
						if calls[s]++; s == step && moved < moves && (calls[s] == 1) != (s == "pull") && calls[s] <= 2 {
							moved++
							r.fake.change("s", content{"a/theirs": fmt.Sprint(moved), "b": fmt.Sprint(moved)}.envelopes())
						}
						return nil
					}
					r.prefix, r.options.Prune = prefix, true
					if prefix == "" {
						in["b"] = fmt.Sprint(moves)
						if moves == 0 {
							delete(in, "b")
						}
					}
					got, err := r.apply(in)
					if moves == publish.MaxAttempts {
						if !errors.Is(err, store.ErrConflict) || !strings.Contains(err.Error(), "5 times") {
							t.Fatalf("%v, want store.ErrConflict", err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					after := maps.Clone(in)
					if moves > 0 {
						after["b"] = fmt.Sprint(moves)
					}
					if !maps.Equal(r.fake.of("s"), after) {
						t.Errorf("the set is not as it should be after %d moves", moved)
					}
					if got.Updated == 0 || got.Deleted != min(uint64(moves), 1) {
						t.Errorf("%+v", got)
					}
				})
			}
		}
	}
}

// TestMovedAfter moves the set after our commit: what is there then is not
// touched.
func TestMovedAfter(t *testing.T) {
	bubble(t, "", func(t *testing.T, r *try) {
		r.fake.change("s", numbers("a/", 3000).envelopes())
		r.fake.hook = func(s string) error {
			if s == "committed" {
				r.fake.change("s", content{"a/theirs": "x"}.envelopes())
			}
			return nil
		}
		r.prefix, r.options.Prune = "a/", true
		in := union(numbers("a/", 3000), content{"a/ours": "x"})
		got, err := r.apply(in)
		if err != nil {
			t.Fatal(err)
		}
		want(t, got, 1, 0, 0, 3000)
		if !maps.Equal(r.fake.of("s"), union(in, content{"a/theirs": "x"})) {
			t.Error("what came after the commit is gone")
		}
	})
}

func TestExpect(t *testing.T) {
	for _, prune := range []bool{false, true} {
		for _, dry := range []bool{false, true} {
			for _, n := range []int{10, 3000} {
				bubble(t, fmt.Sprintf("prune=%t,dry=%t,%d", prune, dry, n), func(t *testing.T, r *try) {
					r.options.Prune, r.options.DryRun = prune, dry
					expect := func(p desired.Position, want error) {
						t.Helper()
						r.options.Expect = &p
						if _, err := r.apply(numbers("a/", n)); !errors.Is(err, want) {
							t.Errorf("expecting %v: %v, want %v", p, err, want)
						}
					}
					expect(desired.Position{Number: 1}, store.ErrConflict)
					expect(desired.Position{}, nil)
					r.fake.change("s", content{"a/1": "x", "b": "y"}.envelopes())
					head := r.fake.sets["s"].head.Position
					expect(desired.Position{}, store.ErrConflict)
					expect(desired.Position{Number: head.Number + 1}, store.ErrConflict)
					expect(desired.Position{Epoch: desired.NewEpoch(), Number: head.Number}, store.ErrConflict)
					expect(head, nil)
				})
			}
		}
	}
	bubble(t, "moved", func(t *testing.T, r *try) {
		r.fake.change("s", numbers("a/", 3000).envelopes())
		r.options.Prune, r.options.Expect = true, &desired.Position{Number: 1}
		r.fake.hook = func(s string) error {
			if s == "commit" {
				r.fake.change("s", content{"b": "theirs"}.envelopes())
			}
			return nil
		}
		if _, err := r.apply(numbers("a/", 3001)); !errors.Is(err, store.ErrConflict) {
			t.Errorf("%v, want store.ErrConflict", err)
		}
		if r.fake.steps["commit all"] > 1 {
			t.Error("an expected revision was tried twice")
		}
	})
}

func TestMaxDelete(t *testing.T) {
	all := union(numbers("a/", 1000), numbers("b/", 1000))
	less := func(n int) content {
		c := content{}
		for i, k := range slices.Sorted(maps.Keys(all)) {
			if strings.HasPrefix(k, "a/") && i >= n {
				c[k] = all[k]
			}
		}
		return c
	}
	for _, v := range []struct {
		limit   *store.DeleteLimit
		deletes int
		ok      bool
	}{
		{nil, 100, true},
		{nil, 101, false},
		{&store.DeleteLimit{Count: 150}, 150, true},
		{&store.DeleteLimit{Count: 150}, 151, false},
		{&store.DeleteLimit{Percent: 20}, 200, true},
		{&store.DeleteLimit{Percent: 20}, 201, false},
		{&store.DeleteLimit{Percent: 100}, 1000, true},
		{&store.DeleteLimit{Count: 1000}, 1000, false}, // the input is empty
		{nil, 1000, false},
	} {
		for _, dry := range []bool{false, true} {
			bubble(t, fmt.Sprintf("%v,%d,dry=%t", v.limit, v.deletes, dry), func(t *testing.T, r *try) {
				r.fake.change("s", all.envelopes())
				r.prefix, r.options.Prune, r.options.DryRun, r.options.MaxDelete = "a/", true, dry, v.limit
				got, err := r.apply(less(v.deletes))
				if v.ok != (err == nil) || !v.ok && !errors.Is(err, store.ErrTooManyDeletes) {
					t.Fatalf("%v, want ok = %t", err, v.ok)
				}
				if (dry || v.ok) && (got.Deleted != uint64(v.deletes) || len(r.listed) != v.deletes) {
					t.Errorf("%d deleted, %d listed, want %d", got.Deleted, len(r.listed), v.deletes)
				}
				if (dry || !v.ok) && (r.fake.steps["commit"] > 0 || !maps.Equal(r.fake.of("s"), all)) {
					t.Error("something was sent, or done")
				}
				if !v.ok {
					t.Log(err)
				}
			})
		}
	}
	bubble(t, "a small set and no input", func(t *testing.T, r *try) {
		r.fake.change("s", numbers("a/", 5).envelopes())
		r.options.Prune = true
		_, err := r.apply(nil)
		if !errors.Is(err, store.ErrTooManyDeletes) || !strings.Contains(err.Error(), "the input is empty") {
			t.Errorf("%v, want store.ErrTooManyDeletes", err)
		}
		if len(r.fake.steps) > 0 {
			t.Errorf("the server was asked: %v", r.fake.steps)
		}
	})
}

// TestCut breaks the connection in every phase, at every step of it, once; and
// then for good.
func TestCut(t *testing.T) {
	for _, v := range []struct {
		prune bool
		step  string
		times int // that it comes
	}{
		{false, "head", 1},
		{false, "match", 2},
		{false, "matched", 1},
		{false, "commit", 2},
		{false, "commit all", 1},
		{false, "committed", 1},
		{true, "head", 1},
		{true, "pull", 2},
		{true, "pulled", 1},
		{true, "commit", 2},
		{true, "commit all", 1},
		{true, "committed", 1},
	} {
		for at := range v.times {
			bubble(t, fmt.Sprintf("prune=%t,%s,%d", v.prune, v.step, at), func(t *testing.T, r *try) {
				r.options.Prune = v.prune
				cutOnce(t, r, v.step, at)
			})
		}
		bubble(t, fmt.Sprintf("prune=%t,%s,always", v.prune, v.step), func(t *testing.T, r *try) {
			r.options.Prune = v.prune
			cutAlways(t, r, v.step)
		})
	}
}

func cutOnce(t *testing.T, r *try, step string, at int) {
	before := numbers("a/", 2000)
	r.fake.change("s", before.envelopes())
	n := 0
	r.fake.hook = func(s string) error {
		if s == step {
			if n++; n == at+1 {
				r.fake.cut()
				return status.Error(codes.Unavailable, "cut")
			}
		}
		return nil
	}
	in := maps.Clone(before)
	for i := range 1000 {
		key := fmt.Sprintf("b/%x", sha512.Sum512([]byte{byte(i), byte(i >> 8)})) // two frames to match
		in[key] = strings.Repeat(key[20:40], 10)                                 // more to commit
	}
	delete(in, "a/000/00000")
	got, err := r.apply(in)
	if err != nil {
		t.Fatal(err)
	}
	after, deleted := union(before, in), uint64(0)
	if r.options.Prune {
		after, deleted = in, 1
	}
	want(t, got, 1000, 0, deleted, 1999)
	if !maps.Equal(r.fake.of("s"), after) {
		t.Error("the set is not as it should be")
	}
	if number := r.fake.sets["s"].head.Number; number != 2 {
		t.Errorf("it is at revision %d, want 2: the commit is made once", number)
	}
	if n <= at {
		t.Errorf("%s came %d times: nothing was cut", step, n)
	}
}

func cutAlways(t *testing.T, r *try, step string) {
	before := numbers("a/", 3000)
	r.fake.change("s", before.envelopes())
	r.fake.hook = func(s string) error {
		if s != step {
			return nil
		}
		r.fake.cut()
		return status.Error(codes.Unavailable, "cut")
	}
	start := time.Now()
	if _, err := r.apply(union(before, content{"b": "x"})); !errors.Is(err, wire.ErrUnreachable) {
		t.Errorf("%v, want wire.ErrUnreachable", err)
	}
	if took := time.Since(start); took < 9*time.Second || took > 16*time.Second {
		t.Errorf("gave up after %v, want some 13 s", took)
	}
	if n := r.fake.steps[step]; n != publish.Retries+1 {
		t.Errorf("%s came %d times, want %d", step, n, publish.Retries+1)
	}
	if step != "committed" && r.fake.sets["s"].head.Number > 1 {
		t.Error("something was done")
	}
}

// TestUnchecked cuts the connection for good after a commit under a prefix.
func TestUnchecked(t *testing.T) {
	bubble(t, "", func(t *testing.T, r *try) {
		r.fake.change("s", numbers("a/", 3000).envelopes())
		r.fake.hook = func(s string) error {
			if s == "pull" && r.fake.steps["committed"] > 0 {
				return status.Error(codes.Unavailable, "cut")
			}
			return nil
		}
		r.prefix, r.options.Prune = "a/", true
		got, err := r.apply(union(numbers("a/", 3000), content{"a/ours": "x"}))
		if !errors.Is(err, wire.ErrUnreachable) || !strings.Contains(err.Error(), "committed as") {
			t.Errorf("%v, want wire.ErrUnreachable, and what was done", err)
		}
		want(t, got, 1, 0, 0, 3000)
	})
}

// lie is a set that a comparison sees other than it is.
type lie struct {
	*set
	head desired.Head
}

func (l lie) Head() desired.Head { return l.head }

// TestMissed hides differences from the first comparison, as digests do that are
// equal by chance: what is published is right all the same.
func TestMissed(t *testing.T) {
	for _, prefix := range []string{"", "a/"} {
		for _, hidden := range []content{{"a/000/00000": "changed"}, {"a/000/00000": "changed", "a/001/00001": "too"}} {
			bubble(t, fmt.Sprintf("%s%d", prefix, len(hidden)), func(t *testing.T, r *try) {
				if prefix != "" && len(hidden) == 2 {
					t.Skip("two comparisons with different seeds that both miss it: nobody would know")
				}
				before := numbers("a/", 3000)
				in := union(before, hidden, content{"a/new": "seen"})
				if len(hidden) == 2 {
					in = union(before, hidden)
				}
				r.fake.change("s", before.envelopes())
				seen := newSet(r.fake.sets["s"].salt)
				seen.commit(union(before, hidden).envelopes())
				lies := true
				r.fake.view = func(s *set) delta.Source {
					if lies {
						return lie{seen, s.head}
					}
					return s
				}
				r.fake.hook = func(s string) error {
					if s == "pulled" {
						lies = false
					}
					return nil
				}
				r.prefix, r.options.Prune = prefix, true
				got, err := r.apply(in)
				if err != nil {
					t.Fatal(err)
				}
				want(t, got, uint64(len(in)-len(before)), uint64(len(hidden)), 0, uint64(3000-len(hidden)))
				if !maps.Equal(r.fake.of("s"), in) {
					t.Error("the set is not as it should be")
				}
			})
		}
	}
}

// TestLargest sends the largest value that is allowed, both ways.
func TestLargest(t *testing.T) {
	for _, prune := range []bool{false, true} {
		bubble(t, fmt.Sprint("prune=", prune), func(t *testing.T, r *try) {
			r.fake.change("s", content{"b": "x"}.envelopes())
			r.options.Prune = prune
			in := content{"b": "x"}
			in["a"] = strings.Repeat("x", desired.MaxValueBytes)
			got, err := r.apply(in)
			if err != nil {
				t.Fatal(err)
			}
			want(t, got, 1, 0, 0, 1)
			if !maps.Equal(r.fake.of("s"), in) {
				t.Error("the set is not as it should be")
			}
		})
	}
}

// TestCanceled ends the context in every phase.
func TestCanceled(t *testing.T) {
	for _, prune := range []bool{false, true} {
		for _, step := range []string{"head", "match", "matched", "pull", "pulled", "commit", "commit all"} {
			bubble(t, fmt.Sprintf("prune=%t,%s", prune, step), func(t *testing.T, r *try) {
				r.fake.change("s", numbers("a/", 3000).envelopes())
				ctx, cancel := context.WithCancel(t.Context())
				reached := false
				r.fake.hook = func(s string) error {
					if s == step {
						reached = true
						cancel()
						synctest.Wait()
					}
					return nil
				}
				r.ctx, r.options.Prune = ctx, prune
				_, err := r.apply(union(numbers("a/", 3000), content{"b": "x"}))
				if reached != errors.Is(err, context.Canceled) {
					t.Errorf("%v, want context.Canceled", err)
				}
				if reached && r.fake.sets["s"].head.Number > 1 {
					t.Error("something was done")
				}
			})
		}
	}
}

// TestProtocol answers nonsense.
func TestProtocol(t *testing.T) {
	for name, states := range map[string]func([]byte) []byte{
		"too few":  func(b []byte) []byte { return b[1:] },
		"too many": func(b []byte) []byte { return append(b, 0) },
		"unknown":  func(b []byte) []byte { b[0] = 3; return b },
	} {
		bubble(t, name, func(t *testing.T, r *try) {
			r.fake.change("s", content{"b": "x"}.envelopes())
			r.fake.states = states
			if _, err := r.apply(numbers("a/", 3000)); !errors.Is(err, delta.ErrProtocol) {
				t.Errorf("%v, want delta.ErrProtocol", err)
			}
		})
	}
}

// TestNoServer talks to nobody.
func TestNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := serve(t, newFake())
		stop()
		in := content{"a": "x"}.input(t, "")
		defer in.Close()
		if _, err := publish.Apply(t.Context(), s, in, publish.Options{Set: "s"}); err == nil {
			t.Error("nobody answered, and all is well")
		}
	})
}

// TestServerFails shows that what the server says is what Apply returns.
func TestServerFails(t *testing.T) {
	for _, prune := range []bool{false, true} {
		for _, step := range []string{"head", "match", "pull", "commit"} {
			bubble(t, fmt.Sprintf("prune=%t,%s", prune, step), func(t *testing.T, r *try) {
				r.fake.change("s", numbers("a/", 3000).envelopes())
				reached := false
				r.fake.hook = func(s string) error {
					if s != step {
						return nil
					}
					reached = true
					return wire.ToStatus(fmt.Errorf("%w: s: bad page 7", store.ErrQuarantined))
				}
				r.options.Prune = prune
				_, err := r.apply(union(numbers("a/", 3000), numbers("b/", 3000)))
				if reached && (!errors.Is(err, store.ErrQuarantined) || !strings.Contains(err.Error(), "bad page 7")) {
					t.Errorf("%v, want store.ErrQuarantined and the server's words", err)
				}
			})
		}
	}
}

// TestDryRunFindsCycles: a dry run says of an input that it would be refused.
func TestDryRunFindsCycles(t *testing.T) {
	for _, prune := range []bool{false, true} {
		bubble(t, fmt.Sprint("prune ", prune), func(t *testing.T, r *try) {
			lines := `{"key":"a","value":"","after":["b"]}` + "\n" + `{"key":"b","value":"","after":["a"]}` + "\n"
			in, err := publish.Read(r.ctx, "-", strings.NewReader(lines), publish.ReadOptions{TempDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			s, stop := serve(t, r.fake)
			defer stop()
			_, err = publish.Apply(r.ctx, s, in, publish.Options{Set: "s", DryRun: true, Prune: prune})
			if !errors.Is(err, store.ErrCycle) || !strings.Contains(err.Error(), `"a" comes after "b"`) {
				t.Errorf("Apply = %v, want %v, naming it", err, store.ErrCycle)
			}
		})
	}
}
