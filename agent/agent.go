// Package agent keeps a host's copy of its desired state: it polls the
// orchestrator with the roots that it holds, mirrors what differs, proves it by
// its root, and hands verified changes to a Handler.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
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
	// Server is the orchestrator's address, host:port. Required.
	Server string
	// Credentials secure the connection; nil: those that Join left in Dir, which
	// have to be Host's, and are renewed in time.
	Credentials credentials.TransportCredentials
	// Interval is the time between polls; 0: what the server says.
	Interval time.Duration
	// Handler is handed verified changes; nil: they are only mirrored.
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

// Agent mirrors the sets of one host. It is for one goroutine.
type Agent struct {
	options  Options
	log      *slog.Logger
	codec    *delta.Codec
	lock     io.Closer
	list     desired.List // of sets, as the server last said; zero: it never did
	mirrors  []*mirror    // in the order of the list
	leaving  []*mirror    // that left the list, until the Handler knows
	report   reporter
	identity *identity // nil: Options.Credentials are used
	conn     *grpc.ClientConn
	client   espalierv1.SyncServiceClient
	traffic  traffic
	scrubber scrubber
	next     time.Duration // what the server said last
}

// mirror is a mirror and its set's name.
type mirror struct {
	*store.Mirror
	name desired.Name
}

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
	a := &Agent{options: o, log: cmp.Or(o.Logger, slog.Default()), codec: delta.NewCodec()}
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
	if err := a.openMirrors(); err != nil {
		return err
	}
	if a.options.Credentials == nil {
		if a.identity, err = openIdentity(&a.options); err != nil {
			return err
		}
		a.options.Credentials = credentials.NewTLS(a.identity.holder.ClientConfig())
	}
	return a.redial()
}

// redial prepares a new connection, in the place of an older one.
func (a *Agent) redial() error {
	conn, err := dial(a.options, &a.traffic)
	if err != nil {
		return err
	}
	if a.conn != nil {
		err = a.conn.Close()
	}
	a.conn, a.client = conn, espalierv1.NewSyncServiceClient(conn)
	return err
}

// Close closes the connection and the data folder.
func (a *Agent) Close() error {
	var errs []error
	if a.conn != nil {
		errs = append(errs, a.conn.Close())
	}
	for _, m := range slices.Concat(a.mirrors, a.leaving) {
		errs = append(errs, m.Close())
	}
	if a.lock != nil {
		errs = append(errs, a.lock.Close())
	}
	return errors.Join(errs...)
}

// Run keeps the mirrors current until ctx is done, and then returns nil. A
// server that can't be reached is no reason to stop: what was verified last
// stays in force.
func (a *Agent) Run(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		report, err := a.Sync(ctx)
		wait := a.interval()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrUnsafe):
			a.log.Error("not synced", "error", err)
		case errors.Is(err, wire.ErrDenied):
			a.log.Error("the server refuses this host; what was verified last stays in force; "+
				"'espalier token create' on the server and 'espalier agent --join' here let it in again", "error", err)
		case err != nil:
			failures++
			wait = min(wait, backoff(failures))
			a.log.Warn("not synced; what was verified last stays in force", "error", err, "retry_in", wait)
		default:
			if failures > 0 {
				a.log.Info("in step with the server again", "failures", failures)
			}
			failures = 0
		}
		for _, s := range report.Sets {
			if s.Err == nil && s.Mode != Unchanged {
				a.log.Info("synced", "set", s.Set, "revision", s.Head.Position, "root", s.Head.Root,
					"mode", s.Mode, "upserts", s.Upserts, "deletes", s.Deletes)
			}
		}
		if err := a.Scrub(ctx); err != nil {
			a.log.Error("scrub", "error", err)
		}
		sleep(ctx, wait)
	}
	return nil
}

func (a *Agent) interval() time.Duration {
	return jitter(clamp(cmp.Or(a.options.Interval, a.next, DefaultInterval)))
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

func (a *Agent) mirror(set desired.Name) (*mirror, error) {
	for _, m := range a.mirrors {
		if m.name == set {
			return m, nil
		}
	}
	return nil, fmt.Errorf("set %q: %w", set, store.ErrNotFound)
}

// Check recomputes the mirrors from what is stored and returns how many objects
// are damaged; the next Sync fetches those again.
func (a *Agent) Check(ctx context.Context) (damaged int, err error) {
	for _, m := range a.mirrors {
		n, err := m.Repair(ctx)
		if err != nil {
			return damaged, fmt.Errorf("mirror of %q: %w", m.name, err)
		}
		damaged += n
	}
	return damaged, nil
}

// MirrorPath returns the path of the file that a set is mirrored in; it is a
// backup of the set, once the Agent is closed.
func (a *Agent) MirrorPath(set desired.Name) (string, error) {
	m, err := a.mirror(set)
	if err != nil {
		return "", err
	}
	return m.Path(), nil
}
