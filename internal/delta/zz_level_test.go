package delta

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/internal/desired"
	"github.com/klauspost/compress/zstd"
)

func columnsOf(changes []desired.Change) (cols, vals []byte) {
	w := NewFrameWriter(NewCodec())
	for _, c := range changes {
		w.Add(c)
	}
	return bytes.Join([][]byte{w.shared, w.rest, w.heads, w.sizes, w.keys, w.texts}, nil), slices.Clone(w.values)
}

func gen(n int, scattered bool, style string) []desired.Change {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	cs := make([]desired.Change, n)
	for i := range cs {
		svc := i / 1000
		if scattered {
			svc = r.IntN(1000)
		}
		var v []byte
		if style == "json" {
			v = fmt.Appendf(nil, `{"image":"registry.example.com/app-%d:%d.%d.%d","replicas":%d,"memory":"%dMi","cpu":"%dm","env":{"REGION":"eu-west-%d"}}`, r.IntN(50), r.IntN(3), r.IntN(10), r.IntN(100), r.IntN(9), 64*r.IntN(16), 100*r.IntN(10), r.IntN(4))
		} else {
			v = make([]byte, 100)
			for j := range v {
				v[j] = byte(r.Uint32())
			}
		}
		cs[i].Key = fmt.Appendf(nil, "svc/%04d/obj/%08x", svc, r.Uint32())
		cs[i].Envelope = append(desired.Envelope{0}, v...)
	}
	slices.SortFunc(cs, func(a, b desired.Change) int { return bytes.Compare(a.Key, b.Key) })
	return cs
}

func BenchmarkLevel(b *testing.B) {
	inputs := map[string][]byte{}
	var order []string
	add := func(name string, in []byte) { inputs[name] = in; order = append(order, name) }
	c, _ := columnsOf(gen(1000, false, ""))
	add("cols-full1000", c)
	c, _ = columnsOf(gen(100, true, ""))
	add("cols-scat100", c)
	c, v := columnsOf(gen(1000, false, "json"))
	add("vals-json1000", v)
	_, v = columnsOf(gen(1000, false, ""))
	add("vals-random1000", v)
	_, v = columnsOf(gen(100, true, "json"))
	add("vals-json100", v)
	for _, name := range order {
		in := inputs[name]
		for _, lv := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault, zstd.SpeedBetterCompression} {
			for _, win := range []int{128 << 10, 256 << 10} {
			enc, _ := zstd.NewWriter(nil, zstd.WithEncoderLevel(lv), zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(win), zstd.WithLowerEncoderMem(true))
			dst := make([]byte, 0, 1<<20)
			b.Run(fmt.Sprintf("%s/%v/%d", name, lv, win), func(b *testing.B) {
				b.SetBytes(int64(len(in)))
				var n int
				for b.Loop() {
					n = len(enc.EncodeAll(in, dst))
				}
				b.ReportMetric(float64(n), "bytes")
				b.ReportMetric(float64(n)/float64(len(in)), "ratio")
			})
			}
		}
	}
}
