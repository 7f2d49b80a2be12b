package desired

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Digest is a SHA-256 digest: of an object, of a node of the tree, or, as a
// root, of a whole set.
type Digest [sha256.Size]byte

// String returns d as 64 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler, as String has it.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler, as ParseDigest has it.
func (d *Digest) UnmarshalText(text []byte) (err error) {
	*d, err = ParseDigest(string(text))
	return err
}

// IsZero reports whether d is no digest at all.
func (d Digest) IsZero() bool { return d == Digest{} }

// Prefix returns the first 8 bytes of d, big endian: enough to notice that two
// roots differ, not enough to prove that they are the same.
func (d Digest) Prefix() uint64 { return binary.BigEndian.Uint64(d[:]) }

// ParseDigest returns the digest that String printed.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) != 2*len(d) {
		return d, fmt.Errorf("%w digest %q: want %d hexadecimal digits", ErrInvalid, s, 2*len(d))
	}
	if _, err := hex.Decode(d[:], []byte(s)); err != nil {
		return Digest{}, fmt.Errorf("%w digest %q: %w", ErrInvalid, s, err)
	}
	return d, nil
}

// objectTag keeps the digests of objects apart from those of nodes, which
// package merkle tags with 1 (the separation of RFC 6962, section 2.1).
const objectTag = 0

// Hasher computes the digests of objects. It is a scratch buffer: one for each
// goroutine, its zero value is ready.
type Hasher struct{ buf []byte }

// Sum returns the digest of the object under key: SHA-256 over the domain tag,
// the lengths as uvarints, the key and the envelope.
func (h *Hasher) Sum(key []byte, e Envelope) Digest {
	h.buf = append(h.buf[:0], objectTag)
	h.buf = binary.AppendUvarint(h.buf, uint64(len(key)))
	h.buf = binary.AppendUvarint(h.buf, uint64(len(e)))
	h.buf = append(h.buf, key...)
	if len(e) <= 4096 {
		h.buf = append(h.buf, e...)
		return sha256.Sum256(h.buf)
	}
	s := sha256.New() // a large value is not worth copying
	s.Write(h.buf)
	s.Write(e)
	var d Digest
	s.Sum(d[:0])
	return d
}
