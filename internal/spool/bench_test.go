package spool_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"espalier/internal/desired"
	"espalier/internal/spool"
	"espalier/merkle"
)

const million = 1_000_000

// benchChange fills c with object i of a million: a key of 25 bytes and a value
// of 100 that does not compress.
func benchChange(c *desired.Change, i int) {
	c.Key = fmt.Appendf(c.Key[:0], "service-%03d/instance-%04d", i/1000, i%1000)
	c.Digest = sha256.Sum256(c.Key)
	c.Envelope = append(c.Envelope[:0], 0)
	for j := range uint64(100 / 8) {
		c.Envelope = binary.LittleEndian.AppendUint64(c.Envelope, (uint64(i)+j)*0x9e3779b97f4a7c15)
	}
	c.Envelope = append(c.Envelope, 1, 2, 3, 4)
}

func benchOrder(sorted bool) []int {
	if !sorted {
		return rand.New(rand.NewPCG(1, 1)).Perm(million)
	}
	order := make([]int, million)
	for i := range order {
		order[i] = i
	}
	return order
}

func benchSpool(b *testing.B, order []int) *spool.Sorted {
	w := spool.New(b.TempDir(), spool.Options{})
	defer w.Close()
	var c desired.Change
	for line, i := range order {
		benchChange(&c, i)
		if err := w.Add(c, line+1); err != nil {
			b.Fatal(err)
		}
	}
	s, err := w.Finish()
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// Spools a million objects. What it takes to make them is measured by itself.
func BenchmarkSpool(b *testing.B) {
	b.Run("none", func(b *testing.B) {
		order := benchOrder(true)
		for b.Loop() {
			var c desired.Change
			for _, i := range order {
				benchChange(&c, i)
			}
		}
	})
	for _, name := range []string{"sorted", "unsorted"} {
		b.Run(name, func(b *testing.B) {
			order := benchOrder(name == "sorted")
			b.ReportAllocs()
			for b.Loop() {
				if err := benchSpool(b, order).Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Reads a spool of a million objects: all of it, its tree, and one in a hundred
// by key.
func BenchmarkRead(b *testing.B) {
	s := benchSpool(b, benchOrder(true))
	defer s.Close()
	b.Run("all", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, err := range s.All() {
				if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("tree", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			t, err := s.Tree(merkle.Shape{Salt: 42})
			if err != nil {
				b.Fatal(err)
			}
			if err := t.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("get10000", func(b *testing.B) {
		var c desired.Change
		b.ReportAllocs()
		for b.Loop() {
			for i := 0; i < million; i += 100 {
				benchChange(&c, i)
				if _, ok, err := s.Get(c.Key); !ok || err != nil {
					b.Fatal(ok, err)
				}
			}
		}
	})
}
