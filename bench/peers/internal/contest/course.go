package contest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/peer"
	"espalier/bench/peers/internal/workload"
)

// course is what clients of one way go through.
type course struct {
	*match
	way   peer.Way
	proxy *meter.Proxy
	runs  int
	sizes []int

	client    peer.Client // nil: there is none
	clientDir string
}

// run goes through the scenarios in their order.
func (c *course) run(ctx context.Context) error {
	steps := []struct {
		scenario peer.Scenario
		run      func(context.Context) error
	}{
		{peer.First, c.first},
		{peer.Warm, c.warm},
		{peer.Idle, c.idle},
		{peer.Check, c.check},
		{peer.Nothing, c.nothing},
		{peer.Resume, func(ctx context.Context) error { return c.back(ctx, peer.Resume) }},
		{peer.Gone, func(ctx context.Context) error { return c.back(ctx, peer.Gone) }},
	}
	for _, s := range steps {
		if !c.way.Goes(s.scenario) {
			continue
		}
		if c.client == nil && s.scenario != peer.First {
			if err := c.renew(ctx); err != nil {
				return fmt.Errorf("a first copy: %w", err)
			}
		}
		if err := s.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.scenario, err)
		}
	}
	return nil
}

// fresh replaces the client by one that has nothing.
func (c *course) fresh() error {
	if err := c.drop(); err != nil {
		return err
	}
	c.clients++
	c.clientDir = filepath.Join(c.dir, "client-"+strconv.Itoa(c.clients))
	if err := os.Mkdir(c.clientDir, 0o755); err != nil {
		return err
	}
	var err error
	c.client, err = c.peer.NewClient(c.way, c.proxy.Addr(), c.clientDir)
	return err
}

// drop ends the client.
func (c *course) drop() error {
	if c.client == nil {
		return nil
	}
	err := errors.Join(c.client.Close(), os.RemoveAll(c.clientDir))
	c.client = nil
	return err
}

// renew replaces the client by one that has caught up.
func (c *course) renew(ctx context.Context) error {
	if err := c.fresh(); err != nil {
		return err
	}
	return errors.Join(c.client.CatchUp(ctx, c.mark), c.client.Leave())
}

// judge holds the client's copy against what the server was given. One that is
// wrong is replaced, so that what follows begins with one that isn't.
func (c *course) judge(ctx context.Context, s *sample) (err error) {
	if s.verdict, err = c.work.Judge(c.client.Each); err != nil || s.verdict.Same() {
		return err
	}
	c.Log("%s, %s: %v", c.kind.Name, c.way.Name, s.verdict)
	return c.renew(ctx)
}

// done adds a row of what was measured.
func (c *course) done(row Row, samples []sample) {
	row.Server, row.Way = c.kind.Name, c.way.Name
	row.Known = c.way.Forgetful && row.Scenario == peer.Gone
	row.fill(samples)
	c.rows = append(c.rows, row)
	c.Log("%s, %s, %s: %s", row.Server, row.Way, row.title(), row.brief())
}

// repeat measures something several times. prepare, unless it is nil, is called
// before each, and returns the payload; what is measured is judged.
func (c *course) repeat(ctx context.Context, row Row, prepare func(context.Context) (int, error), do func(context.Context) error) error {
	var samples []sample
	for c.goesOn(samples) {
		payload := 0
		var err error
		if prepare != nil {
			if payload, err = prepare(ctx); err != nil {
				return err
			}
		}
		s, err := c.measure(ctx, do)
		if err != nil {
			return err
		}
		s.payload = payload
		if err := c.judge(ctx, &s); err != nil {
			return err
		}
		samples = append(samples, s)
	}
	c.done(row, samples)
	return nil
}

// goesOn reports whether something is measured once more.
func (c *course) goesOn(samples []sample) bool {
	took := 0.0
	for _, s := range samples {
		took += s.seconds
	}
	return len(samples) == 0 || len(samples) < c.runs && (c.Enough == 0 || took < c.Enough.Seconds())
}

func (c *course) first(ctx context.Context) error {
	prepare := func(context.Context) (int, error) { return c.work.PayloadBytes(), c.fresh() }
	err := c.repeat(ctx, Row{Scenario: peer.First, Changes: c.work.Len()}, prepare, c.catchUp)
	return errors.Join(err, c.client.Leave())
}

func (c *course) catchUp(ctx context.Context) error { return c.client.CatchUp(ctx, c.mark) }

// connect makes the client one that follows.
func (c *course) connect(ctx context.Context) error {
	if err := c.client.CatchUp(ctx, c.mark); err != nil {
		return err
	}
	return c.client.Follow(ctx)
}

// warm changes something while the client follows; the time includes to publish
// it.
func (c *course) warm(ctx context.Context) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	for _, n := range c.sizes {
		if n > c.work.Len()/workload.MostChanged {
			break
		}
		var changes []workload.Change
		prepare := func(context.Context) (int, error) {
			changes = c.work.Change(n, workload.Scattered)
			return workload.PayloadOf(changes), nil
		}
		do := func(ctx context.Context) (err error) {
			if c.mark, err = c.peer.Commit(ctx, changes); err != nil {
				return err
			}
			return c.client.Await(ctx, c.mark)
		}
		if err := c.repeat(ctx, Row{Scenario: peer.Warm, Changes: n, Shape: workload.Scattered}, prepare, do); err != nil {
			return err
		}
	}
	return c.client.Leave()
}

// idle watches a client that follows while nothing happens.
func (c *course) idle(ctx context.Context) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	s, err := c.measure(ctx, func(ctx context.Context) error {
		select {
		case <-time.After(c.Idle):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	if err != nil {
		return err
	}
	s.trips = 0 // those of the connection
	if err := c.judge(ctx, &s); err != nil {
		return err
	}
	c.done(Row{Scenario: peer.Idle}, []sample{s})
	return c.client.Leave()
}

// check has a client that follows ask, many times in a row.
func (c *course) check(ctx context.Context) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	if err := c.client.Check(ctx); err != nil { // it may have to connect
		return err
	}
	samples := make([]sample, c.runs)
	for i := range samples {
		s, err := c.measure(ctx, func(ctx context.Context) error {
			for range checks {
				if err := c.client.Check(ctx); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		samples[i] = s.per(checks)
		samples[i].trips = 1
	}
	c.done(Row{Scenario: peer.Check}, samples)
	return c.client.Leave()
}

// nothing has a client come back to what it left.
func (c *course) nothing(ctx context.Context) error {
	leave := func(context.Context) (int, error) { return 0, c.client.Leave() }
	err := c.repeat(ctx, Row{Scenario: peer.Nothing}, leave, c.catchUp)
	return errors.Join(err, c.client.Leave())
}

// back has a client come back after something has changed.
func (c *course) back(ctx context.Context, scenario peer.Scenario) error {
	for _, n := range c.sizes {
		for _, shape := range []workload.Shape{workload.Scattered, workload.Clustered} {
			if n > c.work.Len()/workload.MostChanged || shape == workload.Clustered && (n == 1 || scenario == peer.Resume) {
				continue
			}
			prepare := func(ctx context.Context) (int, error) { return c.leaveAndChange(ctx, n, shape, scenario) }
			if err := c.repeat(ctx, Row{Scenario: scenario, Changes: n, Shape: shape}, prepare, c.catchUp); err != nil {
				return err
			}
		}
	}
	return c.client.Leave()
}

func (c *course) leaveAndChange(ctx context.Context, n int, shape workload.Shape, scenario peer.Scenario) (payload int, err error) {
	if err := c.client.Leave(); err != nil {
		return 0, err
	}
	changes := c.work.Change(n, shape)
	if c.mark, err = c.peer.Commit(ctx, changes); err != nil {
		return 0, err
	}
	if scenario == peer.Gone {
		err = c.peer.Forget(ctx)
	}
	return workload.PayloadOf(changes), err
}
