package pattern

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

var codec = delta.NewCodec()

// small is a point that takes no time.
func small(change func(*Point)) Point {
	p := BasePoint()
	p.Objects, p.Agents = 2000, 10
	if change != nil {
		change(&p)
	}
	return p
}

func makeHistory(t *testing.T, p Point, seed uint64, length time.Duration) *history {
	t.Helper()
	h, err := newHistory(t.Context(), &p, seed, length, codec)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func run(t *testing.T, o Options) []Row {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r.Rows
}

// TestPerfectNetwork lets every pattern converge, for the bytes that its model says.
func TestPerfectNetwork(t *testing.T) {
	p := small(nil)
	h := makeHistory(t, p, 3, DefaultDuration)
	agents := int64(p.Agents)
	var frames, wholes, inlines int64
	for i, c := range h.commits {
		frames += agents * int64(c.frame+messageBytes)
		wholes += agents * int64(h.whole(i+1))
		inlines += agents * int64(c.frame+pollDown+inlineDown)
	}
	commits := agents * int64(len(h.commits))
	lasting := agents * int64((DefaultDuration+grace)/hold)
	type bytes struct{ up, down int64 }
	want := map[string]bytes{
		"command":       {0, wholes},
		"interrupt":     {-1, -1},
		"delta":         {0, frames},
		"delta-stream":  {0, frames},
		"queue-once":    {0, frames},
		"queue-lasting": {commits * noticeBytes, frames},
		"queue-bounded": {commits * noticeBytes, frames},
		// A hold that ends costs a poll; changes start it anew.
		"espalier-held": {(agents + commits) * pollUp, inlines},
	}
	for _, r := range run(t, Options{Grid: []Point{p}, Seed: 3}) {
		if r.WrongAgents != 0 || r.Unreached != 0 || r.Max == nil {
			t.Errorf("%s: %d agents are wrong, %d revisions unreached", r.Pattern, r.WrongAgents, r.Unreached)
		}
		if r.MixedShare > 0 {
			t.Errorf("%s: agents hold what was never published for %g of the time", r.Pattern, r.MixedShare)
		}
		w, ok := want[r.Pattern]
		if !ok || w.up < 0 {
			continue
		}
		extra := int64(0)
		if r.Pattern == "espalier-held" {
			extra = lasting
		}
		if r.SentBytes < w.up || r.SentBytes > w.up+extra*pollUp || r.ReceivedBytes < w.down || r.ReceivedBytes > w.down+extra*pollDown {
			t.Errorf("%s: %d bytes up and %d down, want %d and %d", r.Pattern, r.SentBytes, r.ReceivedBytes, w.up, w.down)
		}
	}
}

// TestFetches holds the patterns that fetch against what their counts of messages
// say.
func TestFetches(t *testing.T) {
	p := small(nil)
	h := makeHistory(t, p, 3, DefaultDuration)
	for _, r := range run(t, Options{Grid: []Point{p}, Seed: 3, Patterns: []string{"poll", "interrupt", "interrupt-poll"}}) {
		notices := int64(0)
		if r.Pattern != "poll" {
			notices = int64(len(h.commits) * p.Agents)
		}
		calls := (r.Messages - notices) / 2
		whole := (r.ReceivedBytes - notices*noticeBytes - calls*callDown) / r.Wholes
		if r.SentBytes != calls*callUp || math.Abs(float64(whole)/float64(h.whole(0))-1) > 0.01 {
			t.Errorf("%s: %d calls sent %d bytes, and %d answers had %d each, want %d", r.Pattern, calls, r.SentBytes, r.Wholes, whole, h.whole(0))
		}
		polls := float64(p.Agents) * (DefaultDuration + grace).Seconds() / pollInterval.Seconds()
		if r.Pattern == "poll" && math.Abs(float64(calls)/polls-1) > 0.02 {
			t.Errorf("poll: %d polls, want about %.0f", calls, polls)
		}
		if r.Wholes > int64(r.Commits*p.Agents) {
			t.Errorf("%s: the state was sent %d times for %d commits", r.Pattern, r.Wholes, r.Commits*p.Agents)
		}
	}
}

// TestSound lets those patterns that must converge do so, whatever goes wrong.
func TestSound(t *testing.T) {
	var grid []Point
	for _, f := range AllOfFaults() {
		for _, loss := range []float64{0, 0.1} {
			grid = append(grid, small(func(p *Point) { p.Faults, p.Loss = f, loss }))
		}
	}
	grid = append(grid,
		small(func(p *Point) { p.Faults, p.EverySeconds = AllFaults, 3 }),
		small(func(p *Point) { p.Faults, p.Changes, p.Objects, p.AgentMbit = AllFaults, 1000, 10_000, 0.2 }),
		small(func(p *Point) { p.Faults, p.DelayMillis, p.Loss = AllFaults, 300, 0.05 }),
		small(func(p *Point) { p.Faults, p.DelayMillis = AllFaults, 0 }))
	var sound []string
	for _, p := range All() {
		if p.Sound {
			sound = append(sound, p.Name)
		}
	}
	seeds := uint64(2)
	if racing {
		seeds, grid = 1, grid[len(grid)-4:]
	}
	for seed := range seeds {
		for _, r := range run(t, Options{Grid: grid, Seed: seed, Patterns: sound}) {
			if r.Faults == Rollbacks && r.Pattern == "queue-lasting" {
				continue // see TestRollback
			}
			if r.WrongAgents != 0 || r.Unreached != 0 {
				t.Errorf("seed %d, %v, %s: %d agents are wrong, %d revisions unreached", seed, r.Point, r.Pattern, r.WrongAgents, r.Unreached)
			}
		}
	}
}

// TestUnsound sees what is known to be broken, each for its own reason, and that
// its agents can't tell.
func TestUnsound(t *testing.T) {
	for name, p := range map[string]Point{
		"delta":         small(func(p *Point) { p.Loss = 0.01 }),
		"delta-stream":  small(func(p *Point) { p.Faults = Partitions }),
		"queue-once":    small(func(p *Point) { p.Faults = Cuts; p.EverySeconds = 1 }),
		"queue-bounded": small(func(p *Point) { p.Faults = Partitions; p.EverySeconds = 1 }),
		"interrupt":     small(func(p *Point) { p.Loss = 0.1; p.Agents = 200 }),
	} {
		r := run(t, Options{Grid: []Point{p}, Seed: 1, Patterns: []string{name}})[0]
		if r.WrongAgents == 0 || r.UnawareAgents != r.WrongAgents || r.Max != nil {
			t.Errorf("%s, %v: %d agents are wrong, %d of them unaware, want some that all are", name, p, r.WrongAgents, r.UnawareAgents)
		}
	}
	for _, p := range All() {
		if p.Sound {
			continue
		}
		if !slices.Contains([]string{"delta", "delta-stream", "queue-once", "queue-bounded", "interrupt"}, p.Name) {
			t.Errorf("%s isn't sound, and nothing shows it", p.Name)
		}
	}
}

// TestRollback sees who notices that a disk is of yesterday: not those who are told
// only what is new.
func TestRollback(t *testing.T) {
	broken := []string{"delta", "delta-stream", "queue-once", "queue-lasting", "queue-bounded"}
	for _, r := range run(t, Options{Grid: []Point{small(func(p *Point) { p.Faults = Rollbacks })}, Seed: 1}) {
		if wrong := slices.Contains(broken, r.Pattern); wrong != (r.WrongAgents > 0) || r.UnawareAgents != r.WrongAgents {
			t.Errorf("%s: %d agents are wrong, %d of them unaware", r.Pattern, r.WrongAgents, r.UnawareAgents)
		}
	}
}

// TestCliff sees that only those list everything again who need to.
func TestCliff(t *testing.T) {
	p := small(func(p *Point) { p.Faults = Partitions })
	for _, r := range run(t, Options{Grid: []Point{p}, Seed: 1}) {
		switch r.Pattern {
		case "informer", "delta-numbered":
			if r.Wholes < int64(p.Agents) {
				t.Errorf("%s: the state was sent %d times to %d agents that were away for too long", r.Pattern, r.Wholes, p.Agents)
			}
		case "espalier", "espalier-held", "espalier-descent", "queue-lasting":
			if r.Wholes != 0 {
				t.Errorf("%s: the state was sent %d times", r.Pattern, r.Wholes)
			}
		}
	}
}

func TestDeterminism(t *testing.T) {
	o := Options{Grid: []Point{small(nil), small(func(p *Point) { p.Faults, p.Loss = AllFaults, 0.02 })}, Seed: 9, Duration: 30 * time.Minute}
	first, again := run(t, o), run(t, o)
	if !reflect.DeepEqual(first, again) {
		t.Error("the same seed gives another report")
	}
	o.Patterns = []string{"espalier-held", "command"}
	for _, r := range run(t, o) {
		if !slices.ContainsFunc(first, func(f Row) bool { return reflect.DeepEqual(f, r) }) {
			t.Errorf("%s fares otherwise without the other patterns", r.Pattern)
		}
	}
	o.Patterns, o.Seed = nil, 10
	if reflect.DeepEqual(first, run(t, o)) {
		t.Error("another seed gives the same report")
	}
}

// TestMirror holds mirrors against plain maps, over random writes.
func TestMirror(t *testing.T) {
	p := small(func(p *Point) { p.Objects, p.EverySeconds = 200, 20 })
	for seed := range uint64(2) {
		h := makeHistory(t, p, seed, time.Hour)
		states := []map[int32]int{{}}
		for i, c := range h.commits {
			next := map[int32]int{}
			for s, v := range states[i] {
				next[s] = v
			}
			for _, ch := range c.changes {
				next[ch.slot] = i + 1
			}
			states = append(states, next)
		}
		random := rand.New(rand.NewPCG(seed, 1))
		m, naive := mirror{history: h, versions: make([]uint32, len(h.slots))}, map[int32]int{}
		for range 2000 {
			rev := random.IntN(len(states))
			if rev == 0 || random.IntN(3) == 0 {
				m.replace(rev)
				naive = map[int32]int{}
				for s, v := range states[rev] {
					naive[s] = v
				}
			} else {
				m.write(h.commits[rev-1].changes, rev)
				for _, c := range h.commits[rev-1].changes {
					naive[c.slot] = rev
				}
			}
			for s, v := range m.versions {
				if naive[int32(s)] != int(v) {
					t.Fatalf("seed %d: slot %d is of revision %d, want %d", seed, s, v, naive[int32(s)])
				}
			}
			got, exact := h.published[m.sum]
			same := slices.ContainsFunc(states, func(s map[int32]int) bool { return reflect.DeepEqual(s, naive) })
			if exact != same || exact && (!reflect.DeepEqual(states[got], naive) || !m.equals(got)) {
				t.Fatalf("seed %d: taken for revision %d (%t), want %t", seed, got, exact, same)
			}
		}
	}
}

// TestHistory checks that histories are of the size that they say, and that no
// object is deleted that isn't there.
func TestHistory(t *testing.T) {
	for _, clustered := range []bool{false, true} {
		p := small(func(p *Point) { p.Changes, p.Clustered, p.EverySeconds = 200, clustered, 10 })
		h := makeHistory(t, p, 1, time.Hour)
		alive := map[int32]bool{}
		objects := p.Objects
		for i, c := range h.commits {
			seen := map[int32]bool{}
			for j, ch := range c.changes {
				s := &h.slots[ch.slot]
				if seen[ch.slot] || j > 0 && h.slots[c.changes[j-1].slot].compare(s) > 0 {
					t.Fatalf("commit %d names slot %d twice, or out of order", i, ch.slot)
				}
				seen[ch.slot] = true
				was, known := alive[ch.slot]
				if !known {
					was = s.born == 0
				}
				switch {
				case ch.deleted && !was, !ch.deleted && !was && int(s.born) != i+1:
					t.Fatalf("commit %d changes slot %d, which isn't there", i, ch.slot)
				case ch.deleted:
					objects--
				case !was:
					objects++
				}
				if alive[ch.slot] = !ch.deleted; s.existed(i) != was || s.existed(i+1) == ch.deleted {
					t.Fatalf("slot %d existed at %d: %t, and then %t", ch.slot, i, s.existed(i), s.existed(i+1))
				}
			}
			if len(c.changes) != p.Changes || h.objects[i+1] != objects {
				t.Fatalf("commit %d has %d changes and leaves %d objects, want %d and %d", i, len(c.changes), h.objects[i+1], p.Changes, objects)
			}
		}
	}
}

// TestUnion holds what changed between two revisions against maps.
func TestUnion(t *testing.T) {
	p := small(func(p *Point) { p.Objects, p.EverySeconds = 200, 30 })
	h := makeHistory(t, p, 1, time.Hour)
	random := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		from := random.IntN(len(h.commits))
		to := from + 1 + random.IntN(len(h.commits)-from)
		want := map[int32]bool{}
		for _, c := range h.commits[from:to] {
			for _, ch := range c.changes {
				want[ch.slot] = ch.deleted
			}
		}
		got := h.union(from, to)
		for _, c := range got {
			if deleted, ok := want[c.slot]; !ok || deleted != c.deleted {
				t.Fatalf("union(%d, %d) has slot %d deleted %t, want %t", from, to, c.slot, c.deleted, deleted)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("union(%d, %d) has %d changes, want %d", from, to, len(got), len(want))
		}
	}
}

// TestResource holds the shared card against steps of a millisecond.
func TestResource(t *testing.T) {
	type job struct {
		at   time.Duration
		size int
	}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := &clock{}
		r := &resource{clock: c, most: 1e6, all: 3e6}
		ends := map[int]time.Duration{}
		var jobs []job
		for i := range 20 {
			j := job{time.Duration(random.IntN(2000)) * time.Millisecond, 1000 + random.IntN(500_000)}
			jobs = append(jobs, j)
			c.after(j.at, func() { r.start(j.size, func() { ends[i] = c.now }) })
		}
		for c.step(time.Hour) {
		}
		left := make([]float64, len(jobs))
		for i, j := range jobs {
			left[i] = float64(j.size)
		}
		for now := time.Duration(0); now < 20*time.Second; now += time.Millisecond {
			active := 0.0
			for i, j := range jobs {
				if j.at <= now && left[i] > 0 {
					active++
				}
			}
			for i, j := range jobs {
				if j.at > now || left[i] <= 0 {
					continue
				}
				if left[i] -= min(1e6, 3e6/active) / 1000; left[i] <= 0 && (ends[i]-now).Abs() > 50*time.Millisecond {
					t.Errorf("seed %d: message %d ends at %v, want %v", seed, i, ends[i], now)
				}
			}
		}
		if len(ends) != len(jobs) {
			t.Errorf("seed %d: %d of %d messages end", seed, len(ends), len(jobs))
		}
	}
}

// TestSlowStart sends the same bytes as one message and as many: they arrive at the
// same time.
func TestSlowStart(t *testing.T) {
	arrival := func(parts int) time.Duration {
		w := newWorld(makeHistory(t, small(nil), 1, time.Hour), time.Hour, All()[0])
		var at time.Duration
		down := &w.agents[0].conn.down
		w.after(time.Minute, func() {
			if parts < 0 { // a word first
				down.send(message{bytes: 100})
				w.after(w.trip(), func() { down.send(message{bytes: 120_000, arrive: func() { at = w.now - time.Minute }}) })
			}
			for range parts {
				down.send(message{bytes: 120_000 / parts, arrive: func() { at = w.now - time.Minute }})
			}
		})
		for w.step(2 * time.Minute) {
		}
		return at
	}
	one := arrival(1)
	// Three windows of 14.6, 29.2 and 58.4 kB, the rest at 12.5 MB/s, and the delay.
	if want := 3*20*time.Millisecond + 1424*time.Microsecond + 10*time.Millisecond; (one - want).Abs() > time.Millisecond {
		t.Errorf("a message of 120 kB arrives after %v, want %v", one, want)
	}
	if got, want := arrival(-1), one+20*time.Millisecond; (got - want).Abs() > time.Millisecond {
		t.Errorf("asked for a round trip after a word was said, it arrives after %v, want %v", got, want)
	}
	for _, parts := range []int{2, 8, 100} {
		if got := arrival(parts); (got - one).Abs() > time.Millisecond {
			t.Errorf("in %d messages they arrive after %v, in one after %v", parts, got, one)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	with := func(change func(*Point)) Options { return Options{Grid: []Point{small(change)}} }
	for _, o := range []Options{
		{Patterns: []string{"telepathy"}},
		{Duration: time.Minute},
		{Duration: 2 * MaxDuration},
		with(func(p *Point) { p.Objects = MinObjects - 1 }),
		with(func(p *Point) { p.Objects = MaxObjects + 1 }),
		with(func(p *Point) { p.Agents = 0 }),
		with(func(p *Point) { p.Agents = MaxAgents + 1 }),
		with(func(p *Point) { p.ValueBytes = 0 }),
		with(func(p *Point) { p.Changes = 0 }),
		with(func(p *Point) { p.EverySeconds = 0 }),
		with(func(p *Point) { p.EverySeconds = math.NaN() }),
		with(func(p *Point) { p.Loss = 1 }),
		with(func(p *Point) { p.DelayMillis = -1 }),
		with(func(p *Point) { p.AgentMbit = 0 }),
		with(func(p *Point) { p.ServerMbit = math.Inf(1) }),
		with(func(p *Point) { p.Faults = "meteor" }),
		with(func(p *Point) { p.Agents, p.Changes, p.EverySeconds = MaxAgents, 1000, 1 }),
		{Grid: make([]Point, MaxRuns+1)},
	} {
		if _, err := Run(context.Background(), o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("Run(%.200s) = %v, want an error that matches ErrInvalid", fmt.Sprintf("%+v", o), err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Run of a cancelled context = %v", err)
	}
}
