package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// fillBatch is how many sets are created before progress is told of.
	fillBatch = 200
	// fleetSingles is how many hosts change one at a time.
	fleetSingles = 10
	// churnSteps is into how many steps the changes of a second are spread.
	churnSteps = 10
)

// fill creates a set for each host and returns how long that took, in seconds.
func (o *FleetOptions) fill(ctx context.Context, dir string) (seconds float64, err error) {
	c, err := o.start(ctx)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err = c.do(order{Serve: &serveOrder{Dir: dir}}); err == nil {
		_, err = o.commitAll(ctx, c, "creating sets")
	}
	seconds = time.Since(start).Seconds()
	return seconds, errors.Join(err, c.Close())
}

// commitAll changes every host's set.
func (o *FleetOptions) commitAll(ctx context.Context, c *child, what string) (all []committed, err error) {
	defer o.Observer.finished()
	for first := 0; first < o.Agents; first += fillBatch {
		var hosts []int
		for host := first; host < min(first+fillBatch, o.Agents); host++ {
			hosts = append(hosts, host)
		}
		r, err := c.do(order{Commit: hosts})
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		all = append(all, r.Commits...)
		o.Observer.progress(what, uint64(len(all)), uint64(o.Agents))
	}
	return all, nil
}

// fleetRun is the agents at one server.
type fleetRun struct {
	*FleetOptions
	child *child
	herd  *herd
}

// run holds the agents at a server of the sets in dir and measures.
func (o *FleetOptions) run(ctx context.Context, dir string, tls bool) (report FleetRun, err error) {
	report.TLS = tls
	r := &fleetRun{FleetOptions: o}
	if r.child, err = o.start(ctx); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, r.child.Close()) }()
	served, err := r.child.do(order{Serve: &serveOrder{Dir: dir, TLS: tls}})
	if err != nil {
		return report, err
	}
	if r.herd, err = newHerd(ctx, o, served.Address, dir, tls); err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, r.herd.Close()) }()
	if report.ConnectSeconds, report.Memory, err = r.hold(ctx, tls); err != nil {
		return report, err
	}
	ctx, stop := context.WithCancel(ctx)
	polling := make(chan struct{})
	go func() {
		defer close(polling)
		r.herd.run(ctx)
	}()
	err = r.measure(ctx, &report)
	stop()
	<-polling
	return report, err
}

// hold connects all agents and tells what memory each takes of the server.
func (r *fleetRun) hold(ctx context.Context, tls bool) (seconds float64, m Memory, err error) {
	before, resident, err := r.memory("")
	if err != nil {
		return 0, m, err
	}
	start := time.Now()
	what := "connecting"
	if tls {
		what = "connecting over TLS"
	}
	err = r.herd.connect(ctx, func(done, total uint64) { r.Observer.progress(what, done, total) })
	r.Observer.finished()
	if err != nil {
		return 0, m, err
	}
	seconds = time.Since(start).Seconds()
	for range 2 { // buffers are as large as they get with polls that find nothing
		if err := r.herd.connect(ctx, func(uint64, uint64) {}); err != nil {
			return 0, m, err
		}
	}
	profile := r.HeapProfile
	if profile != "" {
		profile += map[bool]string{false: "-plain.pprof", true: "-tls.pprof"}[tls]
	}
	after, held, err := r.memory(profile)
	n := float64(r.Agents)
	m.Resident = (float64(held) - float64(resident)) / n
	m.Heap = (float64(after.Heap) - float64(before.Heap)) / n
	m.Stacks = (float64(after.Stacks) - float64(before.Stacks)) / n
	return seconds, m, err
}

// memory returns what the server takes after a garbage collection.
func (r *fleetRun) memory(profile string) (o outcome, resident uint64, err error) {
	if o, err = r.child.do(order{Measure: true, Profile: profile}); err != nil {
		return o, 0, err
	}
	u, err := r.child.usage()
	return o, u.resident, err
}

// measure goes through what is measured while the agents poll.
func (r *fleetRun) measure(ctx context.Context, report *FleetRun) error {
	if err := rest(ctx, r.Interval); err != nil { // until all have polled
		return err
	}
	var idle FleetChange
	for _, change := range []struct {
		to   *FleetChange
		make func(context.Context) ([]committed, error)
	}{
		{&idle, func(ctx context.Context) ([]committed, error) { return nil, rest(ctx, r.Duration) }},
		{&report.All, func(ctx context.Context) ([]committed, error) { return r.commitAll(ctx, r.child, "changing all") }},
		{&report.One, r.changeSingles},
		{&report.Churn, r.churn},
	} {
		var err error
		if *change.to, err = r.watch(ctx, change.make); err != nil {
			return err
		}
	}
	report.Idle = idle.Polls
	report.Held = int(r.herd.held.Load())
	return nil
}

// rest waits, or returns why ctx is done.
func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// changeSingles changes a few hosts, each alone.
func (r *fleetRun) changeSingles(ctx context.Context) (all []committed, err error) {
	for _, host := range rand.Perm(r.Agents)[:min(fleetSingles, r.Agents)] {
		done, err := r.child.do(order{Commit: []int{host}})
		if err == nil {
			err = rest(ctx, r.Interval/fleetSingles)
		}
		if err != nil {
			return all, err
		}
		all = append(all, done.Commits...)
	}
	return all, nil
}

// churn changes one host in a hundred every second, in turns.
func (r *fleetRun) churn(ctx context.Context) (all []committed, err error) {
	hosts := rand.Perm(r.Agents)
	tick := time.NewTicker(time.Second / churnSteps)
	defer tick.Stop()
	next, due := 0, 0.0
	for start := time.Now(); time.Since(start) < r.Duration; {
		select {
		case <-ctx.Done():
			return all, context.Cause(ctx)
		case <-tick.C:
		}
		var some []int
		for due += float64(r.Agents) / 100 / churnSteps; due >= 1; due-- {
			some = append(some, hosts[next%len(hosts)])
			next++
		}
		if len(some) == 0 {
			continue
		}
		done, err := r.child.do(order{Commit: some})
		if err != nil {
			return all, err
		}
		all = append(all, done.Commits...)
	}
	return all, nil
}
