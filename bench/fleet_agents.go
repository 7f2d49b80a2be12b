package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	"espalier/server"
)

// herd is the fleet's agents. They keep no objects, only which revision they
// hold: their polls are those of real agents, and what comes is decoded and
// checked as far as that goes.
type herd struct {
	interval time.Duration
	codec    *delta.Codec
	agents   []*lightAgent
	// record is where polls are noted.
	record atomic.Pointer[record]
	// held counts the agents that have polled without an error.
	held atomic.Int64
}

// lightAgent follows one set.
type lightAgent struct {
	host  int
	named bool // there is no certificate to say who it is
	conn  *grpc.ClientConn

	mu       sync.Mutex
	head     desired.Head // zero: nothing is held
	arrivals []arrival    // that led there of late
}

// arrival is when an agent had a revision.
type arrival struct {
	number uint64
	at     time.Time
}

const (
	// fleetConnecting is how many agents connect at a time: fewer than a server
	// lets be half open.
	fleetConnecting = server.MaxHalfOpen / 4
	// agentsPerAddress is how many connections one address of loopback makes; the
	// system has some 28,000 ports for each.
	agentsPerAddress = 10_000
	// fleetCallTimeout is when a poll has failed.
	fleetCallTimeout = 30 * time.Second
)

// newHerd prepares agents of a server, over TLS if there is an authority in dir.
// Nothing is connected yet.
func newHerd(ctx context.Context, o *FleetOptions, address, dir string, tls bool) (*herd, error) {
	h := &herd{interval: o.Interval, codec: delta.NewCodec(), agents: make([]*lightAgent, o.Agents)}
	h.record.Store(&record{})
	secure := func(int) (credentials.TransportCredentials, error) { return insecure.NewCredentials(), nil }
	if tls {
		authority, err := pki.OpenAuthority(filepath.Join(dir, authorityFolder))
		if err != nil {
			return nil, err
		}
		secure = func(host int) (credentials.TransportCredentials, error) {
			c, err := authority.Make(pki.Identity{Role: pki.RoleHost, Name: hostName(host)})
			if err != nil {
				return nil, err
			}
			return credentials.NewTLS(pki.NewHolder(c).ClientConfig()), nil
		}
	}
	for i := range h.agents {
		own, err := secure(i)
		if err == nil {
			h.agents[i] = &lightAgent{host: i, named: !tls}
			h.agents[i].conn, err = dialFleet(address, i, own)
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			h.agents = h.agents[:i]
			return nil, errors.Join(err, h.Close())
		}
	}
	return h, nil
}

// dialFleet prepares a connection of its own that is as an agent's to the
// server, and takes little room.
func dialFleet(address string, host int, secure credentials.TransportCredentials) (*grpc.ClientConn, error) {
	var dialer net.Dialer
	if n := host / agentsPerAddress; n > 0 {
		dialer.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+n))}
	}
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(secure),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithReadBufferSize(4<<10), grpc.WithWriteBufferSize(4<<10),
		grpc.WithStaticStreamWindowSize(4<<20), grpc.WithStaticConnWindowSize(8<<20),
		grpc.WithMaxHeaderListSize(16<<10),
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(),
	)
}

// Close ends all connections.
func (h *herd) Close() error {
	var errs []error
	for _, a := range h.agents {
		errs = append(errs, a.conn.Close())
	}
	return errors.Join(errs...)
}

// connect makes each agent poll for the first time.
func (h *herd) connect(ctx context.Context, progress func(done, total uint64)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fleetConnecting)
	for i, a := range h.agents {
		if i%100 == 0 {
			progress(uint64(i), uint64(len(h.agents)))
		}
		group.Go(func() error {
			_, err := h.poll(ctx, a)
			if err == nil && a.state().Number == 0 {
				err = fmt.Errorf("%s has no set", hostName(a.host))
			}
			return err
		})
	}
	err := group.Wait()
	if err == nil {
		h.held.Store(int64(len(h.agents)))
	}
	return err
}

// run lets all agents poll at their intervals until ctx is done, and returns
// once they have stopped.
func (h *herd) run(ctx context.Context) {
	var all sync.WaitGroup
	for _, a := range h.agents {
		all.Go(func() { h.follow(ctx, a) })
	}
	all.Wait()
}

// follow lets one agent poll, beginning somewhere in its interval.
func (h *herd) follow(ctx context.Context, a *lightAgent) {
	timer := time.NewTimer(rand.N(h.interval))
	defer timer.Stop()
	holds := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		changed, err := h.poll(ctx, a)
		if ctx.Err() != nil {
			return
		}
		h.record.Load().add(time.Since(start), changed, err)
		if holds != (err == nil) {
			holds = !holds
			h.held.Add(map[bool]int64{true: 1, false: -1}[holds])
		}
		timer.Reset(h.interval*9/10 + rand.N(h.interval/5))
	}
}

// poll polls once and takes over what came.
func (h *herd) poll(ctx context.Context, a *lightAgent) (changed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer time.AfterFunc(fleetCallTimeout, cancel).Stop()
	head := a.state()
	host := hostName(a.host)
	p := wire.Poll{Host: host, Held: []delta.Held{{Name: host, Epoch: head.Epoch.Prefix(), Number: head.Number, Root: head.Root.Prefix()}}}
	if head.Number == 0 { // or the server would ask for it
		p.Report = &desired.Report{}
	}
	answer, err := wire.Ask(ctx, a.conn, p, a.named)
	if err != nil || len(answer.Sets) == 0 {
		return false, err
	}
	if head, err = h.next(head, &answer.Sets[0]); err != nil {
		return false, fmt.Errorf("%s: %w", host, err)
	}
	a.take(head)
	return true, nil
}

// next returns what an agent holds that held head, after an answer.
func (h *herd) next(head desired.Head, answer *wire.Answer) (desired.Head, error) {
	switch {
	case answer.Status == wire.StatusPull && head.Number == 0: // without a disk, this is a pull
		return answer.Head, nil
	case answer.Status != wire.StatusDelta:
		return head, fmt.Errorf("the server answers with status %d, not with a delta", answer.Status)
	case answer.Number <= head.Number:
		return head, fmt.Errorf("a delta from revision %d to %d", head.Number, answer.Number)
	}
	changes, err := h.codec.DecodeFrame(answer.Frame)
	if err == nil && len(changes) == 0 {
		err = errors.New("a delta without changes")
	}
	head.Number, head.Root = answer.Number, answer.Root
	return head, err
}

// state returns what the agent holds.
func (a *lightAgent) state() desired.Head {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.head
}

func (a *lightAgent) take(head desired.Head) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.head = head
	a.arrivals = append(a.arrivals, arrival{number: head.Number, at: time.Now()})
}

// forget drops what is known of arrivals.
func (a *lightAgent) forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.arrivals = nil
}

// hadAt returns when the agent had a revision, or one above it: zero if it
// hasn't since forget.
func (a *lightAgent) hadAt(number uint64) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.arrivals {
		if s.number >= number {
			return s.at
		}
	}
	return time.Time{}
}
