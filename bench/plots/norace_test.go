//go:build !race

package plots_test

// racing says that tests run with the race detector, ten times as slowly.
const racing = false
