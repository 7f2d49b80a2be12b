package desired_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"

	"espalier/internal/desired"
	"espalier/merkle"
)

// The primes of XXH64 (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md).
const (
	prime1 uint64 = 0x9E3779B185EBCA87
	prime2 uint64 = 0xC2B2AE3D27D4EB4F
)

// collide returns a message, of 64 bytes or more, that XXH64 takes for m under
// practically every seed. Words 0 and 4 go into the same accumulator, which a
// word w turns into rotl(acc + w·prime2, 31)·prime1: to add 1 before the
// rotation adds prime1<<31 after it, whatever acc is, unless a carry runs through
// 33 bits; and word 4 takes that back.
func collide(m []byte) []byte {
	inverse := prime2 // of prime2, by Newton's iteration
	for range 5 {
		inverse *= 2 - prime2*inverse
	}
	m = bytes.Clone(m)
	add := func(word int, n uint64) {
		binary.LittleEndian.PutUint64(m[8*word:], binary.LittleEndian.Uint64(m[8*word:])+n)
	}
	add(0, inverse)
	carried := prime1
	carried <<= 31
	add(4, -carried*inverse)
	return m
}

// collision returns the pair of values in testdata, which other packages' tests
// read as well.
func collision(t *testing.T) (a, b []byte) {
	t.Helper()
	text, err := os.ReadFile("testdata/xxh64-collision.hex")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Fields(string(text))
	if a, err = hex.DecodeString(lines[0]); err == nil {
		b, err = hex.DecodeString(lines[1])
	}
	if err != nil || !bytes.Equal(b, collide(a)) {
		t.Fatalf("%x and %x, %v, want what collides with the first, %x", a, b, err, collide(a))
	}
	return a, b
}

// seedsThatTell counts, of n random seeds, those under which XXH64 tells a from b.
func seedsThatTell(a, b []byte, n int) (told int) {
	r := rand.New(rand.NewPCG(1, 64))
	for range n {
		seed := r.Uint64()
		x, y := xxhash.NewWithSeed(seed), xxhash.NewWithSeed(seed)
		_, _ = x.Write(a)
		_, _ = y.Write(b)
		if x.Sum64() != y.Sum64() {
			told++
		}
	}
	return told
}

// TestXXH64DoesNotDecide is why a keyed fast hash is no digest: nobody needs to
// know the key to make two contents that it can't tell apart, be it taken of the
// value or of all that the digest of an object covers. SHA-256 tells them apart,
// and so do the roots.
func TestXXH64DoesNotDecide(t *testing.T) {
	const seeds = 100_000
	a, b := collision(t)
	if bytes.Equal(a, b) {
		t.Fatal("the two are the same")
	}
	if told := seedsThatTell(a, b, seeds); told > 0 {
		t.Errorf("XXH64 tells the values apart under %d of %d seeds, want none", told, seeds)
	}
	spoiled := bytes.Clone(b)
	spoiled[64] ^= 1
	if told := seedsThatTell(a, spoiled, seeds); told < seeds {
		t.Errorf("XXH64 tells others apart under %d of %d seeds, want all", told, seeds)
	}

	key := []byte(strings.Repeat("k", 28)) // which lets the value begin at a stripe
	var hasher desired.Hasher
	var preimages [2][]byte
	var digests, roots [2]desired.Digest
	for i, value := range [][]byte{a, b} {
		envelope, err := desired.Encode(desired.Object{Key: string(key), Value: value})
		if err != nil {
			t.Fatal(err)
		}
		preimage := append([]byte{0, byte(len(key)), byte(len(envelope))}, key...)
		preimages[i] = append(preimage, envelope...)
		digests[i] = hasher.Sum(key, envelope)
		if want := desired.Digest(sha256.Sum256(preimages[i])); digests[i] != want {
			t.Errorf("the digest is %v, want that of the preimage, %v", digests[i], want)
		}
		builder := merkle.Shape{Salt: 1}.NewBuilder(func(int, merkle.Row) error { return nil })
		if err := builder.Add(key, digests[i]); err != nil {
			t.Fatal(err)
		}
		root, _, err := builder.Finish()
		if err != nil {
			t.Fatal(err)
		}
		roots[i] = root.Digest
	}
	if told := seedsThatTell(preimages[0], preimages[1], seeds); told > 0 {
		t.Errorf("XXH64 tells the objects apart under %d of %d seeds, want none", told, seeds)
	}
	if digests[0] == digests[1] || roots[0] == roots[1] {
		t.Errorf("digests %v, roots %v, want different ones", digests, roots)
	}
}
