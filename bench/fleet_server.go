package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"golang.org/x/sync/errgroup"

	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/server"
	"espalier/store"
)

// The fleet's server runs in a process of its own, so that its memory and CPU
// can be told from those of its agents. Orders come over its standard input, a
// line of JSON each, and are answered over its standard output, one by one; at
// the end of its input it stops.

// order is what the fleet's server is told to do; one of the fields is set.
type order struct {
	// Serve opens the store and the authority in the folder, and starts a server.
	Serve *serveOrder `json:"serve,omitempty"`
	// Commit is the hosts whose sets get a change, in any order.
	Commit []int `json:"commit,omitempty"`
	// Measure collects garbage and tells what memory is in use; Profile names a
	// file for the heap, if any.
	Measure bool   `json:"measure,omitempty"`
	Profile string `json:"profile,omitempty"`
}

type serveOrder struct {
	Dir string `json:"dir"`
	TLS bool   `json:"tls"`
}

// outcome is how an order went.
type outcome struct {
	Err     string      `json:"err,omitempty"`
	Address string      `json:"address,omitempty"`
	Commits []committed `json:"commits,omitempty"`
	Heap    uint64      `json:"heap,omitempty"`
	Stacks  uint64      `json:"stacks,omitempty"`
}

// committed is a commit that is durable.
type committed struct {
	Host   int       `json:"host"`
	Number uint64    `json:"number"`
	Root   string    `json:"root"`
	At     time.Time `json:"at"`
}

const (
	storeFolder     = "server"
	authorityFolder = "pki"
	// fleetWriters is how many commits are made at a time: most of each is a wait
	// for the disk.
	fleetWriters = 16
	// fleetObjects is how many objects the set of a host has, of fleetValue bytes.
	fleetObjects = 10
	fleetValue   = 100
)

// ServeFleet is the server's side of RunFleet: it does what the process tells it
// that is at the other end of in and out, and returns when in ends.
func ServeFleet(ctx context.Context, in io.Reader, out io.Writer) error {
	var s fleetServer
	orders, outcomes := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var o order
		err := orders.Decode(&o)
		if err == nil {
			result, failed := s.obey(ctx, o)
			if failed != nil {
				result.Err = failed.Error()
			}
			err = outcomes.Encode(result)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(err, s.Close())
		}
	}
}

// fleetServer is a server that does what it is told.
type fleetServer struct {
	store  *store.Store // nil: it does not serve yet
	stop   context.CancelFunc
	served chan error
}

func (s *fleetServer) obey(ctx context.Context, o order) (outcome, error) {
	switch {
	case o.Serve != nil && s.store == nil:
		address, err := s.serve(ctx, *o.Serve)
		return outcome{Address: address}, err
	case o.Measure:
		return measure(o.Profile)
	case len(o.Commit) > 0 && s.store != nil:
		all, err := s.commit(ctx, o.Commit)
		return outcome{Commits: all}, err
	default:
		return outcome{}, errors.New("an order that makes no sense")
	}
}

// serve starts a server as 'espalier serve' does, but for the scrub.
func (s *fleetServer) serve(ctx context.Context, so serveOrder) (address string, err error) {
	o := server.Options{Logger: quiet(), ScrubBytes: -1, ScratchDir: so.Dir}
	if so.TLS {
		authority, err := pki.MakeAuthority(filepath.Join(so.Dir, authorityFolder))
		if err != nil {
			return "", err
		}
		own, err := authority.Make(pki.Identity{Role: pki.RoleServer, Name: "server"})
		if err != nil {
			return "", err
		}
		o.Trust = &server.Trust{Credentials: pki.NewHolder(own), Authority: authority}
	}
	if s.store, err = store.Open(filepath.Join(so.Dir, storeFolder), store.Options{Logger: quiet()}); err != nil {
		return "", err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		err = errors.Join(fmt.Errorf("listen: %w", err), s.store.Close())
		s.store = nil
		return "", err
	}
	ctx, s.stop = context.WithCancel(ctx)
	s.served = make(chan error, 1)
	go func() { s.served <- server.New(s.store, o).Run(ctx, l) }()
	return l.Addr().String(), nil
}

// Close stops the server, if it runs.
func (s *fleetServer) Close() error {
	if s.store == nil {
		return nil
	}
	s.stop()
	return errors.Join(<-s.served, s.store.Close())
}

// commit changes the sets of hosts, each of which is created with its first
// change, and returns what was committed, in their order.
func (s *fleetServer) commit(ctx context.Context, hosts []int) ([]committed, error) {
	all := make([]committed, len(hosts))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fleetWriters)
	for i, host := range hosts {
		group.Go(func() error {
			name := hostName(host)
			head, err := s.store.Head(name)
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			r, err := s.store.Commit(ctx, name, store.Commit{Changes: fleetChanges(host, head.Number), Who: "bench"})
			all[i] = committed{Host: host, Number: r.Head.Number, Root: r.Head.Root.String(), At: time.Now()}
			return err
		})
	}
	return all, group.Wait()
}

// hostName is the name of a host, and of its set.
func hostName(host int) desired.Name { return desired.Name(fmt.Sprintf("host-%05d", host)) }

// fleetChanges makes the first objects of a host's set, and replaces one of them
// after each later revision.
func fleetChanges(host int, number uint64) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		first, last := 0, fleetObjects-1
		if number > 0 {
			first = int(number % fleetObjects)
			last = first
		}
		for i := first; i <= last; i++ {
			value := fmt.Appendf(nil, "%0*d", fleetValue, uint64(host)<<32|number)
			envelope, err := desired.Encode(desired.Object{Value: value})
			if !yield(desired.Change{Key: fmt.Appendf(nil, "svc/%02d", i), Envelope: envelope}, err) || err != nil {
				return
			}
		}
	}
}

// measure collects garbage, gives what is free back to the system, and tells
// what is in use.
func measure(profile string) (outcome, error) {
	runtime.GC() // finalizers run
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	o := outcome{Heap: m.HeapAlloc, Stacks: m.StackInuse}
	if profile == "" {
		return o, nil
	}
	f, err := os.Create(profile)
	if err != nil {
		return o, fmt.Errorf("heap profile: %w", err)
	}
	return o, errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
}
