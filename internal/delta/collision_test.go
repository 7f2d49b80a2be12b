package delta_test

import (
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// TestCollidingValues descends to a change between two values that XXH64 takes
// for the same under practically every seed. The short digests that travel are
// XXH64 too, but of SHA-256 digests, which nobody can choose: each descent sees
// the change at once.
func TestCollidingValues(t *testing.T) {
	text, err := os.ReadFile("../desired/testdata/xxh64-collision.hex")
	if err != nil {
		t.Fatal(err)
	}
	var values [2]desired.Envelope
	for i, line := range strings.Fields(string(text)) {
		value, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		values[i] = mustEncode(t, desired.Object{Value: value})
	}
	key := strings.Repeat("k", 28)
	copy := numbered(3000, 3)
	copy.commit(map[string]desired.Envelope{key: values[0]})
	source := amnesiac(copy, map[string]desired.Envelope{key: values[1]})
	r := rand.New(rand.NewPCG(2, 64))
	for range 100 {
		f, l := newFollower(t, copy.clone()), &link{source: source}
		f.seed = r.Uint64
		stats := pull(t, f, l)
		f.check(source)
		if stats.Mode != delta.Descent || stats.Upserts != 1 || stats.Deletes != 0 || f.doubts != 0 {
			t.Fatalf("%+v with %d doubts, want a descent of one change", stats, f.doubts)
		}
	}
}
