package pace_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"espalier/internal/pace"
)

var start = time.Unix(1_000_000_000, 0)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// world plays hosts, each with a set, to a Fleet, second by second: each polls as
// it was told, with jitter.
type world struct {
	fleet *pace.Fleet
	rng   *rand.Rand
	now   time.Time
	hosts []*host
	hints []pace.Hint // of the last run
}

type host struct {
	pace.Host
	set  pace.Set
	rate float64 // changes a second
	due  time.Time
	// own is an interval that the host keeps whatever it is told.
	own time.Duration
}

func newWorld(o pace.Options, seed uint64) *world {
	rng := newRand(seed)
	return &world{fleet: pace.NewFleet(o, start, rng), rng: rng, now: start}
}

// join adds hosts that poll for the first time within a minute.
func (w *world) join(n int, rate func() float64) {
	for range n {
		h := &host{rate: rate(), due: w.now.Add(time.Duration(w.rng.Float64() * float64(time.Minute)))}
		w.fleet.Created(&h.set, w.now)
		w.hosts = append(w.hosts, h)
	}
}

// run returns the polls a second over a time.
func (w *world) run(d time.Duration) float64 {
	polls := 0
	w.hints = w.hints[:0]
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(time.Second) {
		for _, h := range w.hosts {
			if w.rng.Float64() < h.rate {
				w.fleet.Changed(&h.set, w.now)
			}
			if h.due.After(w.now) {
				continue
			}
			polls++
			hint := w.fleet.Polled(&h.Host, []*pace.Set{&h.set}, w.now)
			w.hints = append(w.hints, hint)
			wait := float64(hint.After)
			if h.own > 0 {
				wait = float64(h.own)
			}
			h.due = w.now.Add(time.Duration(wait * (0.9 + 0.2*w.rng.Float64())))
		}
	}
	return float64(polls) / d.Seconds()
}

// spread draws rates between once in ten minutes and once in a week, evenly by
// their logarithms.
func (w *world) spread() float64 { return math.Exp(-math.Log(600) - w.rng.Float64()*math.Log(1008)) }

// TestBudget: whoever comes, goes or doesn't listen, the fleet ends up within the
// budget, and uses it.
func TestBudget(t *testing.T) {
	const budget = 20
	w := newWorld(pace.Options{Budget: budget, Objective: 2 * time.Minute, Hosts: 600}, 1)
	step := func(what string, n int) {
		t.Helper()
		w.run(30 * time.Minute)
		if got := w.run(30 * time.Minute); got > budget || got < 0.8*budget {
			t.Errorf("%s: %.1f polls a second, want at most %d, and nearly that", what, got, budget)
		}
		if got := w.fleet.Load(w.now).Hosts; math.Abs(float64(got-n)) > 0.1*float64(n) {
			t.Errorf("%s: the census has %d hosts, there are %d", what, got, n)
		}
	}
	w.join(600, w.spread)
	step("600 hosts", 600)
	w.join(900, w.spread)
	step("900 came", 1500)
	w.hosts = w.hosts[:400]
	step("1,100 went", 400)
	w.fleet = pace.NewFleet(pace.Options{Budget: budget, Objective: 2 * time.Minute, Hosts: 400}, w.now, w.rng)
	for _, h := range w.hosts {
		h.Host, h.due = pace.Host{}, w.now
		w.fleet.Recall(&h.set, int(h.rate*86400), 24*time.Hour, w.now)
	}
	step("the server restarted", 400)
}

// TestStubborn: agents with an interval of their own take from the others.
func TestStubborn(t *testing.T) {
	const budget = 20
	w := newWorld(pace.Options{Budget: budget, Objective: 2 * time.Minute}, 1)
	w.join(600, w.spread)
	for _, h := range w.hosts[:120] {
		h.own = 10 * time.Second
	}
	w.run(2 * time.Hour)
	if got := w.run(time.Hour); got > 1.02*budget {
		t.Errorf("%.1f polls a second, want at most %d", got, budget)
	}
}

// TestObjective: hints keep the objective while the budget can, and give way
// evenly, and visibly, when it can't.
func TestObjective(t *testing.T) {
	const objective = time.Minute
	w := newWorld(pace.Options{Budget: 20, Objective: objective}, 1)
	w.join(1000, w.spread)
	w.run(30 * time.Minute)
	w.run(10 * time.Minute)
	for _, h := range w.hints {
		if h.After < pace.MinHint || h.After > objective || h.Reason == pace.Budget {
			t.Fatalf("a budget that suffices: hint %v, %v", h.After, h.Reason)
		}
	}
	w.join(3000, w.spread)
	w.run(2 * time.Hour)
	if got := w.run(30 * time.Minute); got > 20 {
		t.Errorf("a budget that doesn't suffice: %.1f polls a second, want at most 20", got)
	}
	load := w.fleet.Load(w.now)
	if load.Longest < 3*objective || load.Longest > 4*objective {
		t.Errorf("4,000 hosts at 20 polls a second wait %v at most, want a bit more than 200 s", load.Longest)
	}
	slow := slices.ContainsFunc(w.hints, func(h pace.Hint) bool { return h.Reason == pace.Budget })
	if !slow || load.Objective != objective {
		t.Errorf("the objective gave way without the reason %q: %+v", pace.Budget, load)
	}
}

// TestMonotone: who changed more often polls no less often.
func TestMonotone(t *testing.T) {
	for seed := range uint64(50) {
		w := newWorld(pace.Options{Budget: 5 + 100*newRand(seed).Float64(), Hosts: 1000}, seed)
		last, at := time.Duration(math.MaxInt64), start.Add(time.Hour)
		for changes := range 2000 {
			var s pace.Set
			w.fleet.Recall(&s, changes, time.Hour, at)
			h := pace.Host{}
			w.fleet.Polled(&h, []*pace.Set{&s}, at) // the first hint is drawn
			got := w.fleet.Polled(&h, []*pace.Set{&s}, at).After
			if got > last || got < pace.MinHint || got > pace.DefaultObjective {
				t.Fatalf("seed %d: after %d changes the hint is %v, after one less %v", seed, changes, got, last)
			}
			last = got
		}
	}
}

// TestBurst: a change makes the host poll soon, for a while.
func TestBurst(t *testing.T) {
	w := newWorld(pace.Options{Budget: 5, Objective: 2 * time.Minute}, 1)
	w.join(300, func() float64 { return 1.0 / 86400 })
	w.run(time.Hour)
	h := w.hosts[0]
	poll := func() pace.Hint { return w.fleet.Polled(&h.Host, []*pace.Set{&h.set}, w.now) }
	calm := poll()
	w.fleet.Changed(&h.set, w.now)
	now := poll()
	if now.Reason != pace.Burst || now.After > calm.After/2 {
		t.Errorf("before a change %v, %v; after it %v, %v", calm.After, calm.Reason, now.After, now.Reason)
	}
	for range 10 {
		last := now
		w.run(time.Minute)
		if now = poll(); now.After < last.After*9/10 {
			t.Errorf("without a change the hint falls from %v to %v", last.After, now.After)
		}
	}
	// What remains is that the set changed once more today.
	if now.Reason == pace.Burst || now.After < calm.After/3 {
		t.Errorf("ten minutes after a change the hint is still %v, %v", now.After, now.Reason)
	}
}

// TestRestartSpread: a fleet that comes back at once is spread.
func TestRestartSpread(t *testing.T) {
	const hosts, budget = 10_000, 200
	fleet := pace.NewFleet(pace.Options{Budget: budget, Hosts: hosts}, start, newRand(1))
	var perSecond [3600]int
	for range hosts {
		var s pace.Set
		var h pace.Host
		hint := fleet.Polled(&h, []*pace.Set{&s}, start.Add(time.Second))
		if hint.Reason != pace.Restart {
			t.Fatalf("reason %v, want restart", hint.Reason)
		}
		perSecond[hint.After/time.Second]++
	}
	// The first has those that MinHint held back.
	if most := slices.Max(perSecond[3:]); most > 2*budget {
		t.Errorf("%d come back within one second, want about %d at most", most, budget)
	}
}

func TestRefused(t *testing.T) {
	const budget = 100
	fleet := pace.NewFleet(pace.Options{Budget: budget}, start, newRand(1))
	if got := fleet.Refused(start); got.After < pace.MinRetry || got.After > 2*pace.MinRetry || got.Reason != pace.Overloaded {
		t.Errorf("a single client retries after %v, %v", got.After, got.Reason)
	}
	var perSecond [400]int
	for range 10_000 {
		perSecond[fleet.Refused(start.Add(time.Second)).After/time.Second]++
	}
	total := 0
	for second, n := range perSecond {
		if total += n; total > 3*budget*(second+1) {
			t.Fatalf("%d clients retry within %d s, of a budget of %d a second", total, second+1, budget)
		}
	}
	for range 100_000 {
		if got := fleet.Refused(start.Add(time.Second)).After; got > pace.MaxRetry {
			t.Fatalf("a client retries after %v, want at most %v", got, pace.MaxRetry)
		}
	}
}

// TestSteps: a clock that jumps, options that make no sense, hosts without sets:
// hints stay within their bounds.
func TestSteps(t *testing.T) {
	for seed := range uint64(200) {
		rng := newRand(seed)
		o := pace.Options{
			Budget: rng.NormFloat64() * 1e3, Hosts: rng.IntN(1e6) - 1000,
			Objective: time.Duration(rng.NormFloat64() * float64(time.Hour)),
		}
		fleet := pace.NewFleet(o, start, rng)
		sets := make([]pace.Set, 3)
		asked := []*pace.Set{&sets[0], &sets[1], &sets[2]}
		var h pace.Host
		for range 300 {
			at := start.Add(time.Duration(rng.NormFloat64() * math.Pow(10, rng.Float64()*9) * float64(time.Second) / 1e3))
			switch set := &sets[rng.IntN(3)]; rng.IntN(8) {
			case 0:
				fleet.Created(set, at)
			case 1:
				fleet.Recall(set, rng.IntN(1e6)-1, time.Duration(rng.Int64N(1e18)), at)
			case 2, 3, 4:
				fleet.Changed(set, at)
			}
			hint := fleet.Polled(&h, asked[:rng.IntN(4)], at)
			if hint.After < pace.MinHint || hint.After > pace.MaxHint {
				t.Fatalf("seed %d, %+v: hint %v, %v", seed, o, hint.After, hint.Reason)
			}
		}
	}
}

func TestReason(t *testing.T) {
	seen := map[string]bool{}
	for r := pace.Changing; r <= pace.Overloaded; r++ {
		if s := r.String(); s == "" || seen[s] {
			t.Errorf("reason %d is %q", r, s)
		}
		seen[r.String()] = true
	}
	if got := (pace.Overloaded + 1).String(); got != "reason 7" {
		t.Errorf("an unknown reason is %q", got)
	}
}

func BenchmarkPolled(b *testing.B) {
	rng := newRand(1)
	fleet := pace.NewFleet(pace.Options{Hosts: 10_000}, start, rng)
	hosts, sets := make([]pace.Host, 10_000), make([]pace.Set, 10_000)
	at := start
	for i := 0; b.Loop(); i++ {
		at = at.Add(2 * time.Millisecond) // 500 a second
		n := i % len(sets)
		if rng.IntN(50) == 0 {
			fleet.Changed(&sets[n], at)
		}
		fleet.Polled(&hosts[n], []*pace.Set{&sets[n]}, at)
	}
}
