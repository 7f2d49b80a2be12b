// Command bench-report plays the default grid of 'espalier bench convergence', and
// writes what came of it, with pictures, into a folder.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"

	"espalier/bench/pattern"
	"espalier/bench/plots"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir := flag.String("dir", "bench/report", "the folder to write to")
	seed := flag.Uint64("seed", 1, "what all chance comes from")
	flag.Parse()
	if err := report(ctx, *dir, *seed); err != nil {
		fmt.Fprintf(os.Stderr, "bench-report: %v\n", err)
		os.Exit(1)
	}
}

func report(ctx context.Context, dir string, seed uint64) error {
	r, err := pattern.Run(ctx, pattern.Options{Seed: seed, Progress: func(done, total int) {
		if done%(total/10+1) == 0 || done == total {
			fmt.Fprintf(os.Stderr, "%d of %d runs\n", done, total)
		}
	}})
	if err != nil {
		return err
	}
	return plots.Write(dir, r, []byte(readme(seed)))
}

// readme says what was run, and on what; the figures don't depend on the machine.
func readme(seed uint64) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# The patterns, compared

Written by `+"`make bench-report`"+`, which plays the default grid of `+"`espalier bench convergence --seed %d`"+` (virtual time: the
figures don't depend on the machine). [The models](../../docs/bench-patterns.md) say what each pattern and the network do.

- [tables.md](tables.md): a table for each point of the grid; [report.csv](report.csv) and [report.json](report.json): all figures
- [cost.svg](cost.svg), [wrong.svg](wrong.svg), [rate.svg](rate.svg), [behind.svg](behind.svg)

![What a changed byte costs](cost.svg)
![Agents that are wrong in the end](wrong.svg)
![What a changed byte costs as changes become rare](rate.svg)
![The time in which agents are behind](behind.svg)

Made on %s/%s with %d CPUs by %s.
`, seed, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "gonum.org/v1/plot" || m.Path == "github.com/klauspost/compress" {
				fmt.Fprintf(&b, "With %s %s.\n", m.Path, m.Version)
			}
		}
	}
	return b.String()
}
