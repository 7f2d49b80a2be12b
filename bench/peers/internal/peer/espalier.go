package peer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/workload"
	"espalier/internal/delta"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

const (
	// espalierHost is the host, and so the set that it mirrors: a name whose agent
	// polls soon after its start, so that less time is spent on waiting between what
	// is measured.
	espalierHost = "host-0410"
	// espalierLook is how often the server is asked what the host holds.
	espalierLook = 2 * time.Millisecond
)

// How agents run.
const (
	espalierAgent = "agent, running"
	espalierOnce  = "agent --once"
)

// Espalier is the program espalier, as it is shipped.
func Espalier() Kind {
	return Kind{
		Name: "Espalier", Keeps: "both ends on disk, synced; the client verified",
		Ways: []Way{
			{Name: espalierOnce, Does: []Scenario{First, Nothing, Resume, Gone}},
			{Name: espalierAgent, Does: []Scenario{Warm, Idle, Check}},
		},
		Start: startEspalier,
	}
}

type espalier struct {
	program  string
	process  *meter.Process
	addr     string
	conn     *grpc.ClientConn
	operator espalierv1.OperatorServiceClient
	fleet    espalierv1.FleetServiceClient
}

func startEspalier(ctx context.Context, env Env) (Peer, error) {
	addr, err := meter.FreeAddr()
	if err != nil {
		return nil, err
	}
	p := &espalier{program: env.Espalier}
	p.process, p.addr, err = startListening(ctx, exec.Command(env.Espalier, "serve", "--insecure",
		"--listen", addr, "--data", filepath.Join(env.Dir, "server")), addr)
	if err != nil {
		return nil, err
	}
	p.conn, err = grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, errors.Join(err, p.process.Stop())
	}
	p.operator, p.fleet = espalierv1.NewOperatorServiceClient(p.conn), espalierv1.NewFleetServiceClient(p.conn)
	return p, nil
}

func (p *espalier) Addr() string            { return p.addr }
func (p *espalier) Process() *meter.Process { return p.process }
func (p *espalier) Close() error            { return errors.Join(p.conn.Close(), p.process.Stop()) }

func (p *espalier) Commit(ctx context.Context, changes []workload.Change) (uint64, error) {
	return p.Load(ctx, func(yield func([]workload.Change) bool) { yield(changes) })
}

// Load makes one commit of all batches.
func (p *espalier) Load(ctx context.Context, batches iter.Seq[[]workload.Change]) (uint64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // of a stream that is given up nothing is committed
	stream, err := p.operator.Commit(ctx)
	if err != nil {
		return 0, err
	}
	terms := &espalierv1.CommitTerms{Set: espalierHost}
	frames := delta.NewFrameWriter(delta.NewCodec())
	flush := func() error {
		err := stream.Send(&espalierv1.CommitRequest{Terms: terms, Frame: frames.Frame()})
		terms = nil
		return err
	}
	for batch := range batches {
		for _, c := range batch {
			change := desired.Change{Key: []byte(c.Key)}
			if c.Value != nil {
				change.Envelope = append(desired.Envelope{0}, c.Value...)
			}
			if err := frames.Add(change); err != nil {
				return 0, err
			}
			if frames.Full() {
				if err := flush(); err != nil {
					return 0, err
				}
			}
		}
	}
	if frames.Len() > 0 {
		if err := flush(); err != nil {
			return 0, err
		}
	}
	resp, err := stream.CloseAndRecv()
	return resp.GetHead().GetPosition().GetNumber(), err
}

// Forget drops the journal.
func (p *espalier) Forget(ctx context.Context) error {
	command, err := meter.Start(exec.Command(p.program, "compact", espalierHost, "--drop-history", "--insecure", "--server", p.addr))
	if err != nil {
		return err
	}
	return command.Wait(ctx)
}

func (p *espalier) NewClient(way Way, addr, dir string) (Client, error) {
	return &espalierClient{peer: p, addr: addr, dir: dir}, nil
}

// espalierClient is the program's agent. Only what it is asked a thousand times
// is done by the same code in this process.
type espalierClient struct {
	peer      *espalier
	addr, dir string
	trips     int
	running   *meter.Process // nil: it isn't
	inside    *agent.Agent   // nil: it is not open
}

func (c *espalierClient) RoundTrips() int { return c.trips }

func (c *espalierClient) command(more ...string) *exec.Cmd {
	return exec.Command(c.peer.program, append([]string{
		"agent", "--insecure", "--host", espalierHost, "--data", c.dir, "--server", c.addr,
	}, more...)...)
}

// CatchUp runs agent --once: the time includes that the program starts, opens
// its mirror and looks over a part of it.
func (c *espalierClient) CatchUp(ctx context.Context, mark uint64) error {
	var out bytes.Buffer
	command := c.command("--once", "-o", "json")
	command.Stdout = &out
	p, err := meter.Start(command)
	if err != nil {
		return err
	}
	if err := p.Wait(ctx); err != nil {
		return err
	}
	var report struct {
		Sets []struct {
			Revision uint64 `json:"revision"`
		} `json:"sets"`
		RoundTrips int `json:"round_trips"`
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		return fmt.Errorf("what agent --once reports: %w", err)
	}
	if len(report.Sets) != 1 || report.Sets[0].Revision < mark {
		return fmt.Errorf("after agent --once: %s, want a set at revision %d", strings.TrimSpace(out.String()), mark)
	}
	c.trips = report.RoundTrips
	return nil
}

// Follow starts the agent, and waits until the server holds its poll.
func (c *espalierClient) Follow(ctx context.Context) (err error) {
	before, err := c.seen(ctx)
	if err != nil {
		return err
	}
	if c.running, err = meter.Start(c.command()); err != nil {
		return err
	}
	return c.look(ctx, func(h *espalierv1.HostInfo) bool { return h.GetSeenMs() > before && h.GetPace() == "held" })
}

func (c *espalierClient) seen(ctx context.Context) (ms uint64, err error) {
	resp, err := c.peer.fleet.GetHost(ctx, &espalierv1.GetHostRequest{Host: espalierHost})
	return resp.GetHost().GetSeenMs(), err
}

// Await waits until the server has heard from the agent that it holds the
// revision: that is half a round trip after it does.
func (c *espalierClient) Await(ctx context.Context, mark uint64) error {
	return c.look(ctx, func(h *espalierv1.HostInfo) bool {
		return len(h.GetSets()) == 1 && h.GetSets()[0].GetNumber() >= mark && h.GetSets()[0].GetCurrent()
	})
}

// look asks the server about the host until it is as wanted.
func (c *espalierClient) look(ctx context.Context, wanted func(*espalierv1.HostInfo) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("the agent is not there after %v", patience))
	defer cancel()
	tick := time.NewTicker(espalierLook)
	defer tick.Stop()
	for {
		resp, err := c.peer.fleet.GetHost(ctx, &espalierv1.GetHostRequest{Host: espalierHost})
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		if wanted(resp.GetHost()) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Check polls, by the agent's code.
func (c *espalierClient) Check(ctx context.Context) (err error) {
	if c.inside == nil {
		if err := c.Leave(); err != nil {
			return err
		}
		c.inside, err = agent.Open(agent.Options{
			Host: espalierHost, Dir: c.dir, Server: c.addr, Credentials: insecure.NewCredentials(),
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return err
		}
	}
	_, err = c.inside.Sync(ctx)
	return err
}

func (c *espalierClient) Leave() error {
	var err error
	if c.running != nil {
		err = c.running.Stop()
		c.running = nil
	}
	if c.inside != nil {
		err = errors.Join(err, c.inside.Close())
		c.inside = nil
	}
	return err
}

// Each reads the mirror; an agent that runs is stopped for as long.
func (c *espalierClient) Each(object func(key string, value []byte)) (err error) {
	if c.running != nil || c.inside != nil {
		if err := c.Leave(); err != nil {
			return err
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			err = errors.Join(err, c.Follow(ctx))
		}()
	}
	mirror, err := store.OpenMirror(c.dir, espalierHost, store.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mirror.Close()) }()
	return mirror.View(func(s *store.Snapshot) error {
		for o, err := range s.Objects(nil, nil) {
			if err != nil {
				return err
			}
			_, value, err := o.Envelope.Split()
			if err != nil {
				return err
			}
			object(string(o.Key), value)
		}
		return nil
	})
}

func (c *espalierClient) Close() error { return c.Leave() }
