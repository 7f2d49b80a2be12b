package merkle_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"testing"

	"espalier/merkle"
)

// vectorSalt is the salt of the test vectors, here and in docs/protocol.md.
const vectorSalt = 0x0123456789abcdef

func TestLevelVectors(t *testing.T) {
	shape := merkle.Shape{Salt: vectorSalt}
	for _, v := range []struct {
		key  string
		hash uint64 // xxhash64(salt, key)
		want int
	}{
		{"k0", 0x7282dc2696fd9129, 0},
		{"k1", 0xd88980ccfc6e5106, 0},
		{"k23", 0x04af2a96ae21f6bc, 1},
		{"k28", 0x00abe7358e0a742b, 1},
		{"k246", 0x001209733b9c8d22, 2},
		{"k7550", 0x00012341ef3ea5e3, 3},
		{"k1340680", 0x00000a2218424cb3, 4},
		{"k3976456", 0x00000039aa5d85c0, 5},
	} {
		if got := shape.Level([]byte(v.key)); got != v.want {
			t.Errorf("Level(%q) = %d, want %d: its hash is %#016x", v.key, got, v.want, v.hash)
		}
	}
}

// The roots are put together by hand; an object's digest is that of its key.
func TestRootVectors(t *testing.T) {
	sum := func(preimage ...[]byte) []byte {
		d := sha256.Sum256(bytes.Join(preimage, nil))
		return d[:]
	}
	object := func(key string) []byte { return sum([]byte(key)) }
	node := func(level byte, children ...[]byte) []byte {
		return sum([]byte{1, level}, bytes.Join(children, nil))
	}
	for _, v := range []struct {
		keys   []string
		height int
		root   []byte
		want   string
	}{
		{
			keys: nil, height: 1, root: node(1),
			want: "9dcf97a184f32623d11a73124ceb99a5709b083721e878a16d78f596718ba7b2",
		},
		{
			keys: []string{"k0"}, height: 1, root: node(1, object("k0")),
			want: "6c42fab2e0382ba69f125a34a6ca9136e6bd91c7da01b2ec385a36c39b5c40cd",
		},
		{
			keys: []string{"k0", "k1"}, height: 1, root: node(1, object("k0"), object("k1")),
			want: "a5f2b083cda4bf49755ec891f44870dc32d1ba881205d76a8f50249e1891917d",
		},
		{ // a first object that is a boundary leaves the anchor of level 1 empty
			keys: []string{"k23"}, height: 2,
			root: node(2, node(1), node(1, object("k23"))),
			want: "f12189b162b6aa2af57779881bce6f1e0f674789a3586e65fec0a97a13094ebc",
		},
		{
			keys: []string{"k0", "k1", "k23", "k28", "k3"}, height: 2,
			root: node(2, node(1, object("k0"), object("k1")), node(1, object("k23")), node(1, object("k28"), object("k3"))),
			want: "5f05b9cf0adb85fa82ac44402eb5ab30fec102f9f363d490b5c2f9d30cf348c2",
		},
		{
			keys: []string{"k0", "k23", "k246", "k28"}, height: 3,
			root: node(3,
				node(2, node(1, object("k0")), node(1, object("k23"))),
				node(2, node(1, object("k246")), node(1, object("k28")))),
			want: "0a1bf9a038be8552d70e11f808c202c74995bc47d54eecfd5230455ae69dee94",
		},
	} {
		if got := hex.EncodeToString(v.root); got != v.want {
			t.Errorf("the tree of %q by hand has the root %s, want %s", v.keys, got, v.want)
		}
		o := objects{}
		for _, key := range v.keys {
			o[key] = merkle.Digest(object(key))
		}
		_, root, height, err := build(merkle.Shape{Salt: vectorSalt}, o)
		if got := hex.EncodeToString(root.Digest[:]); got != v.want || height != v.height || err != nil {
			t.Errorf("the tree of %q has the root %s at level %d, %v, want %s at level %d",
				v.keys, got, height, err, v.want, v.height)
		}
	}
}

func TestRootOfNoTree(t *testing.T) {
	want := merkle.Row{Digest: sha256.Sum256([]byte{1, 1})}
	if got, err := merkle.Root(new(merkle.Memory)); err != nil || !equalRows(got, want) {
		t.Errorf("Root(no tree) = %s, %v, want %s", show(got), err, show(want))
	}
	if got := merkle.EmptyRoot(); got != want.Digest {
		t.Errorf("EmptyRoot() = %x, want %x", got, want.Digest)
	}
}

const wide = merkle.MaxChildren

var bounded = merkle.Shape{Salt: vectorSalt, MaxChildren: wide}

// sameLevel returns the first n keys in order, of numerals of seven digits, that
// have one level under vectorSalt.
func sameLevel(level, n int) []string {
	var keys []string
	for i := 1_000_000; len(keys) < n; i++ {
		if key := strconv.Itoa(i); levelOf(vectorSalt, []byte(key)) == level {
			keys = append(keys, key)
		}
	}
	return keys
}

func TestBuilderRefuses(t *testing.T) {
	errFull := errors.New("disk full")
	discard := func(int, merkle.Row) error { return nil }
	for name, v := range map[string]struct {
		shape merkle.Shape
		emit  func(int, merkle.Row) error
		keys  []string
		want  error
	}{
		"the empty key":    {emit: discard, keys: []string{""}, want: merkle.ErrOrder},
		"a key twice":      {emit: discard, keys: []string{"a", "b", "b"}, want: merkle.ErrOrder},
		"a lower key":      {emit: discard, keys: []string{"b", "a"}, want: merkle.ErrOrder},
		"too many objects": {emit: discard, shape: bounded, keys: sameLevel(0, wide+1), want: merkle.ErrTooWide},
		"too many nodes":   {emit: discard, shape: bounded, keys: sameLevel(1, wide+1), want: merkle.ErrTooWide},
		"an emit that fails": {
			emit: func(int, merkle.Row) error { return errFull }, shape: bounded, keys: sameLevel(1, 1), want: errFull,
		},
	} {
		b := v.shape.NewBuilder(v.emit)
		for i, key := range v.keys {
			err := b.Add([]byte(key), merkle.Digest{1})
			if last := i == len(v.keys)-1; last && !errors.Is(err, v.want) || !last && err != nil {
				t.Fatalf("%s: Add of the object %d of %d: %v, want %v at the last", name, i+1, len(v.keys), err, v.want)
			}
		}
		if err := b.Add([]byte("z"), merkle.Digest{1}); !errors.Is(err, v.want) {
			t.Errorf("%s: Add after that: %v, want %v", name, err, v.want)
		}
		if _, _, err := b.Finish(); !errors.Is(err, v.want) {
			t.Errorf("%s: Finish: %v, want %v", name, err, v.want)
		}
	}
}

func TestBuilderEndsOnce(t *testing.T) {
	errFull := errors.New("disk full")
	b := merkle.Shape{}.NewBuilder(func(int, merkle.Row) error { return errFull })
	for range 2 {
		if root, _, err := b.Finish(); !errors.Is(err, errFull) {
			t.Errorf("Finish where emit fails = %s, %v, want %v", show(root), err, errFull)
		}
	}
	b = merkle.Shape{}.NewBuilder(func(int, merkle.Row) error { return nil })
	if _, _, err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Finish(); err == nil {
		t.Error("a second Finish passes")
	}
	if err := b.Add([]byte("a"), merkle.Digest{}); err == nil {
		t.Error("Add after Finish passes")
	}
}

func TestLevelDoesNotAllocate(t *testing.T) {
	key := bytes.Repeat([]byte("key/"), 50)
	if n := testing.AllocsPerRun(100, func() { bounded.Level(key) }); n != 0 {
		t.Errorf("Level allocates %v times", n)
	}
}
