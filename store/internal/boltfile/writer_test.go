package boltfile_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"espalier/store/internal/boltfile"
)

var names = [][]byte{[]byte("objects"), []byte("meta"), []byte("tree")}

// rows are what a test put, by bucket.
type rows map[string][]row

type row struct{ key, value []byte }

func put(t *testing.T, w *boltfile.Writer, all rows, bucket string, key, value []byte) {
	t.Helper()
	if err := w.Bucket([]byte(bucket)).Put(key, value); err != nil {
		t.Fatal(err)
	}
	all[bucket] = append(all[bucket], row{bytes.Clone(key), bytes.Clone(value)})
}

func open(t *testing.T, path string) *bolt.DB {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// finished checks the file at path, and lets bbolt use it.
func finished(t *testing.T, path string, all rows, rng *rand.Rand) {
	t.Helper()
	if err := boltfile.Verify(path); err != nil {
		t.Error(err)
	}
	db := open(t, path)
	check(t, db, all)
	if rng.IntN(3) == 0 {
		churn(t, db, rng, all)
	}
	db.Close()
	if err := boltfile.Verify(path); err != nil {
		t.Error(err)
	}
}

// check holds the file against what was put, and has bbolt check its structure.
func check(t *testing.T, db *bolt.DB, want rows) {
	t.Helper()
	err := db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("bbolt: %v", err)
		}
		for _, name := range names {
			i := 0
			err := tx.Bucket(name).ForEach(func(k, v []byte) error {
				if i >= len(want[string(name)]) {
					return fmt.Errorf("bucket %s has %q, want no more rows", name, k)
				}
				if r := want[string(name)][i]; !bytes.Equal(r.key, k) || !bytes.Equal(r.value, v) {
					return fmt.Errorf("bucket %s, row %d is %q, want %q", name, i, k, r.key)
				}
				i++
				return nil
			})
			if err != nil {
				return err
			}
			if i != len(want[string(name)]) {
				return fmt.Errorf("bucket %s has %d rows, want %d", name, i, len(want[string(name)]))
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestWriter writes files of random rows, with checkpoints, and lets bbolt read
// and change them.
func TestWriter(t *testing.T) {
	for seed := range uint64(14) {
		rng := rand.New(rand.NewPCG(seed, 1))
		path := filepath.Join(t.TempDir(), "file")
		w, err := boltfile.Create(path, 0o600, names...)
		if err != nil {
			t.Fatal(err)
		}
		all := rows{}
		n := []int{0, 1, 2, 30, 100, 1000, 8000}[seed%7]
		longKeys := seed%3 == 0
		for i := range n {
			key := fmt.Appendf(nil, "key/%08d", i)
			if longKeys {
				key = append(key, bytes.Repeat([]byte{'k'}, rng.IntN(1000))...)
			}
			size := rng.IntN(100)
			if rng.IntN(200) == 0 {
				size = rng.IntN(30000)
			}
			put(t, w, all, "objects", key, bytes.Repeat([]byte{byte(i)}, size))
			if i%32 == 0 {
				put(t, w, all, "tree", key, []byte("node"))
			}
			if rng.IntN(n) < 2 {
				w.Bucket([]byte("meta")).Reset()
				all["meta"] = nil
				put(t, w, all, "meta", []byte("mark"), fmt.Append(nil, i))
				if err := w.Checkpoint(); err != nil {
					t.Fatal(err)
				}
				copied := filepath.Join(t.TempDir(), "copy")
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(copied, b, 0o600); err != nil {
					t.Fatal(err)
				}
				finished(t, copied, all, rng)
			}
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if info, err := boltfile.Inspect(path); err != nil || !info.Clean {
			t.Errorf("seed %d: Inspect = %+v, %v, want a clean file", seed, info, err)
		}
		finished(t, path, all, rng)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// churn deletes and inserts with bbolt, whose splits and merges rely on the
// shape of the pages they find, down to an empty bucket.
func churn(t *testing.T, db *bolt.DB, rng *rand.Rand, all rows) {
	t.Helper()
	left := maps.Clone(all)
	for round := 0; len(left["objects"]) > 0; round++ {
		var next []row
		err := db.Update(func(tx *bolt.Tx) error {
			b := tx.Bucket([]byte("objects"))
			for _, r := range left["objects"] {
				if round > 0 && rng.IntN(2) == 0 || round > 5 {
					if err := b.Delete(r.key); err != nil {
						return err
					}
				} else {
					next = append(next, r)
				}
				if round < 2 && rng.IntN(8) == 0 {
					more := row{key: append(bytes.Clone(r.key), byte('0'+round)), value: []byte("new")}
					if err := b.Put(more.key, more.value); err != nil {
						return err
					}
					next = append(next, more)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(next, func(a, b row) int { return bytes.Compare(a.key, b.key) })
		left["objects"] = slices.CompactFunc(next, func(a, b row) bool { return bytes.Equal(a.key, b.key) })
		check(t, db, left)
	}
}

// TestManyFreePages makes so many copies of a page with a large value that the
// list of free pages takes its long form.
func TestManyFreePages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	w, err := boltfile.Create(path, 0o600, names...)
	if err != nil {
		t.Fatal(err)
	}
	all := rows{}
	value := bytes.Repeat([]byte("large"), 1<<20)
	for i := range 60 {
		put(t, w, all, "objects", fmt.Appendf(nil, "%03d", i), value)
		if err := w.Checkpoint(); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	finished(t, path, all, rand.New(rand.NewPCG(1, 2)))
}

func TestPutOrder(t *testing.T) {
	w, err := boltfile.Create(filepath.Join(t.TempDir(), "file"), 0o600, names...)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	b := w.Bucket([]byte("tree"))
	for _, key := range []string{"a", "b"} {
		if err := b.Put([]byte(key), nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"", "a", "b"} {
		if err := b.Put([]byte(key), nil); err == nil {
			t.Errorf("Put(%q) after b succeeded", key)
		}
	}
}

// TestInspect holds what Inspect says of bbolt's own files against bbolt.
func TestInspect(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, clean := range []bool{true, false, true} {
		db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: !clean})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("bucket"))
			if err != nil {
				return err
			}
			return b.Put([]byte("key"), make([]byte, 20000))
		})
		if err != nil {
			t.Fatal(err)
		}
		var size int64
		_ = db.View(func(tx *bolt.Tx) error { size = tx.Size(); return nil })
		db.Close()
		info, err := boltfile.Inspect(path)
		if err != nil || info.Clean != clean || int64(info.Pages)*int64(info.PageSize) != size {
			t.Errorf("Inspect = %+v, %v, want clean %v and %d bytes", info, err, clean, size)
		}
	}
	if err := os.Truncate(path, 9000); err != nil {
		t.Fatal(err)
	}
	if _, err := boltfile.Inspect(path); err == nil {
		t.Error("Inspect of a file that was cut short succeeded")
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("garbage "), 4000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := boltfile.Inspect(path); err == nil {
		t.Error("Inspect of garbage succeeded")
	}
}

// TestVerify flips bits where it hurts. Verify must never crash, and must see
// all that bbolt stumbles over.
func TestVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	w, err := boltfile.Create(path, 0o600, names...)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		put(t, w, rows{}, "objects", fmt.Appendf(nil, "key/%08d", i), make([]byte, 100))
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if n := salvage(t, path); n != 1000 {
		t.Fatalf("salvaged %d rows of 1000", n)
	}
	db := open(t, path) // and now some pages of bbolt's own
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("meta")).Put([]byte("k"), []byte("v"))
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 250 {
		spoiled := bytes.Clone(whole)
		page := rng.IntN(len(spoiled) / os.Getpagesize())
		at := page*os.Getpagesize() + rng.IntN(64) // where headers and elements are
		spoiled[at] ^= 1 << rng.IntN(8)
		if err := os.WriteFile(path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := salvage(t, path); n > 1001 {
			t.Errorf("salvaged %d rows of 1001", n)
		}
		if boltfile.Verify(path) == nil {
			checkStructure(t, path)
		}
		if t.Failed() {
			t.Fatalf("byte %d of page %d", at, page)
		}
	}
}

// salvage returns how many rows Salvage finds, which must ascend.
func salvage(t *testing.T, path string) (n int) {
	t.Helper()
	last := map[string]string{}
	err := boltfile.Salvage(path, func(bucket, key, _ []byte) error {
		before, ok := last[string(bucket)]
		if ok && string(key) <= before {
			t.Errorf("bucket %q: key %q after %q", bucket, key, before)
		}
		last[string(bucket)] = string(key)
		n++
		return nil
	})
	if err != nil && !errors.Is(err, boltfile.ErrDamaged) {
		t.Error(err)
	}
	return n
}

// checkStructure lets bbolt check a file in which Verify found nothing.
func checkStructure(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_ = db.View(func(tx *bolt.Tx) error {
		for err := range tx.Check() {
			if !strings.Contains(err.Error(), "unreachable unfreed") { // a page that is wasted does no harm
				t.Error(err)
			}
		}
		return nil
	})
}

func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "file")
	w, err := boltfile.Create(path, 0o600, names...)
	if err != nil {
		f.Fatal(err)
	}
	for i := range 200 {
		if err := w.Bucket([]byte("objects")).Put(fmt.Appendf(nil, "key/%08d", i), make([]byte, 40)); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		f.Fatal(err)
	}
	w.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(os.Getpagesize()*2+8), []byte{1})
	f.Add(uint32(os.Getpagesize()*5), []byte("garbage"))
	f.Fuzz(func(t *testing.T, at uint32, bytes []byte) {
		spoiled := slices.Clone(whole)
		copy(spoiled[int(at)%len(spoiled):], bytes)
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = boltfile.Verify(path)
		if n := salvage(t, path); n > 200 {
			t.Errorf("salvaged %d rows of 200", n)
		}
	})
}
