package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"espalier/bench/pattern"
)

// convergenceFlags is what the command line says of a grid.
type convergenceFlags struct {
	axes      pattern.Axes
	every     []time.Duration
	delay     []time.Duration
	faults    []string
	clustered bool
}

func (a *app) benchConvergenceCommand() *cobra.Command {
	var o pattern.Options
	var f convergenceFlags
	c := &cobra.Command{
		Use:   "convergence",
		Short: "Ways to transfer desired state: their cost, their time, and whether they get there",
		Long: "Simulates ways to transfer desired state, in virtual time, over one network, on the same histories of\n" +
			"change and with the same faults:\n" + listPatterns() +
			"\nAt the end of the changes all faults end; 10 minutes later the states are compared object by object.\n" +
			"P50, P99 and MAX are from a commit until an agent holds exactly that revision or a later one; BEHIND is\n" +
			"the part of the time in which agents don't hold the latest, MIXED that in which what they hold was never\n" +
			"published; WHOLE counts how often all of the state was sent; WRONG is the agents that don't hold the latest\n" +
			"revision in the end, UNAWARE those of them that can't tell.\n\n" +
			"Without flags that describe points, a default grid is played: a base point, and one figure changed at a\n" +
			"time. With some, it is all combinations of their values, and the base point's for the rest. The faults:\n" +
			"none, cuts, partitions, restarts, all. The same seed gives the same figures.\n\n" +
			"-o json, csv or markdown prints for programs, or for pages. docs/bench-patterns.md states the models.",
		Args:        exactArgs(),
		Annotations: map[string]string{moreOutputs: "csv markdown"},
		RunE: func(c *cobra.Command, _ []string) error {
			if described(c.Flags()) {
				if o.Grid = f.product(); o.Grid == nil {
					return misusef("more than %d points: ask for fewer values", pattern.MaxRuns)
				}
			}
			return a.benchConvergence(c.Context(), o)
		},
	}
	base, flags := pattern.BasePoint(), c.Flags()
	flags.StringSliceVar(&o.Patterns, "patterns", nil, "patterns to play, separated by commas (default all)")
	flags.Uint64Var(&o.Seed, "seed", 1, "what all chance comes from")
	flags.DurationVar(&o.Duration, "duration", pattern.DefaultDuration, "for how long states change, in virtual time")
	flags.IntSliceVar(&f.axes.Objects, "objects", nil, fmt.Sprintf("numbers of objects (base: %d)", base.Objects))
	flags.IntSliceVar(&f.axes.ValueBytes, "value-bytes", nil, fmt.Sprintf("bytes of each value (base: %d)", base.ValueBytes))
	flags.IntSliceVar(&f.axes.Agents, "agents", nil, fmt.Sprintf("numbers of agents (base: %d)", base.Agents))
	flags.DurationSliceVar(&f.every, "every", nil, fmt.Sprintf("mean times between commits (base: %v)", seconds(base.EverySeconds)))
	flags.IntSliceVar(&f.axes.Changes, "changes", nil, fmt.Sprintf("objects that a commit changes; a tenth of them all at most (base: %d)", base.Changes))
	flags.BoolVar(&f.clustered, "clustered", false, "a commit changes neighbours")
	flags.Float64SliceVar(&f.axes.Loss, "loss", nil, "parts of the segments that are lost, as 0.01 (base: 0)")
	flags.DurationSliceVar(&f.delay, "delay", nil, fmt.Sprintf("delays of the network, each way (base: %v)", seconds(base.DelayMillis/1000)))
	flags.Float64SliceVar(&f.axes.AgentMbit, "agent-mbit", nil, fmt.Sprintf("megabits a second of an agent's line (base: %g)", base.AgentMbit))
	flags.Float64SliceVar(&f.axes.ServerMbit, "server-mbit", nil, fmt.Sprintf("megabits a second of the orchestrator's (base: %g)", base.ServerMbit))
	flags.StringSliceVar(&f.faults, "faults", nil, fmt.Sprintf("what goes wrong (base: %s)", base.Faults))
	complete(c, "patterns", pattern.Names()...)
	return c
}

func listPatterns() string {
	var b strings.Builder
	for _, p := range pattern.All() {
		fmt.Fprintf(&b, "  %-17s %s\n", p.Name, p.Says)
	}
	return b.String()
}

// described reports whether a flag describes points.
func described(flags *pflag.FlagSet) bool {
	found := false
	for _, name := range []string{
		"objects", "value-bytes", "agents", "every", "changes", "clustered", "loss", "delay", "agent-mbit", "server-mbit", "faults",
	} {
		found = found || flags.Changed(name)
	}
	return found
}

func (f *convergenceFlags) product() []pattern.Point {
	for _, d := range f.every {
		f.axes.EverySeconds = append(f.axes.EverySeconds, d.Seconds())
	}
	for _, d := range f.delay {
		f.axes.DelayMillis = append(f.axes.DelayMillis, 1000*d.Seconds())
	}
	for _, name := range f.faults {
		f.axes.Faults = append(f.axes.Faults, pattern.Faults(name))
	}
	f.axes.Clustered = []bool{f.clustered}
	return f.axes.Product()
}

func (a *app) benchConvergence(ctx context.Context, o pattern.Options) error {
	if o.Duration <= 0 {
		return misusef("--duration %v: want %v to %v", o.Duration, pattern.MinDuration, pattern.MaxDuration)
	}
	bar := a.progress("play").in("runs")
	o.Progress = func(done, total int) { bar.Update(uint64(done), uint64(total)) }
	r, err := pattern.Run(ctx, o)
	bar.Finish()
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	switch a.output {
	case "json":
		return r.WriteJSON(a.Out)
	case "csv":
		return r.WriteCSV(a.Out)
	case "markdown":
		return r.WriteMarkdown(a.Out)
	default:
		return a.printConvergence(r)
	}
}

// printConvergence prints a table for each point.
func (a *app) printConvergence(r pattern.Report) error {
	for len(r.Rows) > 0 {
		p := r.Rows[0].Point
		header := make([]any, 0, len(pattern.Columns()))
		for _, name := range pattern.Columns() {
			header = append(header, strings.ToUpper(name))
		}
		if _, err := fmt.Fprintf(a.Out, "%s\n%s\n\n", p, r.Rows[0].Describe()); err != nil {
			return err
		}
		t := a.figures(header...)
		for ; len(r.Rows) > 0 && r.Rows[0].Point == p; r.Rows = r.Rows[1:] {
			row := make([]any, 0, len(header))
			for _, cell := range r.Rows[0].Cells() {
				row = append(row, cell)
			}
			t.AppendRow(row)
		}
		t.Render()
		fmt.Fprintln(a.Out)
	}
	_, err := fmt.Fprintf(a.Out, "Seed %d; states change for %g minutes.\n", r.Seed, r.Seconds/60)
	return err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
