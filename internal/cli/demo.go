package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"espalier/bench"
)

// demoCases are what the demo shows, in the order of bench.Cases.
var demoCases = []string{
	"load", "full", "warm-1", "warm-100", "warm-100-clustered", "warm-10000", "warm-10000-clustered",
	"delete-1", "descent-100", "corrupt", "idle",
}

func (a *app) demoCommand() *cobra.Command {
	o := bench.TransferOptions{Cases: demoCases}
	c := &cobra.Command{
		Use:   "demo",
		Short: "Sync a million objects to an agent, change some, and show what crosses the wire",
		Long: "Runs a server and an agent in one process, over loopback, with data in a temporary folder that\n" +
			"is removed at the end (TMPDIR says where). Publishes a made-up set, lets the agent mirror it,\n" +
			"changes it in several ways, and shows what each took. After each line both ends are held\n" +
			"against each other.",
		Args: exactArgs(),
		RunE: func(c *cobra.Command, _ []string) error { return a.demo(c.Context(), o) },
	}
	c.Flags().IntVar(&o.Objects, "objects", 1_000_000, "number of objects")
	c.Flags().IntVar(&o.ValueBytes, "value-bytes", 100, "bytes of each value; they don't compress")
	c.Flags().Uint64Var(&o.Seed, "seed", 1, "what the objects and changes are made from")
	return c
}

func (a *app) demo(ctx context.Context, o bench.TransferOptions) error {
	if bench.MostChanges(o.Objects) <= 100 { // 10,000 would be cut to as many
		o.Cases = slices.DeleteFunc(slices.Clone(o.Cases), func(name string) bool { return strings.HasPrefix(name, "warm-10000") })
	}
	o.Observer = a.observer("objects")
	lines := demoLines{out: a.Out, size: o.Size}
	if a.output == "json" {
		lines.out = io.Discard
	}
	o.Row = lines.row
	report, err := bench.RunTransfer(ctx, o)
	if err != nil {
		return interrupted(err)
	}
	if a.output == "json" {
		return a.document(report)
	}
	return lines.end(report)
}

// observer shows progress on a terminal, counted in that unit.
func (a *app) observer(unit string) bench.Observer {
	var bar *progress
	return bench.Observer{
		Progress: func(what string, done, total uint64) {
			if bar == nil {
				bar = a.progress(what).in(unit)
			}
			bar.Update(done, total)
		},
		Finished: func() {
			if bar != nil {
				bar.Finish()
				bar = nil
			}
		},
	}
}

// interrupted says so instead of what it led to.
func interrupted(err error) error {
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; the temporary folder is removed")
	}
	return err
}

// demoLines prints the demo's rows as they come.
type demoLines struct {
	out  io.Writer
	size bench.Size
	rows map[string]bench.TransferRow
}

// demoLine fits into 80 columns.
const demoLine = "%-15s %9s %9s %9s %9s %5s %7s  %s\n"

// demoWhat are the cases in words, next to how much has changed.
var demoWhat = map[string]string{
	"full": "first full sync", "warm-1": "one change", "warm-100": "scattered", "warm-100-clustered": "clustered",
	"warm-10000": "scattered", "warm-10000-clustered": "clustered", "delete-1": "one deletion",
	"descent-100": "history lost", "corrupt": "bytes flipped", "idle": "nothing changed",
}

func (d *demoLines) row(r bench.TransferRow) {
	if d.rows == nil {
		d.rows = map[string]bench.TransferRow{}
	}
	d.rows[r.Case] = r
	if r.Case == "load" {
		fmt.Fprintf(d.out, "A server and an agent in this process, over loopback. Bytes are counted on the\n"+
			"TCP connection, the time is from a commit to a mirror that is verified and\n"+
			"durable; the payload is what the keys and values of a change add up to.\n\n"+
			"%s objects, %s of keys and values, were published in %s.\n\n",
			grouped(r.SetObjects), size(r.SetBytes), duration(r.Seconds))
		fmt.Fprintf(d.out, demoLine, "", "changed", "sent", "received", "payload", "trips", "time", "mode")
		return
	}
	fmt.Fprintf(d.out, demoLine, demoWhat[r.Case], grouped(r.Changed), size(r.Sent), size(r.Received), size(r.Payload),
		fmt.Sprint(r.RoundTrips), duration(r.Seconds), r.Mode)
}

// end says what the lines show.
func (d *demoLines) end(report bench.TransferReport) error {
	whole := d.rows["full"]
	deletion, lost := d.rows["delete-1"], d.rows["descent-100"]
	took, descent := deletion.Sent+deletion.Received, lost.Sent+lost.Received
	fmt.Fprintf(d.out, "\nThe deletion took %s both ways. The classic way, to send the desired state\n"+
		"again, sends the %s objects that remain: %s of keys and values,\n%s times as much.\n",
		size(took), grouped(deletion.SetObjects), size(deletion.SetBytes), rounded(deletion.SetBytes/took))
	fmt.Fprintf(d.out, "Without any history, %s changes among %s objects were found and\n"+
		"fetched in %s and %s, %s of the first full sync.\n",
		grouped(lost.Changed), grouped(lost.SetObjects), counted(uint64(lost.RoundTrips), "round trip"), size(descent),
		percent(float64(descent)/float64(whole.Sent+whole.Received)))
	_, err := fmt.Fprintf(d.out, "After each line both ends held the same root. In the end both were computed anew\n"+
		"from what is stored: %s objects, root\n%s.\n"+
		"The Go heap of server, agent and workload together peaked at %s.\n",
		grouped(report.Count), report.Root, mebibytes(report.PeakHeap))
	return err
}

// duration returns seconds for people.
func duration(seconds float64) string {
	switch {
	case seconds < 1e-3:
		return fmt.Sprintf("%.0f µs", seconds*1e6)
	case seconds < 0.1:
		return fmt.Sprintf("%.1f ms", seconds*1e3)
	case seconds < 1:
		return fmt.Sprintf("%.0f ms", seconds*1e3)
	default:
		return fmt.Sprintf("%.2f s", seconds)
	}
}

// rounded returns n with two digits that count.
func rounded(n uint64) string {
	unit := uint64(1)
	for n/unit >= 100 {
		unit *= 10
	}
	return grouped((n + unit/2) / unit * unit)
}

// percent returns a share for people.
func percent(share float64) string {
	digits := 0
	if share > 0 && share < 0.1 {
		digits = int(math.Ceil(-math.Log10(share))) - 1
	}
	text := fmt.Sprintf("%.*f", digits, share*100)
	if strings.Contains(text, ".") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text + "%"
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }
