package merkle_test

import (
	"slices"
	"sync"
	"testing"

	"espalier/merkle"
)

// fuzzKeys are 64 keys, most of them boundaries, some the next after another.
var fuzzKeys = sync.OnceValue(func() []string {
	keys := []string{"\x00", "\xff"}
	for level, n := range []int{12, 12, 10, 8, 2, 2} {
		keys = append(keys, crafted()[level][:n]...)
	}
	for _, key := range keys[:16] {
		keys = append(keys, key+"\x00")
	}
	slices.Sort(keys)
	return keys
})

// FuzzUpdate reads a history: of each byte the lower six bits name a key, the
// upper two say whether it is set, set, deleted, or the end of a batch.
func FuzzUpdate(f *testing.F) {
	f.Add([]byte("\x00\x01\x02\x03\xc0\x80\x81\x82\xc0\x83\xc0"))
	all := make([]byte, 0, 260)
	for _, kind := range []byte{0x00, 0x80, 0x40, 0x80} {
		for key := range byte(64) {
			all = append(all, kind|key)
		}
		all = append(all, 0xc0)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, data []byte) {
		h := newHistory(craftedSalt)
		batch := objects{}
		for i, b := range data[:min(len(data), 2000)] {
			key := fuzzKeys()[b&0x3f]
			switch b >> 6 {
			case 0, 1:
				batch[key] = merkle.Digest{byte(i), byte(i >> 8), 1}
			case 2:
				batch[key] = merkle.Digest{}
			case 3:
				if err := h.commit(batch); err != nil {
					t.Fatalf("after %d bytes: %v", i, err)
				}
				clear(batch)
			}
		}
		if err := h.commit(batch); err != nil {
			t.Fatal(err)
		}
	})
}
