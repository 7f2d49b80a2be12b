package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"espalier/bench"
)

func (a *app) benchHeldCommand() *cobra.Command {
	var o bench.HeldOptions
	c := &cobra.Command{
		Use:   "held",
		Short: "From a commit to a durable mirror, where the server holds the agent's poll",
		Long: "Commits changes one by one under an agent whose poll the server holds, and measures how long each takes from\n" +
			"the beginning of the commit to a mirror that is verified and durable: with the commit's own sync of the disk and\n" +
			"the mirror's, which are held against syncs of a page of a file in the same folder, made in between.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := atLeastOne("changes", o.Changes); err != nil {
				return err
			}
			return a.benchHeld(c.Context(), o)
		},
	}
	c.Flags().IntVar(&o.Objects, "objects", bench.DefaultHeldObjects, "number of objects in the set")
	c.Flags().IntVar(&o.Changes, "changes", bench.DefaultHeldChanges, "how many changes to time")
	return c
}

func (a *app) benchHeld(ctx context.Context, o bench.HeldOptions) error {
	o.Observer = a.observer("changes")
	report, err := bench.RunHeld(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	if a.output == "json" {
		return a.document(report)
	}
	t := a.figures("WHAT", "MEDIAN", "P99", "MOST")
	add := func(name string, s bench.Spread) {
		t.AppendRow([]any{name, millis(s.P50), millis(s.P99), millis(s.Max)})
	}
	add("from commit to mirror", report.Delay)
	add("the commit", report.Commit)
	add("a sync of the disk", report.Sync)
	t.Render()
	_, err = fmt.Fprintf(a.Out, "\nThe median without two syncs is %s.\n%s of %s, one after the other; %s, %d CPUs, %s.\n",
		millis(report.Beyond), counted(uint64(report.Changes), "change"), counted(uint64(report.Objects), "object"), report.System, report.CPUs, report.Go)
	return err
}

// millis returns seconds for people, in milliseconds.
func millis(seconds float64) string { return fmt.Sprintf("%.2f ms", seconds*1000) }
