package merkle_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"espalier/merkle"
)

const million = 1_000_000

var benchShape = merkle.Shape{Salt: 42, MaxChildren: merkle.MaxChildren}

// benchRows are the objects of the benchmarks: keys of 25 bytes, in order.
var benchRows = sync.OnceValue(func() []merkle.Row {
	rows := make([]merkle.Row, million)
	for i := range rows {
		key := fmt.Appendf(nil, "service-%03d/instance-%04d", i/1000, i%1000)
		rows[i] = merkle.Row{Key: key, Digest: sha256.Sum256(key), Count: 1}
	}
	return rows
})

var benchTree = sync.OnceValue(func() *merkle.Memory {
	m := new(merkle.Memory)
	b := benchShape.NewBuilder(m.Append)
	for _, row := range benchRows() {
		if err := m.Append(0, row); err != nil {
			panic(err)
		}
		if err := b.Add(row.Key, row.Digest); err != nil {
			panic(err)
		}
	}
	if _, _, err := b.Finish(); err != nil {
		panic(err)
	}
	return m
})

func BenchmarkLevel(b *testing.B) {
	for _, size := range []int{25, 100} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			key := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				key[0] += byte(benchShape.Level(key)) + 1
			}
		})
	}
}

// Builds a tree over a million objects.
func BenchmarkBuilder(b *testing.B) {
	rows := benchRows()
	b.ReportAllocs()
	for b.Loop() {
		builder := benchShape.NewBuilder(func(int, merkle.Row) error { return nil })
		for i := range rows {
			if err := builder.Add(rows[i].Key, rows[i].Digest); err != nil {
				b.Fatal(err)
			}
		}
		if _, _, err := builder.Finish(); err != nil {
			b.Fatal(err)
		}
	}
}

// Updates objects of a tree over a million, without writing the rows.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		for _, layout := range []string{"scattered", "clustered"} {
			b.Run(fmt.Sprintf("%d/%s", n, layout), func(b *testing.B) {
				tree, changes := benchTree(), benchChanges(n, layout == "clustered")
				count := &strict{Reader: tree}
				if _, err := benchShape.Update(count, changes); err != nil {
					b.Fatal(err)
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := benchShape.Update(tree, changes); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(count.calls), "seeks/op")
				b.ReportMetric(float64(count.rows), "rows/op")
			})
		}
	}
}

func benchChanges(n int, clustered bool) []merkle.Change {
	rng := rand.New(rand.NewPCG(7, uint64(n)))
	picked := rng.Perm(million)[:n]
	if clustered {
		for i := range picked {
			picked[i] = million/2 + i
		}
	}
	slices.Sort(picked)
	changes := make([]merkle.Change, n)
	for i, at := range picked {
		changes[i] = merkle.Change{Key: benchRows()[at].Key, Digest: randomDigest(rng)}
	}
	return changes
}

// Compares trees over a million objects, n of which differ.
func BenchmarkDiff(b *testing.B) {
	for _, n := range []int{1, 100, 10_000} {
		for _, layout := range []string{"scattered", "clustered"} {
			b.Run(fmt.Sprintf("%d/%s", n, layout), func(b *testing.B) {
				tree, changes := benchTree(), benchChanges(n, layout == "clustered")
				updated, err := benchShape.Update(tree, changes)
				if err != nil {
					b.Fatal(err)
				}
				other := *tree
				other.Apply(changes, updated)
				b.ReportAllocs()
				for b.Loop() {
					found := 0
					for _, err := range merkle.Diff(tree, &other) {
						if err != nil {
							b.Fatal(err)
						}
						found++
					}
					if found != n {
						b.Fatalf("Diff found %d differences, want %d", found, n)
					}
				}
			})
		}
	}
}
