package agent

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"

	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/store"
)

// Route hands the objects under a prefix to a driver.
type Route = apply.Route

// Policy says what an agent may do to its host, and when.
type Policy = apply.Policy

// Step is what would be done about one object.
type Step = apply.Step

// OnceAttempts is how often Apply tries an object that fails.
const OnceAttempts = apply.OnceAttempts

// ErrNoDrivers is returned where something is asked of an agent that only mirrors.
var ErrNoDrivers = errors.New("this agent has no drivers: it only mirrors")

// maker makes the host match what is mirrored. Its methods are safe for concurrent
// use.
type maker struct {
	agent  *Agent
	record *store.Applied
	anew   chan struct{} // holds one: the applier is another

	mu      sync.Mutex
	applier *apply.Applier
	sets    []apply.Set
	orders  desired.Orders
	stages  desired.Stages // of the latest change
	known   map[desired.Name]desired.Stages
}

// openMaker opens the record of the host.
func openMaker(a *Agent) (*maker, error) {
	record, err := store.OpenApplied(a.options.Dir, a.options.Host, store.Options{Logger: a.log, Probe: a.options.Probe})
	if err != nil {
		return nil, err
	}
	m := &maker{agent: a, record: record, anew: make(chan struct{}, 1), known: map[desired.Name]desired.Stages{}}
	if err := m.configure(a.options.Routes, a.options.Policy); err != nil {
		return nil, errors.Join(err, record.Close())
	}
	return m, nil
}

func (m *maker) close() error { return m.record.Close() }

// configure prepares an applier, which takes the place of the one there is.
func (m *maker) configure(routes []Route, p Policy) error {
	next, err := apply.New(apply.Options{Record: m.record, Routes: routes, Policy: p, Changed: m.report, Logger: m.agent.log})
	if err != nil {
		return err
	}
	m.mu.Lock()
	if m.applier != nil {
		next.Inherit(m.applier)
	}
	m.applier = next
	next.Desire(m.sets, m.orders)
	m.mu.Unlock()
	select {
	case m.anew <- struct{}{}:
	default:
	}
	return nil
}

// current returns the applier that is to be at work.
func (m *maker) current() *apply.Applier {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.applier
}

// run has the appliers work, one after the other, until ctx is done.
func (m *maker) run(ctx context.Context) error {
	var last *apply.Applier
	for ctx.Err() == nil {
		select {
		case <-m.anew: // it is about to be seen
		default:
		}
		next := m.current()
		if last != nil && last != next {
			next.Inherit(last) // which has come to its end only now
		}
		if err := m.runOne(ctx, next); err != nil {
			return err
		}
		last = next
	}
	return nil
}

// runOne has an applier work until ctx is done or there is another.
func (m *maker) runOne(ctx context.Context, a *apply.Applier) error {
	group, ctx := errgroup.WithContext(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group.Go(func() error {
		defer cancel()
		return a.Run(ctx)
	})
	group.Go(func() error {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-m.anew:
		}
		return nil
	})
	return group.Wait()
}

// desire tells the applier what is mirrored now.
func (m *maker) desire(sets []*follow.Set, list desired.List) {
	m.mu.Lock()
	m.sets, m.orders = nil, list.Orders
	for _, s := range sets {
		m.sets = append(m.sets, apply.Set{Name: s.Name, Mirror: mirrorOf(s)})
	}
	m.applier.Desire(m.sets, m.orders)
	m.mu.Unlock()
}

// took notes what a change took to get here, if the set has one that is new: of
// several sets those that were current say nothing of the latest change.
func (m *maker) took(s *follow.Set) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known[s.Name] == s.Stages {
		return
	}
	m.known[s.Name] = s.Stages
	m.stages.Waited, m.stages.Transferred = s.Stages.Waited, s.Stages.Transferred
}

// status returns how far the host is.
func (m *maker) status() desired.Convergence {
	c := m.current().Status()
	m.mu.Lock()
	c.Stages.Waited, c.Stages.Transferred = m.stages.Waited, m.stages.Transferred
	m.mu.Unlock()
	return c
}

// report has the server told.
func (m *maker) report() {
	c := m.status()
	m.agent.follower.Report(&c)
}

// took is called with a set that is as current as it gets.
func (a *Agent) took(ctx context.Context, s *follow.Set) error {
	if a.maker != nil {
		a.maker.took(s)
		a.maker.desire(a.follower.Sets(), a.follower.List())
	}
	return a.deliver(ctx, s)
}

// listed is called with another list of sets, or other orders.
func (a *Agent) listed(desired.List) {
	if a.maker != nil {
		a.maker.desire(a.follower.Sets(), a.follower.List())
	}
}

// Apply makes the host match what is mirrored, and returns once it does, or once
// what is left has failed several times or waits for an operator. The error says
// that something could not be recorded or read; what failed is in the outcome.
func (a *Agent) Apply(ctx context.Context) (desired.Convergence, error) {
	if a.maker == nil {
		return desired.Convergence{}, ErrNoDrivers
	}
	err := a.maker.current().Once(ctx)
	return a.maker.status(), err
}

// Applied returns how many objects were made true since Open.
func (a *Agent) Applied() uint64 {
	if a.maker == nil {
		return 0
	}
	return a.maker.current().Applied()
}

// Configure has other routes, and another policy, take the place of those of the
// Options. Before Run, an agent without routes begins to apply by them. While Run
// runs, with which it may be called at the same time, what is under way is called
// off, and done anew; it returns ErrNoDrivers if Run began without routes. If they
// can't be followed it returns an error that matches desired.ErrInvalid, and
// changes nothing.
func (a *Agent) Configure(routes []Route, p Policy) error {
	switch {
	case a.maker != nil:
		return a.maker.configure(routes, p)
	case len(routes) == 0:
		return nil
	case a.running.Load():
		return ErrNoDrivers
	}
	a.options.Routes, a.options.Policy = routes, p
	return a.make()
}

// make begins to make the host match what is mirrored.
func (a *Agent) make() (err error) {
	if a.maker, err = openMaker(a); err != nil {
		return err
	}
	a.maker.desire(a.follower.Sets(), a.follower.List()) // what was verified last is in force, server or not
	return nil
}

// Convergence returns how far the host is with making true what is mirrored; false
// where it only mirrors. It, and the methods below, are safe for concurrent use.
func (a *Agent) Convergence() (desired.Convergence, bool) {
	if a.maker == nil {
		return desired.Convergence{}, false
	}
	return a.maker.status(), true
}

// Failures returns all objects that have failed, by key.
func (a *Agent) Failures() []desired.Failure {
	if a.maker == nil {
		return nil
	}
	return a.maker.current().Failures()
}

// Plan returns what would be done to the host if everything might be, deletions
// included, in key order.
func (a *Agent) Plan() iter.Seq2[Step, error] {
	if a.maker == nil {
		return func(yield func(Step, error) bool) { yield(Step{}, ErrNoDrivers) }
	}
	return a.maker.current().Plan()
}

// Pause has the host stay as it is until Resume, also after a restart. What the
// server orders counts besides.
func (a *Agent) Pause(why string) error {
	if a.maker == nil {
		return ErrNoDrivers
	}
	return a.maker.current().Pause(why)
}

// Resume ends a Pause.
func (a *Agent) Resume() error {
	if a.maker == nil {
		return ErrNoDrivers
	}
	return a.maker.current().Resume()
}

// Release lets the deletions through that lead to the host root, however many they
// are. It returns an error unless that is what the host waits for.
func (a *Agent) Release(root desired.Digest) error {
	c, ok := a.Convergence()
	switch {
	case !ok:
		return ErrNoDrivers
	case c.State != desired.Guarded:
		return fmt.Errorf("nothing waits to be released: this host is %v", c.State)
	case c.Desired != root:
		return fmt.Errorf("this host waits for %v to be released, not for %v", c.Desired, root)
	}
	return a.maker.current().Release(root)
}
