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

// naiveDiff compares two sets key by key.
func naiveDiff(a, b objects) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	var differences []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if a[key] != b[key] {
			differences = append(differences, showDifference(merkle.Difference{Key: []byte(key), A: a[key], B: b[key]}))
		}
	}
	return differences
}

func showDifference(d merkle.Difference) string {
	return fmt.Sprintf("%q %x %x", d.Key, d.A[:4], d.B[:4])
}

// diff returns what Diff yields, up to so many differences.
func diff(a, b merkle.Reader, most int) (differences []string, err error) {
	if most == 0 {
		return nil, nil
	}
	for d, err := range merkle.Diff(a, b) {
		if err != nil {
			return differences, err
		}
		differences = append(differences, showDifference(d))
		if len(differences) == most {
			break
		}
	}
	return differences, nil
}

// randomPair draws two sets that are likely to share much, or little, or to be
// empty.
func randomPair(rng *rand.Rand, n int) (a, b objects) {
	shape := merkle.Shape{Salt: craftedSalt}
	keys := universe(rng, n)
	a = objects{}
	for range 1 + rng.IntN(2) {
		a = apply(a, randomBatch(rng, shape, keys, a))
	}
	b = maps.Clone(a)
	for range rng.IntN(3) {
		b = apply(b, randomBatch(rng, shape, keys, b))
	}
	return a, b
}

func apply(o, batch objects) objects {
	o = maps.Clone(o)
	maps.Copy(o, batch)
	maps.DeleteFunc(o, func(_ string, d merkle.Digest) bool { return d == merkle.Digest{} })
	return o
}

// reader returns a tree over a set; half of the time none at all for none.
func reader(t *testing.T, rng *rand.Rand, o objects) merkle.Reader {
	if len(o) == 0 && rng.IntN(2) == 0 {
		return &strict{Reader: new(merkle.Memory)}
	}
	tree, _, _, err := build(merkle.Shape{Salt: craftedSalt}, o)
	if err != nil {
		t.Fatal(err)
	}
	return &strict{Reader: tree}
}

func TestDiffFindsWhatDiffers(t *testing.T) {
	for _, n := range []int{3, 30, 300, 2000} {
		for range 10 + 5000/n {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			setA, setB := randomPair(rng, n)
			a, b := reader(t, rng, setA), reader(t, rng, setB)
			want := naiveDiff(setA, setB)
			got, err := diff(a, b, -1)
			if err != nil || !slices.Equal(got, want) {
				t.Fatalf("seed %#x, %d keys: Diff = %q, %v, want %q", seed, n, got, err, want)
			}
			most := rng.IntN(len(want) + 1)
			if got, err = diff(a, b, most); err != nil || !slices.Equal(got, want[:most]) {
				t.Fatalf("seed %#x, %d keys: the first %d of Diff = %q, %v, want %q", seed, n, most, got, err, want[:most])
			}
		}
	}
}

// TestDiffRange: a part of the differences is what lies between two keys, be they
// there or not.
func TestDiffRange(t *testing.T) {
	for _, n := range []int{3, 30, 300, 2000} {
		for range 10 + 5000/n {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			setA, setB := randomPair(rng, n)
			a, b := reader(t, rng, setA), reader(t, rng, setB)
			keys := universe(rng, n)
			bounds := [][]byte{nil, []byte(keys[rng.IntN(len(keys))]), append([]byte(keys[rng.IntN(len(keys))]), 0)}
			from, until := bounds[rng.IntN(3)], bounds[rng.IntN(3)]
			var want, got []string
			inside := func(key string) bool { return key >= string(from) && (until == nil || key < string(until)) }
			maps.DeleteFunc(setA, func(key string, _ merkle.Digest) bool { return !inside(key) })
			maps.DeleteFunc(setB, func(key string, _ merkle.Digest) bool { return !inside(key) })
			want = naiveDiff(setA, setB)
			for d, err := range merkle.DiffRange(a, b, from, until) {
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, showDifference(d))
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %#x, %d keys: DiffRange from %q until %q = %q, want %q", seed, n, from, until, got, want)
			}
		}
	}
}

func TestDiffReturnsReadErrors(t *testing.T) {
	errRead := errors.New("disk on fire")
	for range 20 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		setA, setB := randomPair(rng, 30)
		want := naiveDiff(setA, setB)
		for side := range 2 {
			for n := 0; ; n++ {
				sides := [2]merkle.Reader{reader(t, rng, setA), reader(t, rng, setB)}
				f := &failing{Reader: sides[side], n: n, err: errRead}
				sides[side] = f
				got, err := diff(sides[0], sides[1], -1)
				if f.n >= 0 && err == nil {
					break // there is no nth answer
				}
				if !errors.Is(err, errRead) || !slices.Equal(got, want[:len(got)]) {
					t.Fatalf("seed %#x: Diff where answer %d fails = %q, %v, want some of %q and %v", seed, n, got, err, want, errRead)
				}
			}
		}
	}
}

// high is a Reader of a tree that is damaged so that its root seems higher than
// any can be.
type high struct{ *merkle.Memory }

func (high) Height() (int, error) { return 255, nil }

func TestDiffOfTreeTooHigh(t *testing.T) {
	tree, _, _, err := build(merkle.Shape{}, objects{"a": {1}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := diff(high{tree}, tree, -1); err == nil {
		t.Errorf("Diff of a tree of height 255 = %q, want an error", got)
	}
}

func TestDiffReadsLittle(t *testing.T) {
	o := objects{}
	for i := range 20_000 {
		o[fmt.Sprintf("key-%05d", i)] = merkle.Digest{1}
	}
	shape := merkle.Shape{Salt: craftedSalt}
	tree, _, height, err := build(shape, o)
	if err != nil {
		t.Fatal(err)
	}
	a, b := &strict{Reader: tree}, &strict{Reader: tree}
	if got, err := diff(a, b, -1); err != nil || len(got) > 0 || a.rows > 1 || b.rows > 1 {
		t.Errorf("Diff of a tree and itself = %q, %v with %d and %d rows read, want none and 1 row of each",
			got, err, a.rows, b.rows)
	}
	rows, diffs := 0, 0
	for i := 0; i < 20_000; i += 100 {
		change := []merkle.Change{{Key: fmt.Appendf(nil, "key-%05d", i), Digest: merkle.Digest{2}}}
		updated, err := shape.Update(tree, change)
		if err != nil {
			t.Fatal(err)
		}
		other := *tree
		other.Apply(change, updated)
		a, b := &strict{Reader: tree}, &strict{Reader: &other}
		if got, err := diff(a, b, -1); err != nil || len(got) != 1 {
			t.Fatalf("Diff after a change of key-%05d = %q, %v, want that one", i, got, err)
		}
		rows += a.rows
		diffs++
	}
	if mean := rows / diffs; mean > 3*32*height {
		t.Errorf("Diff of one change reads %d rows of a tree of height %d, want at most %d", mean, height, 3*32*height)
	}
}

// TestDiffRangeReadsLittle: going on in the midst of trees that have nothing in
// common reads none of what is behind.
func TestDiffRangeReadsLittle(t *testing.T) {
	before, after := objects{}, objects{}
	for i := range 20_000 {
		before[fmt.Sprintf("key-%05d", i)], after[fmt.Sprintf("key-%05d", i)] = merkle.Digest{1}, merkle.Digest{2}
	}
	shape := merkle.Shape{Salt: craftedSalt}
	treeA, _, height, err := build(shape, before)
	if err != nil {
		t.Fatal(err)
	}
	treeB, _, _, err := build(shape, after)
	if err != nil {
		t.Fatal(err)
	}
	rows := 0
	for i := 0; i < 20_000; i += 100 {
		a, want := &strict{Reader: treeA}, fmt.Sprintf("key-%05d", i)
		for d, err := range merkle.DiffRange(a, treeB, []byte(want), nil) {
			if err != nil || string(d.Key) != want {
				t.Fatalf("DiffRange from %s begins with %q, %v", want, d.Key, err)
			}
			break
		}
		rows += a.rows
	}
	// The cursors read 64 rows ahead, and a node has 32 in the mean.
	if mean := rows / 200; mean > 4*65*height {
		t.Errorf("the first difference from a key on reads %d rows of a tree of height %d, want at most %d", mean, height, 4*65*height)
	}
}
