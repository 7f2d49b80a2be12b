package desired

import (
	"crypto/sha256"
	"encoding/binary"
)

// SetRoot is the root of one of a host's sets.
type SetRoot struct {
	Set  Name
	Root Digest
}

// hostTag keeps the roots of hosts apart from the digests of objects and nodes;
// see objectTag.
const hostTag = 2

// HostRoot returns the digest of all that a host's sets hold, in the order of its
// list, which counts: of several that have a key, the later wins. It is SHA-256
// over the domain tag and, for each set, the length of its name as a uvarint, the
// name and the root.
func HostRoot(sets []SetRoot) Digest {
	preimage := []byte{hostTag}
	for _, s := range sets {
		preimage = binary.AppendUvarint(preimage, uint64(len(s.Set)))
		preimage = append(preimage, s.Set...)
		preimage = append(preimage, s.Root[:]...)
	}
	return sha256.Sum256(preimage)
}
