package delta_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"

	"github.com/klauspost/compress/zstd"
)

// allocated returns the bytes that f allocates, on this machine, this time.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func mustEncode(t testing.TB, o desired.Object) desired.Envelope {
	t.Helper()
	e, err := desired.Encode(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// largest returns an object that reaches every bound, of bytes that do not
// compress.
func largest(t testing.TB, key string) desired.Change {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	text := func(n int) string {
		b := noise(random, n)
		for i := range b {
			b[i] = '0' + b[i]%64 // a key can't have all bytes
		}
		return string(b)
	}
	o := desired.Object{Key: key, Value: noise(random, desired.MaxValueBytes), Attributes: map[string]string{}}
	for range desired.MaxAttributes {
		o.Attributes[text(desired.MaxAttributeBytes)] = text(desired.MaxAttributeBytes)
	}
	for range desired.MaxAfter {
		o.After = append(o.After, text(desired.MaxKeyBytes))
	}
	return desired.Change{Key: []byte(key), Envelope: mustEncode(t, o)}
}

func TestFrameRoundTrip(t *testing.T) {
	withHead := mustEncode(t, desired.Object{Value: []byte("v"), Attributes: map[string]string{"mode": "0644"}, After: []string{"z"}})
	var deletions, keys []desired.Change
	for i := range delta.MaxFrameChanges {
		deletions = append(deletions, desired.Change{Key: fmt.Appendf(nil, "%05d", i)})
	}
	for i := range delta.MaxFrameKeyBytes / desired.MaxKeyBytes {
		keys = append(keys, desired.Change{Key: fmt.Appendf(nil, "%01024d", i), Envelope: desired.Envelope{0}})
	}
	tests := map[string][]desired.Change{
		"nothing":  nil,
		"one":      {{Key: []byte("k"), Envelope: envelope("v")}},
		"deletion": {{Key: []byte("k")}},
		"empty value": {
			{Key: []byte("k"), Envelope: desired.Envelope{0}},
		},
		"a mix": {
			{Key: []byte("a"), Envelope: withHead},
			{Key: []byte("a/b")},
			{Key: []byte("a/b/c"), Envelope: envelope("v")},
			{Key: []byte("a/c"), Envelope: withHead},
			{Key: []byte("é")},
			{Key: []byte("é/日本"), Envelope: desired.Envelope{0}},
		},
		"values that compress": {
			{Key: []byte("a"), Envelope: envelope("%01000d", 1)}, {Key: []byte("b"), Envelope: envelope("%01000d", 2)},
		},
		"values that don't": workloads[0].changes,
		"most changes":      deletions,
		"most key bytes":    keys,
		"largest object":    {largest(t, strings.Repeat("k", desired.MaxKeyBytes))},
	}
	w := delta.NewFrameWriter(codec)
	for name, changes := range tests {
		frame := encode(t, w, changes)
		got, err := codec.DecodeFrame(frame)
		if err != nil {
			t.Errorf("%s: DecodeFrame: %v", name, err)
			continue
		}
		if len(got) != len(changes) || len(changes) > 0 && !reflect.DeepEqual(got, changes) {
			t.Errorf("%s: %d changes came back as %d, or others", name, len(changes), len(got))
		}
	}
}

// TestFrameBounds fills a frame as its callers do, to just short of full, and
// then adds the largest object: what comes out keeps the bounds and decodes.
func TestFrameBounds(t *testing.T) {
	fillers := map[string]func(i int) desired.Change{
		"objects": func(i int) desired.Change {
			return desired.Change{Key: fmt.Appendf(nil, "a%06d", i), Envelope: envelope("%0100d", i)}
		},
		"deletions": func(i int) desired.Change { return desired.Change{Key: fmt.Appendf(nil, "a%06d", i)} },
		"long keys": func(i int) desired.Change { return desired.Change{Key: fmt.Appendf(nil, "a%01023d", i)} },
		"lengths of several bytes": func(i int) desired.Change {
			return desired.Change{Key: fmt.Appendf(nil, "a%06d%0*d", i, 121+i%2, i), Envelope: envelope("%0200d", i)}
		},
	}
	last := largest(t, strings.Repeat("z", desired.MaxKeyBytes))
	for name, filler := range fillers {
		w, i := delta.NewFrameWriter(codec), 0
		add := func(c desired.Change) bool {
			if err := w.Add(c); err != nil {
				t.Fatal(err)
			}
			return !w.Full()
		}
		for add(filler(i)) {
			i++
		}
		w.Frame()
		for j := range i {
			add(filler(j))
		}
		add(last)
		frame := w.Frame()
		if len(frame) > delta.MaxFrameBytes || len(frame)+64<<10 > delta.MaxMessageBytes {
			t.Errorf("%s: a frame of %d bytes, at most %d are allowed; a message holds %d",
				name, len(frame), delta.MaxFrameBytes, delta.MaxMessageBytes)
		}
		got, err := codec.DecodeFrame(frame)
		if err != nil || len(got) != i+1 || !bytes.Equal(got[i].Envelope, last.Envelope) {
			t.Errorf("%s: %d changes came back as %d, %v", name, i+1, len(got), err)
		}
	}
}

func uvarints(fields ...int) (b []byte) {
	for _, f := range fields {
		b = binary.AppendUvarint(b, uint64(f))
	}
	return b
}

func join(parts ...any) (b []byte) {
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = append(b, p...)
		case []byte:
			b = append(b, p...)
		case int:
			b = binary.AppendUvarint(b, uint64(p))
		}
	}
	return b
}

// plainFrame returns a frame that compresses nothing.
func plainFrame(changes int, columns []byte, values string) []byte {
	return join("\x00", changes, len(columns), columns, values)
}

// packedFrame returns a frame without values whose columns are said to be
// Zstandard of size bytes.
func packedFrame(changes, size int, packed string) []byte {
	return join("\x01", changes, size, len(packed), packed)
}

// zeros returns Zstandard that gives size zeros.
func zeros(size int) string {
	w, err := zstd.NewWriter(nil)
	must(err)
	return string(w.EncodeAll(make([]byte, size), nil))
}

// columnsSharing returns columns of n deletions, each sharing all of the key
// before and adding a byte.
func columnsSharing(n, first int) []byte {
	shared, rest := uvarints(1), uvarints(first)
	for i := 1; i < n; i++ {
		shared = binary.AppendUvarint(shared, uint64(first-1)<<1|1)
		rest = binary.AppendUvarint(rest, 1)
	}
	return join(shared, rest, strings.Repeat("k", first), strings.Repeat("l", n-1))
}

// hostileFrames returns frames that must be refused, cheaply.
func hostileFrames() map[string][]byte {
	return map[string][]byte{
		"empty":                     {},
		"flags alone":               {0},
		"unknown flag":              {4, 0, 0},
		"count without columns":     {0, 1, 0},
		"count beyond bound":        plainFrame(delta.MaxFrameChanges+1, make([]byte, 4*delta.MaxFrameChanges), ""),
		"count beyond columns":      plainFrame(delta.MaxFrameChanges, []byte{0, 0, 0}, ""),
		"columns beyond bound":      {0, 1, 0xff, 0xff, 0xff, 0x7f},
		"columns cut short":         {0, 1, 5, 1, 1, 'k'},
		"uvarint that overflows":    join("\x00", bytes.Repeat([]byte{0xff}, 11)),
		"shares with nothing":       plainFrame(1, join(1<<1|1, 1, "k"), ""),
		"shares more than there is": plainFrame(2, join(1, 5, 1, 1, "k", "l"), ""),
		"shares beyond bound":       plainFrame(1, join(2*desired.MaxKeyBytes+2, 1, "k"), ""),
		"key empty":                 plainFrame(1, join(1, 0), ""),
		"key twice":                 plainFrame(2, join(1, 3, 1, 0, "k"), ""),
		"keys descend":              plainFrame(2, join(1, 1, 1, 1, "b", "a"), ""),
		"key a prefix of the last":  plainFrame(2, join(1, 3, 2, 0, "ab"), ""),
		"key invalid":               plainFrame(1, join(1, 2, "a/"), ""),
		"key not UTF-8":             plainFrame(1, join(1, 1, "\xff"), ""),
		"key too long":              plainFrame(1, join(1, desired.MaxKeyBytes+1, strings.Repeat("k", desired.MaxKeyBytes+1)), ""),
		"key too long by sharing": plainFrame(2, join(
			1, desired.MaxKeyBytes<<1|1, desired.MaxKeyBytes, 1, strings.Repeat("k", desired.MaxKeyBytes), "l"), ""),
		"keys cut short":               plainFrame(1, join(1, 9, "k"), ""),
		"columns left over":            plainFrame(1, join(1, 1, "kk"), ""),
		"values left over":             plainFrame(1, join(1, 1, "k"), "v"),
		"values of an upsert cut off":  plainFrame(1, join(0, 1, 0, 9, "k"), "v"),
		"values of an upsert too many": plainFrame(1, join(0, 1, 0, 1, "k"), "vv"),
		"value beyond bound": plainFrame(1, join(0, 1, 0, desired.MaxValueBytes+1, "k"),
			strings.Repeat("v", desired.MaxValueBytes+1)),
		"head beyond bound": plainFrame(1, join(0, 1, desired.MaxHeadBytes+1, 0, "k",
			strings.Repeat("h", desired.MaxHeadBytes+1)), ""),
		"head not canonical":           plainFrame(1, join(0, 1, 2, 0, "k", "\x00\x00"), ""),
		"head that comes after itself": plainFrame(1, join(0, 1, 4, 0, "k", "\x00\x01\x01k"), ""),
		"sizes missing":                plainFrame(1, join(0, 1, 0), ""),
		"keys blown up by sharing":     plainFrame(1000, columnsSharing(1000, desired.MaxKeyBytes), ""),
		"frame beyond bound":           make([]byte, delta.MaxFrameBytes+1),
		"columns not zstandard":        packedFrame(1, 3, "junk"),
		"columns zstandard, nothing":   packedFrame(1, 3, ""),
		"values not zstandard":         join("\x02", 1, 5, join(0, 1, 0, 4, "k"), 4, "junk"),
		"columns that give less":       packedFrame(1, 2000, zeros(1000)),
		"columns that give more":       packedFrame(1, 500, zeros(1000)),
		"columns that promise much":    packedFrame(1, delta.MaxFrameBytes, zeros(1000)),
		"column bomb":                  packedFrame(1, 1000, zeros(16<<20)),
		"column bomb within bounds":    packedFrame(delta.MaxFrameChanges, delta.MaxFrameBytes, zeros(delta.MaxFrameBytes)),
		"value bomb":                   join("\x02", 1, 5, join(0, 1, 0, 4, "k"), 4, zeros(16<<20)),
		"both bombs": join("\x03", packedFrame(1, delta.MaxFrameBytes, zeros(delta.MaxFrameBytes))[1:],
			delta.MaxFrameBytes, zeros(delta.MaxFrameBytes)),
		"bombs in a row":             packedFrame(1, delta.MaxFrameBytes, strings.Repeat(zeros(delta.MaxFrameBytes), 10)),
		"zstandard of a huge size":   packedFrame(1, 1000, "\x28\xb5\x2f\xfd\xe0\x00\x00\x00\x00\x00\x01\x00\x00\x00"),
		"zstandard of a huge window": packedFrame(1, 1000, "\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00"),
	}
}

func TestDecodeFrameRefuses(t *testing.T) {
	for name, frame := range hostileFrames() {
		var changes []desired.Change
		var err error
		got := allocated(func() { changes, err = codec.DecodeFrame(frame) })
		if !errors.Is(err, delta.ErrProtocol) || changes != nil {
			t.Errorf("%s: DecodeFrame = %d changes, %v, want none and ErrProtocol", name, len(changes), err)
		}
		if most := uint64(4 * delta.MaxFrameBytes); got > most {
			t.Errorf("%s: %d bytes allocated, want at most %d", name, got, most)
		}
		if err != nil && len(err.Error()) > 8<<10 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestAddRefuses(t *testing.T) {
	w := delta.NewFrameWriter(codec)
	if err := w.Add(desired.Change{Key: []byte("k"), Envelope: desired.Envelope{9}}); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Add of half an envelope = %v, want ErrInvalid", err)
	}
	if err := w.Add(desired.Change{Key: []byte("l"), Envelope: envelope("v")}); err != nil {
		t.Error(err)
	}
	if got, err := codec.DecodeFrame(w.Frame()); err != nil || len(got) != 1 || string(got[0].Key) != "l" {
		t.Errorf("frame after a refused change: %v, %v", got, err)
	}
}

// checkChanges fails unless changes are what a frame may bring.
func checkChanges(t *testing.T, changes []desired.Change) {
	t.Helper()
	var last []byte
	for _, c := range changes {
		if err := desired.CheckKey(c.Key); err != nil || bytes.Compare(c.Key, last) <= 0 {
			t.Fatalf("key %q after %q: %v", c.Key, last, err)
		}
		if c.Envelope != nil {
			if err := desired.CheckEnvelope(c.Key, c.Envelope); err != nil {
				t.Fatal(err)
			}
		}
		last = c.Key
	}
}

// FuzzDecodeFrame decodes anything, and encodes again what was a frame.
func FuzzDecodeFrame(f *testing.F) {
	for _, frame := range hostileFrames() {
		if len(frame) < 4<<10 {
			f.Add(frame)
		}
	}
	f.Add(encode(f, delta.NewFrameWriter(codec), workloads[1].changes))
	f.Add(plainFrame(2, join(uvarints(0, 3, 1, 1, 4, 1), "ab", "\x01\x01a\x01b\x00"[:4]), "v"))
	f.Add(plainFrame(2, join(uvarints(0, 1<<1|1, 1, 2, 0, 1), "k", "/l"), "v"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		changes, err := codec.DecodeFrame(frame)
		if err != nil {
			if !errors.Is(err, delta.ErrProtocol) || changes != nil {
				t.Fatalf("DecodeFrame = %d changes, %v, want none and ErrProtocol", len(changes), err)
			}
			return
		}
		checkChanges(t, changes)
		again, err := codec.DecodeFrame(encode(t, delta.NewFrameWriter(codec), changes))
		if err != nil || len(again) != len(changes) || len(changes) > 0 && !reflect.DeepEqual(again, changes) {
			t.Fatalf("%v came back as %v, %v", changes, again, err)
		}
	})
}

// FuzzFrameRoundTrip makes changes of a seed, and checks that they come back as
// they were; the same changes give the same frame, whatever the writer wrote
// before.
func FuzzFrameRoundTrip(f *testing.F) {
	f.Add(uint64(1), 1, 10)
	f.Add(uint64(2), 300, 200)
	f.Add(uint64(3), 2000, 0)
	used := delta.NewFrameWriter(codec)
	f.Fuzz(func(t *testing.T, seed uint64, n, size int) {
		r := rand.New(rand.NewPCG(seed, 1))
		w := delta.NewFrameWriter(codec)
		m := map[string]bool{}
		for range n & 0x3fff {
			m[fmt.Sprintf("%0*d/%x", 1+r.IntN(100), r.IntN(20), r.Uint32N(1<<uint(1+r.IntN(31))))] = true
		}
		var changes []desired.Change
		for _, key := range sortedKeys(m) {
			if w.Full() {
				break
			}
			c := desired.Change{Key: []byte(key)}
			switch r.IntN(4) {
			case 0:
			case 1:
				c.Envelope = mustEncode(t, desired.Object{
					Key: key, Value: []byte("v"), Attributes: map[string]string{"mode": fmt.Sprint(r.IntN(1000))}, After: []string{"other"},
				})
			default:
				c.Envelope = append(make(desired.Envelope, 1), make([]byte, r.IntN(size&0xffff+1))...)
				for i := range c.Envelope[1:] {
					c.Envelope[1+i] = byte(r.Uint32N(256))
				}
			}
			if err := w.Add(c); err != nil {
				t.Fatal(err)
			}
			changes = append(changes, c)
		}
		frame := w.Frame()
		got, err := codec.DecodeFrame(frame)
		if err != nil || len(got) != len(changes) || len(changes) > 0 && !reflect.DeepEqual(got, changes) {
			t.Fatalf("seed %d: %d changes came back as %d, %v", seed, len(changes), len(got), err)
		}
		if again, err := codec.DecodeFrame(encode(t, used, changes)); err != nil || len(again) > 0 && !reflect.DeepEqual(again, got) {
			t.Fatalf("seed %d: a used writer's frame decodes to others, %v", seed, err)
		}
	})
}
