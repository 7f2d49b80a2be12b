package delta_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

func marks() []delta.Mark {
	rev := func(b byte, n uint64) desired.Revision {
		return desired.Revision{Position: desired.Position{Epoch: desired.Epoch{b}, Number: n}, Root: desired.Digest{b, 31: b}}
	}
	return []delta.Mark{
		{Mode: delta.Full},
		{Mode: delta.Descent, Through: rev(1, 7)},
		{Mode: delta.Since, Base: rev(1, 300), Through: rev(2, math.MaxUint64), After: []byte("a/b")},
		{Mode: delta.Full, Through: rev(3, 1), After: bytes.Repeat([]byte("k"), desired.MaxKeyBytes)},
	}
}

func TestMark(t *testing.T) {
	for _, m := range marks() {
		b := m.Encode()
		got, err := delta.DecodeMark(b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("DecodeMark(%+v) = %+v, %v", m, got, err)
		}
		clear(b) // as a store may once its transaction ends
		if !reflect.DeepEqual(got, m) {
			t.Errorf("the mark shares the memory that it was read from")
		}
	}
}

func TestDecodeMarkRefuses(t *testing.T) {
	whole := marks()[2].Encode()
	for n := range len(whole) - len("a/b") {
		if _, err := delta.DecodeMark(whole[:n]); !errors.Is(err, delta.ErrProtocol) {
			t.Errorf("the first %d bytes of a mark: %v, want ErrProtocol", n, err)
		}
	}
	change := func(i int, to byte) []byte {
		b := bytes.Clone(whole)
		b[i] = to
		return b
	}
	for name, b := range map[string][]byte{
		"another version": change(0, 2),
		"no mode":         change(1, 0),
		"compare":         change(1, byte(delta.Compare)),
		"long key":        append(bytes.Clone(whole), make([]byte, desired.MaxKeyBytes)...),
	} {
		if m, err := delta.DecodeMark(b); err == nil || !reflect.DeepEqual(m, delta.Mark{}) {
			t.Errorf("%s: %+v, %v, want no mark and an error", name, m, err)
		}
	}
}

func FuzzDecodeMark(f *testing.F) {
	for _, m := range marks() {
		f.Add(m.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := delta.DecodeMark(b)
		if err != nil {
			if !errors.Is(err, delta.ErrProtocol) {
				t.Errorf("error %v, want ErrProtocol", err)
			}
			return
		}
		if again, err := delta.DecodeMark(m.Encode()); err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("%+v came back as %+v, %v", m, again, err)
		}
	})
}
