package process

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

// fileName returns a file name for an object's name: what can't stand in one is
// escaped as in URLs, and a long one is cut, with a part of its digest behind a
// tilde. No two names share one.
func fileName(name string) string {
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '_', c == '-', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() <= maxFileName {
		return b.String()
	}
	sum := sha256.Sum256([]byte(name))
	return b.String()[:maxFileName-33] + "~" + hex.EncodeToString(sum[:16])
}

// logName returns the name of a copy's log; older ones have ".1", ".2" and so on
// behind it.
func logName(name string, replica int) string {
	return fmt.Sprintf("%s.%d.log", fileName(name), replica)
}

// logPattern matches the names of all logs of an object, and of no other.
func logPattern(name string) *regexp.Regexp {
	return regexp.MustCompile(`^` + regexp.QuoteMeta(fileName(name)) + `\.[0-9]+\.log(\.[0-9]+)?$`)
}
