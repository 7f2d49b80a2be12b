package store_test

import (
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// appliedBatches returns rows of objects with a note of 50 bytes each, 4,096 at
// a time.
func appliedBatches(rows iter.Seq[row]) iter.Seq[[]store.AppliedRow] {
	return func(yield func([]store.AppliedRow) bool) {
		var part []store.AppliedRow
		var h desired.Hasher
		for r := range rows {
			digest := h.Sum(r.key, append([]byte{0}, r.value...))
			part = append(part, store.AppliedRow{Key: r.key, Digest: digest, Driver: "file /srv/site", Note: r.value[:50]})
			if len(part) == 4096 {
				if !yield(part) {
					return
				}
				part = nil
			}
		}
		yield(part)
	}
}

// BenchmarkRecord records what an agent applies of a set for the first time, and
// changes after that; holds it against plain bbolt with rows of 100 bytes, in as
// many transactions, each of which waits for the disk, too; and compares it with
// the set.
func BenchmarkRecord(b *testing.B) {
	set := benchSet(benchObjects())
	s := benchStore(b, set)
	var salt uint64
	if err := s.View("bench", func(snap *store.Snapshot) error { salt = snap.Shape().Salt; return nil }); err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	a := openApplied(b, dir, store.Options{})
	if err := a.Reshape(b.Context(), "bench", salt); err != nil {
		b.Fatal(err)
	}
	b.Run("first", func(b *testing.B) { benchRecordFirst(b, set) })
	for rows := range appliedBatches(set.rows()) {
		if err := a.Update(store.AppliedUpdate{Rows: []store.AppliedRows{{Set: "bench", Put: rows}}}); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("diff", func(b *testing.B) {
		one := store.AppliedRow{Key: set.group(int(set) / 2 / benchGroup)[7].key, Digest: desired.Digest{1}}
		if err := a.Update(store.AppliedUpdate{Rows: []store.AppliedRows{{Set: "bench", Put: []store.AppliedRow{one}}}}); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if n := diffRecord(b, s, a); n != 1 {
				b.Fatalf("%d differ, want 1", n)
			}
		}
	})
	b.Run("one", func(b *testing.B) { benchRecordOne(b, a, set) })
	b.Run("batch", func(b *testing.B) { benchRecordBatch(b, a, set) })
	b.Run("reshape", func(b *testing.B) {
		for b.Loop() {
			salt++
			if err := a.Reshape(b.Context(), "bench", salt); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			if n, err := a.Check(b.Context()); n != 0 || err != nil {
				b.Fatal(n, err)
			}
		}
	})
	b.Run("open", func(b *testing.B) { benchRecordOpen(b, a, dir) })
}

func benchRecordOpen(b *testing.B, a *store.Applied, dir string) {
	for b.Loop() {
		if err := a.Close(); err != nil {
			b.Fatal(err)
		}
		a = openApplied(b, dir, store.Options{})
	}
}

func diffRecord(b *testing.B, s *store.Store, a *store.Applied) (n int) {
	err := s.View("bench", func(snap *store.Snapshot) error {
		return a.View(func(v *store.AppliedView) error {
			for _, err := range merkle.Diff(snap, v.Tree("bench")) {
				if err != nil {
					return err
				}
				n++
			}
			return nil
		})
	})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func benchRecordFirst(b *testing.B, set benchSet) {
	var made, plain, ours cost
	var heap float64
	for range b.N {
		made.measure(func() {
			for range appliedBatches(set.rows()) {
			}
		})
		db, err := bolt.Open(filepath.Join(b.TempDir(), "plain"), 0o600, &bolt.Options{NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
		if err != nil {
			b.Fatal(err)
		}
		plain.measure(func() { plainRecord(b, db, set) })
		db.Close()
		a := openApplied(b, b.TempDir(), store.Options{})
		if err := a.Reshape(b.Context(), "bench", 1); err != nil {
			b.Fatal(err)
		}
		stop := heapPeak()
		ours.measure(func() {
			for rows := range appliedBatches(set.rows()) {
				if err := a.Update(store.AppliedUpdate{Rows: []store.AppliedRows{{Set: "bench", Put: rows}}}); err != nil {
					b.Fatal(err)
				}
			}
		})
		heap = max(heap, stop())
		a.Close()
	}
	n := float64(b.N) * float64(set) / 1e6
	b.ReportMetric((ours.wall-made.wall)/n, "µs/row")
	b.ReportMetric((ours.cpu-made.cpu)/n, "cpu-µs/row")
	b.ReportMetric((plain.wall-made.wall)/n, "plain-µs/row")
	b.ReportMetric((plain.cpu-made.cpu)/n, "plain-cpu-µs/row")
	b.ReportMetric((ours.wall-made.wall)/(plain.wall-made.wall), "x-plain")
	b.ReportMetric(heap, "heap-MiB")
	b.ReportMetric(0, "ns/op")
}

func plainRecord(b *testing.B, db *bolt.DB, set benchSet) {
	value := make([]byte, 50) // and the note makes 100 bytes
	for rows := range appliedBatches(set.rows()) {
		err := db.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("rows"))
			for _, r := range rows {
				if err == nil {
					err = bucket.Put(r.Key, slices.Concat(r.Digest[:], value[:18], r.Note))
				}
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// benchRecordOne changes one row at a time, somewhere.
func benchRecordOne(b *testing.B, a *store.Applied, set benchSet) {
	var keys [][]byte
	for i := range 1000 {
		keys = append(keys, set.group(i * 7919 % (int(set) / benchGroup))[i%100].key)
	}
	used, n := cpu(), 0
	start := time.Now()
	for b.Loop() {
		n++
		key := keys[n%len(keys)]
		row := store.AppliedRow{Key: key, Digest: desired.Digest{byte(n), byte(n >> 8)}, Driver: "file /srv/site", Note: key}
		if err := a.Update(store.AppliedUpdate{Rows: []store.AppliedRows{{Set: "bench", Put: []store.AppliedRow{row}}}}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(n), "cpu-µs")
	b.ReportMetric(float64(time.Since(start).Microseconds())/float64(n), "µs")
}

// benchRecordBatch begins a batch of 4,096 keys and ends it.
func benchRecordBatch(b *testing.B, a *store.Applied, set benchSet) {
	batch := store.AppliedBatch{ID: 1}
	for g := range 4096/benchGroup + 1 {
		for _, r := range set.group(g) {
			batch.Keys = append(batch.Keys, r.key)
		}
	}
	used, n := cpu(), 0
	for b.Loop() {
		n++
		if err := a.Update(store.AppliedUpdate{Ended: []uint64{batch.ID}, Begun: []store.AppliedBatch{{ID: uint64(n), Keys: batch.Keys[:4096]}}}); err != nil {
			b.Fatal(err)
		}
		batch.ID = uint64(n)
	}
	b.ReportMetric(float64((cpu()-used).Microseconds())/float64(n), fmt.Sprintf("cpu-µs/%d", 4096))
}
