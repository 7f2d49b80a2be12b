package spool

import (
	"bytes"
	"encoding/binary"
	"slices"

	"espalier/internal/desired"
)

// buffer gathers records in any order, and sorts them.
//
// It sorts by 8 bytes of the keys at a time, as integers that lie in the
// entries themselves: first those behind what all keys share, and where they
// are equal by the next 8 (a multikey sort with a cache; Ng and Kakehi, "Cache
// Efficient Radix Sort for String Sorting", 2007). So few comparisons leave the
// entries for the records, which lie all over the memory.
type buffer struct {
	chunks  [][]byte
	chunk   int // of chunks, the one that is filled
	entries []entry
	size    int    // bytes of records and entries
	common  []byte // what all keys begin with
}

// entry is a record's place, and 8 bytes of its key.
type entry struct {
	key   uint64
	chunk uint32
	at    uint32
}

const entryBytes = 16

// add takes a copy of a record.
func (b *buffer) add(raw []byte) {
	if b.chunk < len(b.chunks) && len(b.chunks[b.chunk])+len(raw) > cap(b.chunks[b.chunk]) {
		b.chunk++
	}
	if b.chunk == len(b.chunks) {
		b.chunks = append(b.chunks, make([]byte, 0, chunkBytes))
	}
	chunk := &b.chunks[b.chunk]
	b.entries = append(b.entries, entry{chunk: uint32(b.chunk), at: uint32(len(*chunk))})
	*chunk = append(*chunk, raw...)
	b.size += len(raw) + entryBytes
	if key := keyOf(raw); len(b.entries) == 1 {
		b.common = append(b.common[:0], key...)
	} else {
		b.common = b.common[:commonPrefix(b.common, key)]
	}
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// raw returns the memory that e's record begins.
func (b *buffer) raw(e entry) []byte { return b.chunks[e.chunk][e.at:] }

// sort orders the entries by their keys.
func (b *buffer) sort() { b.sortFrom(b.entries, len(b.common)) }

// sortFrom sorts entries whose keys are equal in their first depth bytes, as
// far as those go: a key may be shorter, and then counts as padded with zeros.
func (b *buffer) sortFrom(entries []entry, depth int) {
	const few = 12
	if len(entries) <= few || depth > desired.MaxKeyBytes {
		slices.SortFunc(entries, func(x, y entry) int {
			return bytes.Compare(keyOf(b.raw(x)), keyOf(b.raw(y)))
		})
		return
	}
	for i := range entries {
		entries[i].key = word(keyOf(b.raw(entries[i])), depth)
	}
	slices.SortFunc(entries, func(x, y entry) int {
		if x.key < y.key {
			return -1
		}
		if x.key > y.key {
			return 1
		}
		return 0
	})
	for start := 0; start < len(entries); {
		end := start + 1
		for end < len(entries) && entries[end].key == entries[start].key {
			end++
		}
		if end-start > 1 {
			b.sortFrom(entries[start:end], depth+8)
		}
		start = end
	}
}

// word returns 8 bytes of key from depth on as an integer that orders as they
// do; what is behind the key's end counts as zeros.
func word(key []byte, depth int) uint64 {
	if depth+8 <= len(key) {
		return binary.BigEndian.Uint64(key[depth:])
	}
	var b [8]byte
	if depth < len(key) {
		copy(b[:], key[depth:])
	}
	return binary.BigEndian.Uint64(b[:])
}

// reset empties the buffer and keeps its memory.
func (b *buffer) reset() {
	for i := range b.chunks {
		b.chunks[i] = b.chunks[i][:0]
	}
	b.chunk, b.entries, b.size = 0, b.entries[:0], 0
}
