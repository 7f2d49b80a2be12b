package workload_test

import (
	"bytes"
	"compress/flate"
	"maps"
	"slices"
	"strings"
	"testing"

	"espalier/bench/peers/internal/workload"
)

func newWorkload(t *testing.T, objects int, seed uint64) *workload.Workload {
	t.Helper()
	w, err := workload.New(objects, seed)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// contents returns what a workload holds.
func contents(w *workload.Workload) map[string]string {
	all := map[string]string{}
	for batch := range w.Batches(333) {
		for _, c := range batch {
			all[c.Key] = string(c.Value)
		}
	}
	return all
}

// each hands over a copy.
func each(objects map[string]string) func(func(string, []byte)) error {
	return func(object func(string, []byte)) error {
		for key, value := range objects {
			object(key, []byte(value))
		}
		return nil
	}
}

func TestSameNumbersSameHistory(t *testing.T) {
	a, b, other := newWorkload(t, 2500, 7), newWorkload(t, 2500, 7), newWorkload(t, 2500, 8)
	for i, shape := range []workload.Shape{workload.Scattered, workload.Clustered, workload.Scattered} {
		x, y := a.Change(200, shape), b.Change(200, shape)
		if !slices.EqualFunc(x, y, func(p, q workload.Change) bool { return p.Key == q.Key && string(p.Value) == string(q.Value) }) {
			t.Fatalf("step %d differs between two workloads of seed 7", i)
		}
	}
	if !maps.Equal(contents(a), contents(b)) {
		t.Error("two workloads of seed 7 end differently")
	}
	if maps.Equal(contents(newWorkload(t, 2500, 7)), contents(other)) {
		t.Error("seeds 7 and 8 make the same objects")
	}
}

// TestChangeIsWhatItSays applies changes to a copy, the dumb way.
func TestChangeIsWhatItSays(t *testing.T) {
	const seed = 3
	w := newWorkload(t, 5000, seed)
	copied := contents(w)
	if len(copied) != 5000 {
		t.Fatalf("%d objects, want 5000", len(copied))
	}
	for step := range 40 {
		shape := []workload.Shape{workload.Scattered, workload.Clustered}[step%2]
		n := []int{1, 10, 100, 500}[step%4]
		var updates, inserts, deletes int
		changes := w.Change(n, shape)
		if !slices.IsSortedFunc(changes, func(a, b workload.Change) int { return strings.Compare(a.Key, b.Key) }) {
			t.Fatalf("step %d: changes are not ascending", step)
		}
		for _, c := range changes {
			old, there := copied[c.Key]
			switch {
			case c.Value == nil && there:
				deletes++
				delete(copied, c.Key)
				continue
			case c.Value == nil || len(c.Key) != workload.KeyBytes || len(c.Value) != workload.ValueBytes || old == string(c.Value):
				t.Fatalf("step %d: change of %q makes no sense", step, c.Key)
			case there:
				updates++
			default:
				inserts++
			}
			copied[c.Key] = string(c.Value)
		}
		if inserts != n/10 || deletes != n/10 || updates != n-n/10*2 {
			t.Errorf("step %d: %d updates, %d inserts, %d deletes of %d, seed %d", step, updates, inserts, deletes, n, seed)
		}
		if v, _ := w.Judge(each(copied)); !v.Same() || !maps.Equal(copied, contents(w)) {
			t.Fatalf("step %d: %v, want the same, seed %d", step, v, seed)
		}
	}
}

func TestClusteredIsOneRun(t *testing.T) {
	w := newWorkload(t, 5000, 1)
	before := slices.Sorted(maps.Keys(contents(w)))
	changes := w.Change(400, workload.Clustered)
	first, _ := slices.BinarySearch(before, changes[0].Key)
	last, _ := slices.BinarySearch(before, changes[len(changes)-1].Key)
	if last-first > 400 {
		t.Errorf("400 clustered changes span %d objects", last-first)
	}
}

// TestJudgeDetects plants each way in which a client can be wrong.
func TestJudgeDetects(t *testing.T) {
	w := newWorkload(t, 1000, 1)
	stale := contents(w)
	changes := w.Change(100, workload.Scattered)
	for _, c := range []struct {
		name string
		make func(map[string]string)
		want workload.Verdict
	}{
		{"nothing", func(map[string]string) {}, workload.Verdict{}},
		{"missing", func(m map[string]string) {
			for key := range m {
				delete(m, key)
				return
			}
		}, workload.Verdict{Missing: 1}},
		{"flipped", func(m map[string]string) {
			for key, value := range m {
				m[key] = string(value[0]^1) + value[1:]
				return
			}
		}, workload.Verdict{Stale: 1}},
		{"kept", func(m map[string]string) { m["svc/0000/obj/nothing!"] = "" }, workload.Verdict{Kept: 1}},
		{
			"followed nothing", func(m map[string]string) { clear(m); maps.Copy(m, stale) },
			workload.Verdict{Missing: 10, Stale: 80, Kept: 10},
		},
		{"followed all but deletions", func(m map[string]string) {
			for _, c := range changes {
				if c.Value == nil {
					m[c.Key] = stale[c.Key]
				}
			}
		}, workload.Verdict{Kept: 10}},
	} {
		copied := contents(w)
		c.make(copied)
		if got, err := w.Judge(each(copied)); got != c.want || err != nil {
			t.Errorf("%s: Judge = %v, %v, want %v", c.name, got, err, c.want)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for _, objects := range []int{-1, 0, workload.MinObjects - 1, workload.MaxObjects + 1} {
		if _, err := workload.New(objects, 1); err == nil {
			t.Errorf("New(%d) took it", objects)
		}
	}
}

// TestValuesDontCompress holds the values of all objects against a compressor.
func TestValuesDontCompress(t *testing.T) {
	var packed bytes.Buffer
	to, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	all := 0
	for batch := range newWorkload(t, 5000, 1).Batches(1000) {
		for _, c := range batch {
			n, _ := to.Write(c.Value) // to memory
			all += n
		}
	}
	if err := to.Close(); err != nil || packed.Len() < all {
		t.Errorf("%d bytes of values compress to %d, %v", all, packed.Len(), err)
	}
}
