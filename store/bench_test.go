package store_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/store"
)

// The benchmarks measure a set of -short 100,000, else 1,000,000 objects with
// keys like svc/0042/obj/1f3a90c2 and 100 B of incompressible value, and print
// ratios against plain bbolt in the same run:
//
//	go test ./store -run - -bench . -benchtime 1x

func benchObjects() int {
	if testing.Short() {
		return 100_000
	}
	return 1_000_000
}

type row struct{ key, value []byte }

// benchSet is a set whose rows are computed, so that a measured heap is the
// store's own.
type benchSet int

const benchGroup = 500

// group returns the rows of the group g, ascending; the groups ascend, too.
func (n benchSet) group(g int) []row {
	rng := rand.New(rand.NewPCG(uint64(g), 7))
	rows := make([]row, min(benchGroup, int(n)-g*benchGroup))
	for i := range rows {
		rows[i] = row{key: fmt.Appendf(nil, "svc/%06d/obj/%08x", g, rng.Uint32()), value: benchValue(rng)}
	}
	slices.SortFunc(rows, func(a, b row) int { return slices.Compare(a.key, b.key) })
	return slices.CompactFunc(rows, func(a, b row) bool { return slices.Equal(a.key, b.key) })
}

func benchValue(rng *rand.Rand) []byte {
	value := make([]byte, 104)
	for at := 0; at < 104; at += 8 {
		binary.LittleEndian.PutUint64(value[at:], rng.Uint64())
	}
	return value[:100]
}

func (n benchSet) rows() iter.Seq[row] {
	return func(yield func(row) bool) {
		for g := range (int(n) + benchGroup - 1) / benchGroup {
			for _, r := range n.group(g) {
				if !yield(r) {
					return
				}
			}
		}
	}
}

func changesOf(rows iter.Seq[row]) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		var env []byte
		for r := range rows {
			env = append(append(env[:0], 0), r.value...)
			if !yield(desired.Change{Key: r.key, Envelope: env}, nil) {
				return
			}
		}
	}
}

// plainLoad loads rows into a plain bbolt file, in batches, synced once.
func plainLoad(b *testing.B, path string, rows iter.Seq[row], batch int) *bolt.DB {
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		b.Fatal(err)
	}
	var part []row
	flush := func() {
		err := db.Update(func(tx *bolt.Tx) error {
			bucket, err := tx.CreateBucketIfNotExists([]byte("rows"))
			for _, r := range part {
				if err == nil {
					err = bucket.Put(r.key, r.value)
				}
			}
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		part = part[:0]
	}
	for r := range rows {
		if part = append(part, r); len(part) == batch {
			flush()
		}
	}
	flush()
	if err := db.Sync(); err != nil {
		b.Fatal(err)
	}
	db.NoSync = false
	return db
}

// heapPeak samples the heap until stop is called, and returns the highest.
func heapPeak() (stop func() float64) {
	runtime.GC()
	var peak atomic.Uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			metrics.Read(sample)
			peak.Store(max(peak.Load(), sample[0].Value.Uint64()))
			select {
			case <-done:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() float64 {
		close(done)
		<-ended
		return float64(peak.Load()) / (1 << 20)
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func benchStore(b *testing.B, set benchSet) *store.Store {
	s, err := store.Open(b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	if _, err := s.Commit(b.Context(), "bench", store.Commit{Changes: changesOf(set.rows())}); err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkLoad holds a first commit against the same rows in plain bbolt. The
// time that it takes to make up the rows is taken off both.
func BenchmarkLoad(b *testing.B) {
	set := benchSet(benchObjects())
	var rows, plain, ours cost
	var heap float64
	for i := range b.N {
		dir := b.TempDir()
		rows.measure(func() {
			for range changesOf(set.rows()) {
			}
		})
		plain.measure(func() {
			plainLoad(b, filepath.Join(dir, fmt.Sprint("plain", i)), set.rows(), 20000).Close()
		})
		s, err := store.Open(filepath.Join(dir, fmt.Sprint("ours", i)), store.Options{})
		if err != nil {
			b.Fatal(err)
		}
		stop := heapPeak()
		ours.measure(func() {
			r, err := s.Commit(context.Background(), "bench", store.Commit{Changes: changesOf(set.rows())})
			if err != nil || r.Created < uint64(set)*99/100 {
				b.Fatal(r, err)
			}
		})
		heap = max(heap, stop())
		s.Close()
	}
	n := float64(b.N)
	b.ReportMetric((plain.wall-rows.wall)/n, "plain-s")
	b.ReportMetric((ours.wall-rows.wall)/n, "ours-s")
	b.ReportMetric((ours.wall-rows.wall)/(plain.wall-rows.wall), "x-plain")
	b.ReportMetric((ours.cpu-rows.cpu)/(plain.cpu-rows.cpu), "x-plain-cpu")
	b.ReportMetric((ours.cpu-rows.cpu)/n, "ours-cpu-s")
	b.ReportMetric(heap, "heap-MiB")
}

// cost adds up seconds.
type cost struct{ wall, cpu float64 }

func (c *cost) measure(fn func()) {
	runtime.GC()
	start, used := time.Now(), cpu()
	fn()
	c.wall += time.Since(start).Seconds()
	c.cpu += (cpu() - used).Seconds()
}

func BenchmarkCommit(b *testing.B) {
	set := benchSet(benchObjects())
	s := benchStore(b, set)
	plain := plainLoad(b, filepath.Join(b.TempDir(), "plain"), set.rows(), 20000)
	defer plain.Close()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []string{"scattered", "clustered"} {
		for _, n := range []int{1, 100, 10_000, 12_288} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) { benchCommit(b, s, plain, set, rng, kind, n) })
		}
	}
}

// pick returns n changed rows: nine tenths updates, the rest inserts.
func pick(rng *rand.Rand, set benchSet, kind string, n int) []row {
	at := map[int]bool{}
	first := rng.IntN(int(set) - n)
	for len(at) < n {
		if kind == "scattered" {
			at[rng.IntN(int(set)/benchGroup*benchGroup)] = true
		} else {
			at[first+len(at)] = true
		}
	}
	changed := make([]row, 0, n)
	var group []row
	for i, last := 0, -1; i < int(set); i++ {
		if !at[i] {
			continue
		}
		if i/benchGroup != last {
			last = i / benchGroup
			group = set.group(last)
		}
		r := row{key: group[min(i%benchGroup, len(group)-1)].key, value: benchValue(rng)}
		if n > 1 && rng.IntN(10) == 0 {
			r.key = fmt.Appendf(nil, "%s%02x", r.key, rng.IntN(256))
		}
		changed = append(changed, r)
	}
	return slices.CompactFunc(changed, func(a, b row) bool { return slices.Equal(a.key, b.key) })
}

func benchCommit(b *testing.B, s *store.Store, plain *bolt.DB, set benchSet, rng *rand.Rand, kind string, n int) {
	var ours, theirs []float64
	var oursTime, theirTime, heap float64
	for range max(b.N, 40000/(n+1000)) {
		changed := pick(rng, set, kind, n)
		runtime.GC()
		base := heapPeak()()
		stop := heapPeak()
		start := time.Now()
		r, err := s.Commit(context.Background(), "bench", store.Commit{Changes: changesOf(slices.Values(changed))})
		if err != nil {
			b.Fatal(err)
		}
		oursTime += time.Since(start).Seconds()
		heap = max(heap, stop()-base)
		ours = append(ours, float64(r.Pages))

		start = time.Now()
		tx, err := plain.Begin(true)
		if err != nil {
			b.Fatal(err)
		}
		for _, c := range changed {
			if err := tx.Bucket([]byte("rows")).Put(c.key, c.value); err != nil {
				b.Fatal(err)
			}
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
		theirTime += time.Since(start).Seconds()
		stats := tx.Stats()
		theirs = append(theirs, float64(stats.GetPageCount()+1))
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	m := len(ours) / 2
	b.ReportMetric(ours[m], "pages")
	b.ReportMetric(theirs[m], "plain-pages")
	b.ReportMetric(ours[m]/theirs[m], "x-plain")
	b.ReportMetric(1000*oursTime/float64(len(ours)), "ms")
	b.ReportMetric(1000*theirTime/float64(len(ours)), "plain-ms")
	b.ReportMetric(heap, "heap-MiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkMirror stages, promotes and follows a set, as an agent does.
func BenchmarkMirror(b *testing.B) {
	set := benchSet(benchObjects())
	var rows, plain, ours cost
	var heap float64
	dir := b.TempDir()
	s := benchStore(b, set)
	head, err := s.Head("bench")
	if err != nil {
		b.Fatal(err)
	}
	var salt uint64
	err = s.View("bench", func(snap *store.Snapshot) error { salt = snap.Shape().Salt; return nil })
	if err != nil {
		b.Fatal(err)
	}
	m, err := store.OpenMirror(dir, "bench", store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	b.Run("stage", func(b *testing.B) {
		for i := range b.N {
			rows.measure(func() {
				for range changesOf(set.rows()) {
				}
			})
			plain.measure(func() { plainLoad(b, filepath.Join(dir, fmt.Sprint("plain", i)), set.rows(), 20000).Close() })
			stop := heapPeak()
			ours.measure(func() { benchStage(b, m, set, salt, head) })
			heap = max(heap, stop())
		}
		n := float64(b.N)
		b.ReportMetric((plain.wall-rows.wall)/n, "plain-s")
		b.ReportMetric((ours.wall-rows.wall)/n, "ours-s")
		b.ReportMetric((ours.wall-rows.wall)/(plain.wall-rows.wall), "x-plain")
		b.ReportMetric((ours.cpu-rows.cpu)/(plain.cpu-rows.cpu), "x-plain-cpu")
		b.ReportMetric(heap, "heap-MiB")
	})
	b.Run("adopt/10000", func(b *testing.B) {
		rng := rand.New(rand.NewPCG(4, 4))
		var heap float64
		for range b.N {
			b.StopTimer()
			changed := pick(rng, set, "scattered", 10000)
			if _, err := s.Commit(b.Context(), "bench", store.Commit{Changes: changesOf(slices.Values(changed))}); err != nil {
				b.Fatal(err)
			}
			head, _ := s.Head("bench")
			stop := heapPeak()
			b.StartTimer()
			if err := m.Adopt(b.Context(), head, changesOf(slices.Values(changed))); err != nil {
				b.Fatal(err)
			}
			heap = max(heap, stop())
		}
		b.ReportMetric(heap, "heap-MiB")
	})
	b.Run("stage copy", func(b *testing.B) {
		for range b.N {
			if _, err := m.Stage(b.Context(), store.StageCopy, salt); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := m.DiscardStaging(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("repair nothing", func(b *testing.B) {
		for range b.N {
			if n, err := m.Repair(b.Context()); n != 0 || err != nil {
				b.Fatal(n, err)
			}
		}
	})
}

func benchStage(b *testing.B, m *store.Mirror, set benchSet, salt uint64, head desired.Head) {
	st, err := m.Stage(b.Context(), store.StageEmpty, salt)
	if err != nil {
		b.Fatal(err)
	}
	var part []desired.Change
	flush := func() {
		if err := st.Write(b.Context(), part, []byte("mark")); err != nil {
			b.Fatal(err)
		}
		part = part[:0]
	}
	for r := range set.rows() {
		part = append(part, desired.Change{Key: r.key, Envelope: append([]byte{0}, r.value...)})
		if len(part) == 20000 {
			flush()
		}
	}
	flush()
	if err := st.Promote(b.Context(), head); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkMaintain measures what an operator runs.
func BenchmarkMaintain(b *testing.B) {
	s := benchStore(b, benchSet(benchObjects()))
	dir := b.TempDir()
	measured := func(name string, fn func(i int) error) {
		b.Run(name, func(b *testing.B) {
			stop := heapPeak()
			for i := range b.N {
				if err := fn(i); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(stop(), "heap-MiB")
		})
	}
	measured("check", func(int) error {
		r, err := s.Check(b.Context(), "bench", nil)
		if r.Found > 0 {
			err = fmt.Errorf("%v", r.Problems)
		}
		return err
	})
	measured("scrub", func(int) error { return s.Scrub(b.Context(), nil) })
	measured("compact", func(int) error {
		_, err := s.Compact(b.Context(), "bench", store.CompactOptions{})
		return err
	})
	measured("backup", func(i int) error {
		_, err := s.Backup(b.Context(), "bench", filepath.Join(dir, fmt.Sprint(time.Now().UnixNano(), i)))
		return err
	})
	measured("scan", func(int) error {
		return s.View("bench", func(snap *store.Snapshot) error {
			for _, err := range snap.Objects(nil, nil) {
				if err != nil {
					return err
				}
			}
			return nil
		})
	})
	b.Run("head", func(b *testing.B) {
		for range b.N {
			if _, err := s.Head("bench"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkGrowth commits one change to sets of different sizes, and prints the
// CPU that it takes without waiting for the disk.
func BenchmarkGrowth(b *testing.B) {
	for _, n := range []int{10_000, benchObjects(), 10 * benchObjects()} {
		set := benchSet(n)
		var s *store.Store
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			if s == nil {
				s = benchStore(b, set)
				if err := store.NoSync(s, "bench"); err != nil {
					b.Fatal(err)
				}
			}
			rng := rand.New(rand.NewPCG(8, 8))
			var pages []float64
			var used cost
			for range max(b.N, 300) {
				g := set.group(rng.IntN(n / benchGroup))
				r := row{key: g[rng.IntN(len(g))].key, value: benchValue(rng)}
				used.measureOnly(func() {
					res, err := s.Commit(b.Context(), "bench", store.Commit{Changes: changesOf(slices.Values([]row{r}))})
					if err != nil {
						b.Fatal(err)
					}
					pages = append(pages, float64(res.Pages))
				})
			}
			slices.Sort(pages)
			b.ReportMetric(pages[len(pages)/2], "pages")
			b.ReportMetric(used.cpu/float64(len(pages))*1e6, "cpu-µs")
			b.ReportMetric(used.wall/float64(len(pages))*1e6, "µs")
			b.ReportMetric(0, "ns/op")
			s = nil
		})
	}
}

// measureOnly is measure without a collection before.
func (c *cost) measureOnly(fn func()) {
	start, used := time.Now(), cpu()
	fn()
	c.wall += time.Since(start).Seconds()
	c.cpu += (cpu() - used).Seconds()
}
