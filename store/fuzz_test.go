package store

import (
	"bytes"
	"testing"
	"time"

	"espalier/internal/desired"
	"espalier/merkle"
)

// The targets below hand the decoders what a disk may hand them. What they
// accept must encode to what it was.

func FuzzRevision(f *testing.F) {
	r := revision{number: 7, root: desired.Digest{1}, time: time.UnixMilli(12345), who: "who", why: "why", count: 2}
	var k keyCoder
	k.add([]byte("a/b"))
	k.add([]byte("a/c"))
	f.Add(journalKey(7), r.encode(k.take()))
	f.Fuzz(func(t *testing.T, key, row []byte) {
		r, keys, err := decodeRevision(key, row)
		if err != nil {
			return
		}
		again, rest, err := decodeRevision(journalKey(r.number), r.encode(keys))
		if err != nil || !bytes.Equal(rest, keys) || !r.time.Before(time.UnixMilli(0)) && (again.root != r.root || again.who != r.who || again.why != r.why || again.count != r.count) {
			t.Errorf("%+v became %+v, %v", r, again, err)
		}
	})
}

func FuzzKeys(f *testing.F) {
	var k keyCoder
	for _, key := range []string{"a", "a/b", "a/bc", "b"} {
		k.add([]byte(key))
	}
	f.Add(k.take())
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, coded []byte) {
		var keys [][]byte
		if decodeKeys(coded, func(key []byte) { keys = append(keys, key) }) != nil {
			return
		}
		var k keyCoder
		for _, key := range keys {
			if len(key) == 0 || len(key) > desired.MaxKeyBytes {
				t.Fatalf("a key of %d bytes", len(key))
			}
			k.add(key)
		}
		i := 0
		err := decodeKeys(k.take(), func(key []byte) {
			if i >= len(keys) || !bytes.Equal(key, keys[i]) {
				t.Errorf("key %d became %q", i, key)
			}
			i++
		})
		if err != nil || i != len(keys) {
			t.Errorf("%d keys became %d, %v", len(keys), i, err)
		}
	})
}

func FuzzFloor(f *testing.F) {
	f.Add(encodeFloor(desired.Revision{Position: desired.Position{Epoch: desired.Epoch{1}, Number: 2}, Root: desired.Digest{3}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeFloor(b); err == nil && !bytes.Equal(encodeFloor(r), b) {
			t.Errorf("%x became %x", b, encodeFloor(r))
		}
	})
}

func FuzzObject(f *testing.F) {
	f.Add([]byte("key"), make([]byte, minObjectRow))
	f.Fuzz(func(t *testing.T, key, row []byte) {
		c, err := decodeObject(key, row)
		if err != nil {
			return
		}
		var a arena
		if again := a.row(c.Digest, c.Envelope); !bytes.Equal(again, row) {
			t.Errorf("%x became %x", row, again)
		}
	})
}

func FuzzNode(f *testing.F) {
	f.Add([]byte("\x01key"), encodeNode(&merkle.Row{Digest: merkle.Digest{1}, Count: 300}))
	f.Fuzz(func(t *testing.T, key, v []byte) {
		row, err := decodeNode(key, v)
		if err != nil {
			return
		}
		again, err := decodeNode(appendTreeKey(nil, int(key[0]), row.Key), encodeNode(&row))
		if err != nil || again.Digest != row.Digest || again.Count != row.Count || !bytes.Equal(again.Key, row.Key) {
			t.Errorf("%+v became %+v, %v", row, again, err)
		}
	})
}

func FuzzMeta(f *testing.F) {
	m := meta{head: desired.Head{Objects: 3, Bytes: 4, Lineage: []desired.Position{{Number: 7}}}, journalled: 5}
	f.Add(m.encodeHead(), encodePositions(m.head.Lineage))
	f.Fuzz(func(t *testing.T, head, lineage []byte) {
		var m meta
		if body := headBytes - 8; m.decodeHead(head) == nil && !bytes.Equal(m.encodeHead()[:body], head[:body]) {
			t.Errorf("head %x became %x", head, m.encodeHead())
		}
		if all, err := decodePositions(lineage); err == nil && !bytes.Equal(encodePositions(all), lineage) {
			t.Errorf("lineage %x became %x", lineage, encodePositions(all))
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(encodeAnswer(Request{Digest: desired.Digest{1}}, Result{Head: desired.Head{Objects: 3}, Created: 300}))
	f.Fuzz(func(t *testing.T, v []byte) {
		digest, a, err := decodeAnswer(v)
		if err != nil {
			return
		}
		_, again, err := decodeAnswer(encodeAnswer(Request{Digest: digest}, a))
		if err != nil || again.Head.Revision != a.Head.Revision || again.Created != a.Created || again.Missing != a.Missing {
			t.Errorf("%+v became %+v, %v", a, again, err)
		}
	})
}
