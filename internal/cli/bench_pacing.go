package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"espalier/bench"
	"espalier/internal/pace"
)

func (a *app) benchPacingCommand() *cobra.Command {
	var o bench.PacingOptions
	var hours float64
	c := &cobra.Command{
		Use:   "pacing",
		Short: "Delays from commit to mirror under policies of polling, in virtual time",
		Long: "Simulates a fleet, with a set for each host, under policies that say when a host polls next:\n" +
			"  fixed        one interval\n" +
			"  exponential  doubles while nothing changes, and resets upon a change\n" +
			"  sqrt         √(2c/λ) alone, λ being the host's observed rate of change\n" +
			"  espalier     what the server does (package internal/pace)\n" +
			"  held         the same, with the polls of a tenth of the hosts held open until something changes\n" +
			"All make as many polls as the fixed one: the free parameter of each is searched for that.\n\n" +
			"The loads: changes at rates that differ widely between hosts (poisson), changes that come in\n" +
			"bursts (bursty), rollouts that touch a third of the hosts within ten minutes (rollouts), and a mix in the middle\n" +
			"of which the server is down for two minutes (restart). Half the hours go before what is counted.\n" +
			"The same seed gives the same figures on any machine.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if most := bench.MaxPacingDuration.Hours(); !(hours >= bench.MinPacingDuration.Hours() && hours <= most) {
				return misusef("--hours %g: want %g to %g", hours, bench.MinPacingDuration.Hours(), most)
			}
			if err := atLeastOne("hosts", o.Hosts); err != nil {
				return err
			}
			if o.Interval <= 0 || o.Objective <= 0 {
				return misusef("--interval %v, --objective %v: want more than 0", o.Interval, o.Objective)
			}
			o.Duration = time.Duration(hours * float64(time.Hour))
			return a.benchPacing(c.Context(), o)
		},
	}
	c.Flags().IntVar(&o.Hosts, "hosts", bench.DefaultPacingHosts, "number of hosts")
	c.Flags().Float64Var(&hours, "hours", bench.DefaultPacingDuration.Hours(), "virtual hours that are counted")
	c.Flags().Uint64Var(&o.Seed, "seed", 1, "what all chance comes from")
	c.Flags().DurationVar(&o.Interval, "interval", bench.DefaultPacingInterval, "the fixed interval, which sets the number of polls")
	c.Flags().DurationVar(&o.Objective, "objective", pace.DefaultObjective, "how long a change may wait under espalier and held")
	return c
}

func (a *app) benchPacing(ctx context.Context, o bench.PacingOptions) error {
	o.Observer = a.observer("policies")
	r, err := bench.RunPacing(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	if a.output == "json" {
		return a.document(r)
	}
	t := a.figures("LOAD", "POLICY", "POLLS/H", "MEAN", "OF FIXED", "P50", "P99", "MAX", "STALE", "PEAK/MEAN", "PARAMETER", "COMMITS")
	for _, row := range r.Rows {
		t.AppendRow([]any{
			row.Load, row.Policy, fmt.Sprintf("%.2f", row.Polls),
			tenths(row.Mean), fmt.Sprintf("%.3f", row.Ratio), tenths(row.P50), tenths(row.P99), tenths(row.Max),
			fmt.Sprintf("%.3f%%", 100*row.Stale), fmt.Sprintf("%.2f", row.Peak),
			fmt.Sprintf("%s %.4g", row.Parameter, row.Value), grouped(uint64(row.Commits)),
		})
	}
	t.Render()
	_, err = fmt.Fprintf(a.Out, "\nDelays in seconds. %s, %g hours, seed %d, objective %g s; polls are those of a host in an hour.\n",
		counted(uint64(r.Hosts), "host"), r.Hours, r.Seed, r.Objective)
	for _, m := range r.Missed {
		if err == nil {
			_, err = fmt.Fprintln(a.Out, "Missed: "+m+".")
		}
	}
	return err
}

// tenths shows seconds.
func tenths(s float64) string { return fmt.Sprintf("%.1f", s) }
