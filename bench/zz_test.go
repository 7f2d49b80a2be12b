package bench_test

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"espalier/bench"
)

func TestZZ(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("N"))
	if n == 0 {
		t.Skip()
	}
	r, err := bench.RunTransfer(t.Context(), bench.TransferOptions{Size: bench.Size{Objects: n, ValueBytes: 100, Seed: 1}, Baselines: os.Getenv("B") != "", Row: func(r bench.TransferRow) {
		fmt.Printf("%-26s %9d %9d %10d %10d over %9d ratio %.4f trips %d %8.4fs %-9s heap %d MiB %+v\n", r.Case, r.Changed, r.Sent, r.Received, r.Payload, r.OverPayload, r.Ratio, r.RoundTrips, r.Seconds, r.Mode, r.PeakHeap>>20, r.Baseline)
	}})
	fmt.Println(r.PeakHeap>>20, r.Root, err)
}
