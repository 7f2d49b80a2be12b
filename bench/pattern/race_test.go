//go:build race

package pattern

// racing says that tests run with the race detector, ten times as slowly.
const racing = true
