package peer

import (
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net"
	"os"
	"strconv"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/workload"
)

// xdsType is what a resource is: the shortest wrapper of bytes that there is.
const xdsType = "type.googleapis.com/google.protobuf.BytesValue"

// XDS is Envoy's delta xDS, as its Go control plane serves it from a linear
// cache, on an aggregated stream.
func XDS() Kind {
	return Kind{
		Name: "Envoy delta xDS", Version: "go-control-plane " + versionOf("github.com/envoyproxy/go-control-plane"),
		Keeps: "both ends in memory",
		Ways:  []Way{{Name: "delta stream", Does: []Scenario{First, Warm, Idle, Nothing, Gone}}},
		Start: startXDS,
	}
}

// xdsBatch is published to the server's process.
type xdsBatch struct{ Changes []workload.Change }

// xdsDone answers a batch.
type xdsDone struct {
	Mark uint64 // the cache's version
	Err  string
}

// serveXDS is the server's process. It is published to over its standard input,
// and answers on its standard output.
func serveXDS(_, addr string) error {
	cache := cachev3.NewLinearCache(xdsType)
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32))
	defer server.Stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, serverv3.NewServer(ctx, cache, nil))
	go func() { _ = server.Serve(listener) }()
	return publishXDS(cache, os.Stdin, os.Stdout)
}

func publishXDS(cache *cachev3.LinearCache, in io.Reader, out io.Writer) error {
	from, to := gob.NewDecoder(in), gob.NewEncoder(out)
	for version := uint64(1); ; version++ {
		var b xdsBatch
		if err := from.Decode(&b); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		put := make(map[string]types.Resource, len(b.Changes))
		var gone []string
		for _, c := range b.Changes {
			if c.Value == nil {
				gone = append(gone, c.Key)
			} else {
				put[c.Key] = wrapperspb.Bytes(c.Value)
			}
		}
		done := xdsDone{Mark: version} // the cache counts calls, too
		if err := cache.UpdateResources(put, gone); err != nil {
			done.Err = err.Error()
		}
		if err := to.Encode(done); err != nil {
			return err
		}
	}
}

type xds struct {
	process *meter.Process
	addr    string
	in      io.WriteCloser
	out     io.Closer
	to      *gob.Encoder
	from    *gob.Decoder
}

func startXDS(ctx context.Context, env Env) (Peer, error) {
	addr, err := meter.FreeAddr()
	if err != nil {
		return nil, err
	}
	command, err := child("xds", env.Dir, addr)
	if err != nil {
		return nil, err
	}
	inRead, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, outWrite, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, inRead.Close(), in.Close())
	}
	command.Stdin, command.Stdout = inRead, outWrite
	process, _, err := startListening(ctx, command, addr)
	err = errors.Join(err, inRead.Close(), outWrite.Close()) // the child has them
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	return &xds{process: process, addr: addr, in: in, out: out, to: gob.NewEncoder(in), from: gob.NewDecoder(out)}, nil
}

func (p *xds) Addr() string                 { return p.addr }
func (p *xds) Process() *meter.Process      { return p.process }
func (p *xds) Close() error                 { return errors.Join(p.in.Close(), p.process.Stop(), p.out.Close()) }
func (p *xds) Forget(context.Context) error { return nil } // there is none: a stream that ended is forgotten

func (p *xds) Load(ctx context.Context, batches iter.Seq[[]workload.Change]) (uint64, error) {
	return loadByCommits(ctx, p, batches)
}

func (p *xds) Commit(ctx context.Context, changes []workload.Change) (uint64, error) {
	defer context.AfterFunc(ctx, func() { _ = p.out.Close() })()
	if err := p.to.Encode(xdsBatch{Changes: changes}); err != nil {
		return 0, err
	}
	var done xdsDone
	if err := p.from.Decode(&done); err != nil {
		return 0, errors.Join(context.Cause(ctx), err)
	}
	if done.Err != "" {
		return 0, errors.New(done.Err)
	}
	return done.Mark, nil
}

func (p *xds) NewClient(_ Way, addr, _ string) (Client, error) {
	return &xdsClient{held: newHeld(), addr: addr, versions: map[string]string{}}, nil
}

// xdsClient subscribes to everything, as Envoy does: it acknowledges each
// response, and when it comes back it says the version of each resource that it
// holds.
type xdsClient struct {
	*held
	addr     string
	versions map[string]string // by name; of the goroutine that receives, while there is one
	conn     *grpc.ClientConn  // nil: not connected
	cancel   context.CancelFunc
	ended    chan struct{}
}

func (c *xdsClient) CatchUp(ctx context.Context, mark uint64) error {
	conn, err := grpc.NewClient(c.addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		return err
	}
	streaming, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.conn, c.cancel, c.ended = conn, cancel, make(chan struct{})
	c.fail(nil)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(streaming)
	if err == nil {
		err = stream.Send(&discoveryv3.DeltaDiscoveryRequest{
			Node: &corev3.Node{Id: "host"}, TypeUrl: xdsType,
			ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: c.versions,
		})
	}
	if err != nil {
		close(c.ended)
		return err
	}
	first := make(chan struct{})
	go func() {
		defer close(c.ended)
		c.fail(c.receive(stream, first))
	}()
	select {
	case <-first: // there is always one
	case <-c.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return c.await(ctx, mark)
}

func (c *xdsClient) receive(stream discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient, first chan struct{}) error {
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := c.take(resp); err != nil {
			return err
		}
		if first != nil {
			close(first)
			first = nil
		}
		if err := stream.Send(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: xdsType, ResponseNonce: resp.GetNonce()}); err != nil {
			return err
		}
	}
}

func (c *xdsClient) take(resp *discoveryv3.DeltaDiscoveryResponse) error {
	version, err := strconv.ParseUint(resp.GetSystemVersionInfo(), 10, 64)
	if err != nil {
		return fmt.Errorf("version of a response: %w", err)
	}
	c.edit(func(objects map[string][]byte) (map[string][]byte, uint64) {
		for _, r := range resp.GetResources() {
			var value wrapperspb.BytesValue
			if err = r.GetResource().UnmarshalTo(&value); err != nil {
				return objects, 0
			}
			objects[r.GetName()], c.versions[r.GetName()] = value.GetValue(), r.GetVersion()
		}
		for _, name := range resp.GetRemovedResources() {
			delete(objects, name)
			delete(c.versions, name)
		}
		return objects, version
	})
	return err
}

func (c *xdsClient) Follow(context.Context) error                 { return nil } // it does already
func (c *xdsClient) Await(ctx context.Context, mark uint64) error { return c.await(ctx, mark) }
func (c *xdsClient) Check(context.Context) error                  { return errors.ErrUnsupported }
func (c *xdsClient) Close() error                                 { return c.Leave() }

func (c *xdsClient) Leave() error {
	if c.conn == nil {
		return nil
	}
	c.cancel()
	err := c.conn.Close()
	select {
	case <-c.ended:
	case <-time.After(patience):
		return errors.New("the stream does not end")
	}
	c.conn = nil
	return err
}
