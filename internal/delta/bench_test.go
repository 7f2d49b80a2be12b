package delta_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// workload returns n objects of 100 bytes that do not compress, in key order:
// of a set of as many, or scattered over one of a million.
func workload(n int, scattered bool) []desired.Change {
	r := rand.NewChaCha8([32]byte{byte(n)})
	changes := make([]desired.Change, n)
	for i := range changes {
		service := i * 1000 / 1_000_000 // neighbours of a million objects in 1,000 services
		if scattered {
			service = int(r.Uint64() % 1000)
		}
		value := noise(r, 100)
		changes[i].Key = fmt.Appendf(nil, "svc/%04d/obj/%08x", service, uint32(r.Uint64()))
		changes[i].Envelope = append(desired.Envelope{0}, value...)
	}
	slices.SortFunc(changes, func(a, b desired.Change) int { return slices.Compare(a.Key, b.Key) })
	return changes
}

// noise returns n bytes that do not compress.
func noise(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, err := r.Read(b)
	must(err)
	return b
}

func payload(changes []desired.Change) (n int64) {
	for i := range changes {
		n += int64(changes[i].PayloadBytes())
	}
	return n
}

func encode(tb testing.TB, w *delta.FrameWriter, changes []desired.Change) []byte {
	tb.Helper()
	for _, c := range changes {
		if err := w.Add(c); err != nil {
			tb.Fatal(err)
		}
	}
	return w.Frame()
}

var workloads = []struct {
	name    string
	changes []desired.Change
}{
	{"full1000", workload(1000, false)},
	{"scattered100", workload(100, true)},
}

// TestFrameRatio holds frames to what they promise: fewer bytes than keys and
// values have, even where values do not compress.
func TestFrameRatio(t *testing.T) {
	for _, w := range workloads {
		frame := encode(t, delta.NewFrameWriter(codec), w.changes)
		if ratio := float64(len(frame)) / float64(payload(w.changes)); ratio >= 0.95 {
			t.Errorf("%s: frame of %d bytes for %d of payload: %.3f, want < 0.95", w.name, len(frame), payload(w.changes), ratio)
		}
	}
}

func BenchmarkEncodeFrame(b *testing.B) {
	for _, w := range workloads {
		b.Run(w.name, func(b *testing.B) {
			fw := delta.NewFrameWriter(codec)
			b.SetBytes(payload(w.changes))
			b.ReportAllocs()
			var size int
			for b.Loop() {
				size = len(encode(b, fw, w.changes))
			}
			b.ReportMetric(float64(size)/float64(payload(w.changes)), "ratio")
		})
	}
}

func BenchmarkDecodeFrame(b *testing.B) {
	for _, w := range workloads {
		b.Run(w.name, func(b *testing.B) {
			frame := encode(b, delta.NewFrameWriter(codec), w.changes)
			b.SetBytes(payload(w.changes))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := codec.DecodeFrame(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
