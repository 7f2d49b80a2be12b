package agent_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	gosync "sync"
	"sync/atomic"
	"testing"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pace"
	"espalier/internal/wire"
	"espalier/store"
)

// cutter is a proxy that cuts each connection once the server has sent so many
// bytes on it; it never does if that is 0.
type cutter struct {
	net.Listener
	to    string
	after func() int64
	group gosync.WaitGroup
}

func cut(t *testing.T, to string, after func() int64) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{Listener: l, to: to, after: after}
	c.group.Go(c.serve)
	t.Cleanup(func() {
		l.Close()
		c.group.Wait()
	})
	return c
}

func (c *cutter) serve() {
	for {
		client, err := c.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", c.to)
		if err != nil {
			client.Close()
			return
		}
		c.group.Go(func() {
			io.Copy(server, client)
			server.Close()
		})
		c.group.Go(func() {
			if n := c.after(); n > 0 {
				io.CopyN(client, server, n)
			} else {
				io.Copy(client, server)
			}
			client.Close()
			server.Close()
		})
	}
}

// TestPullSurvivesCuts cuts the connection every few hundred kilobytes: each
// Sync goes on from what the ones before have staged, until the root is right.
func TestPullSurvivesCuts(t *testing.T) {
	o := serve(t)
	r := rand.New(rand.NewPCG(3, 4))
	o.publish(t, "web-01", random(r, 60_000))
	var left atomic.Int32
	left.Store(8)
	proxy := cut(t, o.addr, func() int64 {
		if left.Add(-1) < 0 {
			return 0
		}
		return 200_000 + rand.Int64N(200_000)
	})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: proxy.Addr().String()})
	follow := func(want desired.Head, mode delta.Mode) {
		t.Helper()
		seen := agent.Unchanged
		for attempt := 0; ; attempt++ {
			report, err := a.Sync(t.Context())
			seen = max(seen, report.Sets[0].Mode)
			if err == nil {
				break
			}
			if !errors.Is(err, wire.ErrUnreachable) && !errors.Is(err, io.ErrUnexpectedEOF) || attempt > 100 {
				t.Fatalf("attempt %d: %v", attempt, err)
			}
		}
		err := a.View("web-01", func(s *store.Snapshot) error {
			if s.Head().Revision != want.Revision {
				t.Errorf("mirror is at %v, want %v", s.Head(), want)
			}
			return nil
		})
		if err != nil || seen != mode {
			t.Fatalf("%v, mode %v, want %v", err, seen, mode)
		}
	}
	head, _ := o.Head("web-01")
	follow(head, delta.Full)

	left.Store(8)
	head = o.publish(t, "web-01", random(r, 30_000))
	if err := o.DropHistory(t.Context(), "web-01"); err != nil {
		t.Fatal(err)
	}
	follow(head, delta.Descent)
}

// TestEachPollIsTried: after a connection could not be made, the next poll tries
// to, however soon it comes. It does not fail since gRPC would rather wait.
func TestEachPollIsTried(t *testing.T) {
	o := serve(t)
	head := o.publish(t, "web-01", map[string]string{"a": "1"})
	var made atomic.Int32
	proxy := cut(t, o.addr, func() int64 {
		if made.Add(1) <= 3 {
			return 1 // which is not enough to be a server's
		}
		return 0
	})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: proxy.Addr().String()})
	for i := range int32(3) {
		if _, err := a.Sync(t.Context()); !errors.Is(err, wire.ErrUnreachable) || made.Load() != i+1 {
			t.Fatalf("Sync = %v after %d connections, want %v after %d", err, made.Load(), wire.ErrUnreachable, i+1)
		}
	}
	if got := sync(t, a); got.Head.Revision != head.Revision {
		t.Errorf("synced to %v, want %v", got.Head, head)
	}
}

func TestServerThatIsNotThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: addr})
	if _, err := a.Sync(t.Context()); !errors.Is(err, wire.ErrUnreachable) {
		t.Fatalf("Sync = %v, want %v", err, wire.ErrUnreachable)
	}
}

func TestUnknownSetIsReported(t *testing.T) {
	o := serve(t)
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr})
	if _, err := a.Sync(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Sync = %v, want %v", err, store.ErrNotFound)
	}
}

func TestDeletedSetStaysInForce(t *testing.T) {
	o := serve(t)
	head := o.publish(t, "web-01", map[string]string{"a": "1"})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr})
	sync(t, a)
	if err := o.Delete(t.Context(), "web-01"); err != nil {
		t.Fatal(err)
	}
	report, err := a.Sync(t.Context())
	if !errors.Is(err, store.ErrNotFound) || report.Sets[0].Head.Revision != head.Revision {
		t.Fatalf("Sync = %v at %v, want %v at %v", err, report.Sets[0].Head, store.ErrNotFound, head)
	}
	// Made anew, its epoch follows the one that was retired.
	head = o.publish(t, "web-01", map[string]string{"b": "2"})
	if got := sync(t, a); got.Head.Revision != head.Revision {
		t.Fatalf("synced to %v, want %v", got.Head, head)
	}
}

func TestRestoreIsFollowed(t *testing.T) {
	o := serve(t)
	r := rand.New(rand.NewPCG(5, 6))
	o.publish(t, "web-01", random(r, 5000))
	backup := filepath.Join(t.TempDir(), "backup")
	if _, err := o.Backup(t.Context(), "web-01", backup); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		o.publish(t, "web-01", random(r, 50))
	}
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr})
	sync(t, a)
	f, err := store.OpenFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	restored, err := o.RestoreFile(t.Context(), "web-01", f, store.Restore{})
	if err != nil {
		t.Fatal(err)
	}
	got := sync(t, a)
	if got.Head.Revision != restored.Head.Revision || got.Mode != delta.Descent {
		t.Fatalf("%v to %v, want a descent to %v", got.Mode, got.Head, restored.Head)
	}
}

// TestForkIsRefused puts an older copy of a set's file behind the server's back,
// which then goes on from there. The agent keeps what it has, and the server
// commits nothing, until an operator starts an epoch.
func TestForkIsRefused(t *testing.T) {
	for name, later := range map[string]int{"behind": 0, "at the same number": 1, "past it": 3} {
		t.Run(name, func(t *testing.T) { testFork(t, later) })
	}
}

// testFork lets the server publish so many revisions before the agent polls.
func testFork(t *testing.T, later int) {
	dir, mirror := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "sets", "web-01.db")
	o := serveDir(t, dir)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	o.stop()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o = serveDir(t, dir)
	held := o.publish(t, "web-01", map[string]string{"a": "2"})
	a := open(t, agent.Options{Host: "web-01", Dir: mirror, Server: o.addr})
	sync(t, a)
	a.Close()
	o.stop()
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}

	o = serveDir(t, dir)
	for i := range later {
		o.publish(t, "web-01", map[string]string{"a": fmt.Sprint("fork ", i)})
	}
	a = open(t, agent.Options{Host: "web-01", Dir: mirror, Server: o.addr})
	for range 2 {
		if _, err := a.Sync(t.Context()); !errors.Is(err, agent.ErrUnsafe) || !strings.Contains(err.Error(), "'espalier epoch'") {
			t.Errorf("Sync = %v, want %v", err, agent.ErrUnsafe)
		}
		err = a.View("web-01", func(s *store.Snapshot) error {
			if s.Head().Revision != held.Revision {
				t.Errorf("mirror is at %v, want %v", s.Head(), held)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if _, err := o.Commit(t.Context(), "web-01", store.Commit{Changes: changes(map[string]string{"b": "1"})}); !errors.Is(err, store.ErrForked) {
			t.Errorf("Commit = %v, want %v", err, store.ErrForked)
		}
		a.Close()
		o.stop()
		o = serveDir(t, dir) // which has not forgotten
		a = open(t, agent.Options{Host: "web-01", Dir: mirror, Server: o.addr})
	}

	head, err := o.Renew(t.Context(), "web-01", "test", "the server is right")
	if err != nil || head.Number <= held.Number {
		t.Fatalf("Renew = %v, %v, want a number above %d", head, err, held.Number)
	}
	if got := sync(t, a); got.Head.Revision != head.Revision || got.Upserts != 1 {
		t.Errorf("%d upserts to %v, want 1 to %v", got.Upserts, got.Head, head)
	}
	o.publish(t, "web-01", map[string]string{"b": "1"})
	sync(t, a)
}

// TestFlippedBytesAreFetchedAgain damages values in the mirror's file.
func TestFlippedBytesAreFetchedAgain(t *testing.T) {
	o := serve(t)
	objects := map[string]string{}
	for i := range 5000 {
		objects[fmt.Sprintf("obj/%04d", i)] = fmt.Sprintf("a value that can be found: %04d!", i)
	}
	head := o.publish(t, "web-01", objects)
	dir := t.TempDir()
	a := open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr})
	sync(t, a)
	path, err := a.MirrorPath("web-01")
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	for _, i := range []int{7, 1234, 4999} {
		flip(t, path, fmt.Appendf(nil, "can be found: %04d", i))
	}

	a = open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr})
	if n, err := a.Check(t.Context()); n != 3 || err != nil {
		t.Fatalf("Check = %d, %v, want 3", n, err)
	}
	got := sync(t, a)
	if got.Head.Revision != head.Revision || got.Mode != delta.Descent || got.Upserts != 3 || got.Deletes != 0 {
		t.Fatalf("%v of %d upserts, %d deletes to %v, want a descent of 3 to %v", got.Mode, got.Upserts, got.Deletes, got.Head, head)
	}
	if n, err := a.Check(t.Context()); n != 0 || err != nil {
		t.Fatalf("Check = %d, %v, want 0", n, err)
	}
}

// TestHandlerIsToldEverything follows what a handler makes of its updates, with
// failures and restarts in between.
func TestHandlerIsToldEverything(t *testing.T) {
	o := serve(t)
	r := rand.New(rand.NewPCG(7, 8))
	dir := t.TempDir()
	state := map[string]string{}
	refuse := false
	handler := agent.HandlerFunc(func(_ context.Context, u agent.Update) error {
		if refuse {
			return errors.New("not now")
		}
		if u.Full {
			clear(state)
		}
		for c, err := range u.Changes {
			if err != nil {
				return err
			}
			if delete(state, string(c.Key)); !c.Deleted() {
				state[string(c.Key)] = string(c.Envelope[1:])
			}
		}
		return nil
	})
	want := map[string]string{}
	for step := range 30 {
		objects := random(r, 1+r.IntN(300))
		for k := range want {
			if r.IntN(20) == 0 {
				objects[k] = ""
			}
		}
		o.publish(t, "web-01", objects)
		for k, v := range objects {
			if delete(want, k); v != "" {
				want[k] = v
			}
		}
		refuse = r.IntN(3) == 0
		a := open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr, Handler: handler})
		_, err := a.Sync(t.Context())
		if (err != nil) != refuse {
			t.Fatalf("step %d: Sync = %v", step, err)
		}
		if !refuse && fmt.Sprint(state) != fmt.Sprint(want) {
			t.Fatalf("step %d: the handler was told of %d objects, want %d", step, len(state), len(want))
		}
		a.Close()
	}
}

// TestRunOutlivesItsServer takes the server away until a poll has failed, and
// brings it back with something new.
func TestRunOutlivesItsServer(t *testing.T) {
	dir := t.TempDir()
	o := serveDir(t, dir)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	log := &listener{heard: make(chan string, 100)}
	told := make(chan agent.Update, 16)
	a := open(t, agent.Options{
		Host: "web-01", Dir: t.TempDir(), Server: o.addr, Interval: pace.MinInterval, Logger: slog.New(log),
		Handler: agent.HandlerFunc(func(_ context.Context, u agent.Update) error {
			told <- u
			return nil
		}),
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	<-told
	o.stop()
	log.await("not synced")
	o = serveOn(t, dir, o.addr)
	head := o.publish(t, "web-01", map[string]string{"a": "2"})
	if u := <-told; u.Head.Revision != head.Revision || u.Full {
		t.Errorf("the update is of %v, full %v, want what changed up to %v", u.Head, u.Full, head)
	}
	log.await("in step")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

// listener is a log that a test listens to.
type listener struct {
	slog.Handler
	heard chan string
}

func (l *listener) Enabled(context.Context, slog.Level) bool { return true }

func (l *listener) Handle(_ context.Context, r slog.Record) error {
	select {
	case l.heard <- r.Message:
	default: // nobody listens
	}
	return nil
}

// await returns once a message has those words.
func (l *listener) await(words string) {
	for !strings.Contains(<-l.heard, words) {
	}
}

func TestRunFollowsUntilItIsStopped(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	ctx, cancel := context.WithCancel(t.Context())
	told := make(chan agent.Update, 16)
	handler := agent.HandlerFunc(func(_ context.Context, u agent.Update) error {
		told <- u
		return nil
	})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr, Handler: handler, Interval: pace.MinInterval})
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	if u := <-told; u.Head.Number != 1 || !u.Full {
		t.Errorf("first update is of %v, full %v", u.Head, u.Full)
	}
	head := o.publish(t, "web-01", map[string]string{"a": "2"})
	if u := <-told; u.Head.Revision != head.Revision || u.Full {
		t.Errorf("second update is of %v, full %v", u.Head, u.Full)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}
