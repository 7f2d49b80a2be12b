package desired

import "encoding/binary"

// Change is the new state of one object. Streams of changes are ordered by key,
// strictly ascending.
type Change struct {
	Key []byte
	// Envelope is the object's new content; nil: the object is deleted.
	Envelope Envelope
	// Digest is the object's, zero for a deletion.
	Digest Digest
}

// Deleted reports whether c deletes its object.
func (c Change) Deleted() bool { return c.Envelope == nil }

// PayloadBytes returns the bytes of c's key, head and value: the least that has
// to cross a wire that doesn't compress.
func (c Change) PayloadBytes() int {
	_, size := binary.Uvarint(c.Envelope)
	return len(c.Key) + len(c.Envelope) - max(0, size)
}
