package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/server"
	"espalier/store"
)

// setName is the name of the set that is measured, and of its host. It has 12
// bytes, which cross the wire with every poll.
const setName desired.Name = "web-frontend"

// world is a server and an agent of it, over loopback, in one process.
type world struct {
	dir    string
	store  *store.Store
	wire   *meteredListener
	stop   context.CancelFunc // of the server
	served chan error

	agents int // opened so far
	agent  *agent.Agent
	home   string // the agent's data folder
}

// quiet keeps logs from a report: what went wrong is in an error, too.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// openWorld starts a server of an empty store in dir, over TLS if there is an
// authority.
//
// It runs without the scrub, which reads values in the background at its own
// pace, and is no part of what is measured.
func openWorld(ctx context.Context, dir string, authority *pki.Authority) (*world, error) {
	o := server.Options{Logger: quiet(), ScrubBytes: -1, ScratchDir: dir, CallRate: -1}
	if authority != nil {
		own, err := authority.Make(pki.Identity{Role: pki.RoleServer, Name: "server"})
		if err != nil {
			return nil, err
		}
		o.Trust = &server.Trust{Credentials: pki.NewHolder(own), Authority: authority}
	}
	s, err := store.Open(filepath.Join(dir, "server"), store.Options{Logger: quiet()})
	if err != nil {
		return nil, err
	}
	l, err := listen()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), s.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	w := &world{dir: dir, store: s, wire: l, stop: stop, served: make(chan error, 1)}
	go func() {
		w.served <- server.New(s, o).Run(ctx, l)
	}()
	return w, nil
}

// Close stops both, and waits until they have.
func (w *world) Close() error {
	err := w.closeAgent()
	w.stop()
	return errors.Join(err, <-w.served, w.store.Close())
}

func (w *world) address() string { return w.wire.Addr().String() }

// newAgent opens an agent that has nothing yet, in the place of the one before.
func (w *world) newAgent(progress func(done, total uint64)) error {
	if err := w.closeAgent(); err != nil {
		return err
	}
	if w.home != "" {
		if err := os.RemoveAll(w.home); err != nil {
			return fmt.Errorf("remove a mirror: %w", err)
		}
	}
	w.agents++
	w.home = filepath.Join(w.dir, fmt.Sprintf("agent-%d", w.agents))
	return w.openAgent(progress)
}

// openAgent opens the agent's data folder, and leaves the connection to the
// first call.
func (w *world) openAgent(progress func(done, total uint64)) (err error) {
	o := agent.Options{Host: setName, Dir: w.home, Server: w.address(), Logger: quiet(), Credentials: insecure.NewCredentials()}
	if progress != nil {
		o.Progress = func(_ desired.Name, done, total uint64) { progress(done, total) }
	}
	w.agent, err = agent.Open(o)
	return err
}

func (w *world) closeAgent() error {
	if w.agent == nil {
		return nil
	}
	err := w.agent.Close()
	w.agent = nil
	return err
}

// synced is what one Sync of the agent took.
type synced struct {
	traffic
	report agent.SetReport
	trips  int
	spent  spent
}

// sync lets the agent sync, and proves that both ends hold the same.
//
// The time is that of the Sync: from a poll, with what it found already
// committed, to a mirror that is verified and durable. The bytes are those of
// the connection until it is quiet again.
func (w *world) sync(ctx context.Context) (synced, error) {
	before := w.wire.settled(ctx)
	stop := watch()
	report, err := w.agent.Sync(ctx)
	spent := stop()
	if err != nil {
		return synced{}, err
	}
	if err := w.proveEqual(); err != nil {
		return synced{}, err
	}
	return synced{
		traffic: w.wire.settled(ctx).since(before), report: report.Sets[0], trips: report.RoundTrips, spent: spent,
	}, nil
}

// warm makes the connection a live one that has said everything once: HTTP/2
// sends the headers of a first call in full, and refers to them afterwards.
func (w *world) warm(ctx context.Context) error {
	for range 2 {
		s, err := w.sync(ctx)
		if err != nil {
			return err
		}
		if s.report.Mode != agent.Unchanged {
			return fmt.Errorf("the mirror was not current: it took a %v", s.report.Mode)
		}
	}
	return nil
}

// beyond is greater than any key: no UTF-8 has that byte.
var beyond = []byte{0xff}

// proveEqual returns an error unless both ends are at the same revision, with
// the same root, and as many objects by their heads as by their trees.
func (w *world) proveEqual() error {
	var ours, theirs desired.Head
	var held, has uint64
	count := func(head *desired.Head, n *uint64) func(*store.Snapshot) error {
		return func(s *store.Snapshot) (err error) {
			*head = s.Head()
			*n, err = s.Count([]byte{}, beyond)
			return err
		}
	}
	if err := w.store.View(setName, count(&ours, &has)); err != nil {
		return err
	}
	if err := w.agent.View(setName, count(&theirs, &held)); err != nil {
		return err
	}
	if ours.Revision != theirs.Revision || ours.Objects != theirs.Objects || has != held || has != ours.Objects {
		return fmt.Errorf("the mirror is at %v with root %v and %d of %d objects, the server at %v with root %v and %d of %d",
			theirs.Position, theirs.Root, held, theirs.Objects, ours.Position, ours.Root, has, ours.Objects)
	}
	return nil
}

// recompute reads every object of both ends, computes their roots anew from
// nothing else, and returns the head that they share.
func (w *world) recompute(ctx context.Context, progress func(done, total uint64)) (desired.Head, error) {
	report, err := w.store.Check(ctx, setName, progress)
	if err != nil {
		return desired.Head{}, err
	}
	if report.Found > 0 {
		return desired.Head{}, fmt.Errorf("the server's set has %d damaged rows: %v", report.Found, report.Problems[0])
	}
	damaged, err := w.agent.Check(ctx)
	if err == nil && damaged > 0 {
		err = fmt.Errorf("the mirror has %d damaged rows", damaged)
	}
	if err == nil {
		err = w.proveEqual()
	}
	return report.Head, err
}
