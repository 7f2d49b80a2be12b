//go:build !race

package sim_test

// raced is whether the race detector is on.
const raced = false
