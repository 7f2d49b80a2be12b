package delta_test

import (
	"bytes"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/merkle"
)

// memory is a delta.Source in memory: objects by key, a tree built anew after
// each commit, and a journal of the keys that each commit touched.
type memory struct {
	merkle.Memory
	head    desired.Head
	salt    uint64
	objects map[string]desired.Envelope
	keys    []string
	roots   map[uint64]desired.Digest
	journal map[uint64][]string
}

func newMemory(salt uint64) *memory {
	m := &memory{
		salt: salt, objects: map[string]desired.Envelope{},
		roots: map[uint64]desired.Digest{}, journal: map[uint64][]string{},
	}
	m.head.Epoch = desired.Epoch{1}
	m.commit(nil)
	return m
}

// clone returns a copy with a history that begins at its head.
func (m *memory) clone() *memory {
	return &memory{
		Memory: m.Memory, head: m.head, salt: m.salt, objects: maps.Clone(m.objects), keys: m.keys,
		roots: map[uint64]desired.Digest{m.head.Number: m.head.Root}, journal: map[uint64][]string{},
	}
}

// commit applies changes, nil standing for a deletion, as the next revision.
func (m *memory) commit(changes map[string]desired.Envelope) {
	m.head.Number++
	for k, e := range changes {
		if m.journal[m.head.Number] = append(m.journal[m.head.Number], k); e == nil {
			delete(m.objects, k)
		} else {
			m.objects[k] = e
		}
	}
	m.rebuild()
	m.roots[m.head.Number] = m.head.Root
}

func (m *memory) rebuild() {
	m.Memory = merkle.Memory{}
	b := m.Shape().NewBuilder(m.Append)
	var h desired.Hasher
	m.keys = sortedKeys(m.objects)
	m.head.Bytes = 0
	for _, k := range m.keys {
		d := h.Sum([]byte(k), m.objects[k])
		must(m.Append(0, merkle.Row{Key: []byte(k), Digest: d, Count: 1}))
		must(b.Add([]byte(k), d))
		m.head.Bytes += uint64(desired.Change{Key: []byte(k), Envelope: m.objects[k]}.PayloadBytes())
	}
	root, _, err := b.Finish()
	must(err)
	m.head.Root, m.head.Objects = root.Digest, root.Count
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (m *memory) Head() desired.Head  { return m.head }
func (m *memory) Shape() merkle.Shape { return merkle.Shape{Salt: m.salt} }

func (m *memory) Get(key []byte) (desired.Change, bool, error) {
	e, ok := m.objects[string(key)]
	return desired.Change{Key: key, Envelope: e}, ok, nil
}

func (m *memory) Objects(from, until []byte) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		i, _ := slices.BinarySearch(m.keys, string(from))
		for _, k := range m.keys[i:] {
			if until != nil && k >= string(until) || !yield(desired.Change{Key: []byte(k), Envelope: m.objects[k]}, nil) {
				return
			}
		}
	}
}

func (m *memory) Touched(number uint64, limit int) (desired.Digest, [][]byte, bool, error) {
	root, ok := m.roots[number]
	seen := map[string]bool{}
	for n := number + 1; n <= m.head.Number; n++ {
		for _, k := range m.journal[n] {
			seen[k] = true
		}
	}
	var keys [][]byte
	for k := range seen {
		keys = append(keys, []byte(k))
	}
	slices.SortFunc(keys, bytes.Compare)
	return root, keys, ok && len(keys) <= limit, nil
}

func envelope(format string, args ...any) desired.Envelope {
	return append(desired.Envelope{0}, fmt.Sprintf(format, args...)...)
}

// scatter returns n changes: updates, inserts and deletions.
func scatter(r *rand.Rand, m *memory, n int) map[string]desired.Envelope {
	changes := map[string]desired.Envelope{}
	for range n {
		key := fmt.Sprintf("svc/%03d/obj/%08x", r.IntN(50), r.Uint32())
		if len(m.keys) > 0 && r.IntN(10) > 0 {
			key = m.keys[r.IntN(len(m.keys))]
		}
		changes[key] = envelope("value %d", r.Uint64())
		if r.IntN(5) == 0 && len(m.keys) > 0 {
			delete(changes, key)
			changes[m.keys[r.IntN(len(m.keys))]] = nil
		}
	}
	return changes
}

var codec = delta.NewCodec()

// numbered returns a set of n objects whose tree has the height and, if it is
// large, at least three nodes below the root: with salts taken in turn, until
// one does that.
func numbered(n, height int) *memory {
	changes := map[string]desired.Envelope{}
	for i := range n {
		changes[numberedKey(i)] = envelope("value %d", i)
	}
	m := newMemory(saltFor(n, height))
	m.commit(changes)
	return m
}

var saltFor = func() func(n, height int) uint64 {
	type question struct{ n, height int }
	known := map[question]uint64{}
	return func(n, height int) uint64 {
		salt, ok := known[question{n, height}]
		if ok {
			return salt
		}
		keys := make([][]byte, n)
		for i := range keys {
			keys[i] = []byte(numberedKey(i))
		}
		for ; !ok; salt++ {
			nodes := [merkle.MaxLevel + 1]int{} // by level, but for the first
			for _, key := range keys {          // each key starts one at the levels up to its own
				for l := range (merkle.Shape{Salt: salt + 1}).Level(key) {
					nodes[l+1]++
				}
			}
			ok = nodes[height] == 0 && (height == 1 || nodes[height-1] > min(1, n/1000))
		}
		known[question{n, height}] = salt
		return salt
	}
}()

func numberedKey(i int) string { return fmt.Sprintf("svc/%03d/obj/%06d", i/100, i) }

// nodes returns the first keys of the nodes of a level.
func (m *memory) nodes(level int) (keys []string) {
	for row, err := range m.Rows(level, nil, nil) {
		must(err)
		keys = append(keys, string(row.Key))
	}
	return keys
}

// width returns how many nodes a level has.
func (m *memory) width(level int) int { return len(m.nodes(level)) }

// counting is a source that counts the objects that are read of it.
type counting struct {
	*memory
	reads int
}

func (c *counting) Rows(level int, from, until []byte) iter.Seq2[merkle.Row, error] {
	return func(yield func(merkle.Row, error) bool) {
		for row, err := range c.memory.Rows(level, from, until) {
			if level == 0 {
				c.reads++
			}
			if !yield(row, err) {
				return
			}
		}
	}
}

func (c *counting) Objects(from, until []byte) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for o, err := range c.memory.Objects(from, until) {
			if c.reads++; !yield(o, err) {
				return
			}
		}
	}
}
