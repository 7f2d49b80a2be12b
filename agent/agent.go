// Package agent keeps a host's copy of its desired state, and makes the host match
// it: it polls the orchestrator with the roots that it holds, mirrors what differs,
// proves it by its root, has drivers make it true, and corrects what drifts.
// Whoever embeds it may be handed the verified changes instead.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/internal/wire"
	"espalier/store"
)

// Options configures an Agent.
type Options struct {
	// Host is this host's name. Required.
	Host desired.Name
	// Sets are the sets to mirror, whatever the server's list says; nil: those of
	// the list that the server has for the host, and until it says so the one that
	// bears the host's name.
	Sets []desired.Name
	// Dir is the agent's data folder; it is made if need be. Required.
	Dir string
	// Server is the orchestrator's address, host:port, or several separated by
	// commas: the agent stays with one as long as it answers, and goes on to the
	// next when it doesn't. Required.
	Server string
	// Credentials secure the connection; nil: those that Join left in Dir, which
	// have to be Host's, and are renewed in time.
	Credentials credentials.TransportCredentials
	// Interval is the time between polls; 0: what the server says.
	Interval time.Duration
	// Hold is for how long Run lets the server wait for something to say to a poll;
	// 0: DefaultHold, less than 0: not at all. With Interval, the server doesn't
	// wait.
	Hold time.Duration
	// Routes say which driver makes true what is under which prefix, by Policy; none:
	// what is mirrored is not applied.
	Routes []Route
	Policy Policy
	// Handler is handed verified changes; nil: nobody is.
	Handler Handler
	// Progress is called now and then while a whole set is pulled, with the objects
	// received so far and those that the set has; nil: it is not.
	Progress func(set desired.Name, done, total uint64)
	// Probe checks a mirror's file after an unclean stop, as in store.Options.
	Probe func(ctx context.Context, path string) error
	// Version is that of the program, for the agent's reports.
	Version string
	// Logger receives what an operator should know; nil: slog.Default().
	Logger *slog.Logger
}

// Agent mirrors the sets of one host, and makes the host match them. It is for one
// goroutine, but for those methods that say otherwise.
type Agent struct {
	options  Options
	log      *slog.Logger
	lock     io.Closer
	follower *follow.Follower
	maker    *maker      // nil: it only mirrors
	running  atomic.Bool // Run was called
	identity *identity   // nil: Options.Credentials are used
	links    []*link     // to the servers, of which the first is used
	traffic  traffic
	scrubber scrubber
}

// ErrUnsafe is what errors match that say that the server's history is not one
// that leads on from what this host holds. The agent keeps what it has until an
// operator steps in.
var ErrUnsafe = follow.ErrUnsafe

// Unchanged is the mode of a set that was current.
const Unchanged = follow.Unchanged

// Report is the outcome of a Sync.
type Report = follow.Report

// SetReport is the outcome of a Sync for one set.
type SetReport = follow.SetReport

// Open opens the agent's data folder and prepares the connection, which is made
// when it is first needed. It returns an error that matches store.ErrInUse if
// another process has the folder, and one that matches store.ErrForeign if it is
// that of a server or another host.
func Open(o Options) (*Agent, error) {
	if _, err := desired.ParseName(string(o.Host)); err != nil {
		return nil, err
	}
	if err := checkSets(o.Sets); err != nil {
		return nil, err
	}
	switch {
	case o.Interval > 0 || o.Hold < 0:
		o.Hold = 0
	case o.Hold == 0:
		o.Hold = DefaultHold
	}
	a := &Agent{options: o, log: cmp.Or(o.Logger, slog.Default())}
	if err := a.open(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// checkSets returns an error that matches desired.ErrInvalid for sets that can't
// be polled together.
func checkSets(sets []desired.Name) error {
	if len(sets) > wire.MaxPolledSets {
		return fmt.Errorf("%w agent: %d sets, at most %d are allowed", desired.ErrInvalid, len(sets), wire.MaxPolledSets)
	}
	for i, name := range sets {
		if slices.Contains(sets[:i], name) {
			return fmt.Errorf("%w agent: it is to mirror set %q twice", desired.ErrInvalid, name)
		}
	}
	return nil
}

func (a *Agent) open() (err error) {
	if a.lock, err = store.LockDir(a.options.Dir, "agent of "+string(a.options.Host)); err != nil {
		return err
	}
	a.follower, err = follow.Open(follow.Options{
		Host: a.options.Host, Sets: a.options.Sets, Server: orchestrator{a}, Disk: disk{dir: a.options.Dir, log: a.log, probe: a.options.Probe},
		Version: a.options.Version, Interval: a.options.Interval, Hold: a.options.Hold, Progress: a.options.Progress, Logger: a.log,
		Hooks: follow.Hooks{Before: a.renew, Listed: a.listed, Took: a.took, Left: a.leave, After: a.scrubOn},
	})
	if err != nil {
		return err
	}
	if a.options.Credentials == nil {
		if a.identity, err = openIdentity(&a.options); err != nil {
			return err
		}
		a.options.Credentials = credentials.NewTLS(a.identity.holder.ClientConfig())
	}
	if len(a.options.Routes) > 0 {
		if err := a.make(); err != nil {
			return err
		}
	}
	return a.redial()
}

// Tell tells the server how the last Sync went. Run does so with its next poll; who
// calls Sync just once tells when it is done.
func (a *Agent) Tell(ctx context.Context) error { return a.follower.Tell(ctx) }

// link is a connection to one of the servers.
type link struct {
	*grpc.ClientConn
	address string
}

// redial prepares new connections, in the place of older ones, in their order.
func (a *Agent) redial() error {
	addresses := strings.Split(a.options.Server, ",")
	if len(a.links) > 0 {
		for i, l := range a.links {
			addresses[i] = l.address
		}
	}
	err := a.hangUp()
	for _, address := range addresses {
		conn, e := dial(address, a.options.Credentials, &a.traffic)
		if e != nil {
			return errors.Join(err, fmt.Errorf("server %q: %w", address, e))
		}
		a.links = append(a.links, &link{conn, address})
	}
	return err
}

// freshen puts a new connection in the place of one on which a call failed with
// err, since it could not be made, and returns err. On the old one gRPC would
// fail calls without trying for as long as it backs off, and they would count as
// failures of the server's; and it would go on trying between them. A new one
// looks up the server's name anew, too.
func (a *Agent) freshen(err error) error {
	l := a.links[0]
	if !errors.Is(err, wire.ErrUnreachable) || l.GetState() == connectivity.Ready {
		return err
	}
	conn, failed := dial(l.address, a.options.Credentials, &a.traffic)
	if failed != nil {
		return errors.Join(err, failed)
	}
	old := l.ClientConn
	l.ClientConn = conn
	return errors.Join(err, old.Close())
}

// hangUp closes the connections.
func (a *Agent) hangUp() error {
	var errs []error
	for _, l := range a.links {
		errs = append(errs, l.Close())
	}
	a.links = nil
	return errors.Join(errs...)
}

// failOver makes the next server the one that is used.
func (a *Agent) failOver() {
	a.links = append(a.links[1:], a.links[0])
	a.log.Warn("the server can't be reached; going on to another", "server", a.links[0].address)
}

// Close closes the connection and the data folder.
func (a *Agent) Close() error {
	errs := []error{a.hangUp()}
	if a.maker != nil {
		errs = append(errs, a.maker.close())
	}
	if a.follower != nil {
		errs = append(errs, a.follower.Close())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(errs...)
}

// Run keeps the mirrors current, and the host matching them, until ctx is done, and
// then returns nil. A server that can't be reached is no reason to stop: what was
// verified last stays in force, and goes on being made true. An error says that
// what was made true can't be recorded any more: Close, Open and Run begin anew.
func (a *Agent) Run(ctx context.Context) error {
	a.running.Store(true)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		a.follower.Run(ctx)
		return nil
	})
	if a.maker != nil {
		group.Go(func() error { return a.maker.run(ctx) })
	}
	return group.Wait()
}

// Sync polls and brings every set up to date that has moved, then hands what
// changed to the Handler. It returns an error if the server was not reached or
// any set is not up to date; the report tells of the others.
func (a *Agent) Sync(ctx context.Context) (Report, error) {
	sent, received := a.traffic.sent.Load(), a.traffic.received.Load()
	report, err := a.follower.Sync(ctx)
	report.BytesSent, report.BytesReceived = a.traffic.sent.Load()-sent, a.traffic.received.Load()-received
	return report, err
}

// View calls fn with the mirror of a set as it was last verified. fn must
// return soon, and not call the Agent. It returns an error that matches
// store.ErrNotFound where nothing is mirrored yet, and one that matches
// store.ErrCorrupt where what was verified is damaged and not yet fetched again.
func (a *Agent) View(set desired.Name, fn func(*store.Snapshot) error) error {
	m, err := a.mirror(set)
	if err != nil {
		return err
	}
	if m.Damaged() {
		return fmt.Errorf("mirror of %q: %w: a sync with the server mends it", set, store.ErrCorrupt)
	}
	return m.View(fn)
}

func (a *Agent) mirror(set desired.Name) (*store.Mirror, error) {
	for _, s := range a.follower.Sets() {
		if s.Name == set {
			return mirrorOf(s), nil
		}
	}
	return nil, fmt.Errorf("set %q: %w", set, store.ErrNotFound)
}

// Check recomputes the mirrors from what is stored and returns how many objects
// are damaged; the next Sync fetches those again.
func (a *Agent) Check(ctx context.Context) (damaged int, err error) { return a.follower.Mend(ctx) }

// MirrorPath returns the path of the file that a set is mirrored in; it is a
// backup of the set, once the Agent is closed.
func (a *Agent) MirrorPath(set desired.Name) (string, error) {
	m, err := a.mirror(set)
	if err != nil {
		return "", err
	}
	return m.Path(), nil
}
