package desired

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrInvalid is what every error about a malformed name, key, envelope or
// revision matches: the input has to change before a retry makes sense.
var ErrInvalid = errors.New("invalid")

// Name is the name of a set, or of a host, whose own set bears the host's name:
// 1 to MaxNameBytes of lower case letters, digits, '.', '-' and '_', starting
// and ending with a letter or digit. A Name is safe as a file name.
type Name string

// ParseName returns s as a Name, or an error that matches ErrInvalid.
func ParseName(s string) (Name, error) {
	if s == "" {
		return "", fmt.Errorf("%w name: it is empty", ErrInvalid)
	}
	if len(s) > MaxNameBytes {
		return "", fmt.Errorf("%w name: %d bytes, at most %d are allowed", ErrInvalid, len(s), MaxNameBytes)
	}
	for i := range len(s) {
		switch c := s[i]; {
		case alphanumeric(c):
		case strings.IndexByte(".-_", c) >= 0 && 0 < i && i < len(s)-1:
		default:
			return "", fmt.Errorf("%w name %q: use lower case letters, digits, '.', '-' and '_', "+
				"starting and ending with a letter or digit", ErrInvalid, s)
		}
	}
	return Name(s), nil
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9'
}

// CheckKey returns nil if key can name an object: 1 to MaxKeyBytes of UTF-8
// with no control characters, and no segment between slashes that is empty,
// "." or "..". Otherwise it returns an error that matches ErrInvalid.
func CheckKey(key []byte) error {
	switch {
	case len(key) == 0:
		return fmt.Errorf("%w key: it is empty", ErrInvalid)
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("%w key %.32q…: %d bytes, at most %d are allowed", ErrInvalid, key, len(key), MaxKeyBytes)
	}
	start, ascii := 0, true
	for i, c := range key {
		switch {
		case c == '/':
			if err := checkSegment(key, key[start:i]); err != nil {
				return err
			}
			start = i + 1
		case c < ' ' || c == 0x7f:
			return fmt.Errorf("%w key %q: control character at byte %d", ErrInvalid, key, i)
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	if err := checkSegment(key, key[start:]); err != nil || ascii {
		return err
	}
	return checkUnicode(key)
}

func checkSegment(key, segment []byte) error {
	switch string(segment) {
	case "":
		return fmt.Errorf("%w key %q: a segment between slashes is empty", ErrInvalid, key)
	case ".", "..":
		return fmt.Errorf("%w key %q: a segment is %q", ErrInvalid, key, segment)
	}
	return nil
}

func checkUnicode(key []byte) error {
	for i := 0; i < len(key); {
		r, n := utf8.DecodeRune(key[i:])
		if r == utf8.RuneError && n == 1 {
			return fmt.Errorf("%w key %q: not UTF-8 at byte %d", ErrInvalid, key, i)
		}
		if unicode.IsControl(r) {
			return fmt.Errorf("%w key %q: control character at byte %d", ErrInvalid, key, i)
		}
		i += n
	}
	return nil
}

// PrefixEnd returns the least key above every key that starts with prefix, or
// nil where there is none: [prefix, PrefixEnd(prefix)) is the prefix's range.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := append([]byte(nil), prefix[:i+1]...)
			end[i]++
			return end
		}
	}
	return nil
}
