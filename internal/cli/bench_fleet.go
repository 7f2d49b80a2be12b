package cli

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"espalier/bench"
)

// fleetServerName is not for people.
const fleetServerName = "bench-fleet-server"

// fleetServerCommand is the server of 'bench fleet', which tells it over its
// standard input what to do.
func (a *app) fleetServerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    fleetServerName,
		Hidden: true,
		Args:   exactArgs(),
		RunE:   func(c *cobra.Command, _ []string) error { return bench.ServeFleet(c.Context(), a.In, a.Out) },
	}
}

// fleetServer prepares the process that runs it.
func (a *app) fleetServer() (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("server's process: %w", err)
	}
	c := exec.Command(self, fleetServerName)
	c.Stderr = a.Err
	return c, nil
}

func (a *app) benchFleetCommand() *cobra.Command {
	o := bench.FleetOptions{Child: a.fleetServer}
	c := &cobra.Command{
		Use:   "fleet",
		Short: "Memory, CPU and times of a server that holds many agents",
		Long: "Holds agents of as many hosts at one server over loopback, each with a connection, a certificate and\n" +
			"a set of its own, first as plain text and then over TLS. The server runs in a process of its own.\n" +
			"Agents poll as real ones do, and decode what comes, but keep no objects. Then each host's set\n" +
			"is changed; that of one; and every second those of one host in a hundred.\n\n" +
			"Memory is the server's after a garbage collection, after minus before over the number of agents.\n" +
			"Takes an open file for each agent in both processes: see 'ulimit -n'.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := atLeastOne("agents", o.Agents); err != nil {
				return err
			}
			if o.Interval <= 0 || o.Duration <= 0 {
				return misusef("--interval %v, --duration %v: want times above 0", o.Interval, o.Duration)
			}
			o.Observer = a.observer("agents")
			report, err := bench.RunFleet(c.Context(), o)
			if err != nil {
				return interrupted(err)
			}
			if a.output == "json" {
				return a.document(report)
			}
			return a.printFleet(report)
		},
	}
	c.Flags().IntVar(&o.Agents, "agents", bench.DefaultFleetAgents, "number of agents")
	c.Flags().DurationVar(&o.Interval, "interval", bench.DefaultFleetInterval, "how long an agent waits between polls, give or take a tenth")
	c.Flags().DurationVar(&o.Duration, "duration", bench.DefaultFleetDuration, "how long to measure idle polls, and polls while hosts change")
	c.Flags().BoolVar(&o.PlainOnly, "insecure", false, "measure plain text alone")
	c.Flags().StringVar(&o.HeapProfile, "heap-profile", "", "write the server's heap with all agents to `NAME`-plain.pprof and NAME-tls.pprof")
	return c
}

func (a *app) printFleet(r bench.FleetReport) error {
	header := []any{"FIGURE", "PLAIN TEXT"}
	if len(r.Runs) > 1 {
		header = append(header, "MUTUAL TLS")
	}
	t := a.figures(header...)
	for _, row := range fleetRows {
		cells := []any{row.name}
		for i := range r.Runs {
			cells = append(cells, row.figure(&r.Runs[i]))
		}
		t.AppendRow(cells)
	}
	t.Render()
	_, err := fmt.Fprintf(a.Out, "\n%s agents, a connection and a set of their own each, that poll every %s; %s, %d CPUs, %s.\n"+
		"The sets were created in %s. A delay is from a commit to when its agent has it, the wait for its poll included.\n",
		grouped(uint64(r.Agents)), time.Duration(r.Interval*float64(time.Second)), r.System, r.CPUs, r.Go, duration(r.FillSeconds))
	return err
}

// fleetRows are the figures of a run, in their order.
var fleetRows = func() []fleetRow {
	rows := []fleetRow{
		{"agents held", func(r *bench.FleetRun) string { return grouped(uint64(r.Held)) }},
		{"time to connect all", func(r *bench.FleetRun) string { return duration(r.ConnectSeconds) }},
		{"server memory for each, resident", func(r *bench.FleetRun) string { return kibibytes(r.Memory.Resident) }},
		{"… Go heap", func(r *bench.FleetRun) string { return kibibytes(r.Memory.Heap) }},
		{"… stacks", func(r *bench.FleetRun) string { return kibibytes(r.Memory.Stacks) }},
	}
	rows = append(rows, pollRows("idle", func(r *bench.FleetRun) *bench.FleetPolls { return &r.Idle })...)
	for _, c := range []struct {
		what string
		of   func(r *bench.FleetRun) *bench.FleetChange
	}{
		{"a change for all", func(r *bench.FleetRun) *bench.FleetChange { return &r.All }},
		{"a change for one", func(r *bench.FleetRun) *bench.FleetChange { return &r.One }},
		{"1% change a second", func(r *bench.FleetRun) *bench.FleetChange { return &r.Churn }},
	} {
		rows = append(rows, changeRows(c.what, c.of)...)
	}
	return rows
}()

// fleetRow is a figure with its name.
type fleetRow struct {
	name   string
	figure func(*bench.FleetRun) string
}

func changeRows(what string, of func(*bench.FleetRun) *bench.FleetChange) []fleetRow {
	return append([]fleetRow{
		{what + ": commits; time", func(r *bench.FleetRun) string {
			return fmt.Sprintf("%s; %s", grouped(uint64(of(r).Commits)), duration(of(r).CommitSeconds))
		}},
		{"… until all have it", func(r *bench.FleetRun) string { return duration(of(r).Seconds) }},
		{"… delay, p50 / p99 / max", func(r *bench.FleetRun) string { return spread(of(r).Delay) }},
		{"… its poll, p50 / p99 / max", func(r *bench.FleetRun) string { return spread(of(r).Carried) }},
		{"… peak CPUs; resident", func(r *bench.FleetRun) string {
			return fmt.Sprintf("%.2f; %s", of(r).PeakCPU, mebibytes(of(r).PeakResident))
		}},
	}, pollRows("…", func(r *bench.FleetRun) *bench.FleetPolls { return &of(r).Polls })...)
}

func pollRows(what string, of func(*bench.FleetRun) *bench.FleetPolls) []fleetRow {
	return []fleetRow{
		{what + " polls a second; failed", func(r *bench.FleetRun) string {
			return fmt.Sprintf("%s; %d", grouped(uint64(of(r).PerSecond)), of(r).Failed)
		}},
		{"… idle poll, p50 / p99 / max", func(r *bench.FleetRun) string { return spread(of(r).Idle) }},
		{"… server CPU for a poll, commits included", func(r *bench.FleetRun) string { return fmt.Sprintf("%.0f µs", of(r).CPUSeconds*1e6) }},
	}
}

func spread(s bench.Spread) string {
	return fmt.Sprintf("%s / %s / %s", duration(s.P50), duration(s.P99), duration(s.Max))
}

func kibibytes(n float64) string { return fmt.Sprintf("%.1f KiB", n/1024) }
