package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/store"
)

func BenchmarkPages(b *testing.B) {
	set := benchSet(1_000_000)
	for i := range 14 {
		s, _ := store.Open(b.TempDir(), store.Options{})
		s.Commit(b.Context(), "bench", store.Commit{Changes: changesOf(set.rows())})
		store.NoSync(s, "bench")
		rng := rand.New(rand.NewPCG(8, uint64(i)))
		var meds []float64
		var height int
		s.View("bench", func(snap *store.Snapshot) error { height, _ = snap.Height(); return nil })
		for range 6 {
			var pages []float64
			for range 100 {
				changed := pick1(rng, set)
				r, err := s.Commit(b.Context(), "bench", store.Commit{Changes: changesOf(slices.Values(changed))})
				if err != nil {
					b.Fatal(err)
				}
				pages = append(pages, float64(r.Pages))
			}
			slices.Sort(pages)
			meds = append(meds, pages[50])
		}
		fmt.Println("height", height, "medians", meds)
		s.Close()
	}
}

func pick1(rng *rand.Rand, set benchSet) []row {
	g := set.group(rng.IntN(int(set) / benchGroup))
	return []row{{key: g[rng.IntN(len(g))].key, value: benchValue(rng)}}
}
