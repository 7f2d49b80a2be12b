// Package bench answers what Espalier costs: it makes up sets of objects and
// changes to them, runs a real server and real agents over loopback, and reports
// the bytes, round trips, time, CPU, pages and memory that the work took, next
// to what plain bbolt and plain gRPC take for the same work in the same run.
//
// Everything that crosses the wire is counted on the server's connections, with
// the framing of HTTP/2, in both directions. Every result is proven before it is
// reported: both ends hold the same root and the same number of objects.
//
// RunPacing alone is a simulation, of a fleet's polls in virtual time, in which
// only package pace is real.
//
// The reports are plain structs, for programs as they are; how they look to
// people is up to the command line. All work is bounded and ends by itself, or
// early with its context, and leaves nothing behind on the disk.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
)

// Machine is what a report was measured on.
type Machine struct {
	System string `json:"system"`
	CPUs   int    `json:"cpus"`
	Go     string `json:"go"`
}

func thisMachine() Machine {
	return Machine{System: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.GOMAXPROCS(0), Go: runtime.Version()}
}

// Observer is told how far a run has come; nil functions are not called.
type Observer struct {
	// Progress is called now and then during long work, with the objects that
	// are through and those that there are. It is called by one goroutine at a
	// time.
	Progress func(what string, done, total uint64)
	// Finished is called when the work that Progress told of has ended.
	Finished func()
}

func (o Observer) progress(what string, done, total uint64) {
	if o.Progress != nil {
		o.Progress(what, done, total)
	}
}

func (o Observer) finished() {
	if o.Finished != nil {
		o.Finished()
	}
}

// inFolder calls fn with a folder of its own, which is removed afterwards. An
// empty parent stands for the system's folder for temporary files.
func inFolder(ctx context.Context, parent string, fn func(dir string) error) error {
	dir, err := os.MkdirTemp(parent, "espalier-bench-")
	if err != nil {
		return fmt.Errorf("folder for the benchmark: %w", err)
	}
	err = fn(dir)
	if ctx.Err() != nil { // whatever it broke
		err = context.Cause(ctx)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// median returns the middle of values, of which there must be some.
func median[T cmp.Ordered](values []T) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// medianOf returns the median of a figure over rows.
func medianOf[R any, T cmp.Ordered](rows []R, figure func(R) T) T {
	values := make([]T, len(rows))
	for i, r := range rows {
		values[i] = figure(r)
	}
	return median(values)
}
