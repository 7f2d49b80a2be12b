package delta

import (
	"bytes"
	"encoding/binary"

	"espalier/internal/desired"
)

// Mark is how far an interrupted pull had come. It is kept with what was staged,
// in the same transaction.
type Mark struct {
	Mode Mode
	// Base is where a delta starts from, Through what a delta or a full pull
	// will have brought in whole once it ends.
	Base, Through desired.Revision
	// After is the last key that is staged.
	After []byte
}

const markVersion = 1

// Encode returns m as DecodeMark reads it.
func (m Mark) Encode() []byte {
	b := []byte{markVersion, byte(m.Mode)}
	for _, r := range []desired.Revision{m.Base, m.Through} {
		b = append(b, r.Epoch[:]...)
		b = binary.AppendUvarint(b, r.Number)
		b = append(b, r.Root[:]...)
	}
	return append(b, m.After...)
}

// DecodeMark reads a mark; it keeps nothing of b. One that is malformed, or of another version of this
// program, is an error: what it is about has to be compared instead.
func DecodeMark(b []byte) (Mark, error) {
	r := reader{rest: b}
	if v := r.byte(); v != markVersion {
		r.fail("a mark of version %d", v)
	}
	m := Mark{Mode: Mode(r.byte())}
	if m.Mode != Since && m.Mode != Full && m.Mode != Descent {
		r.fail("a mark of mode %d", m.Mode)
	}
	for _, rev := range []*desired.Revision{&m.Base, &m.Through} {
		copy(rev.Epoch[:], r.bytes(len(rev.Epoch)))
		rev.Number = r.uint64()
		copy(rev.Root[:], r.bytes(len(rev.Root)))
	}
	if len(r.rest) > desired.MaxKeyBytes {
		r.fail("a mark with a key of %d bytes", len(r.rest))
	}
	if len(r.rest) > 0 {
		m.After = bytes.Clone(r.rest)
	}
	if r.err != nil {
		return Mark{}, r.err
	}
	return m, nil
}
