package cli

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/wire"
)

// watchEvery is how often --watch looks.
const watchEvery = 2 * time.Second

// maxStragglers is how many hosts status names that are not in step.
const maxStragglers = 20

func (a *app) statusCommand() *cobra.Command {
	var watch bool
	c := &cobra.Command{
		Use:   "status [HOST]",
		Short: "Show how the fleet, or a host, fares",
		Long: "Without HOST it counts the hosts by their state, and names those that are not in step, or have not made true\n" +
			"what they hold. With HOST it shows what the host holds, how far it is with making that true, what it reports, and\n" +
			"when it polls next and why then. What a host holds is what it said with its last poll.",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return misusef("%s takes one HOST at most, got %s\nsee '%s --help'", c.CommandPath(), counted(uint64(len(args)), "argument"), c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			show := a.fleetStatus
			if len(args) == 1 {
				if _, err := desired.ParseName(args[0]); err != nil {
					return misuse{err}
				}
				show = func(ctx context.Context) error { return a.hostStatus(ctx, args[0]) }
			}
			if !watch {
				return show(c.Context())
			}
			return a.watch(c.Context(), show)
		},
	}
	c.Flags().BoolVar(&watch, "watch", false, fmt.Sprintf("show it again every %v, until it is interrupted", watchEvery))
	a.remote.addFlags(c)
	return c
}

// watch shows something again and again, on a terminal in the same place.
func (a *app) watch(ctx context.Context, show func(context.Context) error) error {
	for {
		if isTerminal(a.Out) && a.output == "" {
			fmt.Fprint(a.Out, "\x1b[H\x1b[2J")
		}
		if err := show(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

// fleetDocument is how the fleet fares, for programs.
type fleetDocument struct {
	Hosts  int            `json:"hosts"`
	States map[string]int `json:"states"`
	// Progress counts the hosts by how they fare with making true what they mirror.
	Progress map[string]int `json:"progress"`
	// Stragglers are the first of those that are not in step, or not as they shall be.
	Stragglers []hostDocument `json:"stragglers"`
}

func (a *app) fleetStatus(ctx context.Context) error {
	d := fleetDocument{States: map[string]int{}, Progress: map[string]int{}, Stragglers: []hostDocument{}}
	t, look := a.hostTable(), 0
	err := a.eachHost(ctx, func(h wire.HostInfo) error {
		d.Hosts++
		d.States[h.State.String()]++
		d.Progress[h.Progress().String()]++
		if !needsLook(h) {
			return nil
		}
		if look++; look <= maxStragglers {
			d.Stragglers = append(d.Stragglers, hostOf(h))
			appendHost(t, h)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.document(d)
	}
	if d.Hosts == 0 {
		return a.printNoHosts()
	}
	fmt.Fprintf(a.Out, "%s: %s\n", counted(uint64(d.Hosts), "host"), tally(d.States, fleet.States()))
	if d.Progress[fleet.OnlyMirrors.String()] < d.Hosts {
		fmt.Fprintf(a.Out, "applying: %s\n", tally(d.Progress, fleet.AllProgress()))
	}
	if len(d.Stragglers) == 0 {
		return nil
	}
	fmt.Fprintln(a.Out)
	if err := a.printTable(t); err != nil {
		return err
	}
	if more := look - len(d.Stragglers); more > 0 {
		fmt.Fprintf(a.Out, "and %s more: see 'espalier hosts'\n", grouped(uint64(more)))
	}
	return nil
}

// tally returns how many there are of what, leaving out what there is none of.
func tally[T fmt.Stringer](counts map[string]int, all iter.Seq[T]) string {
	var texts []string
	for what := range all {
		if n := counts[what.String()]; n > 0 {
			texts = append(texts, fmt.Sprintf("%s %v", grouped(uint64(n)), what))
		}
	}
	return strings.Join(texts, ", ")
}

func (a *app) hostStatus(ctx context.Context, name string) error {
	h, err := a.host(ctx, name)
	if err != nil {
		return err
	}
	if a.output == "json" {
		return a.document(hostOf(h))
	}
	fmt.Fprintf(a.Out, "%s is %s\n", h.Name, h.State)
	if h.At.IsZero() {
		fmt.Fprintln(a.Out, "it has not polled yet")
	} else {
		fmt.Fprintf(a.Out, "last poll   %s, from %s, agent %s\n", ago(h), h.Address, printable(h.Report.Agent))
		fmt.Fprintf(a.Out, "next poll   %s after that", waits(h.Next))
		if h.Pace != "" {
			fmt.Fprintf(a.Out, ": %s", printable(h.Pace))
		}
		fmt.Fprintln(a.Out)
	}
	a.printListState(h)
	a.printOrders(h)
	a.printProgress(h)
	for _, p := range h.Report.Problems {
		fmt.Fprintf(a.Out, "problem     %s\n", printable(p.Text))
	}
	if h.Report.More > 0 {
		fmt.Fprintf(a.Out, "and %s\n", counted(uint64(h.Report.More), "problem"))
	}
	if err := a.printFailed(h.Report.Applying); err != nil || len(h.Sets) == 0 {
		return err
	}
	fmt.Fprintln(a.Out)
	t := a.table("SET", "REVISION", "OF", "ROOT", "STATE")
	numbers(t, 2, 3)
	for _, s := range h.Sets {
		state := "current"
		switch {
		case s.Gone:
			state = "lost or damaged on the host"
		case s.Head == 0:
			state = "the server has no such set for it"
		case !s.Current:
			state = "behind"
		}
		t.AppendRow([]any{s.Name, s.Number, s.Head, fmt.Sprintf("%016x", s.Root), state})
	}
	return a.printTable(t)
}

// printListState says which sets a host is to mirror, and how its own list stands
// to that.
func (a *app) printListState(h wire.HostInfo) {
	var sets []string
	for _, name := range h.List.Sets {
		sets = append(sets, string(name))
	}
	state := ""
	switch h.ListState {
	case fleet.ListBehind:
		state = fmt.Sprintf("; it has version %d yet", h.ListVersion)
	case fleet.ListAhead:
		state = fmt.Sprintf("; it keeps version %d, which is later: 'espalier host sets' makes one that it follows", h.ListVersion)
	case fleet.ListForked:
		state = "; it keeps another one of that version: 'espalier host sets' makes one that it follows"
	}
	fmt.Fprintf(a.Out, "sets        %s (version %d%s)\n", strings.Join(sets, ", "), h.List.Version, state)
}
