package spool_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"espalier/internal/desired"
	"espalier/internal/spool"
	"espalier/merkle"
)

// objects is the oracle: a spool as a map.
type objects map[string]desired.Change

func (o objects) sorted() []desired.Change {
	all := slices.Collect(maps.Values(o))
	slices.SortFunc(all, func(a, b desired.Change) int { return bytes.Compare(a.Key, b.Key) })
	return all
}

func randomKey(r *rand.Rand) []byte {
	switch r.IntN(4) {
	case 0:
		return fmt.Appendf(nil, "service-%03d/instance-%05d", r.IntN(30), r.IntN(3000))
	case 1: // prefixes of each other, and zeros that padding must not hide
		return bytes.Repeat([]byte{byte(r.IntN(2))}, 1+r.IntN(40))
	case 2:
		return append(bytes.Repeat([]byte("deep/"), r.IntN(150)), byte('a'+r.IntN(26)), byte('a'+r.IntN(26)))
	default:
		key := bytes.Repeat([]byte{byte('a' + r.IntN(3))}, 1+r.IntN(desired.MaxKeyBytes))
		for range 1 + r.IntN(8) {
			key[r.IntN(len(key))] = byte('a' + r.IntN(3))
		}
		return key
	}
}

func randomEnvelope(r *rand.Rand) desired.Envelope {
	size := r.IntN(200)
	switch r.IntN(200) {
	case 0:
		size = 200_000 + r.IntN(200_000)
	case 1, 2, 3:
		size = 4090 + r.IntN(10)
	}
	e := bytes.Repeat([]byte{byte(r.Uint32())}, 1+size)
	for range 4 {
		e[r.IntN(len(e))] = byte(r.Uint32())
	}
	e[0] = 0
	return e
}

func randomObjects(r *rand.Rand, n int) objects {
	o := objects{}
	var h desired.Hasher
	for range n {
		c := desired.Change{Key: randomKey(r), Envelope: randomEnvelope(r)}
		c.Digest = h.Sum(c.Key, c.Envelope)
		o[string(c.Key)] = c
	}
	return o
}

// shuffle returns the changes in one of the orders that inputs come in.
func shuffle(r *rand.Rand, all []desired.Change) []desired.Change {
	all = slices.Clone(all)
	switch r.IntN(5) {
	case 0: // in order
	case 1: // files one after the other, each in order
		at := r.IntN(len(all) + 1)
		all = append(slices.Clone(all[at:]), all[:at]...)
	case 2:
		slices.Reverse(all)
	case 3: // a few out of place
		for range min(3, len(all)) {
			i, j := r.IntN(len(all)), r.IntN(len(all))
			all[i], all[j] = all[j], all[i]
		}
	default:
		r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	return all
}

func equal(a, b desired.Change) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Envelope, b.Envelope) &&
		(a.Envelope == nil) == (b.Envelope == nil) && a.Digest == b.Digest
}

func finish(t testing.TB, w *spool.Writer) *spool.Sorted {
	t.Helper()
	s, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func check(t *testing.T, s *spool.Sorted, want []desired.Change) {
	t.Helper()
	if s.Len() != len(want) {
		t.Fatalf("Len() = %d, want %d", s.Len(), len(want))
	}
	i, size := 0, uint64(0)
	for c, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		if !equal(c, want[i]) {
			t.Fatalf("change %d is of %q, want %q, or its content differs", i, c.Key, want[i].Key)
		}
		size += uint64(len(c.Key) + len(c.Envelope))
		i++
	}
	if i != len(want) || size != s.Bytes() {
		t.Fatalf("All() gave %d changes of %d bytes, want %d of Bytes() = %d", i, size, len(want), s.Bytes())
	}
}

// TestOracle holds spools of all orders and sizes against a sorted slice: with
// buffers so small that many runs are merged, in one pass and in several, in
// memory and on disk, with an index that is thinned out.
func TestOracle(t *testing.T) {
	for seed := range uint64(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			want := randomObjects(r, []int{0, 1, 2, 50, 500, 2000}[r.IntN(6)]).sorted()
			for i := range want {
				if r.IntN(10) == 0 {
					want[i].Envelope, want[i].Digest = nil, desired.Digest{}
				}
			}
			w := spool.New(t.TempDir(), spool.Options{MemoryBytes: []int{-1, 0, 1 << 30}[r.IntN(3)]})
			defer w.Close()
			spool.Lower(w, 1<<(8+r.IntN(16)), 2+r.IntN(20))
			for i, c := range shuffle(r, want) {
				if err := w.Add(c, i+1); err != nil {
					t.Fatal(err)
				}
			}
			s := finish(t, w)
			check(t, s, want)
			checkGet(t, r, s, want)
		})
	}
}

func checkGet(t *testing.T, r *rand.Rand, s *spool.Sorted, want []desired.Change) {
	t.Helper()
	ascending := r.IntN(2) == 0
	for i := 0; i < len(want); i += 1 + r.IntN(5) {
		at := i
		if !ascending {
			at = r.IntN(len(want))
		}
		c, ok, err := s.Get(want[at].Key)
		if err != nil || !ok || !equal(c, want[at]) {
			t.Fatalf("Get(%q) = %q, %t, %v", want[at].Key, c.Key, ok, err)
		}
		missing := append(slices.Clone(want[at].Key), 0xff)
		if c, ok, err := s.Get(missing); ok || err != nil {
			t.Fatalf("Get(%q) = %q, %t, %v, want none", missing, c.Key, ok, err)
		}
	}
}

// TestTree holds a spool's tree against one that is wholly in memory.
func TestTree(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 3))
			want := randomObjects(r, []int{0, 1, 40, 1000, 5000}[r.IntN(5)]).sorted()
			w := spool.New(t.TempDir(), spool.Options{MemoryBytes: -1})
			defer w.Close()
			if r.IntN(3) == 0 {
				spool.LowerIndex(w, 200)
			}
			for i, c := range want {
				if err := w.Add(c, i+1); err != nil {
					t.Fatal(err)
				}
			}
			shape := merkle.Shape{Salt: r.Uint64()}
			oracle, root := build(t, shape, want)
			tree, err := finish(t, w).Tree(shape)
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			if got := tree.Root(); got.Digest != root.Digest || got.Count != root.Count {
				t.Fatalf("the root is %x over %d, want %x over %d", got.Digest, got.Count, root.Digest, root.Count)
			}
			sameReader(t, r, tree, oracle)
			for d, err := range merkle.Diff(tree, oracle) {
				t.Fatalf("Diff finds %q, %v", d.Key, err)
			}
		})
	}
}

func build(t *testing.T, shape merkle.Shape, all []desired.Change) (*merkle.Memory, merkle.Row) {
	t.Helper()
	m := new(merkle.Memory)
	b := shape.NewBuilder(m.Append)
	for _, c := range all {
		err := cmp.Or(m.Append(0, merkle.Row{Key: c.Key, Digest: c.Digest, Count: 1}), b.Add(c.Key, c.Digest))
		if err != nil {
			t.Fatal(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return m, root
}

// sameReader asks both the same questions.
func sameReader(t *testing.T, r *rand.Rand, got, want merkle.Reader) {
	t.Helper()
	height, _ := want.Height()
	if h, err := got.Height(); h != height || err != nil {
		t.Fatalf("Height() = %d, %v, want %d", h, err, height)
	}
	for range 150 {
		level, from, until := r.IntN(height+1), randomKey(r), randomKey(r)
		if bytes.Compare(from, until) > 0 {
			from, until = until, from
		}
		if r.IntN(5) == 0 {
			from = nil
		}
		if r.IntN(5) == 0 {
			until = nil
		}
		key, ok, err := got.Before(level, from)
		wantKey, wantOK, _ := want.Before(level, from)
		if !bytes.Equal(key, wantKey) || ok != wantOK || err != nil {
			t.Fatalf("Before(%d, %q) = %q, %t, %v, want %q, %t", level, from, key, ok, err, wantKey, wantOK)
		}
		a, b := rows(t, got, level, from, until), rows(t, want, level, from, until)
		if !slices.Equal(a, b) {
			t.Fatalf("Rows(%d, %q, %q) gives %d rows, want %d, or they differ", level, from, until, len(a), len(b))
		}
	}
}

func rows(t *testing.T, tree merkle.Reader, level int, from, until []byte) (all []string) {
	t.Helper()
	for row, err := range tree.Rows(level, from, until) {
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, fmt.Sprintf("%q %x %d", row.Key, row.Digest[:8], row.Count)); len(all) == 20 {
			break
		}
	}
	return all
}

func TestDuplicates(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 4))
			all := shuffle(r, randomObjects(r, 1+r.IntN(800)).sorted())
			i, j := r.IntN(len(all)), r.IntN(len(all)+1)
			twice := all[i]
			all = slices.Insert(all, j, twice)
			first, second := i+1, j+1
			if j <= i {
				first, second = j+1, i+2
			}
			w := spool.New(t.TempDir(), spool.Options{})
			defer w.Close()
			spool.Lower(w, 1<<(10+r.IntN(12)), 2+r.IntN(5))
			var err error
			for line, c := range all {
				if err = w.Add(c, line+1); err != nil {
					break
				}
			}
			if err == nil {
				_, err = w.Finish()
			}
			var d *spool.DuplicateError
			if !errors.As(err, &d) || *d != (spool.DuplicateError{Key: string(twice.Key), First: first, Second: second}) {
				t.Fatalf("got %v, want %q in line %d and in line %d", err, twice.Key, first, second)
			}
			if !errors.Is(err, desired.ErrInvalid) {
				t.Errorf("%v does not match desired.ErrInvalid", err)
			}
			if again := w.Add(all[0], 1); again != err { //nolint:errorlint // the very same one
				t.Errorf("Add after that: %v, want the same error", again)
			}
		})
	}
}

func change(key string) desired.Change {
	return desired.Change{Key: []byte(key), Envelope: desired.Envelope("\x00value"), Digest: desired.Digest{1}}
}

// TestRuns shows when runs are merged: only where something is out of order.
func TestRuns(t *testing.T) {
	numbers := func(from, until int) (all []desired.Change) {
		for i := from; i < until; i++ {
			all = append(all, change(fmt.Sprintf("key %06d", i)))
		}
		return all
	}
	for name, v := range map[string]struct {
		in   []desired.Change
		want int
	}{
		"in order":         {numbers(0, 5000), 1},
		"two files":        {append(numbers(3000, 5000), numbers(0, 3000)...), 2},
		"a straggler":      {append(append(numbers(1, 3000), numbers(0, 1)...), numbers(3000, 5000)...), 2},
		"backwards":        {backwards(numbers(0, 5000)), 10},
		"one of each kind": {nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := spool.New(t.TempDir(), spool.Options{})
			defer w.Close()
			spool.Lower(w, 40_000, 8)
			for i, c := range v.in {
				if err := w.Add(c, i+1); err != nil {
					t.Fatal(err)
				}
			}
			if got := spool.Runs(w); got > v.want+1 || v.want == 1 && got != 1 {
				t.Errorf("%d runs, want about %d", got, v.want)
			}
			if s := finish(t, w); s.Len() != len(v.in) {
				t.Errorf("Len() = %d, want %d", s.Len(), len(v.in))
			}
		})
	}
}

func TestOrdered(t *testing.T) {
	w := spool.New(t.TempDir(), spool.Options{Ordered: true})
	defer w.Close()
	for _, key := range []string{"a", "b"} {
		if err := w.Add(change(key), 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"b", "a", "c"} {
		if err := w.Add(change(key), 0); !errors.Is(err, merkle.ErrOrder) || !strings.Contains(err.Error(), `"b" after "b"`) {
			t.Errorf("Add(%q) = %v, want merkle.ErrOrder for b after b", key, err)
		}
	}
	if _, err := w.Finish(); !errors.Is(err, merkle.ErrOrder) {
		t.Errorf("Finish() = %v, want merkle.ErrOrder", err)
	}
}

func TestRefused(t *testing.T) {
	long := strings.Repeat("k", desired.MaxKeyBytes+1)
	for name, c := range map[string]desired.Change{
		"an empty key":       {Envelope: desired.Envelope{0}},
		"a key too long":     {Key: []byte(long), Envelope: desired.Envelope{0}},
		"an empty envelope":  {Key: []byte("k"), Envelope: desired.Envelope{}},
		"too large a value":  {Key: []byte("k"), Envelope: make(desired.Envelope, desired.MaxEnvelopeBytes+1)},
		"deleted without it": {},
	} {
		w := spool.New(t.TempDir(), spool.Options{})
		if err := w.Add(c, 1); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: Add = %v, want desired.ErrInvalid", name, err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestLargest(t *testing.T) {
	w := spool.New(t.TempDir(), spool.Options{})
	defer w.Close()
	var want []desired.Change
	for i := range 3 {
		c := change(strings.Repeat(fmt.Sprint(9-i), desired.MaxKeyBytes))
		c.Envelope = bytes.Repeat([]byte{byte(i)}, desired.MaxEnvelopeBytes)
		if err := w.Add(c, i+1); err != nil {
			t.Fatal(err)
		}
		want = append(want, c)
	}
	slices.Reverse(want)
	check(t, finish(t, w), want)
}

// TestHeap spools 100 MB in no order, and reads them: what is in memory is a
// buffer and little more.
func TestHeap(t *testing.T) {
	const n, most = 200_000, 64 << 20
	var peak, before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	look := func() {
		var now runtime.MemStats
		if runtime.ReadMemStats(&now); now.HeapAlloc > peak.HeapAlloc {
			peak = now
		}
	}
	w := spool.New(t.TempDir(), spool.Options{})
	defer w.Close()
	c := desired.Change{Envelope: make(desired.Envelope, 400), Digest: desired.Digest{1}}
	for i := range n {
		c.Key = fmt.Appendf(c.Key[:0], "key %06d", i*7919%n)
		if err := w.Add(c, i+1); err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			look()
		}
	}
	s := finish(t, w)
	look()
	tree, err := s.Tree(merkle.Shape{Salt: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	for range s.All() {
	}
	look()
	if root := tree.Root(); root.Count != n {
		t.Errorf("%d objects, want %d", root.Count, n)
	}
	if grown := peak.HeapAlloc - before.HeapAlloc; grown > most {
		t.Errorf("the heap grew by %d MiB, want at most %d", grown>>20, most>>20)
	} else {
		t.Logf("%d MiB of heap", grown>>20)
	}
}

func TestClosed(t *testing.T) {
	w := spool.New(t.TempDir(), spool.Options{})
	finish(t, w)
	if err := w.Add(change("a"), 1); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Add after Finish = %v, want ErrClosed", err)
	}
	if _, err := w.Finish(); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("Finish after Finish = %v, want ErrClosed", err)
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDeletionsHaveNoTree(t *testing.T) {
	w := spool.New(t.TempDir(), spool.Options{})
	if err := w.Add(desired.Change{Key: []byte("a")}, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := finish(t, w).Tree(merkle.Shape{}); err == nil {
		t.Error("a deletion found a place in a tree")
	}
}

// TestFiles shows that small spools make no file, and that others leave none
// that a name leads to.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	small := spool.New(dir, spool.Options{})
	if err := small.Add(change("a"), 1); err != nil {
		t.Fatal(err)
	}
	if s := finish(t, small); spool.File(s) != nil || spool.LargeFile(s) != nil {
		t.Error("a spool of one change made a file")
	}
	w := spool.New(dir, spool.Options{MemoryBytes: -1})
	if err := w.Add(change("a"), 1); err != nil {
		t.Fatal(err)
	}
	s := finish(t, w)
	info, err := spool.File(s).Stat()
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 || err != nil {
		t.Errorf("files are left: %v, %v", left, err)
	}
}

func TestDiskFull(t *testing.T) {
	for _, room := range []int{0, 1000, 1 << 20} {
		for _, order := range []string{"%08d", "%d"} { // written at once; sorted and merged
			for _, size := range []int{100, 5000} {
				dir := t.TempDir()
				restore := spool.FailWrites(room, syscall.ENOSPC)
				w := spool.New(dir, spool.Options{})
				spool.Lower(w, 1<<16, 4)
				var err error
				for i := 0; err == nil && i < 8000; i++ {
					c := change(fmt.Sprintf(order, i))
					c.Envelope = make(desired.Envelope, size)
					err = w.Add(c, i)
				}
				if err == nil {
					_, err = w.Finish()
				}
				if !errors.Is(err, spool.ErrDiskFull) || !strings.Contains(err.Error(), dir) {
					t.Errorf("a disk with %d bytes left: %v, want ErrDiskFull that names %s", room, err, dir)
				}
				if err := w.Close(); err != nil {
					t.Error(err)
				}
				restore()
			}
		}
	}
}

func TestNoFolder(t *testing.T) {
	w := spool.New(filepath.Join(t.TempDir(), "missing"), spool.Options{MemoryBytes: -1})
	defer w.Close()
	if err := w.Add(change("a"), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Finish(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Finish() = %v, want that the folder does not exist", err)
	}
}

// TestDamage flips each byte of a spool's files: what is read is right, or an
// error.
func TestDamage(t *testing.T) {
	w := spool.New(t.TempDir(), spool.Options{MemoryBytes: -1})
	var want []desired.Change
	for i := range 20 {
		c := change(fmt.Sprintf("key %02d", i))
		c.Envelope = make(desired.Envelope, 10)
		if i == 7 {
			c.Envelope = make(desired.Envelope, 5000)
		}
		want = append(want, c)
		if err := w.Add(c, i+1); err != nil {
			t.Fatal(err)
		}
	}
	s := finish(t, w)
	for _, f := range []*os.File{spool.File(s), spool.LargeFile(s)} {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		for at := range info.Size() {
			var b [1]byte
			if _, err := f.ReadAt(b[:], at); err != nil {
				t.Fatal(err)
			}
			flip := func() {
				b[0] ^= 0x10
				if _, err := f.WriteAt(b[:], at); err != nil {
					t.Fatal(err)
				}
			}
			flip()
			readDamaged(t, s, want, at)
			flip()
		}
	}
	check(t, s, want)
	if err := spool.File(s).Truncate(100); err != nil {
		t.Fatal(err)
	}
	readDamaged(t, s, want, 100)
}

func readDamaged(t *testing.T, s *spool.Sorted, want []desired.Change, at int64) {
	t.Helper()
	i := 0
	for c, err := range s.All() {
		if err != nil {
			if !errors.Is(err, spool.ErrDamaged) {
				t.Fatalf("byte %d flipped: %v, want that the file is damaged", at, err)
			}
			return
		}
		if !equal(c, want[i]) {
			t.Fatalf("byte %d flipped: change %d differs", at, i)
		}
		i++
	}
	t.Fatalf("byte %d flipped: nobody noticed", at)
}

func backwards(all []desired.Change) []desired.Change {
	slices.Reverse(all)
	return all
}
