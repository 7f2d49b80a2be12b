package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"

	"espalier/bench"
	"espalier/internal/desired"
	"espalier/internal/publish"
	espalierv1 "espalier/proto/espalier/v1"
)

func (a *app) benchCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench",
		Short: "Measure what transfers, commits, polls and fleets take, and compare ways to transfer state",
		Long: "Measures a real server and real agents over loopback, in one process but for 'fleet', on made-up\n" +
			"sets in a temporary folder that is removed at the end (TMPDIR says where). Times depend on the\n" +
			"machine; the ratios are taken within one run. 'pacing' and 'convergence' are simulations, in virtual time.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(
		a.benchTransferCommand(), a.benchCommitCommand(), a.benchPollCommand(), a.benchHeldCommand(), a.benchFleetCommand(),
		a.benchPacingCommand(), a.benchFilesCommand(), a.benchConvergenceCommand(),
	)
	return c
}

// sizeFlags adds the flags that describe a set.
func sizeFlags(c *cobra.Command, s *bench.Size) {
	c.Flags().IntVar(&s.Objects, "objects", 1_000_000, "number of objects")
	c.Flags().IntVar(&s.ValueBytes, "value-bytes", 100, "bytes of each value; they don't compress")
	c.Flags().Uint64Var(&s.Seed, "seed", 1, "what the objects and changes are made from")
}

func (a *app) benchTransferCommand() *cobra.Command {
	o := bench.TransferOptions{Baselines: true, Apply: applyJSONL}
	c := &cobra.Command{
		Use:   "transfer",
		Short: "Bytes, round trips and time for an agent to follow a set",
		Long: "Measures what it takes an agent to follow a set: bytes on the TCP connection in both directions,\n" +
			"with HTTP/2's framing, against the keys and values of what changed. The time is from the commit to\n" +
			"a verified and durable mirror. After each case both ends hold the same root and number of objects.\n" +
			"'load', 'apply-jsonl' and 'full' are held against a load of the same keys and values into plain bbolt, in the same\n" +
			"folder, sorted, in batches, synced once.\n\n" +
			"Cases, in their order: " + strings.Join(bench.Cases(), ", ") + ".\n" +
			"'warm' follows a commit over a live connection, 'descent' one whose history the server has lost,\n" +
			"'corrupt' fetches values that were flipped in the mirror's file. A tenth of the changes are inserts,\n" +
			"a tenth deletions; a case changes a tenth of the set at most.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := atLeastOne("rounds", o.Rounds); err != nil {
				return err
			}
			o.Observer = a.observer("objects")
			report, err := bench.RunTransfer(c.Context(), o)
			if err != nil {
				return interrupted(err)
			}
			if a.output == "json" {
				return a.document(report)
			}
			return a.printTransfer(report)
		},
	}
	sizeFlags(c, &o.Size)
	c.Flags().StringSliceVar(&o.Cases, "cases", nil, "cases to measure, separated by commas (default all)")
	c.Flags().IntVar(&o.Rounds, "rounds", 3, "how often each case is measured; the table has the medians")
	return c
}

// atLeastOne refuses a flag that package bench would take for its default.
func atLeastOne(flag string, n int) error {
	if n < 1 {
		return misusef("--%s %d: want 1 or more", flag, n)
	}
	return nil
}

// applyJSONL publishes a file to a set, as the command apply does.
func applyJSONL(ctx context.Context, address string, set desired.Name, path string) error {
	in, err := publish.Read(ctx, path, nil, publish.ReadOptions{TempDir: filepath.Dir(path)})
	if err != nil {
		return err
	}
	defer in.Close()
	r := remote{address: address, insecure: true}
	conn, err := r.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	to := publish.Server{
		Operator: espalierv1.NewOperatorServiceClient(conn), Sync: espalierv1.NewSyncServiceClient(conn),
	}
	_, err = publish.Apply(ctx, to, in, publish.Options{Set: set})
	return err
}

// figures returns a table whose columns but the first are numbers.
func (a *app) figures(header ...any) table.Writer {
	t := a.table(header...)
	columns := make([]table.ColumnConfig, len(header)-1)
	for i := range columns {
		columns[i] = table.ColumnConfig{Number: i + 2, Align: text.AlignRight, AlignHeader: text.AlignRight}
	}
	t.SetColumnConfigs(columns)
	return t
}

func (a *app) printTransfer(r bench.TransferReport) error {
	t := a.figures("CASE", "CHANGED", "SENT", "RECEIVED", "PAYLOAD", "OVER PAYLOAD", "RATIO", "TRIPS", "TIME", "CPU", "MODE", "PEAK HEAP", "BBOLT LOAD", "X BBOLT")
	for _, row := range r.Rows {
		sent, received, over, ratio, trips, plain, against := "", "", "", "", "", "", ""
		if row.Sent > 0 {
			sent, received = grouped(row.Sent), grouped(row.Received)
			over = signed(row.OverPayload)
		}
		if row.RoundTrips > 0 {
			trips = fmt.Sprint(row.RoundTrips)
		}
		if row.Ratio > 0 {
			ratio = fmt.Sprintf("%.3f", row.Ratio)
		}
		if row.Baseline != nil {
			plain, against = duration(row.Baseline.Seconds), fmt.Sprintf("%.2f", row.Baseline.Ratio)
		}
		t.AppendRow([]any{
			row.Case, grouped(row.Changed), sent, received, grouped(row.Payload), over, ratio, trips,
			duration(row.Seconds), duration(row.CPUSeconds), row.Mode, mebibytes(row.PeakHeap), plain, against,
		})
	}
	t.Render()
	_, err := fmt.Fprintf(a.Out, "\n%s\nBytes are exact, medians of %d. In the end: %s objects, root %s.\n",
		describe(r.Machine, r.Size), r.Rounds, grouped(r.Count), r.Root)
	return err
}

// describe says what was measured on.
func describe(m bench.Machine, s bench.Size) string {
	return fmt.Sprintf("%s objects with values of %d bytes, seed %d; %s, %d CPUs, %s.",
		grouped(uint64(s.Objects)), s.ValueBytes, s.Seed, m.System, m.CPUs, m.Go)
}

// signed is grouped for what may be negative.
func signed(n int64) string {
	if n < 0 {
		return "-" + grouped(uint64(-n))
	}
	return grouped(uint64(n))
}

func (a *app) benchCommitCommand() *cobra.Command {
	var o bench.CommitOptions
	c := &cobra.Command{
		Use:   "commit",
		Short: "Time, CPU, pages and bytes that commits write, against plain bbolt",
		Long: "Commits changes to a set, and makes the same puts and deletes of the objects' rows in a plain bbolt\n" +
			"file that was filled the same way, in turns; all figures are medians. What a commit takes beyond is\n" +
			"for the tree and the journal. Then compares commits of one change to a small set and to a large\n" +
			"one, in memory where there is room, so that the CPU's time is without that of syncing.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if err := atLeastOne("rounds", o.Rounds); err != nil {
				return err
			}
			o.Observer = a.observer("objects")
			report, err := bench.RunCommit(c.Context(), o)
			if err != nil {
				return interrupted(err)
			}
			if a.output == "json" {
				return a.document(report)
			}
			return a.printBenchCommit(report)
		},
	}
	sizeFlags(c, &o.Size)
	c.Flags().IntVar(&o.Rounds, "rounds", 5, "how often each kind of commit is made; small ones more often")
	c.Flags().IntVar(&o.Large, "objects-large", 0, "objects of the large set that growth is measured on (default --objects)")
	return c
}

func (a *app) printBenchCommit(r bench.CommitReport) error {
	t := a.figures("CASE", "COMMITS", "TIME", "BBOLT", "CPU", "BBOLT", "PAGES", "BBOLT", "X BBOLT", "WRITTEN", "BBOLT", "PEAK HEAP")
	for _, row := range r.Rows {
		t.AppendRow([]any{
			row.What, row.Commits, duration(row.Store.Seconds), duration(row.Plain.Seconds),
			duration(row.Store.CPUSeconds), duration(row.Plain.CPUSeconds),
			grouped(row.Store.Pages), grouped(row.Plain.Pages), fmt.Sprintf("%.2f", row.PagesRatio),
			size(row.Store.Bytes), size(row.Plain.Bytes), mebibytes(row.PeakHeap),
		})
	}
	t.Render()
	g := r.Growth
	synced := "without syncing"
	if !g.InMemory {
		synced = "syncing included"
	}
	_, err := fmt.Fprintf(a.Out, "\n%s\nGrowth: a commit of 1 change writes %d pages and takes %s of CPU (%s) at %s objects,\n"+
		"%d pages and %s at %s: %.2f times the pages, %.2f times the CPU.\n",
		describe(r.Machine, r.Size),
		g.Small.Pages, duration(g.Small.CPUSeconds), synced, grouped(uint64(g.Small.Objects)),
		g.Large.Pages, duration(g.Large.CPUSeconds), grouped(uint64(g.Large.Objects)), g.PagesRatio, g.CPURatio)
	return err
}

func (a *app) benchPollCommand() *cobra.Command {
	var o bench.PollOptions
	var seconds float64
	c := &cobra.Command{
		Use:   "poll",
		Short: "Idle polls a second, and their CPU and bytes, against empty gRPC calls",
		Long: "Lets agents poll that have nothing to fetch, each over a connection of its own, in turns with empty\n" +
			"unary gRPC calls over as many connections with the same options. CPU is that of both ends together,\n" +
			"in the process and in the system; all figures are medians over short slices of the run.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error {
			if most := bench.MaxPollDuration.Seconds(); !(seconds > 0 && seconds <= most) {
				return misusef("--seconds %g: want more than 0, and at most %g", seconds, most)
			}
			if err := atLeastOne("agents", o.Agents); err != nil {
				return err
			}
			o.Duration = time.Duration(seconds * float64(time.Second))
			return a.benchPoll(c.Context(), o)
		},
	}
	c.Flags().IntVar(&o.Agents, "agents", bench.DefaultAgents, "number of agents")
	c.Flags().IntVar(&o.Concurrency, "concurrency", 0, "how many of them poll at a time (default all)")
	c.Flags().BoolVar(&o.TLS, "tls", false, "also measure polls over TLS, against polls without, for as long again")
	c.Flags().Float64Var(&seconds, "seconds", bench.DefaultPollDuration.Seconds(), "how long to measure")
	return c
}

func (a *app) benchPoll(ctx context.Context, o bench.PollOptions) error {
	o.Observer = a.observer("pairs")
	report, err := bench.RunPoll(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	if a.output == "json" {
		return a.document(report)
	}
	t := a.figures("CALL", "PER SECOND", "CPU, BOTH ENDS", "SENT", "RECEIVED", "BOTH WAYS")
	add := func(name string, c bench.CallCost) {
		t.AppendRow([]any{
			name, grouped(uint64(c.PerSecond)), fmt.Sprintf("%.1f µs", c.CPUSeconds*1e6),
			fmt.Sprintf("%.0f B", c.Sent), fmt.Sprintf("%.0f B", c.Received), fmt.Sprintf("%.0f B", c.Sent+c.Received),
		})
	}
	add("idle poll", report.Poll)
	add("empty call", report.Empty)
	overTLS := ""
	if tls := report.TLS; tls != nil {
		add("idle poll over TLS", tls.Poll)
		add("idle poll, paired", tls.Plain)
		overTLS = fmt.Sprintf("Over TLS it takes %.2f times the CPU of one without.\n", tls.CPURatio)
	}
	t.Render()
	_, err = fmt.Fprintf(a.Out, "\nAn idle poll takes %.2f times the CPU of an empty call, the median of %s.\n%s"+
		"%s, %d at a time, a connection each; %s, %d CPUs, %s.\n",
		report.CPURatio, counted(uint64(report.Pairs), "pair"), overTLS, counted(uint64(report.Agents), "agent"), report.Concurrency, report.System, report.CPUs, report.Go)
	return err
}
