package desired_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"espalier/internal/desired"
)

func sizeName(n int) string { return fmt.Sprintf("%dB", n) }

func TestParseName(t *testing.T) {
	valid := []string{"a", "7", "web-01", "db.example.com", "a_b", "a..b", "0-0", strings.Repeat("a", desired.MaxNameBytes)}
	for _, s := range valid {
		if got, err := desired.ParseName(s); err != nil || string(got) != s {
			t.Errorf("ParseName(%q) = %q, %v, want the name", s, got, err)
		}
	}
	invalid := []string{
		"", ".", "..", "-", ".a", "a.", "-a", "a-", "_a", "a_", "A", "aB", "a/b", `a\b`, "a b", "a\x00b", "a\n", "ä", "a:b", "\xff",
		strings.Repeat("a", desired.MaxNameBytes+1),
	}
	for _, s := range invalid {
		if got, err := desired.ParseName(s); !errors.Is(err, desired.ErrInvalid) || got != "" {
			t.Errorf("ParseName(%q) = %q, %v, want no name and ErrInvalid", s, got, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	f.Add("web-01.example")
	f.Fuzz(func(t *testing.T, s string) {
		name, err := desired.ParseName(s)
		if err != nil {
			return
		}
		if string(name) != s || len(s) == 0 || len(s) > desired.MaxNameBytes || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" ||
			strings.ContainsAny(s[:1]+s[len(s)-1:], ".-_") {
			t.Errorf("ParseName(%q) = %q", s, name)
		}
	})
}

func TestCheckKey(t *testing.T) {
	valid := []string{
		"a", "a/b", "...", "a/...", ".a", "a./b", "..a", "files/etc/motd", "sp ace", "ü/日本/🙂", `a\b`, "�", "\u00a0", "~",
		strings.Repeat("k", desired.MaxKeyBytes), strings.Repeat("é", desired.MaxKeyBytes/2),
	}
	for _, key := range valid {
		if err := desired.CheckKey([]byte(key)); err != nil {
			t.Errorf("CheckKey(%q) = %v, want nil", key, err)
		}
	}
	invalid := []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "./a", "../a", "a/.", "a/..", "a/./b", "a/../b", "é/../b",
		"a\x00b", "a\nb", "a\x1fb", "a\x7fb", "a\u0080b", "a\u009fb", "\xff", "a\xc3", "a\xc3/b", "\xed\xa0\x80", "\xc0\x80", "é\n",
		strings.Repeat("k", desired.MaxKeyBytes+1),
	}
	for _, key := range invalid {
		if err := desired.CheckKey([]byte(key)); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("CheckKey(%q) = %v, want ErrInvalid", key, err)
		}
	}
	if err := desired.CheckKey(bytes.Repeat([]byte("k"), 1<<20)); len(err.Error()) > 200 {
		t.Errorf("an error of %d bytes about a long key", len(err.Error()))
	}
}

// slowCheckKey is CheckKey in as few words as possible.
func slowCheckKey(key []byte) bool {
	for _, segment := range strings.Split(string(key), "/") {
		if segment == "" || segment == "." || segment == ".." {
			return false
		}
	}
	return len(key) <= desired.MaxKeyBytes && utf8.Valid(key) && !strings.ContainsFunc(string(key), unicode.IsControl)
}

func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"files/etc/motd", "a/../b", "é/日本", "a\u0080", "a\xc3/b", ""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, key []byte) {
		err := desired.CheckKey(key)
		if (err == nil) != slowCheckKey(key) || err != nil && !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("CheckKey(%q) = %v, want valid = %v", key, err, slowCheckKey(key))
		}
	})
}

func TestPrefixEnd(t *testing.T) {
	tests := []struct{ prefix, want string }{
		{"a", "b"},
		{"a/", "a0"},
		{"a\xff", "b"},
		{"a\xfe\xff\xff", "a\xff"},
		{"\x00", "\x01"},
	}
	for _, tt := range tests {
		if got := desired.PrefixEnd([]byte(tt.prefix)); string(got) != tt.want {
			t.Errorf("PrefixEnd(%q) = %q, want %q", tt.prefix, got, tt.want)
		}
	}
	for _, prefix := range []string{"", "\xff", "\xff\xff"} {
		if got := desired.PrefixEnd([]byte(prefix)); got != nil {
			t.Errorf("PrefixEnd(%q) = %q, want nil", prefix, got)
		}
	}
	prefix := []byte("a/")
	if desired.PrefixEnd(prefix); string(prefix) != "a/" {
		t.Errorf("PrefixEnd changed its argument to %q", prefix)
	}
}

func FuzzPrefixEnd(f *testing.F) {
	f.Add([]byte("a/"), []byte("a/b"))
	f.Add([]byte("a\xff"), []byte("a\xff\xff"))
	f.Fuzz(func(t *testing.T, prefix, key []byte) {
		end := desired.PrefixEnd(prefix)
		inRange := bytes.Compare(key, prefix) >= 0 && (end == nil || bytes.Compare(key, end) < 0)
		if inRange != bytes.HasPrefix(key, prefix) {
			t.Errorf("key %q: in [%q, %q) is %v, has the prefix is %v", key, prefix, end, inRange, !inRange)
		}
	})
}

func BenchmarkCheckKey(b *testing.B) {
	for _, key := range []string{"svc/0042/obj/1f3a90c2", "svc/bücher/obj/1f3a90c2"} {
		b.Run(key, func(b *testing.B) {
			k := []byte(key)
			b.SetBytes(int64(len(k)))
			b.ReportAllocs()
			for b.Loop() {
				if err := desired.CheckKey(k); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
