package bench_test

import (
	"context"
	"fmt"

	"espalier/bench"
)

func ExampleRunTransfer() {
	report, err := bench.RunTransfer(context.Background(), bench.TransferOptions{
		Size:  bench.Size{Objects: 2000, ValueBytes: 100, Seed: 1},
		Cases: []string{"full", "warm-100", "descent-1", "idle"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, row := range report.Rows {
		fmt.Printf("%s: %d objects, %d bytes of payload, by %s\n", row.What, row.Changed, row.Payload, row.Mode)
	}
	// Output:
	// first full sync: 2000 objects, 250000 bytes of payload, by full
	// 100 changes, scattered: 100 objects, 11500 bytes of payload, by delta
	// 1 change, history lost: 1 objects, 125 bytes of payload, by descent
	// nothing changed: 0 objects, 0 bytes of payload, by unchanged
}
