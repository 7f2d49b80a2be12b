// Package arch answers: which floor may stand on which? It holds only a test,
// in the manner of Go's own go/build/deps_test.go, with a table of what each
// package may import and a bound on the size of a file.
package arch
