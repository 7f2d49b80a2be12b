package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"

	"espalier/internal/desired"
)

// The rows of a host's record. No digest covers them, so each ends with 4 bytes
// that do: the CRC-32C of its key and what comes before. Those of objects, drifts
// and batches begin their content with a byte whose upper half is the version.

// recordVersion is that of rows, and of the record's buckets.
const (
	recordVersion = 1
	rowVersion    = recordVersion << 4
	sealBytes     = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, v []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, v)
}

// sealRow appends the checksum of the row under key.
func sealRow(key, v []byte) []byte { return binary.BigEndian.AppendUint32(v, checksum(key, v)) }

// unsealRow returns the row under key without its checksum.
func unsealRow(key, v []byte) ([]byte, error) {
	n := len(v) - sealBytes
	if n < 0 || binary.BigEndian.Uint32(v[n:]) != checksum(key, v[:n]) {
		return nil, fmt.Errorf("%w: record row %q does not match its checksum", ErrCorrupt, key)
	}
	return v[:n:n], nil
}

// malformed is the error of a row that is what was written, as its checksum says,
// but that this program can't read.
func malformed(key []byte) error {
	return fmt.Errorf("%w: record row %q: malformed", ErrCorrupt, key)
}

// maxAppliedRow is what a row has at most besides its key and those of after.
const maxAppliedRow = digestBytes + 1 + MaxRouteBytes + MaxNoteBytes + sealBytes + 2*binary.MaxVarintLen64

// size bounds the bytes that the row is encoded to.
func (r *AppliedRow) size() int {
	n := maxAppliedRow - MaxRouteBytes - MaxNoteBytes + len(r.Driver) + len(r.Note)
	for _, key := range r.After {
		n += len(key) + 4
	}
	return n
}

// encode appends the row:
//
//	digest 32, version and state 1, uvarint length, driver, uvarint length, note,
//	after (prefix-coded as in the journal), checksum 4
func (r *AppliedRow) encode(v []byte) []byte {
	v = append(v, r.Digest[:]...)
	v = append(v, rowVersion|byte(r.State))
	v = append(binary.AppendUvarint(v, uint64(len(r.Driver))), r.Driver...)
	v = append(binary.AppendUvarint(v, uint64(len(r.Note))), r.Note...)
	keys := keyCoder{buf: v}
	for _, key := range r.After {
		keys.add(key)
	}
	return sealRow(r.Key, keys.take())
}

// decodeApplied returns the row under key, whose memory it shares but for Driver
// and After. route turns the driver's name into a string.
func decodeApplied(key, v []byte, route func([]byte) string) (AppliedRow, error) {
	v, err := unsealRow(key, v)
	if err != nil {
		return AppliedRow{}, err
	}
	r := AppliedRow{Key: key}
	d := decoder{rest: v}
	copy(r.Digest[:], d.bytes(uint64(digestBytes)))
	head := d.bytes(1)
	driver := d.bytes(d.uvarint())
	r.Note = d.bytes(d.uvarint())
	if d.bad || head[0]&^0xf != rowVersion || head[0]&0xf >= appliedStates {
		return AppliedRow{}, malformed(key)
	}
	r.State, r.Driver = AppliedState(head[0]&0xf), route(driver)
	err = decodeKeys(d.rest, func(key []byte) { r.After = append(r.After, key) })
	return r, err
}

// check returns nil if the row can be kept.
func (r *AppliedRow) check() error {
	if err := desired.CheckKey(r.Key); err != nil {
		return err
	}
	switch {
	case r.State >= appliedStates:
		return fmt.Errorf("%w row of %q: state %d", desired.ErrInvalid, r.Key, r.State)
	case len(r.Driver) > MaxRouteBytes:
		return fmt.Errorf("%w row of %q: its driver's name has %d bytes, at most %d are allowed",
			desired.ErrInvalid, r.Key, len(r.Driver), MaxRouteBytes)
	case len(r.Note) > MaxNoteBytes:
		return fmt.Errorf("%w row of %q: its note has %d bytes, at most %d are allowed",
			desired.ErrInvalid, r.Key, len(r.Note), MaxNoteBytes)
	case len(r.After) > desired.MaxAfter:
		return fmt.Errorf("%w row of %q: it comes after %d keys, at most %d are allowed",
			desired.ErrInvalid, r.Key, len(r.After), desired.MaxAfter)
	}
	if err := ascend(r.After); err != nil {
		return fmt.Errorf("row of %q: after: %w", r.Key, err)
	}
	return nil
}

// ascend returns nil if those are keys, in ascending order.
func ascend(keys [][]byte) error {
	var last []byte
	for _, key := range keys {
		if err := desired.CheckKey(key); err != nil {
			return err
		}
		if bytes.Compare(key, last) <= 0 {
			return fmt.Errorf("%w keys: %q comes after %q; they must ascend", desired.ErrInvalid, key, last)
		}
		last = key
	}
	return nil
}

// What the first byte of a drift says.
const (
	driftDoubt = 1 << iota
	driftSeen
)

// encode returns the drift's row:
//
//	version and flags 1, uvarint time (milliseconds since 1970), digest 32 if something is there, reason, checksum 4
func (d *Drift) encode() []byte {
	v := make([]byte, 1, 1+binary.MaxVarintLen64+digestBytes+len(d.Reason)+sealBytes)
	v[0] = rowVersion
	if d.Doubt {
		v[0] |= driftDoubt
	}
	v = binary.AppendUvarint(v, uint64(max(0, d.At.UnixMilli())))
	if d.Seen != (desired.Digest{}) {
		v[0] |= driftSeen
		v = append(v, d.Seen[:]...)
	}
	return sealRow(d.Key, append(v, d.Reason...))
}

func decodeDrift(key, v []byte) (Drift, error) {
	v, err := unsealRow(key, v)
	if err != nil {
		return Drift{}, err
	}
	d := decoder{rest: v}
	drift := Drift{Key: key}
	head := d.bytes(1)
	at := d.uvarint()
	if d.bad || head[0]&^0xf != rowVersion {
		return Drift{}, malformed(key)
	}
	drift.Doubt, drift.At = head[0]&driftDoubt != 0, time.UnixMilli(int64(at))
	if head[0]&driftSeen != 0 {
		copy(drift.Seen[:], d.bytes(uint64(digestBytes)))
	}
	drift.Reason = string(d.rest)
	if d.bad {
		return Drift{}, malformed(key)
	}
	return drift, nil
}

func (d *Drift) check() error {
	if len(d.Reason) > MaxReasonBytes {
		return fmt.Errorf("%w drift of %q: its reason has %d bytes, at most %d are allowed",
			desired.ErrInvalid, d.Key, len(d.Reason), MaxReasonBytes)
	}
	return desired.CheckKey(d.Key)
}

// batchKey is the key of a part of a batch's keys.
func batchKey(id uint64, part uint32) []byte {
	return binary.BigEndian.AppendUint32(journalKey(id), part)
}

// encodeBatch hands the rows of a batch to put. Each is
//
//	id 8, part 4 → version 1, keys (prefix-coded as in the journal), checksum 4
func encodeBatch(b *AppliedBatch, put func(key, v []byte) error) error {
	var coder keyCoder
	part := uint32(0)
	flush := func() error {
		key := batchKey(b.ID, part)
		part++
		return put(key, sealRow(key, append([]byte{rowVersion}, coder.take()...)))
	}
	for _, key := range b.Keys {
		if coder.add(key); len(coder.buf) >= journalPartBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// decodeBatch hands the keys in a row of a batch to fn, in memory of their own.
func decodeBatch(key, v []byte, fn func(key []byte)) error {
	v, err := unsealRow(key, v)
	if err != nil {
		return err
	}
	if len(key) != 12 || len(v) == 0 || v[0] != rowVersion {
		return malformed(key)
	}
	return decodeKeys(v[1:], fn)
}

// appendAfterKey appends the key of an edge: dependent comes after key. All that
// come after a key stand together, ascending.
func appendAfterKey(b, key, dependent []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(key)))
	return append(append(b, key...), dependent...)
}

// recordHead is what a set's bucket says of itself.
type recordHead struct {
	salt   uint64
	root   desired.Digest
	counts [appliedStates]uint64
}

func (h *recordHead) objects() (n uint64) {
	for _, count := range h.counts {
		n += count
	}
	return n
}

// encode returns the row in the bucket of that name.
func (h *recordHead) encode(name []byte) []byte {
	v := binary.BigEndian.AppendUint64(nil, h.salt)
	v = append(v, h.root[:]...)
	for _, count := range h.counts {
		v = binary.BigEndian.AppendUint64(v, count)
	}
	return sealRow(name, v)
}

func decodeRecordHead(name, v []byte) (h recordHead, err error) {
	if v, err = unsealRow(name, v); err != nil {
		return h, err
	}
	if len(v) != 8+digestBytes+8*appliedStates {
		return h, malformed(name)
	}
	h.salt = binary.BigEndian.Uint64(v)
	v = v[8+copy(h.root[:], v[8:]):]
	for i := range h.counts {
		h.counts[i] = binary.BigEndian.Uint64(v[8*i:])
	}
	return h, nil
}
