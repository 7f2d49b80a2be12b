package bench

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// loadPeriod is how often the server's process is looked at.
	loadPeriod = time.Second
	// catchUpPeriod is how often is looked whether all agents have what was
	// committed; when that was, they know more exactly.
	catchUpPeriod = 50 * time.Millisecond
	// catchUpIntervals is how many intervals they have for it.
	catchUpIntervals = 5
)

// watch lets changes be made, waits until the agents have them, and says what
// that took.
func (r *fleetRun) watch(ctx context.Context, change func(context.Context) ([]committed, error)) (c FleetChange, err error) {
	for _, a := range r.herd.agents {
		a.forget()
	}
	stop := r.watchLoad()
	defer func() { c.PeakCPU, c.PeakResident = stop() }()
	during, after := &record{}, &record{}
	r.herd.record.Store(during)
	before, err := r.child.usage()
	if err != nil {
		return c, err
	}
	all, err := change(ctx)
	if err != nil {
		return c, err
	}
	then, err := r.child.usage()
	if err != nil {
		return c, err
	}
	r.herd.record.Store(after)
	if err := r.await(ctx, all); err != nil {
		_, why := during.failures()
		_, later := after.failures()
		return c, errors.Join(err, why, later)
	}
	took := then.at.Sub(before.at)
	c.Polls = during.polls(took, then.cpu-before.cpu)
	c.Carried = spreadOf(append(during.carried(), after.carried()...))
	failed, _ := after.failures()
	c.Polls.Failed += failed
	c.Commits, c.CommitSeconds = len(all), took.Seconds()
	c.Delay, c.Seconds = r.delays(all, before.at)
	return c, nil
}

// await returns once all agents have what was committed, and nothing else.
func (r *fleetRun) await(ctx context.Context, all []committed) error {
	latest := map[int]committed{}
	for _, c := range all {
		if c.Number > latest[c.Host].Number {
			latest[c.Host] = c
		}
	}
	for begun := time.Now(); ; {
		for host, c := range latest {
			switch head := r.herd.agents[host].state(); {
			case head.Number > c.Number, head.Number == c.Number && head.Root.String() != c.Root:
				return fmt.Errorf("%s holds revision %d with root %v, the server %d with root %s", hostName(host), head.Number, head.Root, c.Number, c.Root)
			case head.Number == c.Number:
				delete(latest, host)
			}
		}
		if len(latest) == 0 {
			return nil
		}
		if time.Since(begun) > catchUpIntervals*r.Interval+fleetCallTimeout {
			return fmt.Errorf("%d of %d changes have not reached their agents", len(latest), len(all))
		}
		if err := rest(ctx, catchUpPeriod); err != nil {
			return err
		}
	}
}

// delays returns how long changes took to reach their agents, and how many
// seconds after start the last one did.
func (r *fleetRun) delays(all []committed, start time.Time) (delay Spread, last float64) {
	times := make([]time.Duration, len(all))
	for i, c := range all {
		at := r.herd.agents[c.Host].hadAt(c.Number)
		times[i] = max(0, at.Sub(c.At)) // it may know before the server says that it is durable
		last = max(last, at.Sub(start).Seconds())
	}
	return spreadOf(times), last
}

// watchLoad looks at the server's process until stop is called, which returns
// how many CPUs it kept busy at most, and the most memory that it had.
func (r *fleetRun) watchLoad() (stop func() (cpus float64, resident uint64)) {
	var cpus float64
	var resident uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(loadPeriod)
		defer tick.Stop()
		last, _ := r.child.usage() // an error of which shows where it is asked for next
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			now, err := r.child.usage()
			if err != nil {
				return
			}
			cpus = max(cpus, (now.cpu-last.cpu).Seconds()/now.at.Sub(last.at).Seconds())
			resident = max(resident, now.resident)
			last = now
		}
	}()
	return func() (float64, uint64) {
		close(done)
		<-ended
		return cpus, resident
	}
}
