package desired_test

import (
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"espalier/internal/desired"
)

// TestSum fixes the digests of objects: they are on disks and on the wire. The
// preimages are spelled out, and the digests come from another program.
func TestSum(t *testing.T) {
	tests := []struct {
		name     string
		key      string
		envelope string
		preimage string
		want     string
	}{
		{
			"empty value", "a", "\x00", "\x00\x01\x01a\x00",
			"a5afe138af2ccafa6019a4602d38dffadcac045005d9ed8cad6302c05922a92e",
		},
		{
			"value", "etc/motd", "\x00hello\n", "\x00\x08\x07etc/motd\x00hello\n",
			"6203fc6528bbe14cd74a15ef975297b50367ef218b6ee373aeb9176f3be095a1",
		},
		{
			"head", "a/b", "\x12\x01\x04mode\x040644\x01\x05a/dirv", "\x00\x03\x14a/b\x12\x01\x04mode\x040644\x01\x05a/dirv",
			"19c04528b72f7a5075dbd57a1c0634458a3c1245248b8aaea2217961c54a0904",
		},
		{
			"unicode", "é/ü", "\x00", "\x00\x05\x01é/ü\x00",
			"0650296aaf3b61aeb22017b605b6f0fae84d190c7f4c2aff2b98403459d6c1ef",
		},
		{
			"too large to be copied", strings.Repeat("k", 300), "\x00" + strings.Repeat("x", 5000),
			"\x00\xac\x02\x89\x27" + strings.Repeat("k", 300) + "\x00" + strings.Repeat("x", 5000),
			"2e751a580b45991664a04a9081b3ad094c29046ab7f7cfd9c2f6ef95740c56fb",
		},
	}
	var h desired.Hasher
	for range 2 { // the hasher's scratch must not leak from one to the next
		for _, tt := range tests {
			if got := desired.Digest(sha256.Sum256([]byte(tt.preimage))).String(); got != tt.want {
				t.Errorf("%s: SHA-256 of the preimage = %s, want %s", tt.name, got, tt.want)
			}
			if got := h.Sum([]byte(tt.key), desired.Envelope(tt.envelope)).String(); got != tt.want {
				t.Errorf("%s: Sum = %s, want %s", tt.name, got, tt.want)
			}
		}
	}
}

// TestSumSeparates checks that bytes can't move between key and envelope.
func TestSumSeparates(t *testing.T) {
	var h desired.Hasher
	if h.Sum([]byte("ab"), desired.Envelope("\x00c")) == h.Sum([]byte("a"), desired.Envelope("b\x00c")) {
		t.Error("two objects share a preimage")
	}
}

func TestParseDigest(t *testing.T) {
	d := desired.Digest(sha256.Sum256(nil))
	got, err := desired.ParseDigest(d.String())
	if err != nil || got != d {
		t.Errorf("ParseDigest(%s) = %v, %v", d, got, err)
	}
	if d.IsZero() || !(desired.Digest{}).IsZero() {
		t.Error("IsZero is wrong")
	}
	if got, want := d.Prefix(), uint64(0xe3b0c44298fc1c14); got != want {
		t.Errorf("Prefix = %x, want %x", got, want)
	}
	for _, s := range []string{"", "00", d.String()[1:], d.String() + "0", "g" + d.String()[1:]} {
		if got, err := desired.ParseDigest(s); !errors.Is(err, desired.ErrInvalid) || !got.IsZero() {
			t.Errorf("ParseDigest(%q) = %v, %v, want no digest and ErrInvalid", s, got, err)
		}
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add(strings.Repeat("0f", 32))
	f.Fuzz(func(t *testing.T, s string) {
		d, err := desired.ParseDigest(s)
		if err == nil && d.String() != strings.ToLower(s) {
			t.Errorf("ParseDigest(%q) = %s", s, d)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, size := range []int{100, 4095, 100_000} {
		b.Run(sizeName(size), func(b *testing.B) {
			var h desired.Hasher
			key, e := []byte("svc/0042/obj/1f3a90c2"), make(desired.Envelope, 1+size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				h.Sum(key, e)
			}
		})
	}
}
