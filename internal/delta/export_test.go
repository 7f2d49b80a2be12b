package delta

import "espalier/internal/desired"

// ShortDigest returns the ShortWidth bytes that stand for d under seed.
func ShortDigest(seed uint64, d desired.Digest) [ShortWidth]byte {
	s := short(seed, ShortWidth, &d)
	return [ShortWidth]byte(s[:])
}

// WholeDigests makes r compare by whole digests from the start, as it does after
// two doubts.
func (r *Receiver) WholeDigests() { r.width = len(desired.Digest{}) }
