//go:build race

package sim_test

// raced is whether the race detector is on. Worlds are single-threaded: it has
// little to find in them, and takes ten times as long.
const raced = true
