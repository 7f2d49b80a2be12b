package store

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"espalier/internal/desired"
)

// resealed returns v with a checksum that is right, so that what is behind it is
// reached.
func resealed(key, v []byte) []byte { return sealRow(key, bytes.Clone(v)) }

func routeName(b []byte) string { return string(b) }

func FuzzAppliedRow(f *testing.F) {
	r := AppliedRow{
		Key: []byte("a/b"), Digest: desired.Digest{1}, State: AppliedShadowed, Driver: "file /srv", Note: []byte("note"),
		After: [][]byte{[]byte("a"), []byte("a/a")},
	}
	v := r.encode(nil)
	f.Add(r.Key, v[:len(v)-sealBytes])
	f.Fuzz(func(t *testing.T, key, v []byte) {
		if _, err := decodeApplied(key, v, routeName); err == nil && checksum(key, v[:len(v)-sealBytes]) != binary.BigEndian.Uint32(v[len(v)-sealBytes:]) {
			t.Errorf("%x was accepted without its checksum", v)
		}
		r, err := decodeApplied(key, resealed(key, v), routeName)
		if err != nil {
			return
		}
		again, err := decodeApplied(key, r.encode(nil), routeName)
		if err != nil || again.Digest != r.Digest || again.State != r.State || again.Driver != r.Driver || !bytes.Equal(again.Note, r.Note) || len(again.After) != len(r.After) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
		if r.Note == nil {
			t.Errorf("%x has no note", v)
		}
		if size := r.size(); len(r.encode(nil)) > size {
			t.Errorf("%+v takes %d bytes, more than %d", r, len(r.encode(nil)), size)
		}
	})
}

func FuzzDrift(f *testing.F) {
	d := Drift{Key: []byte("a/b"), Doubt: true, Reason: "missing", Seen: desired.Digest{1}, At: time.UnixMilli(1234567)}
	v := d.encode()
	f.Add(d.Key, v[:len(v)-sealBytes])
	f.Fuzz(func(t *testing.T, key, v []byte) {
		d, err := decodeDrift(key, resealed(key, v))
		if err != nil {
			return
		}
		again, err := decodeDrift(key, d.encode())
		if err != nil || again.Doubt != d.Doubt || again.Reason != d.Reason || again.Seen != d.Seen || !d.At.Before(time.UnixMilli(0)) && !again.At.Equal(d.At) {
			t.Errorf("%+v became %+v, %v", d, again, err)
		}
	})
}

func FuzzBatch(f *testing.F) {
	b := AppliedBatch{ID: 7, Keys: [][]byte{[]byte("a/b"), []byte("a/c")}}
	err := encodeBatch(&b, func(key, v []byte) error { f.Add(key, v[:len(v)-sealBytes]); return nil })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, key, v []byte) {
		var b AppliedBatch
		if decodeBatch(key, resealed(key, v), func(key []byte) { b.Keys = append(b.Keys, key) }) != nil {
			return
		}
		var keys [][]byte
		err := encodeBatch(&b, func(key, v []byte) error {
			return decodeBatch(key, v, func(key []byte) { keys = append(keys, key) })
		})
		if err != nil || !bytes.Equal(bytes.Join(keys, []byte{0}), bytes.Join(b.Keys, []byte{0})) {
			t.Errorf("%q became %q, %v", b.Keys, keys, err)
		}
	})
}

func FuzzRecordHead(f *testing.F) {
	h := recordHead{salt: 7, root: desired.Digest{1}, counts: [appliedStates]uint64{1, 2, 3}}
	v := h.encode(metaHead)
	f.Add(v[:len(v)-sealBytes])
	f.Fuzz(func(t *testing.T, v []byte) {
		h, err := decodeRecordHead(metaHead, resealed(metaHead, v))
		if err == nil && !bytes.Equal(h.encode(metaHead), resealed(metaHead, v)) {
			t.Errorf("%x became %x", v, h.encode(metaHead))
		}
	})
}
