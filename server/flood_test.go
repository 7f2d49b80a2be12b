package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
)

// bystander is an agent that polls while others misbehave, and watches what
// memory the process uses, of which the server's is a part.
type bystander struct {
	t      *testing.T
	conn   *grpc.ClientConn
	before uint64
}

// maxGrowth is how much memory an attack may take.
const maxGrowth = 96 << 20

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// allocated returns how many bytes were ever allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func stand(t *testing.T, w *secured) *bystander {
	t.Helper()
	b := &bystander{t: t, conn: w.dial(w.as(pki.Identity{Role: pki.RoleHost, Name: "bystander"}))}
	b.polls()
	b.before = heap()
	return b
}

func (b *bystander) polls() {
	b.t.Helper()
	for range 5 {
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
		_, err := espalierv1.NewSyncServiceClient(b.conn).Poll(ctx, &espalierv1.PollRequest{Sets: []*espalierv1.HeldSet{{Name: "bystander"}}})
		cancel()
		if err != nil {
			b.t.Fatalf("another agent's poll: %v", err)
		}
	}
}

// check is called while the attack lasts.
func (b *bystander) check() {
	b.t.Helper()
	b.polls()
	if after := heap(); after > b.before+maxGrowth {
		b.t.Errorf("the heap has grown from %d to %d bytes", b.before, after)
	}
}

// TestMalformedPaths calls as an admin by paths that are none: no rule is asked
// about them, so no handler may run.
func TestMalformedPaths(t *testing.T) {
	w := secure(t)
	r := w.raw(t, w.as(root))
	for _, c := range []struct{ path, want string }{
		{"/espalier.v1.OperatorService/ListSets", "0"},
		{"espalier.v1.OperatorService/ListSets", "12"},
		{"//espalier.v1.OperatorService/ListSets", "12"},
		{"/espalier.v1.OperatorService//ListSets", "12"},
		{"/espalier.v1.OperatorService/ListSets/", "12"},
		{"/espalier.v1.OperatorService/listSets", "12"},
		{"/espalier.v1.OperatorService%2FListSets", "12"},
		{"/espalier.v1.OperatorService", "12"},
		{"/", "12"},
		{"*", "12"},
		{"", "12"},
	} {
		id, err := r.open(c.path)
		if err == nil {
			err = r.send(id, message(0, nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := r.status(id); got != c.want {
			t.Errorf("path %q: status %s, want %s", c.path, got, c.want)
		}
	}
}

// TestCallRate makes calls as fast as can be, of a service that there is and of
// one that isn't.
func TestCallRate(t *testing.T) {
	for _, method := range []string{espalierv1.SyncService_Poll_FullMethodName, "/no.Service/Call"} {
		inBubble(t, func(t *testing.T, w *secured) {
			conn := w.dial(w.as(web1))
			let := 0
			for range server.CallBurst + 10 {
				if _, err := call(t.Context(), conn, method, &emptypb.Empty{}); status.Code(err) != codes.ResourceExhausted {
					let++
				}
			}
			if let != server.CallBurst {
				t.Errorf("%s: %d calls at once, want %d", method, let, server.CallBurst)
			}
			time.Sleep(time.Second)
			if _, err := call(t.Context(), conn, method, &emptypb.Empty{}); status.Code(err) == codes.ResourceExhausted {
				t.Errorf("%s: a second later: %v", method, err)
			}
			conn.Close()
			synctest.Wait()
			w.stop()
		})
	}
}

// TestCompressedMessages: messages are not compressed, and frames no larger than
// they may be, however small they come.
func TestCompressedMessages(t *testing.T) {
	w := secure(t)
	b := stand(t, w)
	const size = 64 << 20
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r := w.raw(t, w.as(web1))
	before := allocated()
	id, err := r.open(espalierv1.SyncService_Poll_FullMethodName, "grpc-encoding", "gzip")
	if err == nil {
		err = r.send(id, message(1, bytes.Repeat(packed.Bytes(), size>>20)))
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := r.status(id); got != fmt.Sprint(int(codes.Unimplemented)) {
		t.Errorf("a message in gzip: status %s, want %d", got, codes.Unimplemented)
	}
	if took := allocated() - before; took > size/2 {
		t.Errorf("a message in gzip took %d bytes", took)
	}
	b.polls()

	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bomb := bytes.Repeat(encoder.EncodeAll(make([]byte, 1<<20), nil), size>>20)
	columns := []byte{0, 1, 0, 4, 'k'}
	conn := w.dial(w.as(root))
	for _, promised := range []uint64{4, delta.MaxFrameBytes, size} {
		frame := append([]byte{2, 1, byte(len(columns))}, columns...)
		frame = append(binary.AppendUvarint(frame, promised), bomb...)
		before := allocated()
		_, err := commit(t, conn, &espalierv1.CommitTerms{Set: "s"}, frame)
		if !errors.Is(err, delta.ErrProtocol) {
			t.Errorf("a frame of %d bytes that promises %d and has %d: %v, want %v", len(frame), promised, size, err, delta.ErrProtocol)
		}
		if took := allocated() - before; took > size/2 {
			t.Errorf("a frame that promises %d bytes took %d", promised, took)
		}
		b.polls()
	}
}

// TestLargeHeaders sends headers that are too large, and some that don't end.
func TestLargeHeaders(t *testing.T) {
	w := secure(t)
	b := stand(t, w)
	r := w.raw(t, w.as(web1))
	large := r.headers(espalierv1.SyncService_Poll_FullMethodName, "x", string(make([]byte, 16*server.MaxHeaderBytes)))
	err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: large[:server.MaxHeaderBytes]})
	for part := range slices.Chunk(large[server.MaxHeaderBytes:], server.MaxHeaderBytes) {
		if err == nil {
			err = r.WriteContinuation(1, false, part)
		}
	}
	if err == nil {
		err = r.WriteContinuation(1, true, nil)
	}
	if got := r.status(1); err == nil && got == "0" {
		t.Error("headers that are too large are accepted")
	}
	b.check()

	r = w.raw(t, w.as(web1))
	err = r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.headers("/x")})
	sent := 0
	for ; err == nil && sent < 64<<20; sent += 16 << 10 {
		err = r.WriteContinuation(1, false, make([]byte, 16<<10))
	}
	if err == nil {
		t.Errorf("%d bytes of headers were read", sent)
	}
	b.check()
}

// TestResets opens calls and ends them at once, over and over.
func TestResets(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1")
	b := stand(t, w)
	r := w.raw(t, w.as(web1))
	go func() { _, _ = io.Copy(io.Discard, r.Conn) }() // until the test ends
	open, err := proto.Marshal(wire.PullRequestToWire(delta.Request{Open: &delta.Open{Set: "web-1", Mode: delta.Full, Width: delta.ShortWidth}}))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20_000 {
		id, err := r.open(espalierv1.SyncService_Pull_FullMethodName)
		if err == nil && i%2 == 0 {
			err = r.WriteData(id, false, message(0, open))
		}
		if err == nil {
			err = r.WriteRSTStream(id, http2.ErrCodeCancel)
		}
		if err != nil {
			t.Logf("the server had enough after %d calls: %v", i, err)
			break
		}
		if i%5000 == 0 {
			b.polls()
		}
	}
	b.check()
}

// TestUnfinishedMessages opens more calls than may be, and sends most of a
// message for each.
func TestUnfinishedMessages(t *testing.T) {
	w := secure(t)
	b := stand(t, w)
	r := w.raw(t, w.as(web1))
	part := message(0, make([]byte, delta.MaxMessageBytes))[:3*server.StreamWindow/4]
	window, refused := 0, 0
	read := func() {
		f, err := r.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				window += int(f.Increment)
			}
		case *http2.RSTStreamFrame:
			if f.ErrCode == http2.ErrCodeRefusedStream {
				refused++
			}
		}
	}
	const calls = 4 * server.MaxStreams
	for range calls {
		id, err := r.open(espalierv1.SyncService_Poll_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		for p := range slices.Chunk(part, 16<<10) {
			for window < len(p) {
				read()
			}
			if err := r.WriteData(id, false, p); err != nil {
				t.Fatal(err)
			}
			window -= len(p)
		}
	}
	b.check()
	for refused < calls-server.MaxStreams {
		read()
	}
}

// TestSlowReader pulls a large set many times over, and reads a byte a second.
func TestSlowReader(t *testing.T) {
	w := secure(t)
	large := make([]byte, 64<<10)
	rand.Read(large)
	admin := w.dial(w.as(root))
	for i := range 32 { // MiB
		var frames [][]byte
		for j := range 16 {
			frames = append(frames, frame(t, put(fmt.Sprintf("%02d/%02d", i, j), string(large))))
		}
		if _, err := commit(t, admin, &espalierv1.CommitTerms{Set: "web-1"}, frames...); err != nil {
			t.Fatal(err)
		}
	}
	b := stand(t, w)
	open, err := proto.Marshal(wire.PullRequestToWire(delta.Request{Open: &delta.Open{Set: "web-1", Mode: delta.Full, Width: delta.ShortWidth}}))
	if err != nil {
		t.Fatal(err)
	}
	r := w.raw(t, w.as(web1), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	if err := r.WriteWindowUpdate(0, 1<<30); err != nil { // the client can take it all, or so it says
		t.Fatal(err)
	}
	for range server.MaxStreams {
		id, err := r.open(espalierv1.SyncService_Pull_FullMethodName)
		if err == nil {
			err = r.WriteData(id, false, message(0, open))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := r.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		b.check()
	}
	if _, err := commit(t, admin, &espalierv1.CommitTerms{Set: "web-1"}, frame(t, desired.Change{Key: []byte("00/00")})); err != nil {
		t.Errorf("a commit meanwhile: %v", err)
	}
}

// TestHalfOpen makes connections and says nothing.
func TestHalfOpen(t *testing.T) {
	w := secure(t)
	b := stand(t, w)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for i := range 2000 {
		if i%200 == 0 {
			w.dialer = w.from(i / 200)
			b.polls()
		}
		c, err := w.dialer(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if err := poll(w.dial(w.as(web1))); err != nil {
		t.Errorf("a poll by one who comes last: %v", err)
	}
	b.check()
	if all, waiting := w.server.Connections(); waiting > server.MaxHalfOpen || all > server.MaxHalfOpen+4 {
		t.Errorf("%d connections, %d waiting, want %d at most", all, waiting, server.MaxHalfOpen)
	}
}
