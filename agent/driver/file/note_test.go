//go:build linux

package file_test

import (
	"bytes"
	"testing"

	"espalier/agent/driver/file"
)

// FuzzNote decodes anything: what is taken is what is encoded, and nothing else.
func FuzzNote(f *testing.F) {
	f.Add([]byte{})
	h := make([]byte, 47)
	h[0], h[1] = 1, 1
	f.Add(h)
	f.Add(append(bytes.Clone(h), 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := file.DecodeNote(b)
		if err != nil {
			if n != (file.Note{}) {
				t.Errorf("decodeNote(%x) = %+v beside %v", b, n, err)
			}
			return
		}
		if got := n.Encode(); !bytes.Equal(got, b) {
			t.Errorf("decodeNote(%x) encodes to %x", b, got)
		}
	})
}

func TestNoteMalformed(t *testing.T) {
	good := make([]byte, 47)
	good[0], good[1] = 1, 2
	if _, err := file.DecodeNote(good); err != nil {
		t.Fatalf("decodeNote(%x) = %v", good, err)
	}
	for at, value := range map[int]byte{0: 2, 1: 3, 2: 2, 5: 0xff, 15: 0x80} {
		bad := bytes.Clone(good)
		bad[at] = value
		if n, err := file.DecodeNote(bad); err == nil {
			t.Errorf("decodeNote(%x) = %+v, want an error", bad, n)
		}
	}
	h := newHost(t, file.Options{})
	h.notes["a"] = []byte{9}
	h.refused(h.upsert("a", object("x")), "the note is not one of this driver's")
}
