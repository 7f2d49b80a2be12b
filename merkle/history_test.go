package merkle_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"

	"espalier/merkle"
)

// history is a tree that is updated batch by batch, and the set that it should
// be over.
type history struct {
	shape   merkle.Shape
	memory  merkle.Memory
	objects objects
}

func newHistory(salt uint64) *history {
	return &history{shape: merkle.Shape{Salt: salt}, objects: objects{}}
}

// changes returns what a batch, in which the zero digest deletes, would change.
func (h *history) changes(batch objects) []merkle.Change {
	var changes []merkle.Change
	for _, key := range slices.Sorted(maps.Keys(batch)) {
		if digest := batch[key]; digest != h.objects[key] {
			changes = append(changes, merkle.Change{Key: []byte(key), Digest: digest, Gone: digest == merkle.Digest{}})
		}
	}
	return changes
}

// commit updates the tree and the set by a batch, and holds everything that
// Update promises against the oracle.
func (h *history) commit(batch objects) error {
	changes := h.changes(batch)
	for _, c := range changes {
		if h.objects[string(c.Key)] = c.Digest; c.Gone {
			delete(h.objects, string(c.Key))
		}
	}
	old, err := dump(&h.memory)
	if err != nil {
		return err
	}
	updated, err := h.shape.Update(&strict{Reader: &h.memory}, changes)
	if err != nil {
		return fmt.Errorf("Update: %w", err)
	}
	if err := checkUpdated(old, updated); err != nil {
		return fmt.Errorf("Update: %w", err)
	}
	h.memory.Apply(changes, updated)
	return h.check(updated.Root, updated.Height)
}

// checkUpdated checks the form of an update to the rows of old.
func checkUpdated(old [][]merkle.Row, u merkle.Updated) error {
	for i, row := range u.Rows {
		if i > 0 && compareRowChanges(u.Rows[i-1], row) >= 0 {
			return fmt.Errorf("row %q of level %d is not in order", row.Key, row.Level)
		}
		var was *merkle.Row
		if row.Level < len(old) {
			if i := slices.IndexFunc(old[row.Level], func(r merkle.Row) bool { return bytes.Equal(r.Key, row.Key) }); i >= 0 {
				was = &old[row.Level][i]
			}
		}
		switch {
		case row.Level < 1:
			return fmt.Errorf("%q is at level %d", row.Key, row.Level)
		case row.Gone && was == nil:
			return fmt.Errorf("%q goes at level %d, and was not there", row.Key, row.Level)
		case !row.Gone && row.Level > u.Height:
			return fmt.Errorf("%q comes at level %d, above the root's %d", row.Key, row.Level, u.Height)
		}
	}
	return nil
}

func compareRowChanges(a, b merkle.RowChange) int {
	return cmp.Or(cmp.Compare(a.Level, b.Level), bytes.Compare(a.Key, b.Key))
}

// check holds the tree, and what is said of its root, against the oracle, and a
// Builder's tree too.
func (h *history) check(root merkle.Row, height int) error {
	want := h.objects.tree(h.shape.Salt)
	got, err := dump(&h.memory)
	if err != nil {
		return err
	}
	if err := compareTrees(got, want); err != nil {
		return fmt.Errorf("updated tree: %w", err)
	}
	if err := checkRoot(want, root, height); err != nil {
		return fmt.Errorf("Updated: %w", err)
	}
	if root, err = merkle.Root(&strict{Reader: &h.memory}); err != nil {
		return err
	}
	if height, err = h.memory.Height(); err != nil {
		return err
	}
	if err := checkRoot(want, root, height); err != nil {
		return fmt.Errorf("Root: %w", err)
	}
	built, root, height, err := build(merkle.Shape{Salt: h.shape.Salt}, h.objects)
	if err != nil {
		return fmt.Errorf("Builder: %w", err)
	}
	if got, err = dump(built); err != nil {
		return err
	}
	if err := compareTrees(got, want); err != nil {
		return fmt.Errorf("built tree: %w", err)
	}
	if err := checkRoot(want, root, height); err != nil {
		return fmt.Errorf("Finish: %w", err)
	}
	return nil
}

func checkRoot(want [][]merkle.Row, root merkle.Row, height int) error {
	if height != len(want)-1 {
		return fmt.Errorf("height %d, want %d", height, len(want)-1)
	}
	if !equalRows(root, want[height][0]) {
		return fmt.Errorf("root %s, want %s", show(root), show(want[height][0]))
	}
	return nil
}

// craftedSalt is a salt for which keys of high levels have been searched.
const craftedSalt = 24

// deepest are four of the ten numerals in base 36 below 500 million of level 5
// under craftedSalt; none of them is higher.
var deepest = []string{"12u3qy", "40hjjt", "cmdjw", "mgn38"}

// crafted returns keys by their level under craftedSalt, enough to draw
// universes from in which every other key is a boundary.
var crafted = sync.OnceValue(func() [][]string {
	shape := merkle.Shape{Salt: craftedSalt}
	levels := make([][]string, 6)
	var key []byte
	for i := range int64(1 << 20) {
		key = strconv.AppendInt(key[:0], i, 36)
		if level := shape.Level(key); len(levels[level]) < 500 {
			levels[level] = append(levels[level], string(key))
		}
	}
	levels[5] = deepest
	return levels
})

// universe draws the keys of a history: about n, of which a share are
// boundaries, and keys next to them.
func universe(rng *rand.Rand, n int) []string {
	share := rng.Float64()
	levels := crafted()
	keys := map[string]bool{}
	for range n {
		level := 0
		if rng.Float64() < share {
			for level = 1; level < len(levels)-1 && rng.IntN(2) == 0; {
				level++
			}
		}
		key := levels[level][rng.IntN(len(levels[level]))]
		keys[key] = true
		switch rng.IntN(8) { // keys that are prefixes of each other
		case 0:
			keys[key+"\x00"] = true // the very next
		case 1:
			keys[key+"/"+key] = true
		case 2:
			keys[key[:1+rng.IntN(len(key))]] = true
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// prefixes returns the keys of up to n letters of an alphabet of two.
func prefixes(n int) []string {
	keys := []string{""}
	for i := 0; len(keys[i]) < n; i++ {
		keys = append(keys, keys[i]+"a", keys[i]+"b")
	}
	return slices.Sorted(slices.Values(keys[1:]))
}

func randomDigest(rng *rand.Rand) (d merkle.Digest) {
	for i := range d {
		d[i] = byte(rng.Uint32())
	}
	return d
}

// randomBatch draws a batch of one of the kinds that are known to be hard.
func randomBatch(rng *rand.Rand, shape merkle.Shape, keys []string, now objects) objects {
	batch := objects{}
	set := func(keys ...string) {
		for _, key := range keys {
			batch[key] = randomDigest(rng)
		}
	}
	drop := func(keys ...string) {
		for _, key := range keys {
			batch[key] = merkle.Digest{}
		}
	}
	part := func() []string {
		i := rng.IntN(len(keys))
		return keys[i : i+1+rng.IntN(len(keys)-i)]
	}
	boundary := func(key string) bool { return shape.Level([]byte(key)) > 0 }
	switch rng.IntN(12) {
	case 0: // nothing, or one
		if rng.IntN(2) == 0 {
			set(keys[rng.IntN(len(keys))])
		}
	case 1: // the first of all
		set(keys[0])
	case 2: // all
		set(keys...)
	case 3: // none
		drop(keys...)
	case 4: // one object stays
		drop(keys...)
		delete(batch, keys[rng.IntN(len(keys))])
	case 5: // a run comes
		set(part()...)
	case 6: // a run goes
		drop(part()...)
	case 7: // all boundaries of a run go
		drop(slices.DeleteFunc(slices.Clone(part()), func(key string) bool { return !boundary(key) })...)
	case 8: // all boundaries come, and all else goes
		for _, key := range keys {
			if batch[key] = randomDigest(rng); !boundary(key) {
				batch[key] = merkle.Digest{}
			}
		}
	case 9: // what is there goes, what isn't comes
		for _, key := range part() {
			if batch[key] = randomDigest(rng); now[key] != (merkle.Digest{}) {
				batch[key] = merkle.Digest{}
			}
		}
	default: // some of each
		p := rng.Float64() * rng.Float64()
		for _, key := range keys {
			switch x := rng.Float64(); {
			case x < p/2:
				drop(key)
			case x < p:
				set(key)
			}
		}
	}
	return batch
}
