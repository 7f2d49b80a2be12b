// Package server is the orchestrator: it serves the sets of a store to agents,
// which poll and pull, and to operators, who publish. It turns calls into
// questions to the store, to the sync conversation and to the fleet, and keeps
// nothing of its own but the scrub that runs beside them.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"espalier/internal/audit"
	"espalier/internal/delta"
	"espalier/internal/fleet"
	"espalier/internal/lead"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// Options configures a Server; the zero value works.
type Options struct {
	// Logger receives what an operator should know; nil: slog.Default().
	Logger *slog.Logger
	// Objective is the longest that a change shall wait for a host to notice it, as
	// long as the budget of polls holds; 0: pace.DefaultObjective.
	Objective time.Duration
	// ScrubBytes is how many bytes of values a second the scrub reads; 0:
	// DefaultScrubBytes, less than 0: no scrub.
	ScrubBytes int
	// Trust is how callers are known; nil: there is no TLS, and everybody may do
	// everything.
	Trust *Trust
	// Audit is where changes are recorded; nil: nowhere.
	Audit *audit.Log
	// CallRate is how many calls a second are answered on one connection over
	// TLS; 0: CallRate, less than 0: any number.
	CallRate int
	// ScratchDir is where large uploads are put until they are whole; empty:
	// the system's folder for temporary files.
	ScratchDir string
	// Metrics is where the server's are registered; nil: nowhere.
	Metrics prometheus.Registerer
	// Ready is called once calls are answered and metrics can be gathered; nil:
	// nobody waits for it.
	Ready func()
	// Limits bound what hosts may take.
	Limits Limits
}

// Server serves a store.
type Server struct {
	store   *store.Store
	options Options
	log     *slog.Logger
	codec   *delta.Codec
	fleet   *fleet.Fleet
	lead    *lead.Leader
	listing sync.Mutex // held while a host's list is made
	// stopping is closed once Run stops; wakes bounds how many held polls a second
	// a change wakes.
	stopping chan struct{}
	valve    *valve
	metrics  *metrics
	wakes    *rate.Limiter
	guard    *guard // nil: there is no TLS
	denied   *said  // the calls that were refused of late
	issued   issued
}

// New returns a Server of a store, which the caller closes after Run has
// returned.
func New(s *store.Store, o Options) *Server {
	o.ScrubBytes = cmp.Or(o.ScrubBytes, DefaultScrubBytes)
	o.Limits = o.Limits.withDefaults()
	return &Server{
		store: s, options: o, log: newSparse(cmp.Or(o.Logger, slog.Default())), codec: delta.NewCodec(), denied: newSaid(),
		stopping: make(chan struct{}), valve: newValve(o.Limits), metrics: newMetrics(), wakes: rate.NewLimiter(WakeRate, WakeBurst),
		issued: issued{to: map[string]struct{}{}},
	}
}

// Run serves on l until ctx is done, and then lets calls under way finish for
// up to StopTimeout. It returns once everything has stopped, nil after a clean
// stop; l is closed.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	g, l, err := s.prepare(l)
	if err != nil {
		return err
	}
	state := health.NewServer()
	healthv1.RegisterHealthServer(g, state)

	s.store.Watch(s.changed)
	defer s.store.Watch(nil)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // it may be stopped before it starts
			return fmt.Errorf("serve on %s: %w", l.Addr(), err)
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		state.Shutdown()
		close(s.stopping)
		stop(g)
		return nil
	})
	group.Go(func() error { return s.scrub(ctx) })
	group.Go(func() error { return s.syncAudit(ctx) })
	group.Go(func() error { return s.keepSeen(ctx) })
	group.Go(func() error { return s.recall(ctx) })
	group.Go(func() error { return s.readAudit(ctx) })
	group.Go(func() error { return s.options.Trust.renewOwn(ctx, s.log) })
	if s.options.Ready != nil {
		s.options.Ready()
	}
	return group.Wait()
}

// prepare returns what serves on l, but for the health service, and what it
// serves on in place of l. If there is an error, l is closed.
func (s *Server) prepare(l net.Listener) (*grpc.Server, net.Listener, error) {
	if err := s.openFleet(); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	if trust := s.options.Trust; trust != nil { // else it listens on loopback
		revoked, err := s.store.Revoked()
		if err != nil { // whoever was revoked would be let in
			return nil, nil, errors.Join(fmt.Errorf("read who is revoked: %w", err), l.Close())
		}
		if err := s.mendRevoked(revoked); err != nil {
			return nil, nil, errors.Join(err, l.Close())
		}
		d := newDoor(l)
		s.guard = newGuard(trust.Credentials.ServerConfig(), d, s.fleet, revoked)
		if s.guard.calls = rate.Limit(cmp.Or(s.options.CallRate, CallRate)); s.guard.calls < 0 {
			s.guard.calls = rate.Inf
		}
		l = d
	}
	if err := s.register(); err != nil { // the last: from now on anybody may gather
		return nil, nil, errors.Join(err, l.Close())
	}
	g := grpc.NewServer(s.serverOptions()...)
	espalierv1.RegisterSyncServiceServer(g, syncService{server: s})
	espalierv1.RegisterOperatorServiceServer(g, operatorService{server: s})
	espalierv1.RegisterFleetServiceServer(g, fleetService{server: s})
	espalierv1.RegisterTrustServiceServer(g, trustService{server: s})
	reflection.Register(g)
	return g, l, nil
}

// stop lets calls finish, but not forever.
func stop(g *grpc.Server) {
	force := time.AfterFunc(StopTimeout, g.Stop)
	defer force.Stop()
	g.GracefulStop()
}

// scrub reads all values over and over, at its pace.
func (s *Server) scrub(ctx context.Context) error {
	if s.options.ScrubBytes < 0 {
		return nil
	}
	limit := rate.NewLimiter(rate.Limit(s.options.ScrubBytes), s.options.ScrubBytes)
	for ctx.Err() == nil {
		if err := s.store.Scrub(ctx, limit); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Error("scrub", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(ScrubPause):
		}
	}
	return nil
}

// mendRevoked brings revocations down to now that were made by a clock that was
// ahead: they would shut everybody of the name out for as long.
func (s *Server) mendRevoked(until map[string]time.Time) error {
	now := time.Now()
	for who, at := range until {
		if !at.After(now) {
			continue
		}
		s.log.Warn("a revocation is in the future: the clock was ahead when it was made; it holds for what was issued until now", "who", who, "at", at)
		if err := s.store.Revoke(who, now); err != nil {
			return fmt.Errorf("mend a revocation: %w", err)
		}
		until[who] = now
	}
	return nil
}

func (s *Server) serverOptions() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(s.checkUnary, s.logPoll),
		grpc.ChainStreamInterceptor(s.checkStream, s.logPull),
		grpc.ConnectionTimeout(HandshakeTimeout),
		grpc.StaticStreamWindowSize(StreamWindow),
		grpc.StaticConnWindowSize(ConnWindow),
		grpc.MaxRecvMsgSize(delta.MaxMessageBytes),
		grpc.MaxSendMsgSize(delta.MaxMessageBytes),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.WaitForHandlers(true), // when Run returns, nobody uses the store
		grpc.MaxHeaderListSize(MaxHeaderBytes),
		grpc.ReadBufferSize(ReadBuffer),
		grpc.KeepaliveParams(keepaliveParams),
		grpc.KeepaliveEnforcementPolicy(keepalivePolicy),
	}
	if s.guard != nil {
		options = append(options, grpc.Creds(s.guard), grpc.InTapHandle(s.limitCalls))
	}
	return options
}
