package agent_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/internal/wire"
	"espalier/merkle"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// script is a server that says what a test wants it to.
type script struct {
	espalierv1.UnimplementedSyncServiceServer
	poll func(*espalierv1.PollRequest) (*espalierv1.PollResponse, error)
	pull func(espalierv1.SyncService_PullServer) error
}

func (s script) Poll(_ context.Context, req *espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
	return s.poll(req)
}

func (s script) Pull(stream espalierv1.SyncService_PullServer) error { return s.pull(stream) }

// play serves the script on loopback and returns its address.
func play(t *testing.T, s script) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	espalierv1.RegisterSyncServiceServer(g, s)
	ended := make(chan error, 1)
	go func() { ended <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		<-ended
	})
	return l.Addr().String()
}

// answer returns a poll that gives always the same answers.
func answer(answers ...*espalierv1.SetAnswer) func(*espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
	return func(*espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
		return &espalierv1.PollResponse{Sets: answers}, nil
	}
}

// small is a set of one object: its frame, and its root in a tree without salt.
func small(t *testing.T) (frame []byte, root desired.Digest) {
	t.Helper()
	var hasher desired.Hasher
	c := desired.Change{Key: []byte("a"), Envelope: desired.Envelope("\x00b")}
	b := merkle.Shape{}.NewBuilder(func(int, merkle.Row) error { return nil })
	if err := b.Add(c.Key, hasher.Sum(c.Key, c.Envelope)); err != nil {
		t.Fatal(err)
	}
	row, _, err := b.Finish()
	w := delta.NewFrameWriter(delta.NewCodec())
	if err := errors.Join(err, w.Add(c)); err != nil {
		t.Fatal(err)
	}
	return w.Frame(), row.Digest
}

var later = desired.Head{Revision: desired.Revision{
	Position: desired.Position{Epoch: desired.Epoch{7}, Number: 9}, Root: desired.Digest{3},
}}

// TestServerIsNotTrusted hands an agent that has nothing yet what no server
// should say. It ends in an error, and nothing is held.
func TestServerIsNotTrusted(t *testing.T) {
	frame, root := small(t)
	for name, s := range map[string]struct {
		script
		want error
	}{
		"a delta to what is not held": {
			script{poll: answer(&espalierv1.SetAnswer{Number: 1, Root: root[:], Frame: frame})}, delta.ErrProtocol,
		},
		"two answers for one set": {
			script{poll: answer(
				&espalierv1.SetAnswer{Status: espalierv1.SetAnswer_STATUS_UNKNOWN},
				&espalierv1.SetAnswer{Status: espalierv1.SetAnswer_STATUS_UNKNOWN},
			)}, delta.ErrProtocol,
		},
		"an answer for a set that was not asked for": {
			script{poll: answer(&espalierv1.SetAnswer{Index: 1 << 31})}, delta.ErrProtocol,
		},
		"a pull of nothing": {
			script{poll: answer(&espalierv1.SetAnswer{Status: espalierv1.SetAnswer_STATUS_PULL})}, delta.ErrProtocol,
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: play(t, s.script)})
			report, err := a.Sync(t.Context())
			if !errors.Is(err, s.want) || errors.Is(err, desired.ErrInvalid) {
				t.Errorf("Sync = %v, want %v: it is not the user who did wrong", err, s.want)
			}
			if report.Sets[0].Head.Number != 0 || report.Sets[0].Err == nil {
				t.Errorf("report: %+v, want nothing held, and why", report.Sets[0])
			}
		})
	}
}

// TestPullThatBringsNothingFails has each stream of a pull break at once.
func TestPullThatBringsNothingFails(t *testing.T) {
	var pulls atomic.Int32
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: play(t, script{
		poll: answer(&espalierv1.SetAnswer{Status: espalierv1.SetAnswer_STATUS_PULL, Head: wire.HeadToWire(later)}),
		pull: func(espalierv1.SyncService_PullServer) error {
			pulls.Add(1)
			return status.Error(codes.Unavailable, "going away")
		},
	})})
	report, err := a.Sync(t.Context())
	if !errors.Is(err, wire.ErrUnreachable) || report.Sets[0].Err == nil {
		t.Errorf("Sync = %v, set: %v, want %v", err, report.Sets[0].Err, wire.ErrUnreachable)
	}
	if got := pulls.Load(); got != follow.PullAttempts {
		t.Errorf("it pulled %d times, want %d", got, follow.PullAttempts)
	}
}

// TestMalformedDeltaIsPulled spoils the delta that comes with a poll: the agent
// pulls instead of asking for the same again with each poll.
func TestMalformedDeltaIsPulled(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	client := connect(t, o.addr)
	addr := play(t, script{
		poll: func(req *espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
			resp, err := client.Poll(t.Context(), req)
			for _, s := range resp.GetSets() {
				if len(s.GetFrame()) > 0 {
					s.Frame = s.Frame[:len(s.Frame)-1]
				}
			}
			return resp, err
		},
		pull: func(down espalierv1.SyncService_PullServer) error {
			return relay(down, client, func(*espalierv1.PullResponse) {})
		},
	})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: addr})
	sync(t, a)
	head := o.publish(t, "web-01", map[string]string{"a": "2"})
	if got := sync(t, a); got.Head.Revision != head.Revision {
		t.Errorf("synced to %v, want %v", got.Head, head)
	}
}

// TestRootThatNothingGives has a server publish a root that nothing has. The agent
// gives up after it has tried everything, and keeps what it has, until the server
// comes to its senses.
func TestRootThatNothingGives(t *testing.T) {
	o := serve(t)
	r := rand.New(rand.NewPCG(3, 9))
	held := o.publish(t, "web-01", random(r, 3000))
	client := connect(t, o.addr)
	var lies atomic.Bool
	spoil := func(m *espalierv1.Head) {
		if lies.Load() && m != nil {
			m.Root = make([]byte, 32)
			m.Root[7] = 7
		}
	}
	var pulls atomic.Int32
	addr := play(t, script{
		poll: func(req *espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
			resp, err := client.Poll(t.Context(), req)
			for _, s := range resp.GetSets() {
				spoil(s.GetHead())
			}
			return resp, err
		},
		pull: func(down espalierv1.SyncService_PullServer) error {
			pulls.Add(1)
			return relay(down, client, func(resp *espalierv1.PullResponse) {
				spoil(resp.GetBegin().GetHead())
				spoil(resp.GetEnd().GetHead())
			})
		},
	})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: addr})
	sync(t, a)
	head := o.publish(t, "web-01", map[string]string{"large": noise(r, 100_000)}) // too much for the poll
	lies.Store(true)
	pulls.Store(0)
	report, err := a.Sync(t.Context())
	if !errors.Is(err, delta.ErrUnverifiable) || report.Sets[0].Head.Revision != held.Revision {
		t.Errorf("Sync = %v at %v, want %v at %v", err, report.Sets[0].Head, delta.ErrUnverifiable, held)
	}
	if pulls := pulls.Load(); pulls != 4 { // since, a descent, one with whole digests, full
		t.Errorf("it took %d rounds, want 4", pulls)
	}
	lies.Store(false)
	if got := sync(t, a); got.Head.Revision != head.Revision {
		t.Errorf("synced to %v, want %v", got.Head, head)
	}
}

// connect returns a client of the server at an address.
func connect(t *testing.T, addr string) espalierv1.SyncServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return espalierv1.NewSyncServiceClient(conn)
}

// relay hands a pull on to another server, and its responses back, as change
// leaves them.
func relay(down espalierv1.SyncService_PullServer, to espalierv1.SyncServiceClient, change func(*espalierv1.PullResponse)) error {
	up, err := to.Pull(down.Context())
	if err != nil {
		return err
	}
	go func() {
		for {
			req, err := down.Recv()
			if err != nil || up.Send(req) != nil {
				return
			}
		}
	}()
	for {
		resp, err := up.Recv()
		if err != nil {
			return nil
		}
		change(resp)
		if err := down.Send(resp); err != nil {
			return err
		}
	}
}

// TestDeltaBelowTheFloorIsRefused gives an agent an old copy of its own mirror,
// and a server that went back as well, though not as far.
func TestDeltaBelowTheFloorIsRefused(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	theirs, ours := filepath.Join(dir, "sets", "web-01.db"), filepath.Join(home, "sets", "web-01.db")
	var copies [][]byte
	keep := func(path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, b)
	}
	var held desired.Head
	for number, path := range []string{ours, theirs, ""} {
		o := serveDir(t, dir)
		head := o.publish(t, "web-01", map[string]string{"a": fmt.Sprint(number)})
		a := open(t, agent.Options{Host: "web-01", Dir: home, Server: o.addr})
		sync(t, a)
		a.Close()
		o.stop()
		if number == 0 {
			held = head
		}
		if path != "" {
			keep(path)
		}
	}
	for i, path := range []string{ours, theirs} {
		if err := os.WriteFile(path, copies[i], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o := serveDir(t, dir)
	a := open(t, agent.Options{Host: "web-01", Dir: home, Server: o.addr})
	report, err := a.Sync(t.Context())
	if !errors.Is(err, agent.ErrUnsafe) || !strings.Contains(err.Error(), "restore") {
		t.Errorf("Sync = %v, want %v and what to do about it", err, agent.ErrUnsafe)
	}
	if report.Sets[0].Head.Revision != held.Revision {
		t.Errorf("the mirror is at %v, want %v", report.Sets[0].Head, held)
	}
}

// TestOneSetDoesNotHoldBackAnother mirrors a set that is not there before one
// that is.
func TestOneSetDoesNotHoldBackAnother(t *testing.T) {
	o := serve(t)
	head := o.publish(t, "web-01", map[string]string{"a": "1"})
	sets := []desired.Name{"nothing", "web-01"}
	a := open(t, agent.Options{Host: "web-01", Sets: sets, Dir: t.TempDir(), Server: o.addr})
	report, err := a.Sync(t.Context())
	if !errors.Is(err, store.ErrNotFound) || !errors.Is(report.Sets[0].Err, store.ErrNotFound) {
		t.Errorf("Sync = %v, want %v for the first", err, store.ErrNotFound)
	}
	if got := report.Sets[1]; got.Err != nil || got.Head.Revision != head.Revision {
		t.Errorf("the second set is at %v, %v, want %v", got.Head, got.Err, head)
	}
}

func TestOpenRefuses(t *testing.T) {
	for name, sets := range map[string][]desired.Name{
		"a set twice":          {"a", "b", "a"},
		"a name that can't be": {"../a"},
		"too many":             manyNames(wire.MaxPolledSets + 1),
	} {
		_, err := agent.Open(agent.Options{Host: "web-01", Sets: sets, Dir: t.TempDir(), Server: "127.0.0.1:1"})
		if !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: Open = %v, want %v", name, err, desired.ErrInvalid)
		}
	}
}

func manyNames(n int) (names []desired.Name) {
	for i := range n {
		names = append(names, desired.Name(fmt.Sprint(i)))
	}
	return names
}

// TestDamagedNodeIsMended damages what only a change reads: the mirror is
// mended in the Sync that comes upon it.
func TestDamagedNodeIsMended(t *testing.T) {
	o := serve(t)
	objects := map[string]string{}
	for i := range 2000 {
		objects[fmt.Sprintf("obj/%04d", i)] = fmt.Sprint(i)
	}
	o.publish(t, "web-01", objects)
	dir := t.TempDir()
	a := open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr})
	sync(t, a)
	var nodes []merkle.Row // the first of level 1, and the one behind it
	err := a.View("web-01", func(s *store.Snapshot) error {
		for row, err := range s.Rows(1, nil, nil) {
			row.Key = bytes.Clone(row.Key)
			if nodes = append(nodes, row); err != nil || len(nodes) == 2 {
				return err
			}
		}
		return nil
	})
	if err != nil || len(nodes) != 2 {
		t.Fatalf("%d nodes, %v", len(nodes), err)
	}
	path, err := a.MirrorPath("web-01")
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	flip(t, path, nodes[0].Digest[:]) // the byte behind it: the count
	for key := range objects {
		if objects[key] = "new"; key < string(nodes[1].Key) {
			delete(objects, key) // a node that changes is not read
		}
	}
	head := o.publish(t, "web-01", objects)
	a = open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr})
	if got := sync(t, a); got.Head.Revision != head.Revision {
		t.Errorf("synced to %v, want %v", got.Head, head)
	}
}

// flip flips a bit of the byte behind a pattern, wherever it stands in a file.
func flip(t *testing.T, path string, pattern []byte) {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for at := 0; ; n++ {
		i := bytes.Index(file[at:], pattern)
		if i < 0 {
			break
		}
		at += i + len(pattern)
		file[at] ^= 1
	}
	if n == 0 {
		t.Fatalf("%q is not in %s", pattern, path)
	}
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCollidingValues replaces a value by one that XXH64 takes for the same under
// practically every seed: the store sees a change, and hosts get it, be it as a
// delta or by a descent.
func TestCollidingValues(t *testing.T) {
	text, err := os.ReadFile("../internal/desired/testdata/xxh64-collision.hex")
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, line := range strings.Fields(string(text)) {
		value, err := hex.DecodeString(line)
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, string(value))
	}
	o := serve(t)
	content := map[string]string{strings.Repeat("k", 28): values[0]}
	for i := range 500 {
		content[fmt.Sprint("other/", i)] = fmt.Sprint(i)
	}
	h := newHost(t, o)
	h.follows(o.publish(t, "web-01", content), content)
	for i, mode := range []delta.Mode{delta.Since, delta.Descent, delta.Since, delta.Descent} {
		content[strings.Repeat("k", 28)] = values[(i+1)%2]
		head := o.publish(t, "web-01", content)
		if mode == delta.Descent {
			if err := o.DropHistory(t.Context(), "web-01"); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.follows(head, content); got.Mode != mode || got.Upserts != 1 || got.Deletes != 0 {
			t.Errorf("%v of %d upserts and %d deletes, want %v of one upsert", got.Mode, got.Upserts, got.Deletes, mode)
		}
	}
}

// TestOddKeysAreRefused hands an agent deltas, and pulls, of keys that would lead
// astray as paths, with the roots that they give: nothing of it is held.
func TestOddKeysAreRefused(t *testing.T) {
	o := serve(t)
	head := o.publish(t, "web-01", one(1))
	for _, key := range []string{"..", "../../etc/passwd", "/etc/passwd", "a//b", "a/", "a/../b", "a/./b", "b\x00", "b\n", "\xff"} {
		h := newHost(t, o)
		h.follows(head, one(1))
		var salt uint64
		err := h.View("web-01", func(s *store.Snapshot) error {
			salt = s.Shape().Salt
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		frame, root := frameOf(t, salt, key)
		next := head
		next.Number, next.Root, next.Objects = head.Number+1, root, 1
		for _, s := range []*espalierv1.SetAnswer{
			{Number: next.Number, Root: root[:], Frame: frame},
			{Status: espalierv1.SetAnswer_STATUS_PULL, Head: wire.HeadToWire(next)},
		} {
			hostile := orchestrator{addr: play(t, script{
				poll: answer(s),
				pull: func(stream espalierv1.SyncService_PullServer) error {
					for _, resp := range []delta.Response{
						{Begin: &delta.Begin{Mode: delta.Since, Head: next, Salt: salt}}, {Batch: &delta.Batch{Frame: frame}}, {End: &delta.End{Head: next}},
					} {
						if err := stream.Send(wire.PullResponseToWire(resp)); err != nil {
							return err
						}
					}
					return nil
				},
			})}
			h.goTo(hostile)
			h.refuses(hostile, delta.ErrProtocol, "invalid key")
		}
	}
}

// frameOf is a delta that deletes the object of one() and puts one in its place,
// and the root that this gives.
func frameOf(t *testing.T, salt uint64, key string) (frame []byte, root desired.Digest) {
	t.Helper()
	var hasher desired.Hasher
	put := desired.Change{Key: []byte(key), Envelope: desired.Envelope("\x00b")}
	all := []desired.Change{{Key: []byte("a")}, put}
	slices.SortFunc(all, func(a, b desired.Change) int { return bytes.Compare(a.Key, b.Key) })
	b := merkle.Shape{Salt: salt}.NewBuilder(func(int, merkle.Row) error { return nil })
	if err := b.Add(put.Key, hasher.Sum(put.Key, put.Envelope)); err != nil {
		t.Fatal(err)
	}
	row, _, err := b.Finish()
	w := delta.NewFrameWriter(delta.NewCodec())
	for _, c := range all {
		err = errors.Join(err, w.Add(c))
	}
	if err != nil {
		t.Fatal(err)
	}
	return w.Frame(), row.Digest
}
