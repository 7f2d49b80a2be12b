package delta

import "espalier/internal/desired"

// How much of a digest travels.
//
// Two short digests that are equal by chance hide a difference. Nothing wrong
// comes of it, since the root tells and the descent is repeated; but if they are
// nodes far apart, all between them counts as different too. A digest that has
// no equal on the other side can meet each of those that it is compared with, so
// the width follows the number of such pairs: with 3 bytes everywhere a descent
// to one change in a million objects goes wrong once in 100,000 times, and one to
// a million changes always does.
//
// The receiver chooses, since it alone knows the stretches from both sides.
// Rejected: one width for all, which either costs a small descent a third of its
// bytes or fails in a large one; and a longest common subsequence in place of
// the first match, which mends nothing where all differs, and hides nothing that
// a byte more wouldn't.

// widthFor returns how many bytes of a digest travel where so many pairs of
// different ones are compared: enough for it to be unlikely (chanceBits) that any
// are equal, unless this descent is one of whole digests.
func (o *Open) widthFor(pairs uint64) int {
	if o.Width == len(desired.Digest{}) {
		return o.Width
	}
	if pairs <= 1<<(8*ShortWidth-shortChanceBits) {
		return ShortWidth
	}
	width := ShortWidth + 1
	for width < MaxShortWidth && pairs > 1<<(8*width-chanceBits) {
		width++
	}
	return width
}

// changedBelow guesses how many children of count neighbouring nodes have
// changed, if all of the nodes have: scattered changes leave short stretches, of
// one change to a node; only where most has changed are stretches long.
func changedBelow(count int) uint64 { return uint64(count) * uint64(min(count, fanOut)) }

// digestIndex finds digests by their place in a list. Several can be equal.
type digestIndex struct {
	heads map[desired.Digest]int32 // by digest: the place that was added last
	next  []int32                  // by place: the one of the same digest that was added before, or -1
}

// reset empties the index. It gives up a map so large that to
// clear it, each time for a few digests, would cost more than it saves.
func (x *digestIndex) reset() {
	if x.heads == nil || len(x.heads) > 256 {
		x.heads = map[desired.Digest]int32{}
	}
	clear(x.heads)
	x.next = x.next[:0]
}

// add adds the digest at the end of the list.
func (x *digestIndex) add(d desired.Digest) {
	before, ok := x.heads[d]
	if !ok {
		before = -1
	}
	x.heads[d] = int32(len(x.next))
	x.next = append(x.next, before)
}

// take returns a place of d, and not again; ok is false where there is none left.
func (x *digestIndex) take(d desired.Digest) (at int, ok bool) {
	i, ok := x.heads[d]
	if !ok {
		return 0, false
	}
	if x.next[i] < 0 {
		delete(x.heads, d)
	} else {
		x.heads[d] = x.next[i]
	}
	return int(i), true
}

// from returns the first place of d that is not before least; ok is false where
// there is none.
func (x *digestIndex) from(d desired.Digest, least int) (at int, ok bool) {
	i, found := x.heads[d]
	for found && i >= int32(least) {
		at, ok = int(i), true
		i = x.next[i]
	}
	return at, ok
}
