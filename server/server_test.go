package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/merkle"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

var codec = delta.NewCodec()

// listen returns a store, and what a server of it listens on, with a connection
// to that.
func listen(t *testing.T) (*store.Store, net.Listener, *grpc.ClientConn) {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := bufconn.Listen(1 << 20)
	conn, err := grpc.NewClient("passthrough:///server",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(2*delta.MaxMessageBytes), grpc.MaxCallSendMsgSize(4*delta.MaxMessageBytes)))
	if err != nil {
		t.Fatal(err)
	}
	return s, l, conn
}

// start runs a server and returns a connection to it.
func start(t *testing.T) *grpc.ClientConn {
	t.Helper()
	s, l, conn := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- server.New(s, server.Options{ScratchDir: t.TempDir()}).Run(ctx, l) }()
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := errors.Join(<-stopped, s.Close()); err != nil {
			t.Error(err)
		}
	})
	return conn
}

func put(key, value string) desired.Change {
	return desired.Change{Key: []byte(key), Envelope: append(desired.Envelope{0}, value...)}
}

func frame(t *testing.T, changes ...desired.Change) []byte {
	t.Helper()
	w := delta.NewFrameWriter(codec)
	for _, c := range changes {
		if err := w.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	return w.Frame()
}

// commit sends terms with the first frame, and the others after it.
func commit(t *testing.T, conn *grpc.ClientConn, terms *espalierv1.CommitTerms, frames ...[]byte) (*espalierv1.CommitResponse, error) {
	t.Helper()
	stream, err := espalierv1.NewOperatorServiceClient(conn).Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		if stream.Send(&espalierv1.CommitRequest{Terms: terms, Frame: f}) != nil {
			break
		}
		terms = nil
	}
	resp, err := stream.CloseAndRecv()
	return resp, wire.FromStatus(err)
}

func TestCommitRefuses(t *testing.T) {
	conn := start(t)
	terms := func(change func(*espalierv1.CommitTerms)) *espalierv1.CommitTerms {
		m := &espalierv1.CommitTerms{Set: "s"}
		if change != nil {
			change(m)
		}
		return m
	}
	var many []desired.Change
	for i := range 100 {
		many = append(many, put(fmt.Sprintf("%03d", i), "x"))
	}
	if _, err := commit(t, conn, terms(nil), frame(t, many...)); err != nil {
		t.Fatal(err)
	}
	gone := make([]desired.Change, 20)
	for i := range gone {
		gone[i].Key = many[i].Key
	}
	for _, c := range []struct {
		name   string
		terms  *espalierv1.CommitTerms
		frames [][]byte
		want   error
	}{
		{"no terms", nil, [][]byte{frame(t)}, desired.ErrInvalid},
		{"a set that can't be", terms(func(m *espalierv1.CommitTerms) { m.Set = "../x" }), [][]byte{frame(t)}, desired.ErrInvalid},
		{"a malformed frame", terms(nil), [][]byte{{0xff}}, delta.ErrProtocol},
		{"frames out of order", terms(nil), [][]byte{frame(t, put("b", "")), frame(t, put("a", ""))}, merkle.ErrOrder},
		{"a stale revision", terms(func(m *espalierv1.CommitTerms) { m.Expect = &espalierv1.Position{Number: 9} }), [][]byte{frame(t)}, store.ErrConflict},
		{"a malformed epoch", terms(func(m *espalierv1.CommitTerms) { m.Expect = &espalierv1.Position{Epoch: []byte{1}} }), [][]byte{frame(t)}, desired.ErrInvalid},
		{"too many deletions", terms(func(m *espalierv1.CommitTerms) { m.MaxDelete = &espalierv1.DeleteLimit{Count: 10, Percent: 10} }), [][]byte{frame(t, gone...)}, store.ErrTooManyDeletes},
	} {
		if _, err := commit(t, conn, c.terms, c.frames...); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	resp, err := espalierv1.NewOperatorServiceClient(conn).GetHead(t.Context(), &espalierv1.GetHeadRequest{Set: "s"})
	if err != nil || resp.GetHead().GetPosition().GetNumber() != 1 || resp.GetHead().GetObjects() != 100 {
		t.Errorf("after all refusals: %v, %v", resp, err)
	}
}

func TestCommitIsRetriedOnce(t *testing.T) {
	conn := start(t)
	terms := &espalierv1.CommitTerms{Set: "s", RequestId: "one"}
	first, err := commit(t, conn, terms, frame(t, put("a", "1")))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frame(t, put("a", "2"))); err != nil {
		t.Fatal(err)
	}
	again, err := commit(t, conn, terms, frame(t, put("a", "1")))
	if err != nil || !again.GetReplayed() || again.GetHead().GetPosition().GetNumber() != first.GetHead().GetPosition().GetNumber() {
		t.Errorf("a retry: %v, %v, want the first answer", again, err)
	}
	if _, err := commit(t, conn, terms, frame(t, put("a", "3"))); !errors.Is(err, store.ErrRequestReused) {
		t.Errorf("another commit of the same id: %v, want %v", err, store.ErrRequestReused)
	}
}

// TestLargestValue sends a value of the largest size through everything: a
// commit, a read, a poll that can't inline it, and a pull.
func TestLargestValue(t *testing.T) {
	conn := start(t)
	value := bytes.Repeat([]byte("0123456789abcdef"), desired.MaxValueBytes/16)
	for i := range value {
		value[i] += byte(i * i >> 3)
	}
	big := put("big", string(value))
	if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frame(t, big)); err != nil {
		t.Fatal(err)
	}
	o, err := espalierv1.NewOperatorServiceClient(conn).GetObject(t.Context(), &espalierv1.GetObjectRequest{Set: "s", Key: []byte("big")})
	if err != nil || !bytes.Equal(o.GetEnvelope(), big.Envelope) {
		t.Fatalf("GetObject: %v", err)
	}
	stream, err := espalierv1.NewSyncServiceClient(conn).Pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := delta.Request{Open: &delta.Open{Set: "s", Mode: delta.Full, Width: delta.ShortWidth}}
	if err := stream.Send(wire.PullRequestToWire(open)); err != nil {
		t.Fatal(err)
	}
	var got []desired.Change
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if b := msg.GetBatch(); b != nil {
			changes, err := codec.DecodeFrame(b.GetFrame())
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, changes...)
		}
	}
	if len(got) != 1 || !bytes.Equal(got[0].Envelope, big.Envelope) {
		t.Fatalf("pulled %d objects", len(got))
	}
}

func TestMessageTooLarge(t *testing.T) {
	conn := start(t)
	_, err := espalierv1.NewSyncServiceClient(conn).Poll(t.Context(), &espalierv1.PollRequest{
		Sets: []*espalierv1.HeldSet{{Name: string(make([]byte, delta.MaxMessageBytes))}},
	})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("Poll of a message too large = %v, want %v", err, codes.ResourceExhausted)
	}
}

func TestPullRefuses(t *testing.T) {
	conn := start(t)
	if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frame(t, put("a", "1"))); err != nil {
		t.Fatal(err)
	}
	open := func(o *delta.Open) *espalierv1.PullRequest { return wire.PullRequestToWire(delta.Request{Open: o}) }
	for _, c := range []struct {
		name string
		req  *espalierv1.PullRequest
		want error
	}{
		{"nothing", &espalierv1.PullRequest{}, desired.ErrInvalid},
		{"a mode that can't be", open(&delta.Open{Set: "s", Mode: 77, Width: 4}), delta.ErrProtocol},
		{"a width that can't be", open(&delta.Open{Set: "s", Mode: delta.Full, Width: 9}), delta.ErrProtocol},
		{"a key too long", open(&delta.Open{Set: "s", Mode: delta.Full, Width: 4, After: make([]byte, 2000)}), desired.ErrInvalid},
		{"an unknown set", open(&delta.Open{Set: "t", Mode: delta.Full, Width: 4}), store.ErrNotFound},
		{"no opening", wire.PullRequestToWire(delta.Request{Narrow: []byte{0, 1}}), delta.ErrProtocol},
	} {
		stream, err := espalierv1.NewSyncServiceClient(conn).Pull(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(c.req); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); !errors.Is(wire.FromStatus(err), c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestListAndMatch lists a set that takes several frames, and matches its keys.
func TestListAndMatch(t *testing.T) {
	conn := start(t)
	client := espalierv1.NewOperatorServiceClient(conn)
	var all []desired.Change
	for i := range 20_000 {
		all = append(all, put(fmt.Sprintf("key/%05d", i), fmt.Sprint(i)))
	}
	var frames [][]byte
	for c := range slices.Chunk(all, 5000) {
		frames = append(frames, frame(t, c...))
	}
	if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frames...); err != nil {
		t.Fatal(err)
	}
	for prefix, want := range map[string]int{"": 20_000, "key/": 20_000, "key/01": 1000, "x": 0} {
		stream, err := client.ListObjects(t.Context(), &espalierv1.ListObjectsRequest{Set: "s", Prefix: []byte(prefix)})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for {
			resp, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			changes, err := codec.DecodeFrame(resp.GetFrame())
			if err != nil {
				t.Fatal(err)
			}
			n += len(changes)
		}
		if n != want {
			t.Errorf("prefix %q lists %d keys, want %d", prefix, n, want)
		}
	}

	match, err := client.Match(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var hasher desired.Hasher
	short := func(key, value string) desired.Change {
		c := put(key, value)
		d := delta.MatchDigest(42, hasher.Sum(c.Key, c.Envelope))
		c.Envelope = append(desired.Envelope{0}, d[:]...)
		return c
	}
	asked := frame(t, short("key/00007", "7"), short("key/00008", "other"), short("key/x", "y"))
	if err := match.Send(&espalierv1.MatchRequest{Set: "s", Seed: 42, Frame: asked}); err != nil {
		t.Fatal(err)
	}
	if resp, err := match.Recv(); err != nil || !bytes.Equal(resp.GetStates(), []byte{0, 1, 2}) {
		t.Errorf("Match = %v, %v, want 0 1 2", resp.GetStates(), err)
	}
}

func TestHealthAndReflection(t *testing.T) {
	conn := start(t)
	h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil || h.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", h, err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || len(resp.GetListServicesResponse().GetService()) < 3 {
		t.Errorf("reflection: %v, %v", resp, err)
	}
}
