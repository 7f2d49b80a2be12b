package pattern

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// tree is the shape of a Merkle tree over the places 0 to n-1: for each level the
// places at which its nodes start. It is drawn as a salt would have it, not
// computed from keys; what its nodes' digests are doesn't matter to a count of
// bytes. Objects that come and go leave it as it is: a node in 32 is off by then.
type tree struct {
	objects int
	starts  [][]int32 // by level, from 1
}

// fanOut is how many children a node has on average.
const fanOut = 32

// newTree returns the tree of so many objects, of which level says the level.
func newTree(objects int, level func(place int) int) *tree {
	t := &tree{objects: objects}
	for place := range objects {
		at := level(place)
		for len(t.starts) < at {
			t.starts = append(t.starts, []int32{0})
		}
		for l := range at {
			if starts := t.starts[l]; starts[len(starts)-1] != int32(place) {
				t.starts[l] = append(starts, int32(place))
			}
		}
	}
	if len(t.starts) == 0 {
		t.starts = [][]int32{{0}}
	}
	for i, starts := range t.starts { // the root is the only node of its level
		if len(starts) == 1 {
			t.starts = t.starts[:i+1]
			break
		}
	}
	if len(t.starts[len(t.starts)-1]) > 1 {
		t.starts = append(t.starts, []int32{0})
	}
	return t
}

// drawnLevel returns levels as merkle.Shape.Level has them of hashes.
func drawnLevel(seed uint64) func(place int) int {
	return func(place int) int { return bits.LeadingZeros64(scramble(seed, uint64(place))) / 5 }
}

// descent is what a descent sends, beside frames.
type descent struct {
	up, down []int // bytes by round trip: a question and its answer
	rows     int   // of the tree that the sender read
}

// bytes returns all of them.
func (d *descent) bytes() (n int) {
	for i := range d.up {
		n += d.up[i] + d.down[i]
	}
	return n
}

// span is a stretch of nodes of one level that differ, from first on.
type span struct{ first, count int }

// descend returns what it takes to find changes in objects at places, ascending:
// package delta's conversation, counted and not held. gone says which of them
// leave the receiver with a digest that stands for nothing any more: all but
// inserts.
func (t *tree) descend(places []int32, gone []bool, objectBytes int) descent {
	var d descent
	level := len(t.starts)
	spans, width, ask := []span{{0, 1}}, delta.ShortWidth, 0
	for ; level > 1; level-- {
		listing := 0
		for _, s := range spans {
			from, until := t.children(level, s)
			listing += uvarint(2*(until-from)) + (until-from)*width
			d.rows += until - from
		}
		d.up, d.down = append(d.up, ask), append(d.down, listing)
		spans = t.spans(level-1, places)
		if level > 2 {
			width = narrowWidth(spans)
			ask = 1 + named(spans)
		}
	}
	up, down, rows := t.leaves(spans, places, gone, objectBytes)
	d.up, d.down, d.rows = append(d.up, up), append(d.down, down), d.rows+rows
	return d
}

// children returns the nodes of the level below that the span's nodes have.
func (t *tree) children(level int, s span) (from, until int) {
	starts, below := t.starts[level-1], t.starts[level-2]
	from, _ = slices.BinarySearch(below, starts[s.first])
	until = len(below)
	if end := s.first + s.count; end < len(starts) {
		until, _ = slices.BinarySearch(below, starts[end])
	}
	return from, until
}

// objectsIn returns how many objects the span's nodes of level 1 have.
func (t *tree) objectsIn(s span) int {
	end := t.objects
	if next := s.first + s.count; next < len(t.starts[0]) {
		end = int(t.starts[0][next])
	}
	return end - int(t.starts[0][s.first])
}

// spans returns the nodes of a level that places lie in, neighbours as one.
func (t *tree) spans(level int, places []int32) []span {
	var spans []span
	starts := t.starts[level-1]
	for _, p := range places {
		node, exact := slices.BinarySearch(starts, p)
		if !exact {
			node--
		}
		last := len(spans) - 1
		switch {
		case last >= 0 && node < spans[last].first+spans[last].count:
		case last >= 0 && node == spans[last].first+spans[last].count:
			spans[last].count++
		default:
			spans = append(spans, span{node, 1})
		}
	}
	return spans
}

// named returns the bytes that name spans: what is skipped, and how many.
func named(spans []span) (bytes int) {
	next := 0
	for _, s := range spans {
		bytes += uvarint(s.first-next) + uvarint(s.count)
		next = s.first + s.count
	}
	return bytes
}

// leaves returns the bytes of the last step, which names what is held in spans of
// level 1, and of its answer, and the rows that are read for it.
func (t *tree) leaves(spans []span, places []int32, gone []bool, objectBytes int) (up, down, rows int) {
	width := leavesWidth(spans, objectBytes)
	up = 1
	next, at := 0, 0
	for _, s := range spans {
		objects := t.objectsIn(s)
		rows += objects
		whole := dense(s, objectBytes)
		for left := objects; ; left -= delta.PartDigests {
			n := min(left, delta.PartDigests)
			up += uvarint(2*(s.first-next)) + uvarint(s.count)
			if left > n {
				up += 1 + keyBytes
			}
			if whole {
				up++
			} else {
				up += uvarint(n) + n*width
			}
			if left <= delta.PartDigests {
				break
			}
			next = s.first
		}
		next = s.first + s.count
		end := int32(t.objects)
		if next < len(t.starts[0]) {
			end = t.starts[0][next]
		}
		first, before := t.starts[0][s.first], int32(-1)
		changed, lost := 0, 0
		for ; at < len(places) && places[at] < end; at++ {
			changed++
			if gone[at] && !whole {
				lost++
				index := (places[at] - first) % delta.PartDigests
				down += uvarint(int(max(index-before-1, 0)))
				before = index
			}
		}
		down += uvarint(changed) + uvarint(lost)
	}
	return up, down, rows
}

// dense, narrowWidth, leavesWidth and widthFor are package delta's, for spans of
// as many nodes on both sides.
func dense(s span, objectBytes int) bool {
	return objectBytes > 0 && s.count*(delta.ShortWidth+2) >= fanOut*objectBytes
}

func narrowWidth(spans []span) int {
	pairs := uint64(0)
	for _, s := range spans {
		few := uint64(min(s.count, fanOut))
		pairs += uint64(s.count) * few * uint64(s.count) * fanOut * few
	}
	return widthFor(pairs)
}

func leavesWidth(spans []span, objectBytes int) int {
	pairs := uint64(0)
	for _, s := range spans {
		if !dense(s, objectBytes) {
			pairs += uint64(s.count) * uint64(min(s.count, fanOut)) * uint64(min(s.count*fanOut, delta.PartDigests))
		}
	}
	return widthFor(pairs)
}

func widthFor(pairs uint64) int {
	const shortBits, bits = 14, 10
	if pairs <= 1<<(8*delta.ShortWidth-shortBits) {
		return delta.ShortWidth
	}
	width := delta.ShortWidth + 1
	for width < delta.MaxShortWidth && pairs > 1<<(8*width-bits) {
		width++
	}
	return min(width, len(desired.Digest{}))
}

func uvarint(n int) int {
	var b [binary.MaxVarintLen64]byte
	return binary.PutUvarint(b[:], uint64(n))
}
