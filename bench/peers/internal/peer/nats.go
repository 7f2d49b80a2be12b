package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"strconv"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/workload"
)

// How clients of NATS come back.
const (
	natsWatchAll = "watch all"
	natsResume   = "resume by revision"
)

const (
	natsBucket = "objects"
	// natsInFlight is how many puts wait for their acknowledgement at a time.
	natsInFlight = 4000
)

// NATS is a bucket of NATS JetStream's key-value store.
func NATS() Kind {
	return Kind{
		Name: "NATS JetStream KV", Version: versionOf("github.com/nats-io/nats-server/v2"),
		Keeps: "server: on disk, synced every 2 min (its default); client: in memory",
		Ways: []Way{
			{Name: natsWatchAll, Does: []Scenario{First, Warm, Idle, Check, Gone}},
			{Name: natsResume, Does: []Scenario{Nothing, Resume, Gone}, Forgetful: true},
		},
		Start: startNATS,
	}
}

// serveNATS is the server's process.
func serveNATS(dir, addr string) error {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: host, Port: port, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true, DontListen: false,
	})
	if err != nil {
		return err
	}
	s.Start()
	_, _ = io.Copy(io.Discard, os.Stdin)
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

type natsPeer struct {
	process *meter.Process
	addr    string
	conn    *nats.Conn
	js      jetstream.JetStream
	kv      jetstream.KeyValue
}

func startNATS(ctx context.Context, env Env) (Peer, error) {
	process, addr, err := startChild(ctx, "nats", env.Dir)
	if err != nil {
		return nil, err
	}
	p := &natsPeer{process: process, addr: addr}
	if err := p.open(ctx); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (p *natsPeer) open(ctx context.Context) (err error) {
	if p.conn, p.js, err = dialNATS(p.addr); err != nil {
		return err
	}
	p.kv, err = p.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: natsBucket, Storage: jetstream.FileStorage})
	return err
}

func dialNATS(addr string) (*nats.Conn, jetstream.JetStream, error) {
	conn, err := nats.Connect("nats://"+addr, nats.Timeout(patience), nats.NoReconnect())
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(conn, jetstream.WithPublishAsyncMaxPending(natsInFlight))
	if err != nil {
		conn.Close()
	}
	return conn, js, err
}

func (p *natsPeer) Addr() string            { return p.addr }
func (p *natsPeer) Process() *meter.Process { return p.process }

func (p *natsPeer) Close() error {
	if p.conn != nil {
		p.conn.Close()
	}
	return p.process.Stop()
}

func (p *natsPeer) Load(ctx context.Context, batches iter.Seq[[]workload.Change]) (uint64, error) {
	return loadByCommits(ctx, p, batches)
}

// Commit sends the messages that the bucket's Put and Delete would, without
// waiting for each acknowledgement before the next.
func (p *natsPeer) Commit(ctx context.Context, changes []workload.Change) (mark uint64, err error) {
	acks := make([]jetstream.PubAckFuture, len(changes))
	for i, c := range changes {
		m := nats.NewMsg("$KV." + natsBucket + "." + c.Key)
		if m.Data = c.Value; c.Value == nil {
			m.Header.Set("KV-Operation", "DEL")
		}
		if acks[i], err = p.js.PublishMsgAsync(m, jetstream.WithStallWait(patience)); err != nil {
			return 0, err
		}
	}
	for _, ack := range acks {
		select {
		case a := <-ack.Ok():
			mark = max(mark, a.Sequence)
		case err := <-ack.Err():
			return 0, err
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return mark, nil
}

// Forget purges all markers of deletions. Nothing else is history: the bucket
// keeps the last value of each key.
func (p *natsPeer) Forget(ctx context.Context) error {
	return p.kv.PurgeDeletes(ctx, jetstream.DeleteMarkersOlderThan(-1))
}

func (p *natsPeer) NewClient(way Way, addr, _ string) (Client, error) {
	return &natsClient{held: newHeld(), way: way.Name, addr: addr}, nil
}

// natsClient watches a bucket.
type natsClient struct {
	*held
	way, addr string
	conn      *nats.Conn // nil: not connected
	kv        jetstream.KeyValue
	watcher   jetstream.KeyWatcher
	ended     chan struct{}
}

// CatchUp watches everything, and then drops what didn't come, or resumes after
// the last revision that it has seen, if that is its way.
func (c *natsClient) CatchUp(ctx context.Context, _ uint64) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	c.fail(nil)
	var options []jetstream.WatchOpt
	objects := map[string][]byte{}
	if revision := c.at(); revision > 0 && c.way == natsResume {
		options = append(options, jetstream.ResumeFromRevision(revision+1))
		objects = c.objects
	}
	watcher, err := c.kv.WatchAll(context.WithoutCancel(ctx), options...)
	if err != nil {
		return err
	}
	c.watcher, c.ended = watcher, make(chan struct{})
	caughtUp := make(chan struct{})
	go func() {
		defer close(c.ended)
		c.receive(objects, caughtUp)
	}()
	select {
	case <-caughtUp:
		return nil
	case <-c.ended:
		return errors.New("the watch has ended")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *natsClient) connect(ctx context.Context) error {
	conn, js, err := dialNATS(c.addr)
	if err != nil {
		return err
	}
	c.conn = conn
	c.kv, err = js.KeyValue(ctx, natsBucket)
	return err
}

// receive takes in what comes; up to the entry that says that this was all there
// is, into objects, which then become the copy.
func (c *natsClient) receive(objects map[string][]byte, caughtUp chan<- struct{}) {
	revision, initial := uint64(0), true
	for e := range c.watcher.Updates() {
		switch {
		case e == nil && initial:
			initial = false
			c.edit(func(map[string][]byte) (map[string][]byte, uint64) { return objects, revision })
			close(caughtUp)
		case e == nil:
		case initial:
			takeNATS(objects, e)
			revision = e.Revision()
		default:
			c.edit(func(objects map[string][]byte) (map[string][]byte, uint64) {
				takeNATS(objects, e)
				return objects, e.Revision()
			})
		}
	}
	c.fail(errors.New("the watch has ended"))
}

func takeNATS(objects map[string][]byte, e jetstream.KeyValueEntry) {
	if e.Operation() == jetstream.KeyValuePut {
		objects[e.Key()] = e.Value()
	} else {
		delete(objects, e.Key())
	}
}

func (c *natsClient) Follow(context.Context) error                 { return nil } // it does already
func (c *natsClient) Await(ctx context.Context, mark uint64) error { return c.await(ctx, mark) }
func (c *natsClient) Close() error                                 { return c.Leave() }

// Check asks for the bucket's status, which has the last revision.
func (c *natsClient) Check(ctx context.Context) error {
	status, err := c.kv.Status(ctx)
	if err != nil {
		return err
	}
	s, ok := status.(*jetstream.KeyValueBucketStatus)
	if !ok || s.StreamInfo().State.LastSeq < c.at() {
		return fmt.Errorf("a status of %T does not say what the last revision is", status)
	}
	return nil
}

func (c *natsClient) Leave() error {
	if c.conn == nil {
		return nil
	}
	var err error
	if c.watcher != nil {
		err = c.watcher.Stop()
	}
	c.conn.Close()
	if c.ended != nil {
		<-c.ended
	}
	c.conn, c.watcher, c.ended = nil, nil, nil
	return err
}
