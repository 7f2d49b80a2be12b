package bench_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"

	"espalier/bench"
	"espalier/internal/desired"
)

func newWorkload(t *testing.T, size bench.Size) *bench.Workload {
	t.Helper()
	w, err := bench.NewWorkload(size)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// fingerprint digests changes, and fails unless they ascend and are valid.
func fingerprint(t *testing.T, changes iter.Seq2[desired.Change, error]) (sum [32]byte, n int) {
	t.Helper()
	h := sha256.New()
	var last []byte
	for c, err := range changes {
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Compare(c.Key, last) <= 0 {
			t.Fatalf("key %q comes after %q", c.Key, last)
		}
		if err := desired.CheckKey(c.Key); err != nil {
			t.Fatal(err)
		}
		if !c.Deleted() {
			if err := desired.CheckEnvelope(c.Key, c.Envelope); err != nil {
				t.Fatal(err)
			}
		}
		last = bytes.Clone(c.Key)
		fmt.Fprintf(h, "%q %q\n", c.Key, c.Envelope)
		n++
	}
	return [32]byte(h.Sum(nil)), n
}

func TestWorkloadIsAFunctionOfItsSize(t *testing.T) {
	sums := map[[32]byte]bench.Size{}
	for _, size := range []bench.Size{
		{Objects: 2500, ValueBytes: 100, Seed: 1},
		{Objects: 2500, ValueBytes: 100, Seed: 2},
		{Objects: 2501, ValueBytes: 100, Seed: 1},
		{Objects: 2500, ValueBytes: 101, Seed: 1},
	} {
		a, b := newWorkload(t, size), newWorkload(t, size)
		first, n := fingerprint(t, a.Objects(t.Context(), nil))
		if second, _ := fingerprint(t, b.Objects(t.Context(), nil)); first != second || n != size.Objects {
			t.Errorf("%+v: two workloads differ, or have %d objects", size, n)
		}
		if other, ok := sums[first]; ok {
			t.Errorf("%+v and %+v have the same objects", size, other)
		}
		sums[first] = size
		for i := range 6 {
			mix := bench.MixOf(200)
			mix.Clustered = i%2 == 1
			x, y := change(t, a, mix), change(t, b, mix)
			first, n := fingerprint(t, x.Changes())
			if again, _ := fingerprint(t, x.Changes()); again != first {
				t.Errorf("%+v: change set %d differs when it is read again", size, i)
			}
			if second, _ := fingerprint(t, y.Changes()); first != second || n != 200 {
				t.Errorf("%+v: two change sets %d differ, or have %d changes", size, i, n)
			}
		}
	}
}

func change(t *testing.T, w *bench.Workload, m bench.Mix) *bench.ChangeSet {
	t.Helper()
	c, err := w.Change(m)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestChangeSets holds change sets against a map that they are applied to: their
// kinds, their payload, and where they are.
func TestChangeSets(t *testing.T) {
	w := newWorkload(t, bench.Size{Objects: 5000, ValueBytes: 20, Seed: 7})
	held := map[string]string{}
	for c, err := range w.Objects(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		held[string(c.Key)] = string(c.Envelope)
	}
	mixes := []bench.Mix{
		bench.MixOf(1),
		{Deletes: 1},
		bench.MixOf(100),
		{Updates: 80, Inserts: 10, Deletes: 10, Clustered: true},
		{Updates: 1, Inserts: 300, Deletes: 300, Clustered: true},
		{Updates: 1, Inserts: 300, Deletes: 300},
		{Deletes: 400, Clustered: true},
	}
	for round := range 20 {
		mix := mixes[round%len(mixes)]
		changes := change(t, w, mix)
		all := slices.Collect(maps.Keys(held))
		var got bench.Mix
		var payload int
		touched := map[string]bool{}
		for c, err := range changes.Changes() {
			if err != nil {
				t.Fatal(err)
			}
			key := string(c.Key)
			payload += len(key)
			touched[key] = true
			old, there := held[key]
			switch {
			case c.Deleted() && there:
				got.Deletes++
				delete(held, key)
				continue
			case c.Deleted():
				t.Errorf("round %d deletes %q, which is not there", round, key)
				continue
			case !there:
				got.Inserts++
				all = append(all, key)
			case old == string(c.Envelope):
				t.Errorf("round %d changes nothing at %q", round, key)
			default:
				got.Updates++
			}
			payload += len(c.Envelope) - 1
			held[key] = string(c.Envelope)
		}
		got.Clustered = mix.Clustered
		if got != mix || changes.Len() != mix.Count() || changes.PayloadBytes() != uint64(payload) {
			t.Errorf("round %d: %+v of %d changes and %d bytes, want %+v and %d bytes",
				round, got, changes.Len(), changes.PayloadBytes(), mix, payload)
		}
		slices.Sort(all)
		if run := contiguous(all, touched); run != mix.Clustered && mix.Count() > 1 {
			t.Errorf("round %d: one run of neighbours: %t, want %t", round, run, mix.Clustered)
		}
	}
}

// contiguous reports whether the touched keys are neighbours among all.
func contiguous(all []string, touched map[string]bool) bool {
	first := slices.IndexFunc(all, func(key string) bool { return touched[key] })
	for _, key := range all[first:][:len(touched)] {
		if !touched[key] {
			return false
		}
	}
	return true
}

func TestSampleIsHeld(t *testing.T) {
	w := newWorkload(t, bench.Size{Objects: 1500, ValueBytes: 20, Seed: 7})
	held := map[string]bool{}
	for c, err := range w.Objects(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		held[string(c.Key)] = true
	}
	keys, err := w.Sample(50)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		if !held[string(key)] {
			t.Errorf("the sample has %q, the set has not", key)
		}
		delete(held, string(key))
	}
	if len(held) != 1450 {
		t.Errorf("the sample has %d different keys, want 50", 1500-len(held))
	}
}

func TestBadSizes(t *testing.T) {
	for _, size := range []bench.Size{
		{Objects: 0, ValueBytes: 100},
		{Objects: bench.MaxObjects + 1, ValueBytes: 100},
		{Objects: 1000, ValueBytes: 1},
		{Objects: 1000, ValueBytes: desired.MaxValueBytes + 1},
	} {
		if _, err := bench.NewWorkload(size); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("NewWorkload(%+v) = %v, want an error that matches desired.ErrInvalid", size, err)
		}
	}
}
