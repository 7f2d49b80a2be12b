package exec

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"espalier/agent/driver"
)

// FuzzAnswers holds the reading of answers against what they may be: whatever a
// program writes, what is taken from it is bounded, and of answered lines an
// ordinary JSON decoder says the same.
func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","ok":true}`, `{"id":"b","error":"x"}` + "\n" + `{"id":"a","ok":true,"note":"n"}`, `{"id":"c","drift":"gone"}`,
		`{"id":"a","ok":false}`, "nonsense\n\n\r\n{", `{"id":"a","id":"b"}`, `{"id":"zzz","ok":true}`, "\xff{}", `{"id":"a","ok":true,"note":null}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		b := newBatch(3)
		for i, id := range []string{"a", "b", "c"} {
			if err := b.add(request{ID: id, Op: opCheck}, i); err != nil {
				t.Fatal(err)
			}
		}
		readLines(iotest.OneByteReader(bytes.NewReader(text)), MaxAnswerBytes, func(line []byte, cut bool) {
			if len(line) > MaxAnswerBytes || bytes.IndexByte(line, '\n') >= 0 {
				t.Errorf("a line has %d bytes", len(line))
			}
			if !cut {
				b.take(line)
			}
		})
		left := 0
		for _, a := range b.asked {
			switch {
			case !a.answered:
				left++
			case a.answer.err == nil && !mentions(text, a.request.ID):
				t.Errorf("%q answers for %s", text, a.request.ID)
			case len(a.answer.drift) > MaxTextBytes || len(a.answer.note) > MaxNoteBytes || !utf8.ValidString(a.answer.note+a.answer.drift):
				t.Errorf("answer %+v is out of bounds", a.answer)
			}
		}
		if left != b.left {
			t.Errorf("%d are left, want %d", b.left, left)
		}
		if b.fault != nil && len(b.fault.Error()) > 1024 {
			t.Errorf("a fault of %d bytes: %v", len(b.fault.Error()), b.fault)
		}
	})
}

// mentions reports whether a line is an object that has the id.
func mentions(text []byte, id string) bool {
	for line := range bytes.Lines(text) {
		var l struct{ ID string }
		if json.Unmarshal(line, &l) == nil && l.ID == id {
			return true
		}
	}
	return false
}

// FuzzNote: a note that decodes encodes to what it was decoded from.
func FuzzNote(f *testing.F) {
	f.Add(encodeNote("id", "note"))
	f.Add(encodeNote("", ""))
	f.Add([]byte{1, 200})
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		id, note, ok := decodeNote(b)
		if !ok {
			return
		}
		id2, note2, ok := decodeNote(encodeNote(id, note))
		if id2 != id || note2 != note || !ok {
			t.Errorf("decodeNote(encodeNote(%q, %q)) = %q, %q, %t", id, note, id2, note2, ok)
		}
	})
}

// TestNoteFits: the largest note is one that a record keeps.
func TestNoteFits(t *testing.T) {
	if n := len(encodeNote(strings.Repeat("i", maxIDBytes), strings.Repeat("n", MaxNoteBytes))); n > driver.MaxNoteBytes {
		t.Errorf("a note may have %d bytes, want at most %d", n, driver.MaxNoteBytes)
	}
}
