package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// An answer to a request is stored under the slot of time in which it was
// given, so that those that are old lie together, at the front:
//
//	slot 4, id → digest 32, epoch 16, number 8, root 32, objects 8, bytes 8,
//	             uvarints: created, updated, deleted, unchanged, missing

func slotOf(t time.Time) uint32 { return uint32(t.Unix() / int64(requestSlot/time.Second)) }

func requestKey(slot uint32, id string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, slot), id...)
}

func (r Request) check() error {
	if len(r.ID) > MaxRequestIDBytes {
		return fmt.Errorf("%w request id: %d bytes, at most %d are allowed", desired.ErrInvalid, len(r.ID), MaxRequestIDBytes)
	}
	return nil
}

func encodeAnswer(r Request, a Result) []byte {
	v := append([]byte(nil), r.Digest[:]...)
	v = appendPosition(v, a.Head.Position)
	v = append(v, a.Head.Root[:]...)
	v = binary.BigEndian.AppendUint64(v, a.Head.Objects)
	v = binary.BigEndian.AppendUint64(v, a.Head.Bytes)
	for _, n := range []uint64{a.Created, a.Updated, a.Deleted, a.Unchanged, a.Missing} {
		v = binary.AppendUvarint(v, n)
	}
	return v
}

// decodeAnswer returns the digest of the request and the answer, whose head
// has no lineage.
func decodeAnswer(v []byte) (desired.Digest, Result, error) {
	var request desired.Digest
	var a Result
	d := decoder{rest: v}
	copy(request[:], d.bytes(uint64(digestBytes)))
	if p := d.bytes(uint64(positionBytes)); p != nil {
		a.Head.Position = decodePosition(p)
	}
	copy(a.Head.Root[:], d.bytes(uint64(digestBytes)))
	if n := d.bytes(16); n != nil {
		a.Head.Objects = binary.BigEndian.Uint64(n)
		a.Head.Bytes = binary.BigEndian.Uint64(n[8:])
	}
	for _, n := range []*uint64{&a.Created, &a.Updated, &a.Deleted, &a.Unchanged, &a.Missing} {
		*n = d.uvarint()
	}
	if d.bad || len(d.rest) > 0 {
		return desired.Digest{}, Result{}, fmt.Errorf("%w: malformed row in requests", ErrCorrupt)
	}
	return request, a, nil
}

// replay returns the answer that was given to the request, if there was one.
func replay(tx *bolt.Tx, head desired.Head, r Request) (Result, bool, error) {
	b := tx.Bucket(bucketRequests)
	if r.ID == "" || b == nil {
		return Result{}, false, nil
	}
	c := b.Cursor()
	for k, _ := c.First(); len(k) >= 4; {
		slot := binary.BigEndian.Uint32(k)
		if v := b.Get(requestKey(slot, r.ID)); v != nil {
			digest, a, err := decodeAnswer(v)
			if err == nil && digest != r.Digest {
				err = fmt.Errorf("%w: %q", ErrRequestReused, r.ID)
			}
			a.Head.Lineage = lineageOf(head, a.Head.Epoch)
			a.Replayed = true
			return a, true, err
		}
		k, _ = c.Seek(requestKey(slot+1, ""))
	}
	return Result{}, false, nil
}

// lineageOf returns the epochs before the one given, which is head's or one
// that it follows.
func lineageOf(head desired.Head, epoch desired.Epoch) []desired.Position {
	if epoch == head.Epoch {
		return head.Lineage
	}
	for i, p := range head.Lineage {
		if p.Epoch == epoch {
			return head.Lineage[i+1:]
		}
	}
	return nil
}

// remember stores the answer to the request, and forgets some that are old.
func remember(tx *bolt.Tx, r Request, a Result) error {
	if r.ID == "" {
		return nil
	}
	b := tx.Bucket(bucketRequests)
	now := time.Now()
	var old [][]byte
	c := b.Cursor()
	for k, _ := c.First(); k != nil && len(old) < requestSweep; k, _ = c.Next() {
		if len(k) >= 4 && binary.BigEndian.Uint32(k) >= slotOf(now.Add(-requestLife)) {
			break
		}
		old = append(old, bytes.Clone(k))
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	return b.Put(requestKey(slotOf(now), r.ID), encodeAnswer(r, a))
}
