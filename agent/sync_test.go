package agent_test

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	gosync "sync"
	"testing"

	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/server"
	"espalier/store"
)

// orchestrator is a store and a server of it on loopback.
type orchestrator struct {
	*store.Store
	addr string
	stop func() // before the test ends
}

func serve(t *testing.T) orchestrator {
	t.Helper()
	return serveDir(t, t.TempDir())
}

func serveDir(t *testing.T, dir string) orchestrator {
	t.Helper()
	return serveOn(t, dir, "127.0.0.1:0")
}

func serveOn(t *testing.T, dir, addr string) orchestrator {
	t.Helper()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- server.New(s, server.Options{}).Run(ctx, l) }()
	stop := gosync.OnceFunc(func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return orchestrator{Store: s, addr: l.Addr().String(), stop: stop}
}

// publish commits objects by key, an empty value standing for a deletion.
func (o orchestrator) publish(t *testing.T, set desired.Name, objects map[string]string) desired.Head {
	t.Helper()
	r, err := o.Commit(t.Context(), set, store.Commit{Changes: changes(objects)})
	if err != nil {
		t.Fatal(err)
	}
	return r.Head
}

func changes(objects map[string]string) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			c := desired.Change{Key: []byte(key)}
			if v := objects[key]; v != "" {
				c.Envelope = append(desired.Envelope{0}, v...)
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

func open(t *testing.T, o agent.Options) *agent.Agent {
	t.Helper()
	o.Credentials = cmp.Or(o.Credentials, insecure.NewCredentials())
	a, err := agent.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func sync(t *testing.T, a *agent.Agent) agent.SetReport {
	t.Helper()
	r, err := a.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r.Sets[0]
}

// random returns n objects with keys that share prefixes.
func random(r *rand.Rand, n int) map[string]string {
	objects := map[string]string{}
	for range n {
		objects[fmt.Sprintf("svc/%02d/obj/%06x", r.IntN(20), r.IntN(1<<24))] = fmt.Sprint(r.Uint64())
	}
	return objects
}

func TestSyncFollowsTheServer(t *testing.T) {
	o := serve(t)
	r := rand.New(rand.NewPCG(1, 2))
	objects := random(r, 30_000)
	o.publish(t, "web-01", objects)
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr})

	for _, step := range []struct {
		name   string
		change func() desired.Head
		want   delta.Mode
	}{
		{"first", func() desired.Head { h, _ := o.Head("web-01"); return h }, delta.Full},
		{"nothing", func() desired.Head { h, _ := o.Head("web-01"); return h }, agent.Unchanged},
		{"one", func() desired.Head { return o.publish(t, "web-01", map[string]string{"one": "1"}) }, delta.Since},
		{"gone", func() desired.Head { return o.publish(t, "web-01", map[string]string{"one": ""}) }, delta.Since},
		{"many", func() desired.Head { return o.publish(t, "web-01", random(r, 3000)) }, delta.Since},
		{"history lost", func() desired.Head {
			h := o.publish(t, "web-01", random(r, 300))
			if err := o.DropHistory(t.Context(), "web-01"); err != nil {
				t.Fatal(err)
			}
			return h
		}, delta.Descent},
		{"far apart", func() desired.Head {
			h := o.publish(t, "web-01", random(r, 25_000))
			if err := o.DropHistory(t.Context(), "web-01"); err != nil {
				t.Fatal(err)
			}
			return h
		}, delta.Descent},
	} {
		want := step.change()
		got := sync(t, a)
		if got.Head.Revision != want.Revision || got.Mode != step.want {
			t.Fatalf("%s: %v at %+v, want %v at %+v", step.name, got.Mode, got.Head, step.want, want)
		}
		err := a.View("web-01", func(s *store.Snapshot) error {
			if s.Head().Root != want.Root {
				t.Errorf("%s: mirror's root %v, want %v", step.name, s.Head().Root, want.Root)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestMissedRevisionsFoldIntoOne: a thousand commits while an agent is away cost
// it one delta of what they touched, with the latest values.
func TestMissedRevisionsFoldIntoOne(t *testing.T) {
	o := serve(t)
	objects := map[string]string{}
	for i := range 500 {
		objects[fmt.Sprintf("%03d", i)] = "first"
	}
	o.publish(t, "web-01", objects)
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr})
	sync(t, a)
	var head desired.Head
	for i := range 1000 {
		head = o.publish(t, "web-01", map[string]string{fmt.Sprintf("%03d", i%10): fmt.Sprint("value ", i)})
	}
	r, err := a.Sync(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := r.Sets[0]
	if s.Head.Revision != head.Revision || s.Mode != delta.Since || s.Upserts != 10 || r.RoundTrips != 1 || r.BytesReceived > 1000 {
		t.Errorf("synced to %v by a %v of %d upserts, in %d round trips and %d bytes", s.Head.Position, s.Mode, s.Upserts, r.RoundTrips, r.BytesReceived)
	}
}
