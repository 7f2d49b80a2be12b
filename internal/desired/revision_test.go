package desired_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"espalier/internal/desired"
)

func TestParsePosition(t *testing.T) {
	epoch := desired.Epoch{0xab, 15: 1}
	const hex = "ab000000000000000000000000000001"
	tests := []struct {
		in   string
		want desired.Position
	}{
		{"0", desired.Position{}},
		{"42", desired.Position{Number: 42}},
		{"18446744073709551615", desired.Position{Number: math.MaxUint64}},
		{hex + ":7", desired.Position{Epoch: epoch, Number: 7}},
	}
	for _, tt := range tests {
		got, err := desired.ParsePosition(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParsePosition(%q) = %v, %v, want %v", tt.in, got, err, tt.want)
		}
		if got.String() != tt.in {
			t.Errorf("Position.String() = %q, want %q", got, tt.in)
		}
	}
	for _, s := range []string{
		"", "-1", "+1", "1.0", "0x1", "1_0", " 1", "x", "18446744073709551616",
		":", ":1", hex, hex + ":", hex + ":-1", hex + ":1:2", hex[1:] + ":1", "g" + hex[1:] + ":1",
	} {
		if got, err := desired.ParsePosition(s); !errors.Is(err, desired.ErrInvalid) || got != (desired.Position{}) {
			t.Errorf("ParsePosition(%q) = %v, %v, want none and ErrInvalid", s, got, err)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	f.Add("42")
	f.Add("ab000000000000000000000000000001:7")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := desired.ParsePosition(s)
		if err != nil {
			if !errors.Is(err, desired.ErrInvalid) {
				t.Errorf("ParsePosition(%q): %v, want ErrInvalid", s, err)
			}
			return
		}
		if again, err := desired.ParsePosition(p.String()); err != nil || again != p {
			t.Errorf("ParsePosition(%q) = %v, which reads as %v, %v", s, p, again, err)
		}
	})
}

func TestEpoch(t *testing.T) {
	a, b := desired.NewEpoch(), desired.NewEpoch()
	if a == b || a.IsZero() || !(desired.Epoch{}).IsZero() {
		t.Errorf("epochs %v and %v", a, b)
	}
	if got, err := desired.ParseEpoch(a.String()); err != nil || got != a {
		t.Errorf("ParseEpoch(%v) = %v, %v", a, got, err)
	}
	if got := (desired.Epoch{1, 2, 3, 4, 5, 6, 7, 8, 9}).Prefix(); got != 0x0102030405060708 {
		t.Errorf("Prefix = %x", got)
	}
	for _, s := range []string{"", "00", strings.Repeat("g", 32), strings.Repeat("0", 33)} {
		if got, err := desired.ParseEpoch(s); !errors.Is(err, desired.ErrInvalid) || !got.IsZero() {
			t.Errorf("ParseEpoch(%q) = %v, %v, want none and ErrInvalid", s, got, err)
		}
	}
}

func TestFollows(t *testing.T) {
	at := func(epoch byte, number uint64) desired.Position {
		return desired.Position{Epoch: desired.Epoch{epoch}, Number: number}
	}
	head := desired.Head{
		Revision: desired.Revision{Position: at(3, 10)},
		Lineage:  []desired.Position{at(2, 50), at(1, 7)},
	}
	tests := []struct {
		name string
		of   desired.Position
		want bool
	}{
		{"earlier number", at(3, 9), true},
		{"itself", at(3, 10), false},
		{"later number", at(3, 11), false},
		{"the epoch before", at(2, 50), true},
		{"the epoch before, past where it was left", at(2, 60), true},
		{"an epoch further back", at(1, 1), true},
		{"an epoch unheard of", at(4, 1), false},
		{"nothing", desired.Position{}, false},
	}
	for _, tt := range tests {
		if got := head.Follows(desired.Revision{Position: tt.of}); got != tt.want {
			t.Errorf("%s: Follows(%v) = %v, want %v", tt.name, tt.of, got, tt.want)
		}
	}
}
