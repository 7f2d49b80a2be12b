package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"espalier/internal/desired"
	"espalier/merkle"
)

// A record is a change in a run:
//
//	byte     flags
//	uint16   bytes of the key, little endian; the key
//	uvarint  the number: the line that a change is from, or the objects of a node
//	32 bytes the digest; with flagDigest
//	uvarint  bytes of the envelope; with flagEnvelope
//	         the envelope; or, with flagApart, uvarint the offset at which it lies
//	         in the file of large envelopes, and 4 bytes CRC-32C of it, little endian
type record struct {
	raw      []byte // all of it
	key      []byte
	number   uint64
	digest   desired.Digest
	envelope []byte // nil: a deletion, or it lies apart
	apart    extent
}

// extent is where a large envelope lies.
type extent struct {
	size   int // 0: nowhere
	offset int64
	sum    uint32
}

const (
	flagDigest   = 1
	flagEnvelope = 2
	flagApart    = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// appendNode appends the record of a node of a tree to b.
func appendNode(b []byte, row merkle.Row) []byte {
	return appendRecord(b, desired.Change{Key: row.Key, Digest: row.Digest}, row.Count, extent{})
}

// appendRecord appends the record of c to b. A large envelope lies at apart.
func appendRecord(b []byte, c desired.Change, number uint64, apart extent) []byte {
	flags := byte(0)
	if !c.Digest.IsZero() {
		flags |= flagDigest
	}
	if c.Envelope != nil {
		flags |= flagEnvelope
	}
	if apart.size > 0 {
		flags |= flagApart
	}
	b = append(b, flags)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.Key)))
	b = append(b, c.Key...)
	b = binary.AppendUvarint(b, number)
	if flags&flagDigest != 0 {
		b = append(b, c.Digest[:]...)
	}
	switch {
	case apart.size > 0:
		b = binary.AppendUvarint(b, uint64(apart.size))
		b = binary.AppendUvarint(b, uint64(apart.offset))
		b = binary.LittleEndian.AppendUint32(b, apart.sum)
	case c.Envelope != nil:
		b = binary.AppendUvarint(b, uint64(len(c.Envelope)))
		b = append(b, c.Envelope...)
	}
	return b
}

// keyOf returns the key of a record that appendRecord made.
func keyOf(raw []byte) []byte {
	return raw[3 : 3+int(binary.LittleEndian.Uint16(raw[1:]))]
}

// decode reads the first record of b, whose memory r then shares, and returns
// the rest of b.
func (r *record) decode(b []byte) (rest []byte, err error) {
	if len(b) < 3 {
		return nil, damaged("a record of %d bytes", len(b))
	}
	flags, size := b[0], int(binary.LittleEndian.Uint16(b[1:]))
	if flags > flagDigest|flagEnvelope|flagApart || flags&(flagEnvelope|flagApart) == flagApart {
		return nil, damaged("flags %#x", flags)
	}
	if size > desired.MaxKeyBytes || size > len(b)-3 {
		return nil, damaged("a key of %d bytes", size)
	}
	r.key, rest = b[3:3+size:3+size], b[3+size:]
	var n int
	if r.number, n = binary.Uvarint(rest); n <= 0 {
		return nil, damaged("a number that is cut short")
	}
	rest = rest[n:]
	r.digest = desired.Digest{}
	if flags&flagDigest != 0 {
		if len(rest) < len(r.digest) {
			return nil, damaged("a digest that is cut short")
		}
		rest = rest[copy(r.digest[:], rest):]
	}
	r.envelope, r.apart = nil, extent{}
	if flags&flagEnvelope != 0 {
		if rest, err = r.decodeEnvelope(rest, flags&flagApart != 0); err != nil {
			return nil, err
		}
	}
	r.raw = b[:len(b)-len(rest)]
	return rest, nil
}

func (r *record) decodeEnvelope(b []byte, apart bool) (rest []byte, err error) {
	size, n := binary.Uvarint(b)
	if n <= 0 || size == 0 || size > desired.MaxEnvelopeBytes {
		return nil, damaged("an envelope of %d bytes", size)
	}
	b = b[n:]
	if !apart {
		if size > inlineBytes || size > uint64(len(b)) {
			return nil, damaged("an envelope of %d bytes where %d are left", size, len(b))
		}
		r.envelope = b[:size:size]
		return b[size:], nil
	}
	offset, n := binary.Uvarint(b)
	if n <= 0 || offset > 1<<62 || len(b)-n < 4 {
		return nil, damaged("an extent that is cut short")
	}
	r.apart = extent{size: int(size), offset: int64(offset), sum: binary.LittleEndian.Uint32(b[n:])}
	return b[n+4:], nil
}

// A block is a piece of a run, read at once:
//
//	uint32  bytes of the records, little endian
//	uint32  CRC-32C of the records, little endian
//	        records
const blockHeader = 8

func sealBlock(b []byte) {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-blockHeader))
	binary.LittleEndian.PutUint32(b[4:], checksum(b[blockHeader:]))
}

// openBlock returns the records of the block that b begins with.
func openBlock(b []byte) ([]byte, error) {
	if len(b) < blockHeader {
		return nil, damaged("a block of %d bytes", len(b))
	}
	size, sum := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if size == 0 || uint64(size) > uint64(len(b)-blockHeader) {
		return nil, damaged("a block of %d bytes where %d are left", size, len(b)-blockHeader)
	}
	records := b[blockHeader : blockHeader+int(size)]
	if checksum(records) != sum {
		return nil, damaged("the checksum of a block is wrong")
	}
	return records, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDamaged, fmt.Sprintf(format, args...))
}

// checkChange returns an error that matches desired.ErrInvalid if c does not fit
// into a record.
func checkChange(c desired.Change) error {
	switch {
	case len(c.Key) == 0:
		return fmt.Errorf("%w key: it is empty", desired.ErrInvalid)
	case len(c.Key) > desired.MaxKeyBytes:
		return fmt.Errorf("%w key %.32q…: %d bytes, at most %d are allowed",
			desired.ErrInvalid, c.Key, len(c.Key), desired.MaxKeyBytes)
	case len(c.Envelope) > desired.MaxEnvelopeBytes || c.Envelope != nil && len(c.Envelope) == 0:
		return fmt.Errorf("%w envelope of %q: %d bytes", desired.ErrInvalid, c.Key, len(c.Envelope))
	}
	return nil
}

// duplicate returns the error for a key that two numbers have.
func duplicate(key []byte, a, b uint64) error {
	return &DuplicateError{Key: string(bytes.Clone(key)), First: int(min(a, b)), Second: int(max(a, b))}
}
