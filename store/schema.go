package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/cespare/xxhash/v2"
	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// A set's file, and a mirror's, and a backup's, is a bbolt file with the
// buckets below. Integers are big endian; "uvarint" is that of encoding/binary.
//
//	meta      "format"    uvarint: formatVersion
//	          "name"      the set's name
//	          "salt"      8 bytes: the seed of the tree's shape
//	          "head"      epoch 16, number 8, root 32, objects 8, bytes 8, keys in the journal 8,
//	                      xxhash64 of name, salt, lineage, forked and the above 8
//	          "lineage"   (epoch 16, number 8)*: the epochs that were left, the latest first
//	          "forked"    number 8: the highest that a host holds with another root than this
//	                      history has, or that this history has not reached; absent: none does
//	          "held"      root 32, objects 8, bytes 8: what is there, if that isn't what the
//	                      head says: repaired mirrors only
//	          "delivered" epoch 16, number 8: mirrors only
//	          "mark"      the staging's mark: stagings only
//	          "building"  1; there while the tree lags behind the objects: stagings only
//	objects   key → digest 32, envelope
//	tree      level 1, first key → digest 32, uvarint count
//	journal   number 8 → root 32, entry (see journal.go): a revision; the first is a base
//	          number 8, part 4 → keys (see journal.go) that come before those in the row above
//	requests  slot 4, request id → answer (see requests.go)
//
// fleet.db:
//
//	meta      "format"    as above
//	lineages  name → (epoch 16, number 8)*: the epochs that a set of this name ever had,
//	          the latest first
//	tokens    digest of a token's secret 32 → expires 8 (milliseconds since 1970), what it grants
//	revoked   who → 8: up to when (milliseconds since 1970) what was issued is worth nothing
//	lists     host → its list of sets, as desired.List encodes it, xxhash64 of that 8
//	seen      host → how it fared when it last polled, as internal/fleet has it
//
// applied.db, an agent's, whose rows are encoded in recordrow.go, and end with
// the CRC-32C of key and value (4 bytes), except for the tree's:
//
//	meta      "format"    uvarint: recordVersion
//	          "host"      the host's name
//	          "counts"    drifts 8, sets 8
//	drifts    key → version and flags 1, uvarint when, digest 32 or nothing, reason
//	batches   id 8, part 4 → version 1, keys as in the journal
//	state     name → value
//	set:NAME  "head"      salt 8, root 32, rows in each of the states 8+8+8; its checksum is
//	                      that of the name as well
//	          objects     a bucket: key → digest 32, version and state 1, uvarint length, driver,
//	                      uvarint length, note, the keys that it comes after, as in the journal
//	          tree        a bucket: as that of a set
//	          after       a bucket: length 2, key, key → nothing: the second, which is true, comes
//	                      after the first
const formatVersion = 2

var (
	bucketMeta     = []byte("meta")
	bucketObjects  = []byte("objects")
	bucketTree     = []byte("tree")
	bucketJournal  = []byte("journal")
	bucketRequests = []byte("requests")
	bucketLineages = []byte("lineages")
	bucketTokens   = []byte("tokens")
	bucketRevoked  = []byte("revoked")
	bucketLists    = []byte("lists")
	bucketSeen     = []byte("seen")
	bucketDrifts   = []byte("drifts")
	bucketBatches  = []byte("batches")
	bucketState    = []byte("state")
	bucketAfter    = []byte("after")
	prefixSet      = []byte("set:") // no other bucket of a record begins so

	// setBuckets are those of a set's file.
	setBuckets = [][]byte{bucketMeta, bucketObjects, bucketTree, bucketJournal, bucketRequests}

	metaFormat    = []byte("format")
	metaName      = []byte("name")
	metaSalt      = []byte("salt")
	metaHead      = []byte("head")
	metaLineage   = []byte("lineage")
	metaForked    = []byte("forked")
	metaHeld      = []byte("held")
	metaDelivered = []byte("delivered")
	metaMark      = []byte("mark")
	metaBuilding  = []byte("building")
	metaHost      = []byte("host")
	metaCounts    = []byte("counts")
)

const (
	digestBytes   = len(desired.Digest{})
	positionBytes = len(desired.Epoch{}) + 8
	headBytes     = positionBytes + digestBytes + 4*8
	// minObjectRow is a digest and the least envelope.
	minObjectRow = digestBytes + 1
)

// meta is what the bucket of that name says of a set.
type meta struct {
	name       desired.Name
	salt       uint64
	head       desired.Head
	journalled uint64 // keys in the journal
	forked     uint64 // see Store.Fork; 0: it isn't
	// held is what is there: what head says, except in a mirror that was
	// repaired.
	held content
}

// content is what the objects of a set are and add up to.
type content struct {
	root           desired.Digest
	objects, bytes uint64
}

func contentOf(h desired.Head) content {
	return content{root: h.Root, objects: h.Objects, bytes: h.Bytes}
}

// on returns h with the content c.
func (c content) on(h desired.Head) desired.Head {
	h.Root, h.Objects, h.Bytes = c.root, c.objects, c.bytes
	return h
}

func (m *meta) shape() merkle.Shape {
	return merkle.Shape{Salt: m.salt, MaxChildren: merkle.MaxChildren}
}

// checkFormat returns nil if the file is of the version that this program
// writes.
func checkFormat(b *bolt.Bucket) error {
	if b == nil {
		return fmt.Errorf("%w: it has no format version; it was not written by espalier", ErrFormat)
	}
	return checkVersion(b.Get(metaFormat))
}

func checkVersion(v []byte) error {
	version, n := binary.Uvarint(v)
	switch {
	case n <= 0 || n != len(v):
		return fmt.Errorf("%w: meta row %q is malformed: %x", ErrCorrupt, metaFormat, v)
	case version != formatVersion:
		return fmt.Errorf("%w %d: this program writes version %d; use the program that wrote it", ErrFormat, version, formatVersion)
	}
	return nil
}

func readMeta(tx *bolt.Tx) (meta, error) {
	b := tx.Bucket(bucketMeta)
	if err := checkFormat(b); err != nil {
		return meta{}, err
	}
	return decodeMeta(b.Get)
}

// decodeMeta returns what the rows say that get returns, of this format.
func decodeMeta(get func(key []byte) []byte) (meta, error) {
	var m meta
	m.name = desired.Name(get(metaName))
	salt := get(metaSalt)
	if len(salt) != 8 {
		return meta{}, fmt.Errorf("%w: meta row %q has %d bytes, want 8", ErrCorrupt, metaSalt, len(salt))
	}
	m.salt = binary.BigEndian.Uint64(salt)
	head := get(metaHead)
	if err := m.decodeHead(head); err != nil {
		return meta{}, err
	}
	if held := get(metaHeld); len(held) == digestBytes+16 {
		n := copy(m.held.root[:], held)
		m.held.objects, m.held.bytes = binary.BigEndian.Uint64(held[n:]), binary.BigEndian.Uint64(held[n+8:])
	}
	if forked := get(metaForked); len(forked) == 8 {
		m.forked = binary.BigEndian.Uint64(forked)
	}
	var err error
	if m.head.Lineage, err = decodePositions(get(metaLineage)); err != nil {
		return meta{}, err
	}
	if sum := head[headBytes-8:]; binary.BigEndian.Uint64(sum) != m.checksum(head[:headBytes-8]) {
		return meta{}, fmt.Errorf("%w: meta row %q, or one beside it, does not match its checksum", ErrCorrupt, metaHead)
	}
	return m, nil
}

// checksum returns that of what no digest covers: who the set is and where its
// history stands.
func (m *meta) checksum(head []byte) uint64 {
	var h xxhash.Digest
	h.Reset()
	h.WriteString(string(m.name))
	h.Write(binary.BigEndian.AppendUint64([]byte{0}, m.salt))
	h.Write(encodePositions(m.head.Lineage))
	h.Write(binary.BigEndian.AppendUint64(nil, m.forked))
	h.Write(head)
	return h.Sum64()
}

func (m *meta) decodeHead(v []byte) error {
	if len(v) != headBytes {
		return fmt.Errorf("%w: meta row %q has %d bytes, want %d", ErrCorrupt, metaHead, len(v), headBytes)
	}
	m.head.Position = decodePosition(v)
	copy(m.head.Root[:], v[positionBytes:])
	v = v[positionBytes+digestBytes:]
	m.head.Objects = binary.BigEndian.Uint64(v)
	m.head.Bytes = binary.BigEndian.Uint64(v[8:])
	m.journalled = binary.BigEndian.Uint64(v[16:])
	m.held = contentOf(m.head)
	return nil
}

// metaRow is a row of the bucket meta.
type metaRow struct{ key, value []byte }

func sortRows(rows []metaRow) {
	slices.SortFunc(rows, func(a, b metaRow) int { return bytes.Compare(a.key, b.key) })
}

// rows returns all rows that every file has, ascending.
func (m *meta) rows() []metaRow {
	return []metaRow{
		{metaFormat, binary.AppendUvarint(nil, formatVersion)},
		{metaHead, m.encodeHead()},
		{metaLineage, encodePositions(m.head.Lineage)},
		{metaName, []byte(m.name)},
		{metaSalt, binary.BigEndian.AppendUint64(nil, m.salt)},
	}
}

// create writes all rows.
func (m *meta) create(tx *bolt.Tx) error {
	b := tx.Bucket(bucketMeta)
	for _, r := range m.rows() {
		if err := b.Put(r.key, r.value); err != nil {
			return err
		}
	}
	return nil
}

func (m *meta) encodeHead() []byte {
	v := appendPosition(make([]byte, 0, headBytes), m.head.Position)
	v = append(v, m.head.Root[:]...)
	v = binary.BigEndian.AppendUint64(v, m.head.Objects)
	v = binary.BigEndian.AppendUint64(v, m.head.Bytes)
	v = binary.BigEndian.AppendUint64(v, m.journalled)
	return binary.BigEndian.AppendUint64(v, m.checksum(v))
}

// write writes the rows that follow the head.
func (m *meta) write(tx *bolt.Tx) error {
	b := tx.Bucket(bucketMeta)
	if err := b.Put(metaHead, m.encodeHead()); err != nil {
		return err
	}
	if err := m.writeHeld(b); err != nil {
		return err
	}
	if err := m.writeForked(b); err != nil {
		return err
	}
	lineage := encodePositions(m.head.Lineage)
	if bytes.Equal(lineage, b.Get(metaLineage)) {
		return nil
	}
	return b.Put(metaLineage, lineage)
}

func (m *meta) writeHeld(b *bolt.Bucket) error {
	if m.held == contentOf(m.head) {
		return b.Delete(metaHeld)
	}
	v := binary.BigEndian.AppendUint64(bytes.Clone(m.held.root[:]), m.held.objects)
	return b.Put(metaHeld, binary.BigEndian.AppendUint64(v, m.held.bytes))
}

func (m *meta) writeForked(b *bolt.Bucket) error {
	if m.forked == 0 {
		return b.Delete(metaForked)
	}
	return b.Put(metaForked, binary.BigEndian.AppendUint64(nil, m.forked))
}

func appendPosition(b []byte, p desired.Position) []byte {
	return binary.BigEndian.AppendUint64(append(b, p.Epoch[:]...), p.Number)
}

// decodePosition reads the first positionBytes of v, which must be there.
func decodePosition(v []byte) desired.Position {
	var p desired.Position
	n := copy(p.Epoch[:], v)
	p.Number = binary.BigEndian.Uint64(v[n:])
	return p
}

func encodePositions(all []desired.Position) []byte {
	var b []byte
	for _, p := range all {
		b = appendPosition(b, p)
	}
	return b
}

func decodePositions(v []byte) ([]desired.Position, error) {
	if len(v)%positionBytes != 0 || len(v) > desired.MaxLineage*positionBytes {
		return nil, fmt.Errorf("%w: a lineage of %d bytes", ErrCorrupt, len(v))
	}
	var all []desired.Position
	for ; len(v) > 0; v = v[positionBytes:] {
		all = append(all, decodePosition(v))
	}
	return all, nil
}

// decodeObject splits the row of an object. It checks neither half.
func decodeObject(key, row []byte) (desired.Change, error) {
	if len(row) < minObjectRow {
		return desired.Change{}, fmt.Errorf("%w: object %q: its row has %d bytes, want %d or more",
			ErrCorrupt, key, len(row), minObjectRow)
	}
	c := desired.Change{Key: key, Envelope: desired.Envelope(row[digestBytes:])}
	copy(c.Digest[:], row)
	return c, nil
}

// verify returns nil if the object's digest is that of its content.
func verify(h *desired.Hasher, c desired.Change) error {
	if h.Sum(c.Key, c.Envelope) != c.Digest {
		return fmt.Errorf("%w: object %q: its content does not match its digest", ErrCorrupt, c.Key)
	}
	return nil
}

func appendTreeKey(b []byte, level int, first []byte) []byte {
	return append(append(b, byte(level)), first...)
}

func encodeNode(row *merkle.Row) []byte {
	v := make([]byte, 0, digestBytes+binary.MaxVarintLen64)
	return binary.AppendUvarint(append(v, row.Digest[:]...), row.Count)
}

// decodeNode returns the row stored under key, which is that of the tree's
// bucket.
func decodeNode(key, v []byte) (merkle.Row, error) {
	if len(key) == 0 || key[0] == 0 || int(key[0]) > merkle.MaxLevel || len(v) <= digestBytes {
		return merkle.Row{}, fmt.Errorf("%w: tree row %q: malformed", ErrCorrupt, key)
	}
	row := merkle.Row{Key: key[1:]}
	copy(row.Digest[:], v)
	count, n := binary.Uvarint(v[digestBytes:])
	if n != len(v)-digestBytes {
		return merkle.Row{}, fmt.Errorf("%w: tree row at level %d, %q: malformed count", ErrCorrupt, key[0], row.Key)
	}
	row.Count = count
	return row, nil
}
