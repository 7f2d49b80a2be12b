package desired_test

import (
	"crypto/sha256"
	"strings"
	"testing"

	"espalier/internal/desired"
)

// TestHostRoot fixes the roots of hosts: both ends of the wire compute them.
func TestHostRoot(t *testing.T) {
	a, b := desired.Digest{0: 0xa, 31: 1}, desired.Digest{0: 0xb, 31: 2}
	long := strings.Repeat("n", 200)
	for _, c := range []struct {
		sets     []desired.SetRoot
		preimage string
	}{
		{nil, "\x02"},
		{[]desired.SetRoot{{Set: "web-01", Root: a}}, "\x02\x06web-01" + string(a[:])},
		{[]desired.SetRoot{{Set: "base", Root: a}, {Set: "web-01", Root: b}}, "\x02\x04base" + string(a[:]) + "\x06web-01" + string(b[:])},
		{[]desired.SetRoot{{Set: desired.Name(long), Root: a}}, "\x02\xc8\x01" + long + string(a[:])},
	} {
		if got, want := desired.HostRoot(c.sets), desired.Digest(sha256.Sum256([]byte(c.preimage))); got != want {
			t.Errorf("HostRoot(%v) = %v, want %v", c.sets, got, want)
		}
	}
	one := desired.HostRoot([]desired.SetRoot{{Set: "a", Root: a}, {Set: "b", Root: b}})
	other := desired.HostRoot([]desired.SetRoot{{Set: "b", Root: b}, {Set: "a", Root: a}})
	if one == other {
		t.Error("the order of a host's sets makes no difference")
	}
}
