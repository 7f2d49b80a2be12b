package merkle_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/merkle"
)

// A run of histories: how many, of how many batches, over how many keys.
type run struct{ histories, batches, keys int }

func TestUpdateFollowsOracle(t *testing.T) {
	for name, r := range map[string]run{
		"tiny":  {histories: 1500, batches: 12, keys: 5},
		"short": {histories: 1000, batches: 8, keys: 50},
		"wide":  {histories: 40, batches: 10, keys: 400},
		"long":  {histories: 2, batches: 150, keys: 600},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for range r.histories {
				runHistory(t, r, craftedSalt, universe)
			}
		})
	}
	t.Run("prefixes", func(t *testing.T) {
		t.Parallel()
		all := prefixes(7)
		for range 200 {
			runHistory(t, run{batches: 8, keys: 7}, rand.Uint64(), func(rng *rand.Rand, n int) []string {
				return all[:1+rng.IntN(len(all))]
			})
		}
	})
}

func runHistory(t *testing.T, r run, salt uint64, draw func(*rand.Rand, int) []string) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, salt))
	h := newHistory(salt)
	keys := draw(rng, 1+rng.IntN(2*r.keys))
	for i := range r.batches {
		if err := h.commit(randomBatch(rng, h.shape, keys, h.objects)); err != nil {
			t.Fatalf("seed %#x, salt %#x, %d keys, batch %d: %v", seed, salt, len(keys), i, err)
		}
	}
}

// The same objects make the same tree, whatever was there on the way to them.
func TestUpdateIsHistoryIndependent(t *testing.T) {
	for range 100 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		keys := universe(rng, 100)
		final := objects{}
		for _, key := range keys {
			if rng.IntN(3) > 0 {
				final[key] = randomDigest(rng)
			}
		}
		_, want, _, err := build(merkle.Shape{Salt: craftedSalt}, final)
		if err != nil {
			t.Fatal(err)
		}
		h := newHistory(craftedSalt)
		for range rng.IntN(3) {
			if err := h.commit(randomBatch(rng, h.shape, keys, h.objects)); err != nil {
				t.Fatalf("seed %#x: %v", seed, err)
			}
		}
		rng.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for chunk := range slices.Chunk(keys, 1+rng.IntN(len(keys))) {
			batch := objects{}
			for _, key := range chunk {
				batch[key] = final[key]
			}
			if err := h.commit(batch); err != nil {
				t.Fatalf("seed %#x: %v", seed, err)
			}
		}
		if root, err := merkle.Root(&h.memory); err != nil || !equalRows(root, want) {
			t.Fatalf("seed %#x: Root() = %s, %v, want %s", seed, show(root), err, show(want))
		}
	}
}

func TestUpdateRefusesTooWide(t *testing.T) {
	for level := range 2 {
		t.Run(fmt.Sprintf("level%d", level), func(t *testing.T) {
			full := wide - level // a level-1 anchor comes first
			keys := sameLevel(level, full+1)
			h := &history{shape: bounded, objects: objects{}}
			batch := objects{}
			for _, key := range keys[:full] {
				batch[key] = merkle.Digest{1}
			}
			if err := h.commit(batch); err != nil {
				t.Fatalf("%d children: %v", wide, err)
			}
			one := []merkle.Change{{Key: []byte(keys[full]), Digest: merkle.Digest{1}}}
			if _, err := h.shape.Update(&h.memory, one); !errors.Is(err, merkle.ErrTooWide) {
				t.Errorf("one more child: %v, want %v", err, merkle.ErrTooWide)
			}
			batch[keys[full]] = merkle.Digest{1}
			none := &history{shape: bounded, objects: objects{}}
			if err := none.commit(batch); !errors.Is(err, merkle.ErrTooWide) {
				t.Errorf("%d children at once: %v, want %v", wide+1, err, merkle.ErrTooWide)
			}
			unbounded := newHistory(vectorSalt)
			if err := unbounded.commit(batch); err != nil {
				t.Errorf("%d children without a bound: %v", wide+1, err)
			}
		})
	}
}

// Deletes are never refused, nor are new digests, even in nodes that are too
// wide; only inserts are.
func TestUpdateWidensByDeleting(t *testing.T) {
	shape := merkle.Shape{Salt: vectorSalt, MaxChildren: 10}
	h := &history{shape: shape, objects: objects{}}
	boundaries := sameLevel(1, 9)
	plain := slices.DeleteFunc(sameLevel(0, 400), func(key string) bool { return key > boundaries[8] })
	batch := objects{}
	for i := 0; i < len(plain); i += 16 {
		batch[plain[i]] = merkle.Digest{1}
	}
	for _, key := range boundaries {
		batch[key] = merkle.Digest{1}
	}
	if err := h.commit(batch); err != nil {
		t.Fatal(err)
	}
	clear(batch)
	for _, key := range boundaries[1:] {
		batch[key] = merkle.Digest{}
	}
	if err := h.commit(batch); err != nil {
		t.Errorf("a delete that joins nodes: %v", err)
	}
	// The first boundary's node is too wide now. The one before is not.
	first, last := plain[0], plain[(len(plain)-1)/16*16]
	if err := h.commit(objects{first + "0": {1}, boundaries[0]: {2}, last: {}}); err != nil {
		t.Errorf("a new digest and a delete in a node that is too wide, and an insert before it: %v", err)
	}
	insert := []merkle.Change{{Key: []byte(last), Digest: merkle.Digest{1}}}
	if _, err := shape.Update(&h.memory, insert); !errors.Is(err, merkle.ErrTooWide) {
		t.Errorf("an insert into a node that is too wide: %v, want %v", err, merkle.ErrTooWide)
	}
	for _, key := range slices.Sorted(maps.Keys(h.objects)) {
		if err := h.commit(objects{key: {}}); err != nil {
			t.Fatalf("deleting %q: %v", key, err)
		}
	}
}

func TestUpdateRefusesBadChanges(t *testing.T) {
	h := newHistory(craftedSalt)
	there := []string{"b", "d", crafted()[2][0], crafted()[4][0]}
	for _, key := range there {
		if err := h.commit(objects{key: {1}}); err != nil {
			t.Fatal(err)
		}
	}
	set := func(key string) merkle.Change { return merkle.Change{Key: []byte(key), Digest: merkle.Digest{2}} }
	drop := func(key string) merkle.Change { return merkle.Change{Key: []byte(key), Gone: true} }
	for name, v := range map[string]struct {
		changes []merkle.Change
		order   bool // whether the error is ErrOrder
	}{
		"the empty key":                 {[]merkle.Change{set("")}, true},
		"a key twice":                   {[]merkle.Change{set("a"), drop("b"), set("b")}, true},
		"a lower key":                   {[]merkle.Change{set("b"), set("a")}, true},
		"a delete of nothing":           {[]merkle.Change{drop("c")}, false},
		"a delete before the first":     {[]merkle.Change{drop("\x00")}, false},
		"a delete after the last":       {[]merkle.Change{drop("zzzzzz")}, false},
		"a delete of no boundary":       {[]merkle.Change{drop(crafted()[1][0])}, false},
		"a delete of no high boundary":  {[]merkle.Change{drop(deepest[0])}, false},
		"a delete of nothing after all": {[]merkle.Change{set("a"), drop("b"), set("c"), drop("e")}, false},
	} {
		if _, err := h.shape.Update(&h.memory, v.changes); err == nil || errors.Is(err, merkle.ErrOrder) != v.order {
			t.Errorf("%s: %v; want ErrOrder: %t", name, err, v.order)
		}
	}
	if _, err := h.shape.Update(new(merkle.Memory), []merkle.Change{drop("a")}); err == nil {
		t.Error("a delete where no tree was ever stored passes")
	}
}

func TestUpdateReturnsReadErrors(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		keys := universe(rng, 30)
		h := newHistory(craftedSalt)
		if err := h.commit(randomBatch(rng, h.shape, keys, h.objects)); err != nil {
			t.Fatal(err)
		}
		changes := h.changes(randomBatch(rng, h.shape, keys, h.objects))
		errRead := errors.New("disk on fire")
		for n := 0; ; n++ {
			r := &failing{Reader: &h.memory, n: n, err: errRead}
			_, err := h.shape.Update(r, changes)
			if r.n >= 0 && err == nil {
				break // there is no nth answer
			}
			if !errors.Is(err, errRead) {
				t.Fatalf("seed %#x: Update where answer %d fails: %v, want %v", seed, n, err, errRead)
			}
		}
	}
}

// A tree that is damaged may make a wrong root or an error, but neither a panic
// nor an endless loop.
func TestUpdateOfDamagedTree(t *testing.T) {
	for range 2000 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		keys := universe(rng, 30)
		h := newHistory(craftedSalt)
		if err := h.commit(randomBatch(rng, h.shape, keys, h.objects)); err != nil {
			t.Fatal(err)
		}
		levels, err := dump(&h.memory)
		if err != nil {
			t.Fatal(err)
		}
		changes := h.changes(randomBatch(rng, h.shape, keys, h.objects))
		level := rng.IntN(len(levels))
		if len(levels[level]) == 0 {
			continue
		}
		lost := merkle.RowChange{Level: level, Gone: true, Row: levels[level][rng.IntN(len(levels[level]))]}
		h.memory.Apply(nil, merkle.Updated{Rows: []merkle.RowChange{lost}})
		if _, err = h.shape.Update(&strict{Reader: &h.memory}, changes); err != nil {
			t.Logf("seed %#x: %v", seed, err)
		}
	}
}

func TestUpdateOfTreeTooHigh(t *testing.T) {
	h := newHistory(craftedSalt)
	if err := h.commit(objects{"a": {1}}); err != nil {
		t.Fatal(err)
	}
	for level := 1; level <= merkle.MaxLevel; level++ {
		if err := h.memory.Append(level, merkle.Row{Key: []byte("x")}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.shape.Update(&h.memory, []merkle.Change{{Key: []byte("a"), Gone: true}}); err == nil {
		t.Errorf("Update passes where level %d has two nodes", merkle.MaxLevel)
	}
}

func TestUpdateReadsLittle(t *testing.T) {
	h := newHistory(craftedSalt)
	for i := range 20_000 {
		h.objects[fmt.Sprintf("key-%05d", i)] = merkle.Digest{1}
	}
	tree, _, height, err := build(h.shape, h.objects)
	if err != nil {
		t.Fatal(err)
	}
	rows, changes := 0, 0
	for i := 0; i < 20_000; i += 100 {
		r := &strict{Reader: tree}
		change := merkle.Change{Key: fmt.Appendf(nil, "key-%05d", i), Gone: true}
		if _, err := h.shape.Update(r, []merkle.Change{change}); err != nil {
			t.Fatal(err)
		}
		if r.calls > 3*height {
			t.Errorf("one delete made %d calls in a tree of height %d, want at most 3 a level", r.calls, height)
		}
		rows += r.rows
		changes++
	}
	// The node over a random key has 2×32 rows on average at each of the levels
	// below the root's, and a boundary's removal reads a second one.
	if mean := rows / changes; mean > 3*32*height {
		t.Errorf("one delete reads %d rows of a tree of height %d, want at most %d", mean, height, 3*32*height)
	}
}
