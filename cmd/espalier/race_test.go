//go:build race

package main

// raced is whether the race detector is on, with which everything takes several
// times as long: the programs that are started, too.
const raced = true
