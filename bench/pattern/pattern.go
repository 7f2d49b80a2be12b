// Package pattern answers what the ways to transfer desired state cost, how long
// they take, and whether they get there: commands that bring all of it, deltas,
// interrupts that have it fetched, polls, message queues, Kubernetes' informer, and
// Espalier, over one simulated network, on the same histories of change and with
// the same faults, in virtual time.
//
// Every pattern is the best that can be made of it, as far as it stays what it is,
// and all send objects in the same encoding, so that what is compared is the
// patterns alone. In the end the states are compared object by object. docs/bench-patterns.md
// says what each of them does, what the network does, and what that is fair to.
//
// Runs are pure functions of their options: the same seed, the same report.
package pattern

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// Pattern is a way to transfer desired state.
type Pattern struct {
	Name string
	// Says is what it does, in a few words.
	Says string
	// Sound says that it ends in step once faults do, whatever went wrong on the
	// network or with processes.
	Sound bool
	make  func(*world) protocol
}

// All returns the patterns, in the order of reports.
func All() []Pattern {
	return []Pattern{
		{"command", "push the whole state at each change", true, newCommand},
		{"poll", "fetch the whole state every 30 s, if it has changed", true, newPoll},
		{"interrupt", "a datagram says that there is a change; fetch the whole state", false, newInterrupt},
		{"interrupt-poll", "the same, and a poll every 5 minutes", true, newInterruptPoll},
		{"delta", "push changes as datagrams, unnumbered", false, newDatagrams},
		{"delta-stream", "push changes over a connection, unnumbered", false, newStreamed},
		{"delta-numbered", "push numbered changes as datagrams; ask for what is missed", true, newNumbered},
		{"queue-once", "changes through a message queue, at most once", false, newAtMostOnce},
		{"queue-lasting", "through a persistent queue, at least once", true, newAtLeastOnce},
		{"queue-bounded", "the same, the queue holding 256 messages of an agent", false, newBounded},
		{"informer", "list, then watch; list again if the watch is too old", true, newInformer},
		{"informer-relist", "the same, and a full list every 10 minutes", true, newRelisting},
		{"espalier", "poll with the root held, when package pace says", true, newPolled},
		{"espalier-held", "polls that the server holds until there is a change", true, newHeld},
		{"espalier-descent", "polls without any history: compare trees each time", true, newDescending},
	}
}

// Names returns the patterns' names.
func Names() []string {
	var names []string
	for _, p := range All() {
		names = append(names, p.Name)
	}
	return names
}

// Options says what Run plays. The zero value plays all patterns on the default
// grid.
type Options struct {
	// Patterns are names; none: all.
	Patterns []string
	// Grid is the points; none: DefaultGrid.
	Grid []Point
	// Seed is what all chance comes from: the same seed, the same report.
	Seed uint64
	// Duration is for how long states change, in virtual time; 0: DefaultDuration.
	// What is in step then or within 10 minutes after, without faults, has
	// converged.
	Duration time.Duration
	// Progress is told how many of how many runs are through, by one goroutine at a
	// time; nil: nobody is.
	Progress func(done, total int)
}

// Report is the outcome of Run.
type Report struct {
	Seed    uint64  `json:"seed"`
	Seconds float64 `json:"seconds"` // for which states change
	Rows    []Row   `json:"rows"`
}

// Row is one pattern at one point. Times are in seconds of virtual time; null
// stands for never.
type Row struct {
	Point
	Pattern string `json:"pattern"`
	Commits int    `json:"commits"`
	// Changes is how many objects they wrote or deleted, and PayloadBytes the keys
	// and values of those: what one agent has to learn of.
	Changes      int   `json:"changes_total"`
	PayloadBytes int64 `json:"payload_bytes"`
	// P50, P99 and Max are of the times from a commit until an agent holds exactly
	// that revision or exactly a later one, over all commits and agents; Unreached
	// counts those that never did.
	P50       *float64 `json:"p50_seconds"`
	P99       *float64 `json:"p99_seconds"`
	Max       *float64 `json:"max_seconds"`
	Unreached int      `json:"unreached"`
	// SentBytes is what agents sent, ReceivedBytes what was sent to them, and
	// Ratio both over the payload for all agents.
	SentBytes     int64   `json:"sent_bytes"`
	ReceivedBytes int64   `json:"received_bytes"`
	Ratio         float64 `json:"ratio"`
	Messages      int64   `json:"messages"`
	// ReadBytes and CPUSeconds are the orchestrator's: what it reads of its store,
	// and the time of one core by the stated model.
	ReadBytes  int64   `json:"read_bytes"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// Wholes counts how often the whole state was sent, Descents how often trees
	// were compared.
	Wholes   int64 `json:"wholes"`
	Descents int64 `json:"descents"`
	// QueueMessages and QueueBytes are the most that ever waited for one agent, in
	// its connection or its queue.
	QueueMessages int   `json:"queue_messages"`
	QueueBytes    int64 `json:"queue_bytes"`
	// BehindShare is the part of the agents' time in which they didn't hold the
	// latest revision, MixedShare that in which what they held was never published.
	BehindShare float64 `json:"behind_share"`
	MixedShare  float64 `json:"mixed_share"`
	// WrongAgents is how many don't hold the latest revision in the end, and
	// UnawareAgents how many of those can't tell.
	WrongAgents   int `json:"wrong_agents"`
	UnawareAgents int `json:"unaware_agents"`
}

// Run plays patterns at points. It returns an error that matches
// desired.ErrInvalid if the options make no sense, and ends early with ctx.
func Run(ctx context.Context, o Options) (Report, error) {
	o.Duration = cmp.Or(o.Duration, DefaultDuration)
	if len(o.Grid) == 0 {
		o.Grid = DefaultGrid()
	}
	report := Report{Seed: o.Seed, Seconds: o.Duration.Seconds()}
	patterns, err := o.check()
	if err != nil {
		return report, err
	}
	report.Rows = make([]Row, len(o.Grid)*len(patterns))
	progress := o.steps(len(report.Rows))
	codec := delta.NewCodec()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i := range o.Grid { // a point for each processor: they share nothing, and their rows have places
		group.Go(func() error {
			h, err := newHistory(ctx, &o.Grid[i], o.Seed, o.Duration, codec)
			if err != nil {
				return err
			}
			for j, p := range patterns {
				w := newWorld(h, o.Duration, p)
				if err := w.run(ctx); err != nil {
					return err
				}
				report.Rows[i*len(patterns)+j] = w.row(p.Name)
				progress()
			}
			return nil
		})
	}
	return report, group.Wait()
}

// steps returns a function that tells of one more run.
func (o *Options) steps(total int) func() {
	var mu sync.Mutex
	done := 0
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if done++; o.Progress != nil {
			o.Progress(done, total)
		}
	}
}

// check returns the patterns that are asked for.
func (o *Options) check() ([]Pattern, error) {
	patterns := All()
	for _, name := range o.Patterns {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("%w pattern %q: want some of %s", desired.ErrInvalid, name, strings.Join(Names(), ", "))
		}
	}
	if len(o.Patterns) > 0 {
		patterns = slices.DeleteFunc(patterns, func(p Pattern) bool { return !slices.Contains(o.Patterns, p.Name) })
	}
	if o.Duration < MinDuration || o.Duration > MaxDuration {
		return nil, fmt.Errorf("%w duration %v: want %v to %v", desired.ErrInvalid, o.Duration, MinDuration, MaxDuration)
	}
	if runs := len(o.Grid) * len(patterns); runs > MaxRuns {
		return nil, fmt.Errorf("%w grid of %d runs: want at most %d", desired.ErrInvalid, runs, MaxRuns)
	}
	for i := range o.Grid {
		p := &o.Grid[i]
		if err := p.check(); err != nil {
			return nil, err
		}
		total := o.Duration.Seconds() / p.EverySeconds * float64(p.Changes)
		if work := total * float64(p.Agents); total > MaxTotal || work > MaxWork {
			return nil, fmt.Errorf("%w point (%v): some %.0f changes, %.0f for all agents: want at most %d and %d",
				desired.ErrInvalid, p, total, work, MaxTotal, MaxWork)
		}
	}
	return patterns, nil
}

// figure rounds to four digits, so that reports don't depend on how a processor
// adds.
func figure(x float64) float64 {
	if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}
