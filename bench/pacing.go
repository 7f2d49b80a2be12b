package bench

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"espalier/internal/desired"
	"espalier/internal/pace"
)

// PacingOptions says what RunPacing plays.
type PacingOptions struct {
	// Hosts is how many hosts there are, each with a set of its own; 0:
	// DefaultPacingHosts.
	Hosts int
	// Duration is what is counted, in virtual time; half as much goes before, to
	// learn from; 0: DefaultPacingDuration.
	Duration time.Duration
	// Seed is what all chance comes from: the same seed, the same report.
	Seed uint64
	// Interval is that of the fixed policy, whose polls the others are given; 0:
	// DefaultPacingInterval.
	Interval time.Duration
	// Objective is Espalier's; 0: pace.DefaultObjective.
	Objective time.Duration
	Observer  Observer
}

// The defaults of PacingOptions.
const (
	DefaultPacingHosts    = 2000
	DefaultPacingDuration = 24 * time.Hour
	DefaultPacingInterval = time.Minute
)

// PacingReport is the outcome of RunPacing.
type PacingReport struct {
	Machine
	Hosts     int         `json:"hosts"`
	Hours     float64     `json:"hours"`
	Seed      uint64      `json:"seed"`
	Interval  float64     `json:"interval_seconds"`
	Objective float64     `json:"objective_seconds"`
	Rows      []PacingRow `json:"rows"`
	// Missed says where Espalier's own policy is not as good as it shall be, in
	// a sentence each; and where a policy's polls are not those of the fixed one.
	Missed []string `json:"missed"`
}

// PacingRow is one policy under one load. Times are in seconds.
type PacingRow struct {
	Load   string `json:"load"`
	Policy string `json:"policy"`
	// Commits is how many were counted.
	Commits int `json:"commits"`
	// Parameter is the policy's free parameter, and Value what it had to be for as
	// many polls as the fixed policy made.
	Parameter string  `json:"parameter"`
	Value     float64 `json:"value"`
	// Polls is those of a host in an hour.
	Polls float64 `json:"polls_per_host_hour"`
	// Mean, P50, P99 and Max are of the delays from commit to mirror, Ratio is the
	// mean over that of the fixed policy.
	Mean  float64 `json:"mean_delay"`
	P50   float64 `json:"p50_delay"`
	P99   float64 `json:"p99_delay"`
	Max   float64 `json:"max_delay"`
	Ratio float64 `json:"mean_over_fixed"`
	// Stale is the part of the hosts' time in which their mirror wasn't current.
	Stale float64 `json:"stale_fraction"`
	// Peak is the most polls that reached the server in a second, over the mean.
	Peak float64 `json:"peak_over_mean"`
}

// Bounds of RunPacing: what is played has to fit into memory and an hour.
const (
	MaxPacingHosts    = 100_000
	MaxPacingDuration = 31 * 24 * time.Hour
	// MinPacingDuration has room for a restart, and for what is learned.
	MinPacingDuration = time.Hour

	// pacingTolerance is how far the polls of two policies may be apart.
	pacingTolerance = 0.003
	// mostRatio is the mean delay of Espalier's policy over that of the fixed one
	// that is wanted.
	mostRatio = 0.6
	// calibrations bounds how often a load is played to find a parameter.
	calibrations = 16
)

// RunPacing plays loads to policies of polling, in virtual time, each policy with as
// many polls as a fixed interval makes. It returns an error that matches
// desired.ErrInvalid if the options make no sense.
func RunPacing(ctx context.Context, o PacingOptions) (PacingReport, error) {
	o.Hosts = cmp.Or(o.Hosts, DefaultPacingHosts)
	o.Duration = cmp.Or(o.Duration, DefaultPacingDuration)
	o.Interval = cmp.Or(o.Interval, DefaultPacingInterval)
	o.Objective = cmp.Or(o.Objective, pace.DefaultObjective)
	report := PacingReport{
		Machine: thisMachine(), Hosts: o.Hosts, Hours: o.Duration.Hours(), Seed: o.Seed,
		Interval: o.Interval.Seconds(), Objective: o.Objective.Seconds(),
	}
	if err := o.check(); err != nil {
		return report, err
	}
	// A load for each processor: they share nothing, and their rows have places.
	loads := o.loads()
	report.Rows = make([]PacingRow, len(loads)*len(policies))
	progress := o.steps(len(report.Rows))
	defer o.Observer.finished()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range loads {
		group.Go(func() error { return o.playAll(ctx, l, report.Rows[i*len(policies):][:len(policies)], progress) })
	}
	err := group.Wait()
	report.Missed = o.missed(report.Rows)
	return report, err
}

// missed holds the rows against what is wanted.
func (o *PacingOptions) missed(rows []PacingRow) []string {
	missed := []string{}
	for i, r := range rows {
		same := rows[i-i%len(policies)].Polls
		if math.Abs(r.Polls/same-1) > 2*pacingTolerance {
			missed = append(missed, fmt.Sprintf("%s, %s: %.2f polls of a host in an hour, not %.2f", r.Load, r.Policy, r.Polls, same))
		}
		if r.Policy != "espalier" || r.Commits == 0 {
			continue
		}
		if r.Ratio > mostRatio {
			missed = append(missed, fmt.Sprintf("%s, %s: %.3f of the fixed interval's mean delay, not %g", r.Load, r.Policy, r.Ratio, mostRatio))
		}
		if most := o.Objective.Seconds() * (1 + pace.Jitter); r.P99 > most {
			missed = append(missed, fmt.Sprintf("%s, %s: 99%% within %.1f s, not %.1f", r.Load, r.Policy, r.P99, most))
		}
	}
	return missed
}

// steps returns a function that tells the observer of one more row.
func (o *PacingOptions) steps(total int) func() {
	var mu sync.Mutex
	done := 0
	return func() {
		mu.Lock()
		defer mu.Unlock()
		done++
		o.Observer.progress("play", uint64(done), uint64(total))
	}
}

func (o *PacingOptions) check() error {
	switch {
	case o.Hosts < 1 || o.Hosts > MaxPacingHosts:
		return fmt.Errorf("%w number of hosts %d: want 1 to %d", desired.ErrInvalid, o.Hosts, MaxPacingHosts)
	case o.Duration < MinPacingDuration || o.Duration > MaxPacingDuration:
		return fmt.Errorf("%w duration %v: want %v to %v", desired.ErrInvalid, o.Duration, MinPacingDuration, MaxPacingDuration)
	case o.Interval < pace.MinHint || o.Interval > pace.MaxHint:
		return fmt.Errorf("%w interval %v: want %v to %v", desired.ErrInvalid, o.Interval, pace.MinHint, pace.MaxHint)
	case o.Objective < o.Interval || o.Objective > pace.MaxHint:
		return fmt.Errorf("%w objective %v: want %v, the interval, to %v", desired.ErrInvalid, o.Objective, o.Interval, pace.MaxHint)
	}
	return nil
}

// warmUp is what goes before what is counted.
func (o *PacingOptions) warmUp() time.Duration { return o.Duration / 2 }

// whole is all that is played.
func (o *PacingOptions) whole() time.Duration { return o.warmUp() + o.Duration }

// playAll plays a load to all policies, the fixed one first.
func (o *PacingOptions) playAll(ctx context.Context, l *load, rows []PacingRow, progress func()) error {
	for i, t := range policies {
		r, value, err := o.calibrate(ctx, l, t, rows[0].Polls)
		if err != nil {
			return err
		}
		rows[i] = r.row(o)
		rows[i].Load, rows[i].Policy, rows[i].Parameter, rows[i].Value = l.name, t.name, t.parameter, value
		rows[i].Ratio = rows[i].Mean / rows[0].Mean
		progress()
	}
	return nil
}

// calibrate plays a load to a policy, by the secant method, until its hosts make so
// many polls an hour, and returns the parameter that it took; 0 polls: as many as
// its guess makes. If that isn't reached, the closest counts.
func (o *PacingOptions) calibrate(ctx context.Context, l *load, t tuned, polls float64) (best *pacingRun, value float64, err error) {
	x, slope := math.Log(t.guess(o)), t.elasticity
	closest := math.Inf(1)
	var lastX, lastOff float64
	for i := range calibrations {
		if ctx.Err() != nil {
			return nil, 0, context.Cause(ctx)
		}
		r := runFleet(o, l, t, math.Exp(x))
		if polls == 0 {
			return r, math.Exp(x), nil
		}
		off := math.Log(r.pollsPerHostHour(o) / polls)
		if math.Abs(off) < closest {
			best, value, closest = r, math.Exp(x), math.Abs(off)
		}
		if closest < pacingTolerance {
			break
		}
		if secant := (off - lastOff) / (x - lastX); i > 0 && secant/t.elasticity > 0.1 {
			slope = secant
		}
		lastX, lastOff = x, off
		x -= min(max(off/slope, -1), 1)
	}
	return best, value, nil
}

// pollsPerHostHour returns the polls of a host in an hour.
func (r *pacingRun) pollsPerHostHour(o *PacingOptions) float64 {
	return float64(r.calls) / float64(o.Hosts) / o.Duration.Hours()
}

// row returns the figures of a run.
func (r *pacingRun) row(o *PacingOptions) PacingRow {
	row := PacingRow{
		Commits: len(r.delays), Polls: r.pollsPerHostHour(o),
		Stale: r.stale / float64(o.Hosts) / o.Duration.Seconds(),
		Peak:  float64(slices.Max(r.second)) / (float64(r.calls) / o.Duration.Seconds()),
	}
	if len(r.delays) == 0 {
		return row
	}
	slices.Sort(r.delays)
	sum := 0.0
	for _, d := range r.delays {
		sum += d
	}
	at := func(quantile float64) float64 { return r.delays[int(quantile*float64(len(r.delays)-1))] }
	row.Mean = sum / float64(len(r.delays))
	row.P50, row.P99, row.Max = at(0.5), at(0.99), at(1)
	return row
}
