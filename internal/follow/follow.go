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
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/store"
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
}

// Follower keeps a host's mirrors current. It is for one goroutine.
type Follower struct {
	options Options
	log     *slog.Logger
	codec   *delta.Codec
	list    desired.List // of sets, as the server last said; zero: it never did
	sets    []*Set       // in the order of the list
	leaving []*Set       // that left the list, until Hooks.Left is done with them
	report  reporter
	next    time.Duration // what the server said last
	held    bool          // it has room to hold the next poll
}

// Open opens the mirrors. The caller closes the Follower, also if there is an
// error.
func Open(o Options) (*Follower, error) {
	if o.Clock == nil {
		o.Clock = machine{}
	}
	if o.Go == nil {
		o.Go = func(f func()) { go f() }
	}
	if o.Codec == nil {
		o.Codec = delta.NewCodec()
	}
	o.Limits = o.Limits.orDefault()
	f := &Follower{options: o, log: cmp.Or(o.Logger, slog.Default()), codec: o.Codec}
	return f, f.open()
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
	failures := 0
	for ctx.Err() == nil {
		began := f.options.Clock.Now()
		report, err := f.sync(ctx, f.options.Hold)
		wait := f.interval()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrUnsafe):
			f.log.Error("not synced", "error", err)
		case errors.Is(err, wire.ErrDenied):
			f.log.Error("the server refuses this host; what was verified last stays in force; "+
				"'espalier token create' on the server and 'espalier agent --join' here let it in again", "error", err)
		case err != nil:
			failures++
			wait = min(wait, f.backoff(failures))
			f.log.Warn("not synced; what was verified last stays in force", "error", err, "retry_in", wait)
		default:
			if failures > 0 {
				f.log.Info("in step with the server again", "failures", failures)
			}
			failures = 0
			if f.held { // the next poll waits there, and comes back with the next change
				wait = max(0, holdGap-f.options.Clock.Now().Sub(began))
			}
		}
		for _, s := range report.Sets {
			if s.Err == nil && s.Mode != Unchanged {
				f.log.Info("synced", "set", s.Set, "revision", s.Head.Position, "root", s.Head.Root,
					"mode", s.Mode, "upserts", s.Upserts, "deletes", s.Deletes)
			}
		}
		if f.options.After != nil {
			f.options.After(ctx)
		}
		f.options.Clock.Sleep(ctx, wait)
	}
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

// seed returns a random number that keys a descent's digests.
func (f *Follower) seed() uint64 {
	if f.options.Random != nil {
		return f.options.Random.Uint64()
	}
	return rand.Uint64()
}

// machine is the machine's time.
type machine struct{}

func (machine) Now() time.Time { return time.Now() }

func (machine) Sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// isCorrupt reports whether err says that something here is damaged.
func isCorrupt(err error) bool { return errors.Is(err, store.ErrCorrupt) }
