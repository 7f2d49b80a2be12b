package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/server"
	"espalier/store"
)

// PollOptions says what RunPoll measures.
type PollOptions struct {
	// Agents is how many agents there are, each with a connection of its own; 0:
	// DefaultAgents.
	Agents int
	// Concurrency is how many of them poll at the same time; 0: all.
	Concurrency int
	// Duration is how long the run takes; 0: DefaultPollDuration.
	Duration time.Duration
	// TLS adds polls over TLS, paired with polls without.
	TLS      bool
	Observer Observer
}

// The defaults of PollOptions.
const (
	DefaultAgents       = 64
	DefaultPollDuration = 10 * time.Second
)

// PollReport is the outcome of RunPoll.
type PollReport struct {
	Machine
	Agents      int     `json:"agents"`
	Concurrency int     `json:"concurrency"`
	Seconds     float64 `json:"seconds"`
	// Poll is a poll by an agent whose set has not changed, Empty a unary gRPC
	// call that carries nothing, over connections with the same options.
	Poll  CallCost `json:"poll"`
	Empty CallCost `json:"empty"`
	// Pairs is how often a slice of polls was paired with one of empty calls, and
	// CPURatio the median of their ratios.
	Pairs    int     `json:"pairs"`
	CPURatio float64 `json:"cpu_ratio"`
	// TLS is what TLS adds; nil: it was not asked for.
	TLS *PollTLS `json:"tls,omitempty"`
}

// PollTLS is a poll over an established TLS connection, with certificates on
// both sides, and one without TLS, paired as in PollReport.
type PollTLS struct {
	Poll     CallCost `json:"poll"`
	Plain    CallCost `json:"plain"`
	CPURatio float64  `json:"cpu_ratio"`
}

// CallCost is what one call takes, client and server together; the medians over
// slices of the run.
type CallCost struct {
	PerSecond  float64 `json:"per_second"`
	CPUSeconds float64 `json:"cpu_seconds"`
	// Sent and Received are the client's bytes on the connection.
	Sent     float64 `json:"bytes_sent"`
	Received float64 `json:"bytes_received"`
}

// slice is how long one kind of call is made before it is the other's turn:
// short, so that both meet the same state of the machine.
const slice = 200 * time.Millisecond

// RunPoll lets agents poll that have nothing to fetch, in turns with empty gRPC
// calls. It returns an error that matches desired.ErrInvalid if the options make
// no sense.
func RunPoll(ctx context.Context, o PollOptions) (PollReport, error) {
	o.setDefaults()
	report := PollReport{
		Machine: thisMachine(), Agents: o.Agents, Concurrency: o.Concurrency, Seconds: o.Duration.Seconds(),
	}
	if err := o.check(); err != nil {
		return report, err
	}
	err := inFolder(ctx, "", func(dir string) error {
		polls, err := newPolls(ctx, filepath.Join(dir, "plain"), o.Agents, nil)
		if err != nil {
			return err
		}
		empties, err := newEmpties(ctx, o.Agents)
		if err == nil {
			report.Poll, report.Empty, report.CPURatio, err = o.run(ctx, polls, empties)
			report.Pairs = o.pairs()
			err = errors.Join(err, empties.Close())
		}
		if err == nil && o.TLS {
			err = o.runTLS(ctx, dir, &report, polls)
		}
		return errors.Join(err, polls.Close())
	})
	return report, err
}

// runTLS pairs polls over TLS with plain ones.
func (o *PollOptions) runTLS(ctx context.Context, dir string, report *PollReport, plain *caller) error {
	a, err := pki.MakeAuthority(filepath.Join(dir, "pki"))
	if err != nil {
		return err
	}
	secure, err := newPolls(ctx, filepath.Join(dir, "secure"), o.Agents, a)
	if err != nil {
		return err
	}
	var t PollTLS
	t.Poll, t.Plain, t.CPURatio, err = o.run(ctx, secure, plain)
	report.TLS = &t
	return errors.Join(err, secure.Close())
}

func (o *PollOptions) pairs() int { return int(o.Duration / (2 * slice)) }

func (o *PollOptions) setDefaults() {
	o.Agents = cmp.Or(o.Agents, DefaultAgents)
	o.Concurrency = cmp.Or(o.Concurrency, o.Agents)
	o.Duration = cmp.Or(o.Duration, DefaultPollDuration)
}

func (o *PollOptions) check() error {
	switch {
	case o.Agents < 1 || o.Agents > MaxAgents:
		return fmt.Errorf("%w number of agents %d: want 1 to %d", desired.ErrInvalid, o.Agents, MaxAgents)
	case o.Concurrency < 1 || o.Concurrency > o.Agents:
		return fmt.Errorf("%w concurrency %d: want 1 to %d, the number of agents", desired.ErrInvalid, o.Concurrency, o.Agents)
	case o.Duration < 2*slice || o.Duration > MaxPollDuration:
		return fmt.Errorf("%w duration %v: want %v to %v", desired.ErrInvalid, o.Duration, 2*slice, MaxPollDuration)
	}
	return nil
}

// caller makes calls of one kind.
type caller struct {
	wire *meteredListener
	// call makes one call as the client i; different clients may call at the same
	// time.
	call func(ctx context.Context, i int) error
	// closers stop what is behind it, in that order.
	closers []func() error
}

func (c *caller) Close() error {
	var errs []error
	for _, fn := range c.closers {
		errs = append(errs, fn())
	}
	return errors.Join(errs...)
}

// warm makes a few calls as each client.
func (c *caller) warm(ctx context.Context, clients int) error {
	for range 3 {
		for i := range clients {
			if err := c.call(ctx, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// run makes slices of both kinds of calls, each kind first in every other pair,
// and returns what they cost and the median of the ratios of their CPU.
func (o *PollOptions) run(ctx context.Context, ours, theirs *caller) (our, their CallCost, cpu float64, err error) {
	var ourCosts, theirCosts []CallCost
	var ratios []float64
	for i := -1; i < o.pairs(); i++ { // the first pair warms up
		a, b := ours, theirs
		if i%2 != 0 {
			a, b = b, a
		}
		first, err := o.slice(ctx, a)
		if err != nil {
			return our, their, 0, err
		}
		second, err := o.slice(ctx, b)
		if err != nil {
			return our, their, 0, err
		}
		if i < 0 {
			continue
		}
		if i%2 != 0 {
			first, second = second, first
		}
		ourCosts, theirCosts = append(ourCosts, first), append(theirCosts, second)
		ratios = append(ratios, first.CPUSeconds/second.CPUSeconds)
		o.Observer.progress("polling", uint64(i+1), uint64(o.pairs()))
	}
	o.Observer.finished()
	return medianCall(ourCosts), medianCall(theirCosts), median(ratios), nil
}

// slice makes calls of one kind for a short time.
func (o *PollOptions) slice(ctx context.Context, c *caller) (CallCost, error) {
	var calls atomic.Int64
	errs := make([]error, o.Concurrency)
	var workers sync.WaitGroup
	before, start, stop := c.wire.traffic(), time.Now(), watch()
	for w := range o.Concurrency {
		workers.Go(func() {
			n := int64(0)
			for i := w; errs[w] == nil && time.Since(start) < slice; n++ {
				errs[w] = c.call(ctx, i)
				if i += o.Concurrency; i >= o.Agents {
					i = w
				}
			}
			calls.Add(n)
		})
	}
	workers.Wait()
	took, crossed := stop(), c.wire.traffic().since(before)
	n := float64(calls.Load())
	return CallCost{
		PerSecond: n / took.wall.Seconds(), CPUSeconds: took.cpu.Seconds() / n,
		Sent: float64(crossed.received) / n, Received: float64(crossed.sent) / n,
	}, errors.Join(errs...)
}

func medianCall(costs []CallCost) CallCost {
	return CallCost{
		PerSecond:  medianOf(costs, func(c CallCost) float64 { return c.PerSecond }),
		CPUSeconds: medianOf(costs, func(c CallCost) float64 { return c.CPUSeconds }),
		Sent:       medianOf(costs, func(c CallCost) float64 { return c.Sent }),
		Received:   medianOf(costs, func(c CallCost) float64 { return c.Received }),
	}
}

// newPolls returns the polls of agents that mirror one set, which is current,
// over TLS if there is an authority.
func newPolls(ctx context.Context, dir string, agents int, authority *pki.Authority) (*caller, error) {
	w, err := openWorld(ctx, dir, authority)
	if err != nil {
		return nil, err
	}
	var all []*agent.Agent
	c := &caller{wire: w.wire, closers: []func() error{
		func() error { return closeAll(all) },
		w.Close,
	}}
	c.call = func(ctx context.Context, i int) error {
		r, err := all[i].Sync(ctx)
		if err == nil && r.Sets[0].Head.Number == 0 {
			err = errors.New("an agent has no mirror")
		}
		return err
	}
	if err = w.publishSmall(ctx); err == nil {
		all, err = w.openAgents(agents, authority)
	}
	if err == nil {
		err = c.warm(ctx, agents)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// publishSmall publishes a small set.
func (w *world) publishSmall(ctx context.Context) error {
	set, err := NewWorkload(Size{Objects: serviceObjects, ValueBytes: 100})
	if err != nil {
		return err
	}
	_, err = w.store.Commit(ctx, setName, store.Commit{Changes: set.Objects(ctx, nil)})
	return err
}

// openAgents opens agents, all of the host whose set it is. It returns those that
// it opened also with an error.
//
// Their certificates are those of readers: a host has but a few connections.
func (w *world) openAgents(n int, authority *pki.Authority) (all []*agent.Agent, err error) {
	for i := range n {
		name := fmt.Sprintf("agent-%04d", i)
		secure := insecure.NewCredentials()
		if authority != nil {
			c, err := authority.Make(pki.Identity{Role: pki.RoleReader, Name: desired.Name(name)})
			if err != nil {
				return all, err
			}
			secure = credentials.NewTLS(pki.NewHolder(c).ClientConfig())
		}
		a, err := agent.Open(agent.Options{
			Host: setName, Dir: filepath.Join(w.dir, name), Server: w.address(), Logger: quiet(), Credentials: secure,
		})
		if err != nil {
			return all, err
		}
		all = append(all, a)
	}
	return all, nil
}

// closeAll closes all, whatever happens to one.
func closeAll[C io.Closer](all []C) error {
	var errs []error
	for _, c := range all {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// newEmpties returns empty gRPC calls, over connections with the options that
// those of server and agent have.
func newEmpties(ctx context.Context, clients int) (*caller, error) {
	l, err := listen()
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	g := grpc.NewServer(
		grpc.StaticStreamWindowSize(server.StreamWindow), grpc.StaticConnWindowSize(server.ConnWindow),
		grpc.MaxConcurrentStreams(server.MaxStreams), grpc.MaxHeaderListSize(server.MaxHeaderBytes),
	)
	g.RegisterService(&emptyService, nil)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	var conns []*grpc.ClientConn
	c := &caller{wire: l, closers: []func() error{
		func() error { return closeAll(conns) },
		func() error {
			g.Stop()
			return <-served
		},
	}}
	c.call = func(ctx context.Context, i int) error { return callEmpty(ctx, conns[i]) }
	for range clients {
		conn, err := dialEmpty(l.Addr().String())
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		conns = append(conns, conn)
	}
	if err := c.warm(ctx, clients); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
