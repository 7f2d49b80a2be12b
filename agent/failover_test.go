package agent_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"espalier/agent"
	"espalier/internal/wire"
)

// gone returns an address on which nobody listens.
func gone(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestFailOver gives an agent several servers, and takes them away: it follows
// whichever answers, stays with it, and says which when none does.
func TestFailOver(t *testing.T) {
	dir := t.TempDir()
	o := serveDir(t, dir)
	head := o.publish(t, "web-01", map[string]string{"a": "1"})
	dead := gone(t)
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: dead + "," + o.addr})
	for range 3 {
		if got := sync(t, a); got.Head.Revision != head.Revision {
			t.Errorf("synced to %v, want %v", got.Head, head)
		}
	}
	addr := o.addr
	o.stop()
	if _, err := a.Sync(t.Context()); !errors.Is(err, wire.ErrUnreachable) {
		t.Errorf("Sync = %v without a server, want %v", err, wire.ErrUnreachable)
	}
	o = serveOn(t, dir, addr)
	head = o.publish(t, "web-01", map[string]string{"a": "2"})
	for { // gRPC waits a little before it connects again
		r, err := a.Sync(t.Context())
		if err == nil && r.Sets[0].Head.Revision == head.Revision {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
}
