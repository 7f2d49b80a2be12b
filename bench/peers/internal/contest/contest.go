// Package contest measures servers and their clients at the same work, and says
// who needs what.
package contest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/peer"
	"espalier/bench/peers/internal/workload"
)

// Options says what Run measures.
type Options struct {
	Objects int
	Seed    uint64
	Runs    int
	// Enough ends the repetition of what has taken as long; 0: never.
	Enough time.Duration
	// Sizes are how many objects change at a time, as far as they are at most a
	// tenth of all; nil: DefaultSizes.
	Sizes []int
	// Idle is for how long a client is watched that waits.
	Idle time.Duration
	// Espalier is the program.
	Espalier string
	// Dir is the folder for everything; what Run puts there it removes.
	Dir   string
	Kinds []peer.Kind
	// Log is told what is being done; nil: nobody is.
	Log func(format string, args ...any)
}

// Run measures all kinds, one after the other. A kind that fails is reported, and
// the others are measured all the same; the error is for what ends it all.
func Run(ctx context.Context, o Options) (Report, error) {
	r := Report{
		Machine: thisMachine(), Date: time.Now().UTC().Format(time.DateOnly), Objects: o.Objects, Seed: o.Seed,
		Runs: o.Runs, IdleSeconds: o.Idle.Seconds(),
	}
	if o.Runs < 1 || o.Runs > MaxRuns {
		return r, fmt.Errorf("%d runs: want 1 to %d", o.Runs, MaxRuns)
	}
	if o.Idle <= 0 || o.Idle > MaxIdle {
		return r, fmt.Errorf("a client is to be watched for %v: want more than nothing, and at most %v", o.Idle, MaxIdle)
	}
	if o.Sizes == nil {
		o.Sizes = DefaultSizes()
	}
	if o.Log == nil {
		o.Log = func(string, ...any) {}
	}
	for _, kind := range o.Kinds {
		s := Server{Name: kind.Name, Version: kind.Version, Keeps: kind.Keeps, Skipped: kind.Absent}
		if s.Skipped != "" {
			o.Log("%s is skipped: %s", kind.Name, kind.Absent)
			r.Servers = append(r.Servers, s)
			continue
		}
		rows, err := measureKind(ctx, o, kind, &s)
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		if err != nil {
			s.Failed = strings.Join(strings.Fields(err.Error()), " ")
			o.Log("%s: %v", kind.Name, err)
		}
		r.Servers, r.Rows = append(r.Servers, s), append(r.Rows, rows...)
	}
	w, err := workload.New(o.Objects, o.Seed)
	if err == nil {
		r.Payload = w.PayloadBytes()
	}
	return r, err
}

// measureKind starts a server, loads it, and takes a client of each way through
// what it does.
func measureKind(ctx context.Context, o Options, kind peer.Kind, s *Server) (rows []Row, err error) {
	w, err := workload.New(o.Objects, o.Seed)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(o.Dir, "")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	server := filepath.Join(dir, "server")
	if err := os.Mkdir(server, 0o755); err != nil {
		return nil, err
	}
	p, err := kind.Start(ctx, peer.Env{Dir: server, Espalier: o.Espalier})
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	m := &match{Options: o, kind: kind, peer: p, work: w, dir: dir}
	if o.Objects >= kind.SlowFrom && kind.SlowFrom > 0 {
		m.Runs = 1
	}
	began := time.Now()
	o.Log("%s: %d objects are loaded", kind.Name, o.Objects)
	if m.mark, err = p.Load(ctx, w.Batches(10_000)); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	s.LoadSeconds = time.Since(began).Seconds()
	for _, way := range kind.Ways {
		if err := m.measureWay(ctx, way); err != nil {
			return m.rows, fmt.Errorf("%s: %w", way.Name, err)
		}
	}
	s.PeakResident, s.PeakOwn = m.peak.Resident, m.peak.Own
	return m.rows, nil
}

// match is one server under measurement.
type match struct {
	Options
	kind    peer.Kind
	peer    peer.Peer
	work    *workload.Workload
	dir     string
	mark    uint64       // of the last commit
	clients int          // that there were
	peak    meter.Memory // of the server, in all that was measured
	rows    []Row
}

// measureWay takes clients through what they do that way, over a proxy of their
// own.
func (m *match) measureWay(ctx context.Context, way peer.Way) (err error) {
	proxy, err := meter.NewProxy(m.peer.Addr())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, proxy.Close()) }()
	c := &course{match: m, way: way, proxy: proxy, runs: m.Runs, sizes: m.Sizes}
	if way.Relists {
		c.sizes = m.Sizes[:1]
	}
	if way.Slow {
		c.runs = 1
	}
	defer func() { err = errors.Join(err, c.drop()) }()
	return c.run(ctx)
}

// measure does something, and returns what it took.
func (c *course) measure(ctx context.Context, do func(context.Context) error) (s sample, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, stepPatience, fmt.Errorf("it takes longer than %v", stepPatience))
	defer cancel()
	if err := c.settle(ctx); err != nil {
		return s, err
	}
	process := c.peer.Process()
	peak := process.WatchPeak()
	defer func() { s.peak = peak(); c.noteMemory(s.peak) }()
	cpu, err := process.CPU()
	if err != nil {
		return s, err
	}
	before, began := c.proxy.Traffic(), time.Now()
	if err := do(ctx); err != nil {
		return s, err
	}
	s.seconds = time.Since(began).Seconds()
	if err := c.settle(ctx); err != nil {
		return s, err
	}
	after, err := process.CPU()
	if err != nil {
		return s, err
	}
	t := c.proxy.Traffic().Minus(before)
	s.up, s.down, s.cpu = float64(t.Up), float64(t.Down), (after - cpu).Seconds()
	if trips, ok := c.client.(peer.Trips); ok {
		s.trips = trips.RoundTrips()
	}
	return s, nil
}

// settle waits until nothing crosses the connection any more, and the server has
// done what it does afterwards: so a step is charged with all of what it causes.
func (c *course) settle(ctx context.Context) error {
	for began := time.Now(); ; {
		before, err := c.peer.Process().CPU()
		if err != nil {
			return err
		}
		if err := c.proxy.AwaitQuiet(ctx, quiet); err != nil {
			return err
		}
		after, err := c.peer.Process().CPU()
		if err != nil || after-before <= calm || time.Since(began) > calmPatience {
			return err
		}
	}
}

func (m *match) noteMemory(peak meter.Memory) {
	m.peak = meter.Memory{Resident: max(m.peak.Resident, peak.Resident), Own: max(m.peak.Own, peak.Own)}
}
