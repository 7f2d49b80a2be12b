package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/workload"
)

// How etcd's clients list everything: in one stream, or in pages of so many.
const (
	etcdStream   = "RangeStream"
	etcdPages    = "pages of 10,000"
	etcdOnePage  = "one page"
	etcdDefaults = "pages of 500"
	etcdWatch    = "watch"
)

var etcdPageSizes = map[string]int64{etcdPages: 10_000, etcdDefaults: 500}

const (
	// etcdTxnOps is how many changes a transaction has, which both ends are told;
	// etcd's default is 128. With values like ours etcd's bound of 1.5 MB for a
	// request would allow 8,000.
	etcdTxnOps = 1000
	// etcdQuota is room for a few million objects.
	etcdQuota = 8 << 30
	// etcdAll is the prefix of all keys.
	etcdAll = "svc/"
	// etcdTick is a key that no client lists or watches.
	etcdTick = "tick"
)

// Etcd is etcd, with one member.
func Etcd() Kind {
	return Kind{
		Name: "etcd", Version: versionOf("go.etcd.io/etcd/server/v3"), Keeps: "server: on disk, synced; client: in memory",
		Ways: []Way{
			{Name: etcdStream, Does: []Scenario{First, Gone}},
			{Name: etcdOnePage, Does: []Scenario{First, Gone}, Relists: true},
			{Name: etcdPages, Does: []Scenario{First, Gone}, Relists: true},
			{Name: etcdDefaults, Does: []Scenario{First}, Slow: true},
			{Name: etcdWatch, Does: []Scenario{Warm, Idle, Check, Nothing, Resume}},
		},
		Start: startEtcd,
	}
}

// serveEtcd is the server's process.
func serveEtcd(dir, addr string) error {
	peers, err := meter.FreeAddr()
	if err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Dir, c.LogLevel, c.LogOutputs = filepath.Join(dir, "data"), "error", []string{"stderr"}
	c.MaxTxnOps, c.QuotaBackendBytes = etcdTxnOps, etcdQuota
	c.ListenClientUrls = []url.URL{{Scheme: "http", Host: addr}}
	c.ListenPeerUrls = []url.URL{{Scheme: "http", Host: peers}}
	c.AdvertiseClientUrls, c.AdvertisePeerUrls = c.ListenClientUrls, c.ListenPeerUrls
	c.InitialCluster = c.InitialClusterFromName(c.Name)
	server, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	defer server.Close()
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}

type etcd struct {
	process *meter.Process
	addr    string
	client  *clientv3.Client
}

func startEtcd(ctx context.Context, env Env) (Peer, error) {
	process, addr, err := startChild(ctx, "etcd", env.Dir)
	if err != nil {
		return nil, err
	}
	client, err := dialEtcd(addr)
	if err != nil {
		return nil, errors.Join(err, process.Stop())
	}
	return &etcd{process: process, addr: addr, client: client}, nil
}

func dialEtcd(addr string) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Endpoints: []string{addr}, DialTimeout: patience, Logger: zap.NewNop(),
		MaxCallRecvMsgSize: math.MaxInt32,
		DialOptions:        []grpc.DialOption{grpc.WithUserAgent("etcd")},
	})
}

func (p *etcd) Addr() string            { return p.addr }
func (p *etcd) Process() *meter.Process { return p.process }
func (p *etcd) Close() error            { return errors.Join(p.client.Close(), p.process.Stop()) }

func (p *etcd) Load(ctx context.Context, batches iter.Seq[[]workload.Change]) (uint64, error) {
	return loadByCommits(ctx, p, batches)
}

// Commit makes a transaction of every etcdTxnOps changes.
func (p *etcd) Commit(ctx context.Context, changes []workload.Change) (mark uint64, err error) {
	for len(changes) > 0 {
		n := min(len(changes), etcdTxnOps)
		ops := make([]clientv3.Op, n)
		for i, c := range changes[:n] {
			if ops[i] = clientv3.OpPut(c.Key, string(c.Value)); c.Value == nil {
				ops[i] = clientv3.OpDelete(c.Key)
			}
		}
		resp, err := p.client.Txn(ctx).Then(ops...).Commit()
		if err != nil {
			return 0, err
		}
		mark, changes = uint64(resp.Header.Revision), changes[n:]
	}
	return mark, nil
}

// Forget compacts all of the history, and waits until that is done. The revision
// that is compacted to can still be watched from, so it is made one that nobody
// waits for.
func (p *etcd) Forget(ctx context.Context) error {
	resp, err := p.client.Put(ctx, etcdTick, "")
	if err != nil {
		return err
	}
	_, err = p.client.Compact(ctx, resp.Header.Revision, clientv3.WithCompactPhysical())
	return err
}

func (p *etcd) NewClient(way Way, addr, _ string) (Client, error) {
	return &etcdClient{held: newHeld(), way: way.Name, addr: addr}, nil
}

// etcdClient follows as etcd's users do: list, then watch; list again when the
// history is gone.
type etcdClient struct {
	*held
	way, addr string
	trips     int
	client    *clientv3.Client // nil: not connected
	cancel    context.CancelFunc
	ended     chan struct{}
}

func (c *etcdClient) RoundTrips() int { return c.trips }

func (c *etcdClient) CatchUp(ctx context.Context, mark uint64) error {
	client, err := dialEtcd(c.addr)
	if err != nil {
		return err
	}
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.client, c.cancel, c.ended, c.trips = client, cancel, make(chan struct{}), 0
	c.fail(nil)
	if c.at() == 0 {
		if err := c.list(ctx); err != nil {
			close(c.ended)
			return err
		}
	}
	created := make(chan struct{})
	go func() {
		defer close(c.ended)
		c.fail(c.watch(watching, created))
	}()
	select {
	case <-created:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.ended:
	}
	return c.await(ctx, mark)
}

// watch follows from the mark on; it closes created once the server watches for
// it.
func (c *etcdClient) watch(ctx context.Context, created chan struct{}) error {
	for {
		compacted, err := c.watchOnce(ctx, &created)
		if err != nil || !compacted {
			return err
		}
		if err := c.list(ctx); err != nil {
			return err
		}
	}
}

func (c *etcdClient) watchOnce(ctx context.Context, created *chan struct{}) (compacted bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.trips++
	for resp := range c.client.Watch(ctx, etcdAll, clientv3.WithPrefix(), clientv3.WithRev(int64(c.at())+1), clientv3.WithCreatedNotify()) {
		if resp.CompactRevision != 0 {
			return true, nil
		}
		if err := resp.Err(); err != nil {
			return false, err
		}
		if resp.Created && *created != nil {
			close(*created)
			*created = nil
		}
		if len(resp.Events) == 0 {
			continue
		}
		c.edit(func(objects map[string][]byte) (map[string][]byte, uint64) {
			for _, e := range resp.Events {
				if e.Type == clientv3.EventTypeDelete {
					delete(objects, string(e.Kv.Key))
				} else {
					objects[string(e.Kv.Key)] = e.Kv.Value
				}
			}
			return objects, uint64(resp.Events[len(resp.Events)-1].Kv.ModRevision)
		})
	}
	return false, errors.New("the watch has ended")
}

// list replaces the copy by what the server has.
func (c *etcdClient) list(ctx context.Context) error {
	objects := make(map[string][]byte, len(c.objects))
	by := c.pages
	if c.way == etcdStream || c.way == etcdWatch {
		by = c.stream
	}
	revision, err := by(ctx, objects)
	if err == nil {
		c.edit(func(map[string][]byte) (map[string][]byte, uint64) { return objects, uint64(revision) })
	}
	return err
}

func (c *etcdClient) stream(ctx context.Context, objects map[string][]byte) (revision int64, err error) {
	c.trips++
	chunks, err := c.client.GetStream(ctx, etcdAll, clientv3.WithPrefix())
	if err != nil {
		return 0, err
	}
	for chunk := range chunks {
		if err := chunk.Err(); err != nil {
			return 0, err
		}
		for _, kv := range chunk.Kvs {
			objects[string(kv.Key)] = kv.Value
		}
		if chunk.Header != nil {
			revision = chunk.Header.Revision
		}
	}
	if revision == 0 {
		return 0, fmt.Errorf("a stream of %d objects ended without a revision", len(objects))
	}
	return revision, nil
}

func (c *etcdClient) pages(ctx context.Context, objects map[string][]byte) (revision int64, err error) {
	options := []clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(etcdAll)), clientv3.WithLimit(etcdPageSizes[c.way])}
	for from := etcdAll; ; {
		c.trips++
		resp, err := c.client.Get(ctx, from, options...)
		if err != nil {
			return 0, err
		}
		for _, kv := range resp.Kvs {
			objects[string(kv.Key)] = kv.Value
		}
		if revision == 0 {
			revision = resp.Header.Revision
			options = append(options, clientv3.WithRev(revision))
		}
		if !resp.More {
			return revision, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

func (c *etcdClient) Follow(context.Context) error                 { return nil } // it does already
func (c *etcdClient) Await(ctx context.Context, mark uint64) error { return c.await(ctx, mark) }
func (c *etcdClient) Close() error                                 { return c.Leave() }

// Check reads a key that there isn't, from this server alone: what it answers
// has the revision.
func (c *etcdClient) Check(ctx context.Context) error {
	resp, err := c.client.Get(ctx, etcdAll, clientv3.WithSerializable())
	if err == nil && uint64(resp.Header.Revision) < c.at() {
		err = fmt.Errorf("the server is at revision %d, behind the client", resp.Header.Revision)
	}
	return err
}

func (c *etcdClient) Leave() error {
	if c.client == nil {
		return nil
	}
	c.cancel()
	err := c.client.Close()
	select {
	case <-c.ended:
	case <-time.After(patience):
		return errors.New("the watch does not end")
	}
	c.client = nil
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
