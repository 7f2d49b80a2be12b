package store

import (
	"bytes"
	"encoding/binary"
	"testing"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// WriteFloor writes a copy of a floor.
func WriteFloor(t testing.TB, path string, r desired.Revision) {
	t.Helper()
	if err := writeFile(path, encodeFloor(r)); err != nil {
		t.Fatal(err)
	}
}

// SealHead makes the head's checksum right again, after a test has changed what
// it covers.
func SealHead(tx *bolt.Tx) error {
	b := tx.Bucket(bucketMeta)
	head := bytes.Clone(b.Get(metaHead))
	m := meta{name: desired.Name(b.Get(metaName)), salt: binary.BigEndian.Uint64(b.Get(metaSalt))}
	if v := b.Get(metaForked); v != nil {
		m.forked = binary.BigEndian.Uint64(v)
	}
	var err error
	if m.head.Lineage, err = decodePositions(b.Get(metaLineage)); err != nil {
		return err
	}
	binary.BigEndian.PutUint64(head[headBytes-8:], m.checksum(head[:headBytes-8]))
	return b.Put(metaHead, head)
}

// Small returns o with the bounds on what is handled at once lowered to rows,
// so that small sets are rewritten and read in chunks.
func Small(o Options, rows int) Options {
	o.small = rows
	return o
}

// NoSync lets the set's commits not wait for the disk, for measurements of all
// else, until its file is closed.
func NoSync(s *Store, name desired.Name) error {
	set, err := s.use(name)
	if err != nil {
		return err
	}
	defer s.letGo(set)
	h, err := s.borrow(set)
	if err != nil {
		return err
	}
	defer h.release()
	h.db.NoSync = true
	return nil
}
