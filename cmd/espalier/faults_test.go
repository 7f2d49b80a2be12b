package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

var (
	faultSeed = flag.Uint64("faults.seed", 0, "seed of TestFaults and TestCutPulls; 0: any")
	faultLong = flag.Bool("faults.long", false, "let the faults of TestFaults last for as long as they would: see 'make faults'")
)

// fault is what happens to a world. Both times are how long: for make faults,
// and in short, for every day.
type fault struct {
	name        string
	long, brief time.Duration
	weather     func(t *testing.T) weather
	// strike does something to processes, again and again; nil: nothing.
	strike func(w *world)
}

// always is a weather as a fault has it.
func always(w weather) func(*testing.T) weather { return func(*testing.T) weather { return w } }

var fair = always(weather{})

var faults = []fault{
	{"none", 20 * time.Second, time.Second, fair, nil},
	{"1% of segments lost", 30 * time.Second, 0, always(weather{loss: 0.01}), nil},
	{"5% of segments lost", 30 * time.Second, 0, always(weather{loss: 0.05}), nil},
	{"20% of segments lost", 45 * time.Second, 3 * time.Second, always(weather{loss: 0.20}), nil},
	{"300 ms each way", 30 * time.Second, 2 * time.Second, always(weather{delay: 300 * time.Millisecond}), nil},
	{"20% lost and 300 ms", 60 * time.Second, 0, always(weather{loss: 0.20, delay: 300 * time.Millisecond}), nil},
	{"cut every few seconds", 60 * time.Second, 0, always(weather{life: 3 * time.Second}), nil},
	{"cut every half second", 30 * time.Second, 4 * time.Second, always(weather{life: 500 * time.Millisecond, delay: 20 * time.Millisecond}), nil},
	{"black hole", 4 * time.Minute, 2 * time.Second, always(weather{loss: 1}), nil},
	{"half-open: silence", 3 * time.Minute, 2 * time.Second, always(weather{silent: true}), nil},
	{"portal: plain HTTP", time.Minute, 2 * time.Second, func(t *testing.T) weather { return portal(t, (*httptest.Server).Start) }, nil},
	{"portal: TLS of others", time.Minute, 2 * time.Second, func(t *testing.T) weather { return portal(t, (*httptest.Server).StartTLS) }, nil},
	{"agents killed", 45 * time.Second, 3 * time.Second, fair, (*world).strikeAgent},
	{"server killed", 45 * time.Second, 4 * time.Second, fair, (*world).strikeServer},
	{"agents stopped", 3 * time.Minute, 2 * time.Second, fair, (*world).sleepLong},
	{"all at once", 90 * time.Second, 0, always(weather{loss: 0.05, delay: 50 * time.Millisecond, life: 4 * time.Second}), (*world).strikeAny},
}

// portal is a network in which somebody else answers, who wants to be paid first.
func portal(t *testing.T, serve func(*httptest.Server)) weather {
	s := httptest.NewUnstartedServer(http.RedirectHandler("http://portal.example/", http.StatusFound))
	s.EnableHTTP2, s.Config.ErrorLog = true, log.New(io.Discard, "", 0)
	serve(s)
	t.Cleanup(s.Close)
	return weather{instead: s.Listener.Addr().String()}
}

// TestFaults lets a server, some agents and a writer meet each fault, and looks
// at them once it is over: all hold what was published last, and none ever held
// what was not, or less than before.
func TestFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	seed := faultSeedOf(t)
	var mu sync.Mutex
	rows := table.NewWriter()
	rows.AppendHeader(table.Row{"FAULT", "LASTED", "COMMITS", "CONNECTIONS", "CUT", "RECORDS UP", "BYTES DOWN", "OF PAYLOAD", "CONVERGED AFTER"})
	t.Run("each", func(t *testing.T) {
		for i, f := range faults {
			if f.brief == 0 && !*faultLong {
				continue
			}
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				row := f.meet(t, seed+uint64(i))
				mu.Lock()
				defer mu.Unlock()
				rows.AppendRow(row)
			})
		}
	})
	t.Logf("seed %d\n%s", seed, rows.Render())
}

// faultSeedOf returns the seed of this run, and says it.
func faultSeedOf(t *testing.T) uint64 {
	seed := *faultSeed
	if seed == 0 {
		seed = rand.Uint64() >> 1
	}
	t.Logf("go test ./cmd/espalier -run '^%s$' -faults.seed %d", t.Name(), seed)
	return seed
}

func (f fault) meet(t *testing.T, seed uint64) table.Row {
	hosts, objects, lasts := 2, 2000, f.brief
	if *faultLong {
		hosts, objects, lasts = 3, 10_000, f.long
	}
	w := newWorld(t, seed, hosts, objects)
	n := w.network
	down, records, connections := n.down.Load(), n.records.Load(), n.connections.Load()
	w.commits, w.payload = 0, 0
	if err := n.turn(f.weather(t)); err != nil {
		t.Skipf("this machine can't do that: %v", err)
	}
	begun := time.Now()
	for time.Since(begun) < lasts {
		w.write()
		if f.strike != nil {
			f.strike(w)
		}
	}
	lasted := time.Since(begun)
	if err := n.turn(weather{}); err != nil {
		t.Fatal(err)
	}
	over := time.Now()
	for _, set := range w.sets() {
		w.commit(set, 1)
	}
	w.settle()
	converged := time.Since(over)
	row := table.Row{
		f.name, lasted.Round(time.Second), w.commits, n.connections.Load() - connections, n.cuts.Load(), n.records.Load() - records,
		n.down.Load() - down, fmt.Sprintf("%.2f", float64(n.down.Load()-down)/float64(w.payload)), converged.Round(100 * time.Millisecond),
	}
	w.verdict()
	return row
}

// write commits something to one of the sets, now and then enough for a pull, and
// rests for a moment.
func (w *world) write() {
	changes := 1 + w.rng.IntN(20)
	if w.rng.IntN(5) == 0 {
		changes = w.objects / 2
	}
	sets := w.sets()
	w.commit(sets[w.rng.IntN(len(sets))], changes)
	time.Sleep(time.Duration(w.rng.Int64N(int64(800 * time.Millisecond))))
}

func (w *world) anyHost() *host { return w.hosts[w.rng.IntN(len(w.hosts))] }

func (w *world) strikeAgent() { w.killAgent(w.anyHost()) }

// strikeServer kills the server while it commits and agents pull, and starts it
// again.
func (w *world) strikeServer() {
	w.commitDuring(shared, w.objects/2, func() {
		time.Sleep(time.Duration(w.rng.Int64N(int64(400 * time.Millisecond))))
		w.server.kill(syscall.SIGKILL)
		w.startServer()
	})
}

func (w *world) strikeAny() {
	switch w.rng.IntN(8) {
	case 0:
		w.strikeServer()
	case 1, 2:
		w.strikeAgent()
	case 3:
		w.sleepAgents()
	}
}

// sleepAgents stops all agents for a while, as a machine that sleeps does, and
// lets them go on together.
func (w *world) sleepAgents() {
	for _, h := range w.hosts {
		h.agent().Process.Signal(syscall.SIGSTOP)
	}
	for begun := time.Now(); time.Since(begun) < w.nap; {
		w.write()
	}
	for _, h := range w.hosts {
		h.agent().Process.Signal(syscall.SIGCONT)
	}
}

// sleepLong sleeps until the server has given the agents up: it wants to hear from
// them within 90 s, and 20 more.
func (w *world) sleepLong() {
	if *faultLong {
		w.nap = 125 * time.Second
	}
	w.sleepAgents()
}

var notSynced = regexp.MustCompile(`msg="not synced.*`)

// TestSilenceIsNoticed lets the network fall silent while agents have nothing to
// do but to wait for the answer to a poll. They notice, by gRPC's pings, long
// before the poll would be over.
func TestSilenceIsNoticed(t *testing.T) {
	if !*faultLong {
		t.Skip("it takes a minute: see 'make faults'")
	}
	for name, weather := range map[string]weather{"half-open": {silent: true}, "black hole": {loss: 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, faultSeedOf(t), 1, 10)
			if err := w.network.turn(weather); err != nil {
				t.Skipf("this machine can't do that: %v", err)
			}
			begun := time.Now()
			why := w.hosts[0].agent().says(t, notSynced)
			noticed := time.Since(begun)
			if t.Logf("noticed after %v: %s", noticed.Round(time.Second), why); noticed > 2*time.Minute {
				t.Errorf("noticed after %v, want a minute or so", noticed)
			}
		})
	}
}
