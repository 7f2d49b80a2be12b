// Package workload makes up the objects that all peers are given, and the
// changes to them, and says whether a copy is the same as what was made up.
package workload

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strings"
)

const (
	// ValueBytes is the size of every value; values don't compress.
	ValueBytes = 100
	// KeyBytes is the length of every key.
	KeyBytes = len("svc/0042/obj/1f3a90c2")
	// MinObjects leaves something to change, MaxObjects is what the keys have room
	// for.
	MinObjects = 100
	MaxObjects = 9_999_000
	// serviceObjects is how many objects a service starts with.
	serviceObjects = 1000
	// fnvOffset and fnvPrime are those of FNV-1a, 64 bits.
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
	// MostChanged is the largest part of the objects that one step changes: one in
	// so many.
	MostChanged = 10
)

// Change is one object's new value; a nil Value deletes it.
type Change struct {
	Key   string
	Value []byte
}

// Shape says where changes fall.
type Shape string

// The shapes.
const (
	Scattered Shape = "scattered" // evenly over all objects
	Clustered Shape = "clustered" // one run of neighbours in key order
)

// Workload is what a server is to hold. The same numbers make the same objects
// and the same history. It is for one goroutine.
type Workload struct {
	seed     uint64
	rng      *rand.Rand
	keys     []string // ascending
	versions map[string]*version
	step     uint64 // changes are made in steps; 0 made the first objects
	judged   uint64 // copies so far
}

// version is what an object's value is made from.
type version struct {
	step   uint64 // that made it
	judged uint64 // the last copy that had it
}

// New returns the workload of so many objects.
func New(objects int, seed uint64) (*Workload, error) {
	if objects < MinObjects || objects > MaxObjects {
		return nil, fmt.Errorf("%d objects: want %d to %d", objects, MinObjects, MaxObjects)
	}
	w := &Workload{seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), versions: make(map[string]*version, objects)}
	for i := range objects {
		w.versions[w.newKey(i/serviceObjects)] = &version{}
	}
	w.keys = make([]string, 0, objects)
	for key := range w.versions {
		w.keys = append(w.keys, key)
	}
	slices.Sort(w.keys)
	return w, nil
}

// newKey returns a key of a service that there is not yet.
func (w *Workload) newKey(service int) string {
	for {
		if key := keyOf(service, w.rng.Uint32()); w.free(key) {
			return key
		}
	}
}

// free reports whether a key belongs to no object, neither now nor before the
// step that is being made.
func (w *Workload) free(key string) bool {
	_, now := w.versions[key]
	_, before := slices.BinarySearch(w.keys, key)
	return !now && !before
}

func keyOf(service int, id uint32) string { return fmt.Sprintf("svc/%04d/obj/%08x", service, id) }

// putValue makes value that of a key as of a step: what a generator of random
// numbers makes of both, so that it doesn't compress.
func (w *Workload) putValue(value []byte, key string, step uint64) {
	h := uint64(fnvOffset)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * fnvPrime
	}
	var random rand.PCG
	random.Seed(w.seed^h, step)
	var word [8]byte
	for len(value) > 0 {
		binary.LittleEndian.PutUint64(word[:], random.Uint64())
		value = value[copy(value, word[:]):]
	}
}

func (w *Workload) value(key string, step uint64) []byte {
	value := make([]byte, ValueBytes)
	w.putValue(value, key, step)
	return value
}

// Len returns how many objects there are now.
func (w *Workload) Len() int { return len(w.keys) }

// PayloadBytes returns what all keys and values add up to.
func (w *Workload) PayloadBytes() int { return len(w.keys) * (KeyBytes + ValueBytes) }

// Batches returns all objects as they are now, ascending by key, so many at a
// time.
func (w *Workload) Batches(size int) iter.Seq[[]Change] {
	return func(yield func([]Change) bool) {
		for keys := range slices.Chunk(w.keys, size) {
			batch := make([]Change, len(keys))
			for i, key := range keys {
				batch[i] = Change{Key: key, Value: w.value(key, w.versions[key].step)}
			}
			if !yield(batch) {
				return
			}
		}
	}
}

// Change makes n changes, of which a tenth are inserts and a tenth deletions,
// rounded down, and the rest updates, and returns them ascending by key. What is
// asked for beyond a tenth of the objects is cut.
func (w *Workload) Change(n int, shape Shape) []Change {
	n = min(n, len(w.keys)/MostChanged)
	at := w.places(n, shape)
	kinds := slices.Concat(slices.Repeat([]kind{insert}, n/10), slices.Repeat([]kind{remove}, n/10),
		slices.Repeat([]kind{update}, n-n/10*2))
	w.rng.Shuffle(n, func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	w.step++
	changes := make([]Change, n)
	for i, place := range at {
		changes[i] = w.change(place, kinds[i], shape)
	}
	slices.SortFunc(changes, func(a, b Change) int { return strings.Compare(a.Key, b.Key) })
	w.settle(changes)
	return changes
}

type kind uint8

const (
	update kind = iota
	insert
	remove
)

// places returns the indexes of n keys, all different.
func (w *Workload) places(n int, shape Shape) []int {
	at := make([]int, 0, n)
	if shape == Clustered {
		first := w.rng.IntN(len(w.keys) - n + 1)
		for i := range n {
			at = append(at, first+i)
		}
		return at
	}
	taken := make(map[int]bool, n)
	for len(at) < n {
		if i := w.rng.IntN(len(w.keys)); !taken[i] {
			taken[i] = true
			at = append(at, i)
		}
	}
	return at
}

// change returns the change of a kind at a place; an insert gets a key of that
// place's service, if the changes are clustered the first free one that follows.
func (w *Workload) change(place int, k kind, shape Shape) Change {
	key := w.keys[place]
	switch k {
	case remove:
		delete(w.versions, key)
		return Change{Key: key}
	case insert:
		var service int
		var id uint32
		_, _ = fmt.Sscanf(key, "svc/%04d/obj/%08x", &service, &id) // our own key
		if shape == Scattered {
			key = w.newKey(service)
			break
		}
		for !w.free(key) {
			id++
			key = keyOf(service, id)
		}
	}
	w.versions[key] = &version{step: w.step}
	return Change{Key: key, Value: w.value(key, w.step)}
}

// settle makes the keys those that there are after changes, which are ascending.
func (w *Workload) settle(changes []Change) {
	keys := make([]string, 0, len(w.keys)+len(changes))
	rest := w.keys
	for _, c := range changes {
		at, found := slices.BinarySearch(rest, c.Key)
		keys = append(keys, rest[:at]...)
		rest = rest[at:]
		if found {
			rest = rest[1:]
		}
		if c.Value != nil {
			keys = append(keys, c.Key)
		}
	}
	w.keys = append(keys, rest...)
}

// PayloadOf returns what the keys and the new values of changes add up to.
func PayloadOf(changes []Change) int {
	n := 0
	for _, c := range changes {
		n += len(c.Key) + len(c.Value)
	}
	return n
}
