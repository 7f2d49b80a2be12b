package store

import (
	"bytes"
	"fmt"
	"hash/maphash"
	"iter"
	"slices"
	"strings"

	"espalier/internal/desired"
)

// What an object comes after orders how a host applies a set, so there must be no
// cycle. Only objects that are there count: to come after one that isn't is no
// constraint, until it comes.
//
// A set without a cycle gets one only by an edge that is new. That is out of an
// object whose own list has grown, or into one that is created; and since the
// cycle goes on from there, that one has a list, too. So where few objects change,
// those that gain something to come after are where a search begins, which reads
// what is reachable from them and nothing else. Where a set is written anew, the
// whole graph is gathered on the way.

// CheckOrder returns an error that matches ErrCycle, and names the cycle, if
// objects, which are those of a whole set, come after each other in one. It holds
// in memory the key of each that comes after others and some 120 bytes, and 12
// bytes for each key that it comes after.
func CheckOrder(objects iter.Seq2[desired.Change, error]) error {
	var o ordering
	for c, err := range objects {
		if err != nil {
			return err
		}
		if err := o.add(c.Key, c.Envelope); err != nil {
			return err
		}
	}
	return o.check()
}

// search is a depth-first search for a cycle. It doesn't recurse, for a path may
// be as long as there are objects.
type search struct {
	// after returns the nodes that a node comes after; it is called once for each.
	after func(node int32) ([]int32, error)
	seen  []progress // by node
	path  []step
}

type progress byte

const (
	unseen progress = iota
	onPath
	finished // no cycle can be reached from it
)

// step is a node of the path, and what of its edges was not followed yet.
type step struct {
	node int32
	rest []int32
}

// from returns the nodes of a cycle that can be reached from the node, each of
// which comes after the next, and the last after the first; nil: there is none.
func (s *search) from(node int32) ([]int32, error) {
	if err := s.enter(node); err != nil {
		return nil, err
	}
	for len(s.path) > 0 {
		at := &s.path[len(s.path)-1]
		if len(at.rest) == 0 {
			s.seen[at.node] = finished
			s.path = s.path[:len(s.path)-1]
			continue
		}
		next := at.rest[0]
		at.rest = at.rest[1:]
		if s.progress(next) == onPath {
			return s.cycle(next), nil
		}
		if err := s.enter(next); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (s *search) progress(node int32) progress {
	if grow := int(node) + 1 - len(s.seen); grow > 0 {
		s.seen = append(s.seen, make([]progress, grow)...)
	}
	return s.seen[node]
}

// enter makes a node that was not seen yet the end of the path.
func (s *search) enter(node int32) error {
	if s.progress(node) != unseen {
		return nil
	}
	after, err := s.after(node)
	s.seen[node] = onPath
	s.path = append(s.path, step{node: node, rest: after})
	return err
}

// cycle returns the path from the node on.
func (s *search) cycle(node int32) (nodes []int32) {
	for _, at := range slices.Backward(s.path) {
		nodes = append(nodes, at.node)
		if at.node == node {
			break
		}
	}
	slices.Reverse(nodes)
	return nodes
}

// ordering is what the objects of a whole set come after. The keys in their lists
// stand as hashes, for the lists may be larger than what memory there is, and those
// of objects that have no list themselves, or aren't there, fall away in the end.
// Where a million objects have the longest lists, one in 300,000 sets has an edge
// that leads elsewhere; the hash is seeded anew for each attempt, and whoever
// writes keys doesn't know the seed.
type ordering struct {
	seed  maphash.Seed
	arena arena
	keys  [][]byte // of objects that come after others
	ends  []int    // by object: where its part of after ends
	after []uint64
}

// add adds an object, which comes after none that was added.
func (o *ordering) add(key []byte, e desired.Envelope) error {
	after, err := e.After(key)
	if err != nil || len(after) == 0 {
		return err
	}
	if o.keys == nil {
		o.seed = maphash.MakeSeed()
	}
	for _, k := range after {
		o.after = append(o.after, maphash.Bytes(o.seed, k))
	}
	o.keys = append(o.keys, append(o.arena.alloc(len(key)), key...))
	o.ends = append(o.ends, len(o.after))
	return nil
}

// check returns an error that names a cycle, if there is one.
func (o *ordering) check() error {
	edges, ends := o.resolve()
	s := search{seen: make([]progress, len(o.keys))}
	s.after = func(node int32) ([]int32, error) {
		start := 0
		if node > 0 {
			start = ends[node-1]
		}
		return edges[start:ends[node]], nil
	}
	for node := range o.keys {
		cycle, err := s.from(int32(node))
		if err != nil {
			return err
		}
		if cycle != nil {
			return cycleError(cycle, func(node int32) []byte { return o.keys[node] })
		}
	}
	return nil
}

// resolve returns the edges between objects that come after others, and where
// those of each end.
func (o *ordering) resolve() (edges []int32, ends []int) {
	nodes := make(map[uint64]int32, len(o.keys))
	for i, key := range o.keys {
		nodes[maphash.Bytes(o.seed, key)] = int32(i)
	}
	start := 0
	for _, end := range o.ends {
		for _, hash := range o.after[start:end] {
			if node, ok := nodes[hash]; ok {
				edges = append(edges, node)
			}
		}
		start, ends = end, append(ends, len(edges))
	}
	return edges, ends
}

// gains reports whether an object that is put comes after a key that it did not
// come after before; old is its row, nil for none.
func gains(key, old []byte, e desired.Envelope) (bool, error) {
	after, err := e.After(key)
	if err != nil || len(after) == 0 || old == nil {
		return len(after) > 0, err
	}
	before, err := storedAfter(key, old)
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(after, func(k []byte) bool {
		_, found := slices.BinarySearchFunc(before, k, bytes.Compare)
		return !found
	}), nil
}

// storedAfter returns what an object comes after, by its row.
func storedAfter(key, row []byte) ([][]byte, error) {
	c, err := decodeObject(key, row)
	if err != nil {
		return nil, err
	}
	after, err := c.Envelope.After(key)
	if err != nil {
		return nil, fmt.Errorf("%w: object %q: %w", ErrCorrupt, key, err)
	}
	return after, nil
}

// order returns an error that matches ErrCycle if the plan makes a cycle.
func (e *edit) order(p *plan) error {
	var o *orderer
	for i := range p.kept {
		c := &p.kept[i]
		if c.row == nil || c.row[digestBytes] == 0 {
			continue // it has no list
		}
		gained, err := gains(c.key, e.objects.Get(c.key), c.row[digestBytes:])
		if err != nil {
			return err
		}
		if !gained {
			continue
		}
		if o == nil {
			o = newOrderer(e.rows, p.kept)
		}
		if err := o.from(c.key); err != nil {
			return err
		}
	}
	return nil
}

// orderer searches for cycles in a set as changes leave it, reading what it comes
// upon.
type orderer struct {
	rows    rows
	changes []pending // ascending
	search  search
	nodes   map[string]int32
	keys    [][]byte
}

func newOrderer(r rows, changes []pending) *orderer {
	o := &orderer{rows: r, changes: changes, nodes: map[string]int32{}}
	o.search.after = o.after
	return o
}

func (o *orderer) from(key []byte) error {
	cycle, err := o.search.from(o.node(key))
	if err != nil || cycle == nil {
		return err
	}
	var h desired.Hasher
	for _, node := range cycle { // before anybody is refused because of a flipped bit
		if key := o.keys[node]; o.changed(key) == nil {
			c, err := decodeObject(key, o.rows.objects.Get(key))
			if err == nil {
				err = verify(&h, c)
			}
			if err != nil {
				return err
			}
		}
	}
	return cycleError(cycle, func(node int32) []byte { return o.keys[node] })
}

func (o *orderer) node(key []byte) int32 {
	node, ok := o.nodes[string(key)]
	if !ok {
		node = int32(len(o.keys))
		o.nodes[string(key)] = node
		o.keys = append(o.keys, key) // a change's, or the file's
	}
	return node
}

// changed returns the change of key, nil if there is none.
func (o *orderer) changed(key []byte) *pending {
	i, found := slices.BinarySearchFunc(o.changes, key, func(p pending, key []byte) int { return bytes.Compare(p.key, key) })
	if !found {
		return nil
	}
	return &o.changes[i]
}

func (o *orderer) after(node int32) ([]int32, error) {
	key := o.keys[node]
	row := []byte(nil)
	if c := o.changed(key); c != nil {
		row = c.row
	} else {
		row = o.rows.objects.Get(key)
	}
	if row == nil {
		return nil, nil
	}
	after, err := storedAfter(key, row)
	if err != nil || len(after) == 0 {
		return nil, err
	}
	nodes := make([]int32, len(after))
	for i, k := range after {
		nodes[i] = o.node(k)
	}
	return nodes, nil
}

// cycleError names a cycle, or its beginning, from the lowest key on.
func cycleError(nodes []int32, key func(int32) []byte) error {
	lowest := 0
	for i := range nodes {
		if bytes.Compare(key(nodes[i]), key(nodes[lowest])) < 0 {
			lowest = i
		}
	}
	nodes = slices.Concat(nodes[lowest:], nodes[:lowest])
	names := make([]string, min(len(nodes), maxCycleKeys))
	for i := range names {
		names[i] = quoteKey(key(nodes[i]))
	}
	if more := len(nodes) - len(names); more > 0 {
		names[len(names)-1] += fmt.Sprintf(", … (%d more)", more)
	}
	chain := append(names, quoteKey(key(nodes[0])))
	return fmt.Errorf("%w: %s comes after %s", ErrCycle, chain[0], strings.Join(chain[1:], ", which comes after "))
}

// quoteKey returns a key as a message shows it.
func quoteKey(key []byte) string {
	if len(key) <= maxCycleKeyBytes {
		return fmt.Sprintf("%q", key)
	}
	return fmt.Sprintf("%q…", key[:maxCycleKeyBytes])
}
