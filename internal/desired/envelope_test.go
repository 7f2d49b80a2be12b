package desired_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"espalier/internal/desired"
)

// head returns the envelope of a head, given in pieces, and a value: a string
// is preceded by its length, an int is a count.
func head(value string, pieces ...any) desired.Envelope {
	var h []byte
	for _, p := range pieces {
		switch p := p.(type) {
		case int:
			h = binary.AppendUvarint(h, uint64(p))
		case string:
			h = append(binary.AppendUvarint(h, uint64(len(p))), p...)
		case []byte:
			h = append(h, p...)
		}
	}
	return append(append(binary.AppendUvarint(nil, uint64(len(h))), h...), value...)
}

func TestEncode(t *testing.T) {
	tests := []struct {
		name string
		in   desired.Object
		want desired.Envelope
	}{
		{"nothing", desired.Object{Key: "k"}, desired.Envelope{0}},
		{"value", desired.Object{Key: "k", Value: []byte("v")}, desired.Envelope("\x00v")},
		{
			"empty attributes and after",
			desired.Object{Key: "k", Attributes: map[string]string{}, After: []string{}},
			desired.Envelope{0},
		},
		{
			"attributes ascend",
			desired.Object{Key: "k", Value: []byte("v"), Attributes: map[string]string{"b": "2", "a": "", "aa": "1"}},
			head("v", 3, "a", "", "aa", "1", "b", "2", 0),
		},
		{"after ascends", desired.Object{Key: "k", After: []string{"z", "a/b"}}, head("", 0, 2, "a/b", "z")},
		{
			"both",
			desired.Object{Key: "k", Attributes: map[string]string{"a": "1"}, After: []string{"z"}},
			head("", 1, "a", "1", 1, "z"),
		},
	}
	for _, tt := range tests {
		got, err := desired.Encode(tt.in)
		if err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: Encode = %q, %v, want %q", tt.name, got, err, tt.want)
			continue
		}
		o, err := got.Object([]byte("k"))
		if err != nil {
			t.Errorf("%s: Object: %v", tt.name, err)
		}
		if again, err := desired.Encode(o); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%s: Encode(Object) = %q, %v, want %q", tt.name, again, err, got)
		}
	}
}

func TestEncodeDoesNotReorderItsArgument(t *testing.T) {
	after := []string{"z", "a"}
	if _, err := desired.Encode(desired.Object{Key: "k", After: after}); err != nil || !slices.Equal(after, []string{"z", "a"}) {
		t.Errorf("After is now %q, %v", after, err)
	}
}

func many(n int) (attributes map[string]string, after []string) {
	attributes = map[string]string{}
	for i := range n {
		attributes[fmt.Sprintf("%0*d", desired.MaxAttributeBytes, i)] = strings.Repeat("v", desired.MaxAttributeBytes)
		after = append(after, fmt.Sprintf("%0*d", desired.MaxKeyBytes, i))
	}
	return attributes, after
}

// TestLargestEnvelope reaches every bound at once, and goes over each alone.
func TestLargestEnvelope(t *testing.T) {
	attributes, after := many(desired.MaxAttributes)
	largest := func() desired.Object {
		return desired.Object{Key: "k", Value: make([]byte, desired.MaxValueBytes), Attributes: attributes, After: after}
	}
	e, err := desired.Encode(largest())
	if err != nil {
		t.Fatal(err)
	}
	h, _, err := e.Split()
	if err != nil || len(h) > desired.MaxHeadBytes || len(e) > desired.MaxEnvelopeBytes {
		t.Errorf("head of %d bytes, at most %d; envelope of %d, at most %d; %v",
			len(h), desired.MaxHeadBytes, len(e), desired.MaxEnvelopeBytes, err)
	}

	moreAttributes, moreAfter := many(desired.MaxAttributes + 1)
	over := map[string]func(*desired.Object){
		"value":      func(o *desired.Object) { o.Value = make([]byte, desired.MaxValueBytes+1) },
		"attributes": func(o *desired.Object) { o.Attributes = moreAttributes },
		"attribute": func(o *desired.Object) {
			o.Attributes = map[string]string{"a": strings.Repeat("v", desired.MaxAttributeBytes+1)}
		},
		"attribute name": func(o *desired.Object) {
			o.Attributes = map[string]string{strings.Repeat("a", desired.MaxAttributeBytes+1): ""}
		},
		"nameless":    func(o *desired.Object) { o.Attributes = map[string]string{"": "v"} },
		"not UTF-8":   func(o *desired.Object) { o.Attributes = map[string]string{"a": "\xff"} },
		"after":       func(o *desired.Object) { o.After = moreAfter },
		"after's key": func(o *desired.Object) { o.After = []string{strings.Repeat("k", desired.MaxKeyBytes+1)} },
		"no key":      func(o *desired.Object) { o.After = []string{""} },
		"bad key":     func(o *desired.Object) { o.After = []string{"a//b"} },
		"twice":       func(o *desired.Object) { o.After = []string{"a", "a"} },
		"itself":      func(o *desired.Object) { o.After = []string{"a", "k"} },
	}
	for name, change := range over {
		o := largest()
		change(&o)
		if _, err := desired.Encode(o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: Encode: %v, want ErrInvalid", name, err)
		}
	}
}

// TestNotCanonical lists envelopes that mean something, but are not the one way
// to say it, and such that mean nothing.
func TestNotCanonical(t *testing.T) {
	tests := map[string]desired.Envelope{
		"nil":                       nil,
		"empty":                     {},
		"length alone":              {1},
		"length cut short":          {0x80},
		"length not minimal":        {0x80, 0x00},
		"length beyond the end":     {5, 0, 0},
		"length that overflows":     bytes.Repeat([]byte{0xff}, 11),
		"length of 2^64-1":          binary.AppendUvarint(nil, 1<<64-1),
		"head of nothing":           head("v", 0, 0),
		"head without after":        head("v", 1, "a", "1"),
		"head cut in a name":        head("v", 1, []byte{9}, []byte("a")),
		"count not minimal":         head("v", []byte{0x81, 0x00}, "a", "1", 0),
		"text length not minimal":   head("v", 1, []byte{0x81, 0x00, 'a'}, "1", 0),
		"bytes left over":           head("v", 1, "a", "1", 0, []byte{0}),
		"attributes descend":        head("v", 2, "b", "", "a", "", 0),
		"attribute twice":           head("v", 2, "a", "", "a", "", 0),
		"attribute without name":    head("v", 1, "", "1", 0),
		"attribute name not UTF-8":  head("v", 1, "\xff", "1", 0),
		"attribute text not UTF-8":  head("v", 1, "a", "\xff", 0),
		"attributes beyond bound":   head("v", desired.MaxAttributes+1),
		"attributes without end":    head("v", binary.AppendUvarint(nil, 1<<63)),
		"after descends":            head("v", 0, 2, "b", "a"),
		"after twice":               head("v", 0, 2, "a", "a"),
		"after itself":              head("v", 0, 1, "k"),
		"after no key":              head("v", 0, 1, ""),
		"after what can't be a key": head("v", 0, 1, "a/../b"),
		"after beyond bound":        head("v", 0, desired.MaxAfter+1),
		"value too large":           make(desired.Envelope, desired.MaxValueBytes+2),
		"value too large, a head":   head(strings.Repeat("v", desired.MaxValueBytes+1), 1, "a", "1", 0),
	}
	for name, e := range tests {
		if err := desired.CheckEnvelope([]byte("k"), e); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: CheckEnvelope = %v, want ErrInvalid", name, err)
		}
		if o, err := e.Object([]byte("k")); !errors.Is(err, desired.ErrInvalid) || !reflect.DeepEqual(o, desired.Object{}) {
			t.Errorf("%s: Object = %v, %v, want none and ErrInvalid", name, o, err)
		}
	}
}

func TestCheckEnvelopeAllocatesNothing(t *testing.T) {
	key := []byte("k")
	for _, e := range []desired.Envelope{desired.Envelope("\x00value"), head("v", 2, "a", "1", "b", "2", 1, "x/y")} {
		if n := testing.AllocsPerRun(100, func() { _ = desired.CheckEnvelope(key, e) }); n != 0 {
			t.Errorf("CheckEnvelope(%q): %v allocations, want 0", e, n)
		}
	}
}

// FuzzEnvelope checks that what is accepted is the one encoding of what it
// means, and that both ways of checking agree.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte("k"), []byte("\x00value"))
	f.Add([]byte("k"), []byte(head("v", 2, "a", "1", "b", "2", 1, "x/y")))
	f.Add([]byte("k"), []byte(head("v", 0, 1, "k")))
	f.Add([]byte("k"), []byte{0x80, 0x00})
	f.Fuzz(func(t *testing.T, key, b []byte) {
		e := desired.Envelope(b)
		o, err := e.Object(key)
		if check := desired.CheckEnvelope(key, e); (check == nil) != (err == nil) {
			t.Fatalf("CheckEnvelope = %v, Object: %v", check, err)
		}
		if err != nil {
			if !errors.Is(err, desired.ErrInvalid) {
				t.Fatalf("Object: %v, want ErrInvalid", err)
			}
			return
		}
		if again, err := desired.Encode(o); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("Encode(Object(%q)) = %q, %v", b, again, err)
		}
	})
}

func TestPayloadBytes(t *testing.T) {
	attributes, _ := many(1)
	large, err := desired.Encode(desired.Object{Key: "k", Value: []byte("v"), Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	h, _, _ := large.Split()
	tests := []struct {
		c    desired.Change
		want int
	}{
		{desired.Change{Key: []byte("key")}, 3},
		{desired.Change{Key: []byte("key"), Envelope: desired.Envelope{0}}, 3},
		{desired.Change{Key: []byte("key"), Envelope: desired.Envelope("\x00value")}, 8},
		{desired.Change{Key: []byte("key"), Envelope: large}, 3 + len(h) + 1},
	}
	for _, tt := range tests {
		if got := tt.c.PayloadBytes(); got != tt.want {
			t.Errorf("PayloadBytes(%q) = %d, want %d", tt.c.Key, got, tt.want)
		}
	}
}

func BenchmarkCheckEnvelope(b *testing.B) {
	key, e := []byte("k"), head("v", 2, "mode", "0644", "owner", "root", 1, "x/y")
	b.ReportAllocs()
	for b.Loop() {
		if err := desired.CheckEnvelope(key, e); err != nil {
			b.Fatal(err)
		}
	}
}
