package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"espalier/internal/desired"
	"espalier/store"
)

// TransferOptions says what RunTransfer measures.
type TransferOptions struct {
	Size
	// Cases are some of Cases(), in any order; nil: all of them.
	Cases []string
	// Rounds is how often each case is run; the report has the medians. 0: once.
	Rounds int
	// Baselines holds what loads the whole set against a load of the same objects
	// into plain bbolt, in the same folder, in turns.
	Baselines bool
	// Apply publishes the objects in a file of JSONL to a set that doesn't exist
	// yet, over the server at that address, as "espalier apply" does; nil: the
	// case apply-jsonl is left out.
	Apply    func(ctx context.Context, address string, set desired.Name, path string) error
	Observer Observer
	// Row is called with each row as soon as it is measured; nil: it is not.
	Row func(TransferRow)
}

// TransferReport is the outcome of RunTransfer.
type TransferReport struct {
	Machine
	Size
	Rounds int           `json:"rounds"`
	Rows   []TransferRow `json:"rows"`
	// Root and Count are of the set at the end, computed anew from every object
	// that is stored, at both ends.
	Root  string `json:"root"`
	Count uint64 `json:"count"`
	// PeakHeap is the highest of the rows'.
	PeakHeap uint64 `json:"peak_heap_bytes"`
}

// TransferRow is what a case took, the median of its rounds.
type TransferRow struct {
	// Case is the case's name, What says what it is.
	Case string `json:"case"`
	What string `json:"what"`
	// Changed is how many objects were changed, Upserts and Deletes how many were
	// sent and reported gone.
	Changed uint64 `json:"changed"`
	Upserts uint64 `json:"upserts"`
	Deletes uint64 `json:"deletes"`
	// Sent and Received are the agent's bytes on the connection; zero where there
	// is none.
	Sent     uint64 `json:"bytes_sent"`
	Received uint64 `json:"bytes_received"`
	// Payload is what the keys and new values of the change add up to.
	Payload uint64 `json:"payload_bytes"`
	// OverPayload is what crossed the wire beyond Payload, Ratio what crossed it
	// by Payload.
	OverPayload int64   `json:"over_payload_bytes"`
	Ratio       float64 `json:"ratio,omitempty"`
	RoundTrips  int     `json:"round_trips"`
	// Seconds is the time from when the change was committed to a verified and
	// durable mirror; for load and apply, until the set is durable.
	Seconds float64 `json:"seconds"`
	// CPUSeconds is the time that all CPUs worked meanwhile, for both ends.
	CPUSeconds float64 `json:"cpu_seconds"`
	// Mode is how the agent got there; empty where it did nothing.
	Mode string `json:"mode,omitempty"`
	// PeakHeap is the most that this process's Go heap held meanwhile: server,
	// agent and workload together.
	PeakHeap uint64 `json:"peak_heap_bytes"`
	// SetObjects and SetBytes are what the set holds afterwards; the bytes are
	// those of keys and values.
	SetObjects uint64 `json:"set_objects"`
	SetBytes   uint64 `json:"set_bytes"`
	// Baseline is a load of the same objects into plain bbolt; nil: none was
	// measured.
	Baseline *Baseline `json:"baseline,omitempty"`
}

// Baseline is what plain bbolt took.
type Baseline struct {
	Seconds    float64 `json:"seconds"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// Ratio is the case's time by this, the median over pairs.
	Ratio float64 `json:"ratio"`
}

// transferCase is a case by name. run measures it once and returns its row,
// without the name.
type transferCase struct {
	name string
	run  func(*transfer, context.Context) (TransferRow, error)
}

// applyCase is the one that needs TransferOptions.Apply.
const applyCase = "apply-jsonl"

// transferCases are in the order in which they run: each leaves the mirror
// current for the next.
func transferCases() []transferCase {
	cases := []transferCase{{"load", (*transfer).load}, {applyCase, (*transfer).apply}, {"full", (*transfer).full}}
	add := func(name string, s step) {
		cases = append(cases, transferCase{name, func(t *transfer, ctx context.Context) (TransferRow, error) { return t.change(ctx, s) }})
	}
	for _, n := range []int{1, 100, 10_000} {
		add(fmt.Sprintf("warm-%d", n), step{mix: MixOf(n)})
		if n > 1 {
			add(fmt.Sprintf("warm-%d-clustered", n), step{mix: clustered(n)})
		}
	}
	add("delete-1", step{mix: Mix{Deletes: 1}})
	for _, n := range []int{1, 100, 10_000} {
		add(fmt.Sprintf("descent-%d", n), step{mix: MixOf(n), lost: true})
		if n > 1 {
			add(fmt.Sprintf("descent-%d-clustered", n), step{mix: clustered(n), lost: true})
		}
	}
	add("descent-half", step{mix: Mix{OneIn: 2}, lost: true})
	add("descent-all", step{mix: Mix{OneIn: 1}, lost: true})
	return append(cases, transferCase{"corrupt", (*transfer).corrupt}, transferCase{"idle", (*transfer).idle})
}

func clustered(n int) Mix {
	m := MixOf(n)
	m.Clustered = true
	return m
}

// Cases returns the names of what RunTransfer can measure, in its order.
func Cases() []string {
	var names []string
	for _, c := range transferCases() {
		names = append(names, c.name)
	}
	return names
}

// transfer is a run of RunTransfer.
type transfer struct {
	options  TransferOptions
	dir      string
	workload *Workload
	world    *world
	loads    int    // sets that were loaded so far
	jsonl    string // the objects as JSONL; empty: not written yet
}

// RunTransfer publishes a made-up set and changes to it, and measures what it
// takes an agent to follow. It returns an error that matches desired.ErrInvalid
// if the options make no sense.
func RunTransfer(ctx context.Context, o TransferOptions) (TransferReport, error) {
	o.Rounds = cmp.Or(o.Rounds, 1)
	report := TransferReport{Machine: thisMachine(), Size: o.Size, Rounds: o.Rounds}
	w, err := NewWorkload(o.Size)
	if err == nil {
		err = errors.Join(checkRounds(o.Rounds), o.checkCases())
	}
	if err != nil {
		return report, err
	}
	err = inFolder(ctx, "", func(dir string) error {
		world, err := openWorld(ctx, dir, nil)
		if err != nil {
			return err
		}
		t := &transfer{options: o, dir: dir, workload: w, world: world}
		return errors.Join(t.run(ctx, &report), world.Close())
	})
	return report, err
}

func (o *TransferOptions) checkCases() error {
	known := Cases()
	for _, name := range o.Cases {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%w case %q: there are %s", desired.ErrInvalid, name, strings.Join(known, ", "))
		}
		if name == applyCase && o.Apply == nil {
			return fmt.Errorf("%w case %q: nothing is there to apply with", desired.ErrInvalid, name)
		}
	}
	return nil
}

// wants reports whether a case was asked for.
func (o *TransferOptions) wants(name string) bool {
	if o.Cases == nil {
		return name != applyCase || o.Apply != nil
	}
	return slices.Contains(o.Cases, name)
}

// run runs the cases that were asked for; the set and a mirror of it there must
// be in any case.
func (t *transfer) run(ctx context.Context, report *TransferReport) error {
	for _, c := range transferCases() {
		if !t.options.wants(c.name) {
			if c.name == "load" || c.name == "full" {
				if _, err := c.run(t, ctx); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
			continue
		}
		row, err := t.rounds(ctx, c)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		report.Rows = append(report.Rows, row)
		report.PeakHeap = max(report.PeakHeap, row.PeakHeap)
		if t.options.Row != nil {
			t.options.Row(row)
		}
	}
	head, err := t.world.recompute(ctx, t.progress("recomputing"))
	t.options.Observer.finished()
	report.Root, report.Count = head.Root.String(), head.Objects
	return err
}

// rounds runs a case and returns the medians.
func (t *transfer) rounds(ctx context.Context, c transferCase) (TransferRow, error) {
	rows := make([]TransferRow, t.options.Rounds)
	whole := c.name == "load" || c.name == applyCase || c.name == "full"
	for i := range rows {
		var pair *Baseline
		var err error
		measure := func() {
			stop := watchHeap()
			rows[i], err = c.run(t, ctx)
			rows[i].PeakHeap = stop()
		}
		if i%2 == 1 {
			measure()
		}
		if whole && t.options.Baselines && err == nil {
			pair, err = t.baseline(ctx)
		}
		if i%2 == 0 && err == nil {
			measure()
		}
		if err != nil {
			return TransferRow{}, err
		}
		if pair != nil {
			pair.Ratio = rows[i].Seconds / pair.Seconds
			rows[i].Baseline = pair
		}
		head, err := t.world.store.Head(setName)
		if err != nil {
			return TransferRow{}, err
		}
		rows[i].SetObjects, rows[i].SetBytes = head.Objects, head.Bytes
	}
	row := medians(rows)
	row.Case = c.name
	return row, nil
}

// medians returns a row with the median of each figure; what is no figure is
// that of the last.
func medians(rows []TransferRow) TransferRow {
	row := rows[len(rows)-1]
	row.Sent = medianOf(rows, func(r TransferRow) uint64 { return r.Sent })
	row.Received = medianOf(rows, func(r TransferRow) uint64 { return r.Received })
	row.Payload = medianOf(rows, func(r TransferRow) uint64 { return r.Payload })
	row.RoundTrips = medianOf(rows, func(r TransferRow) int { return r.RoundTrips })
	row.Seconds = medianOf(rows, func(r TransferRow) float64 { return r.Seconds })
	row.CPUSeconds = medianOf(rows, func(r TransferRow) float64 { return r.CPUSeconds })
	row.PeakHeap = medianOf(rows, func(r TransferRow) uint64 { return r.PeakHeap })
	if wire := row.Sent + row.Received; wire > 0 {
		row.OverPayload = int64(wire) - int64(row.Payload)
		if row.Payload > 0 {
			row.Ratio = float64(wire) / float64(row.Payload)
		}
	}
	if row.Baseline != nil {
		row.Baseline = &Baseline{
			Seconds:    medianOf(rows, func(r TransferRow) float64 { return r.Baseline.Seconds }),
			CPUSeconds: medianOf(rows, func(r TransferRow) float64 { return r.Baseline.CPUSeconds }),
			Ratio:      medianOf(rows, func(r TransferRow) float64 { return r.Baseline.Ratio }),
		}
	}
	return row
}

func (t *transfer) progress(what string) func(done, total uint64) {
	return func(done, total uint64) { t.options.Observer.progress(what, done, total) }
}

// step is one change of the set, and how the agent learns of it.
type step struct {
	mix Mix
	// lost makes the server forget its history before the agent asks.
	lost bool
}

// within returns the mix cut to what a set of so many objects bears.
func (m Mix) within(objects int) Mix {
	if n := MostChanges(objects); m.Count() > n {
		cut := MixOf(n)
		cut.Clustered = m.Clustered
		return cut
	}
	return m
}

// change commits a change and lets an agent follow whose connection is warm.
func (t *transfer) change(ctx context.Context, s step) (TransferRow, error) {
	if err := t.world.warm(ctx); err != nil {
		return TransferRow{}, err
	}
	mix := s.mix.within(t.options.Objects)
	changes, err := t.workload.Change(mix)
	if err != nil {
		return TransferRow{}, err
	}
	result, err := t.world.store.Commit(ctx, setName, store.Commit{Changes: changes.Changes()})
	if err != nil {
		return TransferRow{}, err
	}
	if done := result.Created + result.Updated + result.Deleted; done != uint64(changes.Len()) {
		return TransferRow{}, fmt.Errorf("the commit made %d changes of %d", done, changes.Len())
	}
	what := mix.String()
	if s.lost {
		what += ", history lost"
		if err := t.world.store.DropHistory(ctx, setName); err != nil {
			return TransferRow{}, err
		}
	}
	synced, err := t.world.sync(ctx)
	if err != nil {
		return TransferRow{}, err
	}
	row := synced.row(what)
	row.Changed, row.Payload = uint64(changes.Len()), changes.PayloadBytes()
	return row, nil
}

// idle lets an agent poll that has everything.
func (t *transfer) idle(ctx context.Context) (TransferRow, error) {
	if err := t.world.warm(ctx); err != nil {
		return TransferRow{}, err
	}
	synced, err := t.world.sync(ctx)
	return synced.row("nothing changed"), err
}

// row returns the row of a Sync; what has changed is the caller's to add.
func (s synced) row(what string) TransferRow {
	return TransferRow{
		What: what, Sent: s.received, Received: s.sent, // what the server received, the agent sent
		Upserts: s.report.Upserts, Deletes: s.report.Deletes,
		RoundTrips: s.trips, Seconds: s.spent.wall.Seconds(), CPUSeconds: s.spent.cpu.Seconds(), Mode: s.report.Mode.String(),
	}
}
