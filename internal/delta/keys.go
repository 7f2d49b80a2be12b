package delta

import (
	"bytes"
	"sort"
)

// keyList is a list of keys in one block of memory.
type keyList struct {
	block   []byte
	offsets []int
}

func (l *keyList) len() int { return len(l.offsets) }

func (l *keyList) reset() { l.block, l.offsets = l.block[:0], l.offsets[:0] }

// add copies key to the end of the list.
func (l *keyList) add(key []byte) {
	l.offsets = append(l.offsets, len(l.block))
	l.block = append(l.block, key...)
}

// at returns the key of an index. It shares the list's memory.
func (l *keyList) at(i int) []byte {
	end := len(l.block)
	if i+1 < len(l.offsets) {
		end = l.offsets[i+1]
	}
	return l.block[l.offsets[i]:end:end]
}

// search returns the index of key in a list that ascends, or where it would be.
func (l *keyList) search(key []byte) (i int, found bool) {
	return sort.Find(l.len(), func(i int) int { return bytes.Compare(key, l.at(i)) })
}
