package agent_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"espalier/agent"
	"espalier/store"
)

// gatherer is a handler that keeps what it is told, and fails when it is told
// to.
type gatherer struct {
	fail  error
	calls int
	state map[string]string
}

func (g *gatherer) Handle(_ context.Context, u agent.Update) error {
	if g.calls++; g.fail != nil {
		return g.fail
	}
	if u.Full || g.state == nil {
		g.state = map[string]string{}
	}
	for c, err := range u.Changes {
		if err != nil {
			break // which no handler should do
		}
		if delete(g.state, string(c.Key)); !c.Deleted() {
			g.state[string(c.Key)] = string(c.Envelope[1:])
		}
	}
	return nil
}

// TestHandlerIsToldOfADeletedSet has a handler fail, and the set go before the
// handler is well again: it is still told what stays in force.
func TestHandlerIsToldOfADeletedSet(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	g := &gatherer{fail: errors.New("not now")}
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr, Handler: g})
	if _, err := a.Sync(t.Context()); !errors.Is(err, g.fail) {
		t.Fatalf("Sync = %v, want %v", err, g.fail)
	}
	if err := o.Delete(t.Context(), "web-01"); err != nil {
		t.Fatal(err)
	}
	g.fail = nil
	if _, err := a.Sync(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("Sync = %v, want %v", err, store.ErrNotFound)
	}
	if got := fmt.Sprint(g.state); got != "map[a:1]" {
		t.Errorf("the handler was told %s", got)
	}
}

// TestHandlerIsToldByAFullPull follows a deletion that comes by a full
// pull over an older mirror: nothing in the new set names the key that is gone.
func TestHandlerIsToldByAFullPull(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "1", "b": "2"})
	g := &gatherer{}
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr, Handler: g})
	sync(t, a)
	if err := o.Delete(t.Context(), "web-01"); err != nil { // and so its salt
		t.Fatal(err)
	}
	o.publish(t, "web-01", map[string]string{"b": "3"})
	sync(t, a)
	if got := fmt.Sprint(g.state); got != "map[b:3]" {
		t.Errorf("the handler was told %s", got)
	}
}

// TestHandlerIsNotToldOfDamage flips a byte in what the handler was not told
// yet. It is told the published value, and nothing else, once that is back.
func TestHandlerIsNotToldOfDamage(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "a value to be found!", "b": "another"})
	g := &gatherer{fail: errors.New("not now")}
	dir := t.TempDir()
	options := agent.Options{Host: "web-01", Dir: dir, Server: o.addr, Handler: g}
	a := open(t, options)
	_, err := a.Sync(t.Context())
	if !errors.Is(err, g.fail) {
		t.Fatalf("Sync = %v, want %v", err, g.fail)
	}
	path, err := a.MirrorPath("web-01")
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	flip(t, path, []byte("to be found"))

	g.fail, g.calls = nil, 0
	options.Server = "127.0.0.1:1"
	a = open(t, options)
	for range 3 {
		if _, err := a.Sync(t.Context()); err == nil {
			t.Fatal("Sync succeeds without a server")
		}
	}
	if g.calls != 1 { // it comes upon the damage
		t.Errorf("without a server, the handler was called %d times", g.calls)
	}
	if err := a.View("web-01", func(*store.Snapshot) error { return nil }); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("View of what is damaged = %v, want %v", err, store.ErrCorrupt)
	}
	a.Close()
	if _, there := g.state["a"]; there {
		t.Errorf("the handler was told %v", g.state)
	}

	options.Server = o.addr
	a = open(t, options)
	sync(t, a)
	if g.state["a"] != "a value to be found!" || g.state["b"] != "another" {
		t.Errorf("the handler was told %v", g.state)
	}
}

// TestUpdateCanBeReadTwice reads all and a part of an update.
func TestUpdateCanBeReadTwice(t *testing.T) {
	o := serve(t)
	var got []int
	handler := agent.HandlerFunc(func(_ context.Context, u agent.Update) error {
		for _, most := range []int{1, 1 << 30} {
			n := 0
			for _, err := range u.Changes {
				if err != nil {
					return err
				}
				if n++; n == most {
					break
				}
			}
			got = append(got, n)
		}
		return nil
	})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr, Handler: handler})
	large := map[string]string{}
	for i := range 30 {
		large[fmt.Sprint(i)] = string(make([]byte, 100_000)) // several chunks
	}
	for _, objects := range []map[string]string{large, {"1": "new", "2": ""}} {
		o.publish(t, "web-01", objects)
		sync(t, a)
	}
	if want := []int{1, 30, 1, 2}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("read %v changes, want %v", got, want)
	}
}
