package publish_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/publish"
	"espalier/internal/wire"
	"espalier/merkle"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// set is a set in memory: objects by key, and a tree that is built anew after
// each commit.
type set struct {
	merkle.Memory
	head    desired.Head
	salt    uint64
	objects map[string]desired.Envelope
	keys    []string
}

func newSet(salt uint64) *set {
	s := &set{salt: salt, objects: map[string]desired.Envelope{}}
	s.head.Epoch = desired.Epoch{byte(salt), 1}
	return s
}

// commit applies changes, nil standing for a deletion, as the next revision.
func (s *set) commit(changes map[string]desired.Envelope) {
	maps.Copy(s.objects, changes)
	maps.DeleteFunc(s.objects, func(_ string, e desired.Envelope) bool { return e == nil })
	s.Memory = merkle.Memory{}
	b := s.Shape().NewBuilder(s.Append)
	var h desired.Hasher
	s.keys = slices.Sorted(maps.Keys(s.objects))
	for _, k := range s.keys {
		d := h.Sum([]byte(k), s.objects[k])
		if err := errors.Join(s.Append(0, merkle.Row{Key: []byte(k), Digest: d, Count: 1}), b.Add([]byte(k), d)); err != nil {
			panic(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		panic(err)
	}
	s.head.Number++
	s.head.Root, s.head.Objects = root.Digest, root.Count
}

func (s *set) Head() desired.Head  { return s.head }
func (s *set) Shape() merkle.Shape { return merkle.Shape{Salt: s.salt} }

func (s *set) Get(key []byte) (desired.Change, bool, error) {
	e, ok := s.objects[string(key)]
	return desired.Change{Key: key, Envelope: e}, ok, nil
}

func (s *set) Objects(from, until []byte) iter.Seq2[desired.Change, error] {
	return func(func(desired.Change, error) bool) { panic("nobody asks for that") }
}

func (s *set) Touched(uint64, int) (root desired.Digest, keys [][]byte, ok bool, err error) {
	return root, nil, false, nil
}

// fake is a server in memory, of both services.
type fake struct {
	espalierv1.UnimplementedSyncServiceServer
	espalierv1.UnimplementedOperatorServiceServer
	codec *delta.Codec

	// hook is called at each step of a call, one at a time; it may change sets,
	// cut connections, or fail the call.
	hook    func(step string) error
	hooking sync.Mutex
	// view is what pulls read of a set.
	view func(*set) delta.Source
	// states is what becomes of the answers of Match.
	states func([]byte) []byte

	mu       sync.Mutex
	sets     map[string]*set
	conns    []net.Conn
	requests map[string]request
	steps    map[string]int
	uploaded map[string]int // how often each key came with a commit
}

// request is what a commit with a request id left: what its frames were, and the
// answer.
type request struct {
	sum    string
	answer *espalierv1.CommitResponse
}

func newFake() *fake {
	return &fake{
		codec: delta.NewCodec(), sets: map[string]*set{},
		hook: func(string) error { return nil }, view: func(s *set) delta.Source { return s },
		states:   func(b []byte) []byte { return b },
		requests: map[string]request{}, steps: map[string]int{}, uploaded: map[string]int{},
	}
}

func (f *fake) step(name string) error {
	f.mu.Lock()
	f.steps[name]++
	f.mu.Unlock()
	f.hooking.Lock()
	defer f.hooking.Unlock()
	return f.hook(name)
}

// change commits to a set, as another client would.
func (f *fake) change(name string, changes map[string]desired.Envelope) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sets[name] == nil {
		f.sets[name] = newSet(uint64(len(f.sets)) + 1)
	}
	f.sets[name].commit(changes)
}

// cut breaks all connections.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close() // twice, for some
	}
	f.conns = nil
}

func (f *fake) find(name string) (*set, error) {
	s := f.sets[name]
	if s == nil {
		return nil, fmt.Errorf("%w: %q", store.ErrNotFound, name)
	}
	return s, nil
}

func (f *fake) GetHead(_ context.Context, req *espalierv1.GetHeadRequest) (*espalierv1.GetHeadResponse, error) {
	if err := f.step("head"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.find(req.GetSet())
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	return &espalierv1.GetHeadResponse{Head: wire.HeadToWire(s.head), Salt: s.salt}, nil
}

func (f *fake) Match(stream espalierv1.OperatorService_MatchServer) error {
	var first *espalierv1.MatchRequest
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return f.step("matched")
		}
		if err == nil {
			err = f.step("match")
		}
		if err != nil {
			return err
		}
		if first == nil {
			first = req
		}
		states, err := f.match(first, req.GetFrame())
		if err == nil {
			err = stream.Send(&espalierv1.MatchResponse{States: f.states(states)})
		}
		if err != nil {
			return wire.ToStatus(err)
		}
	}
}

func (f *fake) match(first *espalierv1.MatchRequest, frame []byte) (states []byte, err error) {
	changes, err := f.codec.DecodeFrame(frame)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.find(first.GetSet())
	if err != nil {
		return nil, err
	}
	var h desired.Hasher
	for _, c := range changes {
		state := byte(2)
		if e, ok := s.objects[string(c.Key)]; ok {
			short := delta.MatchDigest(first.GetSeed(), h.Sum(c.Key, e))
			if state = 1; bytes.Equal(c.Envelope[1:], short[:]) {
				state = 0
			}
		}
		states = append(states, state)
	}
	return states, nil
}

func (f *fake) Pull(stream espalierv1.SyncService_PullServer) error {
	sender := delta.NewSender(f.codec)
	name := ""
	for !sender.Ended() {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		if msg.GetOpen() != nil {
			name = msg.GetOpen().GetSet()
		}
		req, err := wire.PullRequestFromWire(msg)
		if err == nil {
			err = sender.Receive(req)
		}
		for err == nil && sender.Pending() {
			if err = f.step("pull"); err == nil {
				err = f.respond(stream, sender, name)
			}
		}
		if err != nil {
			return wire.ToStatus(err)
		}
	}
	return f.step("pulled")
}

func (f *fake) respond(stream espalierv1.SyncService_PullServer, sender *delta.Sender, name string) error {
	f.mu.Lock()
	s, err := f.find(name)
	var resp delta.Response
	if err == nil {
		resp, err = sender.Next(f.view(s))
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	return stream.Send(wire.PullResponseToWire(resp))
}

func (f *fake) Commit(stream espalierv1.OperatorService_CommitServer) error {
	var terms *espalierv1.CommitTerms
	changes, sum := map[string]desired.Envelope{}, sha256.New()
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = f.step("commit")
		}
		if err != nil {
			return err
		}
		if terms == nil {
			terms = req.GetTerms()
		}
		sum.Write(req.GetFrame())
		all, err := f.codec.DecodeFrame(req.GetFrame())
		if err != nil {
			return wire.ToStatus(err)
		}
		f.mu.Lock()
		for _, c := range all {
			changes[string(c.Key)] = c.Envelope
			f.uploaded[string(c.Key)]++
		}
		f.mu.Unlock()
	}
	if err := f.step("commit all"); err != nil {
		return err
	}
	resp, err := f.commit(terms, changes, string(sum.Sum(nil)))
	if err == nil {
		err = f.step("committed")
	}
	if err != nil {
		return wire.ToStatus(err)
	}
	return stream.SendAndClose(resp)
}

func (f *fake) commit(terms *espalierv1.CommitTerms, changes map[string]desired.Envelope, sum string) (*espalierv1.CommitResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r, ok := f.requests[terms.GetRequestId()]; ok && r.sum == sum {
		return r.answer, nil
	} else if ok {
		return nil, fmt.Errorf("%w: %q", store.ErrRequestReused, terms.GetRequestId())
	}
	s := f.sets[terms.GetSet()]
	if s == nil {
		s = newSet(uint64(len(f.sets)) + 1)
	}
	if e := terms.GetExpect(); e != nil {
		want, err := wire.PositionFromWire(e)
		if err != nil {
			return nil, err
		}
		if want.Number != s.head.Number || !want.Epoch.IsZero() && want.Epoch != s.head.Epoch {
			return nil, fmt.Errorf("%w: it is at %v, expected was %v", store.ErrConflict, s.head.Position, want)
		}
	}
	resp := &espalierv1.CommitResponse{}
	for k, e := range changes {
		switch old, ok := s.objects[k]; {
		case e == nil && ok:
			resp.Deleted++
		case e == nil:
			resp.Missing++
		case !ok:
			resp.Created++
		case bytes.Equal(old, e):
			resp.Unchanged++
		default:
			resp.Updated++
		}
	}
	if limit := terms.GetMaxDelete(); limit != nil {
		of := uint64(0)
		for k := range s.objects {
			if bytes.HasPrefix([]byte(k), limit.GetPrefix()) {
				of++
			}
		}
		most := max(limit.GetCount(), uint64(limit.GetPercent()/100*float64(of)))
		if resp.Deleted > most {
			return nil, &store.DeleteGuardError{Deletes: resp.Deleted, Limit: most, Of: of}
		}
	}
	if resp.Created+resp.Updated+resp.Deleted > 0 {
		s.commit(changes)
		f.sets[terms.GetSet()] = s
	}
	resp.Head = wire.HeadToWire(s.head)
	f.requests[terms.GetRequestId()] = request{sum: sum, answer: resp}
	return resp, nil
}

// listener remembers connections, to cut them.
type listener struct {
	*bufconn.Listener
	fake *fake
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.fake.mu.Lock()
		l.fake.conns = append(l.fake.conns, c)
		l.fake.mu.Unlock()
	}
	return c, err
}

// serve returns f as a server to publish to, and a function that stops it.
func serve(t *testing.T, f *fake) (s publish.Server, stop func()) {
	t.Helper()
	l := listener{Listener: bufconn.Listen(1 << 20), fake: f}
	g := grpc.NewServer(grpc.MaxRecvMsgSize(delta.MaxMessageBytes))
	espalierv1.RegisterSyncServiceServer(g, f)
	espalierv1.RegisterOperatorServiceServer(g, f)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := g.Serve(l); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///fake",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(delta.MaxMessageBytes), grpc.MaxCallSendMsgSize(delta.MaxMessageBytes)))
	if err != nil {
		t.Fatal(err)
	}
	s = publish.Server{Operator: espalierv1.NewOperatorServiceClient(conn), Sync: espalierv1.NewSyncServiceClient(conn)}
	return s, func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		g.Stop()
		serving.Wait()
	}
}
