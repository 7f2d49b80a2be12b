package pattern_test

import (
	"context"
	"fmt"

	"espalier/bench/pattern"
)

// Deltas that nobody numbers, and Espalier, where agents are cut off for a while.
func ExampleRun() {
	p := pattern.BasePoint()
	p.Faults = pattern.Partitions
	r, err := pattern.Run(context.Background(), pattern.Options{
		Patterns: []string{"delta-stream", "espalier"}, Grid: []pattern.Point{p}, Seed: 1,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, row := range r.Rows {
		fmt.Printf("%s: %d of %d agents are wrong, %d of them unaware\n", row.Pattern, row.WrongAgents, row.Agents, row.UnawareAgents)
	}
	// Output:
	// delta-stream: 20 of 20 agents are wrong, 20 of them unaware
	// espalier: 0 of 20 agents are wrong, 0 of them unaware
}
