package delta_test

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/merkle"
)

// updated returns m with every each-th object updated, and no history.
func updated(m *memory, each int) (source *memory, changed int) {
	random, changes := rand.New(rand.NewPCG(3, 3)), map[string]desired.Envelope{}
	for i := 0; i < len(m.keys); i += each {
		changes[m.keys[i]] = randomEnvelope(random)
	}
	return amnesiac(m, changes), len(changes)
}

// scattered returns m with n of its objects updated, and no history.
func scattered(m *memory, n int) *memory {
	changes := map[string]desired.Envelope{}
	for i := range n {
		changes[m.keys[i*len(m.keys)/n]] = envelope("changed")
	}
	return amnesiac(m, changes)
}

// prefix is the beginning of a digest under a seed.
func prefix(seed uint64, row merkle.Row) [4]byte {
	d := delta.MatchDigest(seed, desired.Digest(row.Digest))
	return [4]byte(d[:])
}

// unlucky returns a seed under which the digest of a level-1 node of theirs
// begins with the 4 bytes that one of ours does which lies elsewhere.
func unlucky(t *testing.T, ours, theirs *memory) uint64 {
	t.Helper()
	for seed := range uint64(20_000) {
		seen := map[[4]byte]string{}
		for row := range nodesOf(ours) {
			seen[prefix(seed, row)] = string(row.Key)
		}
		for row := range nodesOf(theirs) {
			if key, ok := seen[prefix(seed, row)]; ok && key != string(row.Key) {
				return seed
			}
		}
	}
	t.Fatal("no seed is unlucky")
	return 0
}

// nodesOf returns the nodes of level 1.
func nodesOf(m *memory) iter.Seq[merkle.Row] {
	return func(yield func(merkle.Row) bool) {
		for row, err := range m.Rows(1, nil, nil) {
			if must(err); !yield(row) {
				return
			}
		}
	}
}

// TestDescentOfMost updates most of a large set: so many digests are compared
// that those of 4 bytes meet by chance, far from where they belong. One descent
// finds the updates and no deletions, and costs little more than the objects do.
func TestDescentOfMost(t *testing.T) {
	set := large(50_000)
	all, _ := updated(set, 1)
	seeds := map[int][]uint64{1: {1, unlucky(t, set, all)}, 2: {1}, 3: {1}}
	empty := newMemory(set.salt)
	empty.head = desired.Head{}
	l := &link{source: all}
	pull(t, newFollower(t, empty), l)
	full := float64(l.bytes())
	for each, most := range map[int]float64{1: 1.01, 2: 1.15, 3: 1.2} {
		source, changed := updated(set, each)
		for _, seed := range seeds[each] {
			f, l := newFollower(t, set), &link{source: source}
			f.seed = func() uint64 { return seed }
			stats := pull(t, f, l)
			f.check(source)
			name := fmt.Sprintf("1 in %d, seed %d", each, seed)
			if stats.Upserts != uint64(changed) || stats.Deletes != 0 || f.doubts > 0 || len(l.opens) != 1 {
				t.Errorf("%s: %d upserts and %d deletions by %v, want %d and none, at once",
					name, stats.Upserts, stats.Deletes, l.modes(), changed)
			}
			share := full * float64(changed) / float64(len(set.keys))
			t.Logf("%s: %d bytes, of widths %v", name, l.bytes(), slices.Compact(l.widths))
			if got := float64(l.bytes()) / share; got > most {
				t.Errorf("%s: %.3f of what a full pull of the changed objects takes, want at most %.2f", name, got, most)
			}
		}
	}
}

// TestWidthFollows looks at how much of a digest is asked for.
func TestWidthFollows(t *testing.T) {
	set := large(30_000)
	half, _ := updated(set, 2)
	tests := map[string]struct {
		source      *memory
		least, most int
	}{
		"one change": {amnesiac(set, map[string]desired.Envelope{set.keys[77]: envelope("new")}), delta.ShortWidth, delta.ShortWidth},
		"half":       {half, 5, 6},
		"a hundred":  {scattered(set, 100), 4, 4},
	}
	for name, tt := range tests {
		l := &link{source: tt.source}
		pull(t, newFollower(t, set), l)
		if l.opens[0].Width != delta.ShortWidth || len(l.widths) < 2 || slices.Max(l.widths) < tt.least || slices.Max(l.widths) > tt.most {
			t.Errorf("%s: opened with width %d, then %v; want %d, then up to %d to %d",
				name, l.opens[0].Width, l.widths, delta.ShortWidth, tt.least, tt.most)
		}
	}
}

// TestTwinNodes gives two nodes that have not changed the same short digest: each
// is recognised where it is.
func TestTwinNodes(t *testing.T) {
	set := numbered(2000, 3)
	parents, keys := set.nodes(2), set.nodes(1)
	parent := func(key string) int { return sort.SearchStrings(parents, key+"\x00") }
	twins := func() (seed uint64, a, b int) {
		for ; ; seed++ {
			seen, i := map[[4]byte]int{}, 0
			for row := range nodesOf(set) {
				s := prefix(seed, row)
				s[3] = 0
				if a, ok := seen[s]; ok && parent(keys[a]) == parent(keys[i]) && i > a+2 {
					return seed, a, i
				}
				seen[s] = i
				i++
			}
		}
	}
	seed, a, b := twins()
	f, l := newFollower(t, set), &link{source: amnesiac(set, map[string]desired.Envelope{keys[a+1]: envelope("new")})}
	f.seed = func() uint64 { return seed }
	stats := pull(t, f, l)
	f.check(l.source.(*memory))
	if stats.Upserts != 1 || stats.Deletes != 0 || len(l.opens) != 1 || l.leaves > 500 {
		t.Errorf("seed %d, nodes %d and %d: %+v in %d bytes of leaves; want one upsert at once", seed, a, b, stats, l.leaves)
	}
}

// TestTwinObjects gives two objects that have not changed the same short digest:
// neither is gone.
func TestTwinObjects(t *testing.T) {
	var h desired.Hasher
	seen := map[[delta.ShortWidth]byte]string{}
	copy, value := newMemory(1), envelope("value")
	for i := 0; len(copy.objects) == 0; i++ {
		key := fmt.Sprintf("k%06d", i)
		s := delta.ShortDigest(1, h.Sum([]byte(key), value))
		if other, ok := seen[s]; ok {
			copy.commit(map[string]desired.Envelope{key: value, other: value})
		}
		seen[s] = key
	}
	f, l := newFollower(t, copy), &link{source: amnesiac(copy, map[string]desired.Envelope{"new": value})}
	f.seed = seedOne
	stats := pull(t, f, l)
	f.check(l.source.(*memory))
	if stats.Upserts != 1 || stats.Deletes != 0 || len(l.opens) != 1 {
		t.Errorf("%+v by %v, want one upsert at once", stats, l.modes())
	}
}

// TestMisplaced lets objects come for a stretch that they don't lie in, as they
// would if it were anchored at nodes that aren't the same. Nothing of it is kept.
func TestMisplaced(t *testing.T) {
	copy := numbered(2000, 3)
	source := amnesiac(copy, map[string]desired.Envelope{numberedKey(1000): envelope("new")})
	for _, key := range []string{"a", numberedKey(1), numberedKey(1999), "z"} {
		for _, mode := range []delta.Mode{delta.Descent, delta.Compare} {
			f, r, src := follow(t, copy, source, mode)
			lied := false
			l := &link{source: src, twist: func(resp delta.Response) []delta.Response {
				if resp.Batch == nil || lied {
					return []delta.Response{resp}
				}
				lied = true
				lie := upsert(key)
				if mode == delta.Compare {
					lie.Envelope = append(desired.Envelope{0}, make([]byte, 32)...)
				}
				return []delta.Response{batch(frameOf(lie)), resp}
			}}
			stats, err := l.run(f, r)
			if mode == delta.Compare {
				if !errors.Is(err, delta.ErrProtocol) {
					t.Errorf("%q in a comparison: error %v, want ErrProtocol", key, err)
				}
				continue
			}
			if err != nil || f.received != 1 || stats.Upserts != 1 || !slices.Equal(l.modes(), []string{"descent", "descent"}) {
				t.Errorf("%q: %d changes by %v, error %v; want one by a second descent", key, f.received, l.modes(), err)
				continue
			}
			f.check(source)
		}
	}
}

// TestMoreThanThereIs streams objects without end, of a set that says it has a
// few.
func TestMoreThanThereIs(t *testing.T) {
	set := numbered(2000, 3)
	copy := set.clone()
	copy.commit(map[string]desired.Envelope{numberedKey(1999): envelope("mine")})
	large := largest(t, "z").Envelope
	tests := map[string]struct {
		mode  delta.Mode
		value desired.Envelope
	}{
		"objects of a full pull":  {delta.Full, envelope("v")},
		"bytes of a full pull":    {delta.Full, large},
		"objects of a descent":    {delta.Descent, envelope("v")},
		"objects of a comparison": {delta.Compare, append(desired.Envelope{0}, make([]byte, 32)...)},
	}
	for name, tt := range tests {
		f, r, src := follow(t, copy, set, tt.mode)
		w, n, err := delta.NewFrameWriter(codec), 0, error(nil)
		l := &link{source: src, twist: func(resp delta.Response) []delta.Response {
			if resp.Batch == nil {
				return []delta.Response{resp}
			}
			for err == nil && n < 2<<20 {
				for !w.Full() {
					must(w.Add(desired.Change{Key: fmt.Appendf(nil, "z%08d", n), Envelope: tt.value}))
					n++
				}
				_, err = r.Handle(f.view(), batch(w.Frame()))
			}
			return []delta.Response{{}}
		}}
		_, _ = l.run(f, r)
		if !errors.Is(err, delta.ErrProtocol) || !strings.Contains(fmt.Sprint(err), "2000 objects") {
			t.Errorf("%s: after %d of them: %v, want ErrProtocol that says why", name, n, err)
		}
	}
}

// TestForgottenIsNotCounted follows the history of a copy that is damaged: what
// comes of it does not verify, is dropped, and comes again by a descent.
func TestForgottenIsNotCounted(t *testing.T) {
	copy := numbered(2000, 3)
	source := copy.clone()
	source.commit(map[string]desired.Envelope{numberedKey(7): envelope("new"), numberedKey(8): nil})
	head := copy.head
	copy = copy.clone()
	copy.commit(map[string]desired.Envelope{numberedKey(500): envelope("flipped")})
	copy.head.Revision = head.Revision
	for _, stageAt := range []int{1 << 30, 1} {
		f, l := newFollower(t, copy), &link{source: source}
		f.stageAt = stageAt
		stats := pull(t, f, l)
		f.check(source)
		if stats.Upserts != 2 || stats.Deletes != 1 || !slices.Equal(l.modes(), []string{"delta", "descent"}) {
			t.Errorf("staged at %d: %+v by %v, want 2 upserts and a deletion by a delta and a descent", stageAt, stats, l.modes())
		}
	}
}
