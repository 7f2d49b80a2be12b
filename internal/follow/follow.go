// Package follow answers what a host does next to be what its orchestrator says:
// when it polls, what it pulls, which server it refuses to follow. It decides, in
// the order of things, and leaves the network, the disk, time and chance to what
// it is given: an agent's real ones, or a simulator's.
package follow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pace"
	"espalier/internal/wire"
)

// ErrUnsafe is what errors match that say that the server's history is not one
// that leads on from what this host holds. The host keeps what it has until an
// operator steps in.
var ErrUnsafe = errors.New("refused to follow the server")

// Unchanged is the mode of a set that was current.
const Unchanged delta.Mode = 0

// Server is the other end, as the network has it. Its errors match
// wire.ErrUnreachable where nobody answers.
type Server interface {
	Poll(ctx context.Context, p wire.Poll) (wire.PollAnswer, error)
	Pull(ctx context.Context) (Stream, error)
}

// Stream is one round of a pull.
type Stream interface {
	// Send doesn't wait for the other side to read.
	Send(delta.Request) error
	Recv() (delta.Response, error)
	// Close ends the stream, and returns once nothing of it runs.
	Close()
}

// Clock is time. The zero Options has the machine's.
type Clock interface {
	Now() time.Time
	// Sleep returns after d, or once ctx is done.
	Sleep(ctx context.Context, d time.Duration)
	// AfterFunc calls fn, which is brief, once d has passed, unless stop is called
	// before.
	AfterFunc(d time.Duration, fn func()) (stop func())
}

// Options configures a Follower.
type Options struct {
	// Host is this host's name. Required.
	Host desired.Name
	// Sets are the sets to mirror, whatever the server's list says; nil: those of
	// the list.
	Sets []desired.Name
	// Server and Disk are where state comes from and goes to. Required.
	Server Server
	Disk   Disk
	// Hold is for how long Run lets the server hold a poll that has nothing to say;
	// 0: not at all.
	Hold time.Duration
	// Version is that of the program, for reports.
	Version string
	// Interval is the time between polls; 0: what the server says.
	Interval time.Duration
	// Progress is told now and then of a whole set's pull; nil: it is not.
	Progress func(set desired.Name, done, total uint64)
	// Clock, Random and Go are time, chance and what runs beside; nil: the
	// machine's.
	Clock  Clock
	Random *rand.Rand
	Go     func(func())
	// Codec is shared with others; nil: the Follower has its own.
	Codec *delta.Codec
	// Limits are those of a machine unless set.
	Limits Limits
	// Logger receives what an operator should know; nil: slog.Default().
	Logger *slog.Logger
	Hooks
}

// Hooks are called along the way; nil: they are not.
type Hooks struct {
	// Before is called before each sync.
	Before func(ctx context.Context)
	// Listed is called once another list of sets, or other orders, are in force.
	Listed func(desired.List)
	// Took is called once a set is as current as it gets, or not.
	Took func(ctx context.Context, s *Set) error
	// Left is called with a set that has left the list, until it returns nil; then
	// the set's mirror goes.
	Left func(ctx context.Context, s *Set) error
	// After is called after each sync of Run.
	After func(ctx context.Context)
}

// Set is a set that the host mirrors.
type Set struct {
	Name desired.Name
	Mirror
	// Stages are what the latest change took that the mirror has followed since the
	// Follower was opened: how long it Waited, and was Transferred.
	Stages desired.Stages
}

// Follower keeps a host's mirrors current. It is for one goroutine, but for those
// methods that say otherwise.
type Follower struct {
	options Options
	log     *slog.Logger
	codec   *delta.Codec
	list    desired.List                 // of sets, as the server last said; zero: it never did
	shown   atomic.Pointer[desired.List] // the same, for others
	sets    []*Set                       // in the order of the list
	leaving []*Set                       // that left the list, until Hooks.Left is done with them
	report  reporter
	voice   voice
	next    time.Duration // what the server said last
	held    bool          // it has room to hold the next poll
	asked   bool          // the last poll was one that it could hold
	stuck   bool          // what the last sync failed of, if it did, only the server can change
	failing bool          // the last sync of Run failed
}

// Open opens the mirrors. The caller closes the Follower, also if there is an
// error.
func Open(o Options) (*Follower, error) {
	if o.Clock == nil {
		o.Clock = machine{}
	}
	if o.Random == nil {
		o.Random = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if o.Go == nil {
		o.Go = func(f func()) { go f() }
	}
	if o.Codec == nil {
		o.Codec = delta.NewCodec()
	}
	o.Limits = o.Limits.orDefault()
	f := &Follower{options: o, log: cmp.Or(o.Logger, slog.Default()), codec: o.Codec, voice: voice{clock: o.Clock, limits: o.Limits}}
	err := f.open()
	list := f.list
	f.shown.Store(&list)
	return f, err
}

// List returns the host's list of sets as it is in force, with what an operator has
// ordered; of version 0 if the server never said. It is not the caller's to change.
// It is safe for concurrent use.
func (f *Follower) List() desired.List { return *f.shown.Load() }

// Report says how far the host is with making true what it mirrors; nil: it only
// mirrors. The server is told with the next poll, and within seconds of what
// desired.Convergence.Telling calls so, unless it can't be reached; of mere
// progress now and then. It does not wait, and is safe for concurrent use.
func (f *Follower) Report(c *desired.Convergence) {
	if c != nil {
		bounded := c.Bounded()
		c = &bounded
	}
	f.voice.say(c)
}

// Sets returns the sets that the host mirrors, in the order of its list.
func (f *Follower) Sets() []*Set { return f.sets }

// Close closes the mirrors.
func (f *Follower) Close() error {
	var errs []error
	for _, s := range append(f.sets[:len(f.sets):len(f.sets)], f.leaving...) {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// Run keeps the mirrors current until ctx is done. A server that can't be reached
// is no reason to stop: what was verified last stays in force.
func (f *Follower) Run(ctx context.Context) {
	clock := f.options.Clock
	schedule := pace.NewSchedule(f.options.Interval, f.options.Random)
	schedule.Now(clock.Now())
	if f.holds() { // or it would have nothing to keep up meanwhile
		schedule.First(string(f.options.Host), clock.Now())
		f.log.Info("polling begins at this host's time, so that a fleet doesn't come all at once", "in", schedule.Due().Sub(clock.Now()).Round(time.Millisecond))
	}
	for inStep := false; ; {
		if f.await(ctx, schedule, inStep); ctx.Err() != nil {
			return
		}
		began, hold := clock.Now(), time.Duration(0)
		if inStep { // else there is something to do here, or to be heard of now
			hold = f.options.Hold
		}
		report, err := f.sync(ctx, hold)
		if ctx.Err() != nil {
			return
		}
		inStep = f.stuck
		f.plan(schedule, began, err)
		for _, s := range report.Sets {
			if s.Err == nil && s.Mode != Unchanged {
				f.log.Info("synced", "set", s.Set, "revision", s.Head.Position, "root", s.Head.Root,
					"mode", s.Mode, "upserts", s.Upserts, "deletes", s.Deletes)
			}
		}
		if f.options.After != nil {
			f.options.After(ctx)
		}
	}
}

// await waits until it is time to poll, or, where the last poll went well, there is
// something to tell: backing off is not cut short, nor is what spreads a fleet that
// starts.
func (f *Follower) await(ctx context.Context, schedule *pace.Schedule, inStep bool) {
	clock := f.options.Clock
	if wait := schedule.Wait(clock.Now()); wait > 0 && inStep {
		var over func()
		ctx, over = f.voice.wait(ctx)
		defer over()
	}
	for wait := schedule.Wait(clock.Now()); wait > 0 && ctx.Err() == nil; wait = schedule.Wait(clock.Now()) {
		clock.Sleep(ctx, wait)
	}
}

// holds reports whether there is something that was verified.
func (f *Follower) holds() bool {
	return slices.ContainsFunc(f.sets, func(s *Set) bool { return s.Head().Number > 0 })
}

// plan plans the next poll after a sync that began at a time and ended with err,
// and says what an operator should know of it.
func (f *Follower) plan(schedule *pace.Schedule, began time.Time, err error) {
	now := f.options.Clock.Now()
	failures := schedule.Failures()
	switch retry, overloaded := wire.RetryAfter(err); {
	case overloaded:
		schedule.Refused(retry, now)
	case !f.stuck:
		schedule.Failed(now)
	case f.held || f.options.Hold > 0 && !f.asked:
		schedule.Held(began, now)
	default:
		schedule.Succeeded(f.next, now)
	}
	switch {
	case err == nil:
		if f.failing {
			f.log.Info("in step with the server again", "failures", failures)
		}
	case errors.Is(err, ErrUnsafe):
		f.log.Error("not synced", "error", err)
	case errors.Is(err, wire.ErrDenied):
		f.log.Error("the server refuses this host; what was verified last stays in force; "+
			"'espalier token create' on the server and 'espalier agent --join' here let it in again", "error", err)
	case f.stuck:
		f.log.Warn("not synced; the server tells once that changes", "error", err)
	default:
		f.log.Warn("not synced; what was verified last stays in force", "error", err, "retry_in", schedule.Due().Sub(now).Round(time.Millisecond))
	}
	f.failing = err != nil
}

// Mend makes the mirror of a set own up to what is damaged in it.
func (f *Follower) Mend(ctx context.Context) (damaged int, err error) {
	for _, s := range f.sets {
		n, err := s.Repair(ctx)
		if err != nil {
			return damaged, fmt.Errorf("mirror of %q: %w", s.Name, err)
		}
		damaged += n
	}
	return damaged, nil
}

// machine is the machine's time.
type machine struct{}

func (machine) Now() time.Time { return time.Now() }

func (machine) AfterFunc(d time.Duration, fn func()) (stop func()) {
	t := time.AfterFunc(d, fn)
	return func() { t.Stop() }
}

func (machine) Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
