package bench

import (
	"math"
	"math/rand/v2"
	"time"

	"espalier/internal/pace"
)

// policy says when a host polls next. It is a server's, and lives as long.
type policy interface {
	// changed tells of a commit to a host's set.
	changed(host int32, now time.Time)
	// polled returns after what time a host should poll next; with hold, its poll
	// stays open for that time, and is answered at once when something changes.
	polled(host int32, fresh bool, now time.Time) (wait time.Duration, hold bool)
	// released tells that a poll is no longer held.
	released()
	// restarted tells that the server stopped, and starts now.
	restarted(now time.Time)
}

// tuned is a policy with a free parameter, which says how often hosts poll.
type tuned struct {
	name string
	// parameter names the free one, with its unit.
	parameter string
	// elasticity is by what part polls grow, about, as the parameter does.
	elasticity float64
	// guess is where calibration starts.
	guess func(o *PacingOptions) float64
	make  func(o *PacingOptions, parameter float64, start time.Time, rng *rand.Rand) policy
}

// policies are all that are compared, the fixed one first: the others are given
// its polls.
var policies = []tuned{
	{"fixed", "interval, s", -1, func(o *PacingOptions) float64 { return o.Interval.Seconds() }, newFixed},
	{"exponential", "longest interval, s", -1, func(o *PacingOptions) float64 { return o.Interval.Seconds() }, newExponential},
	{"sqrt", "price of a poll, s", -0.5, func(*PacingOptions) float64 { return 0.4 }, newSqrt},
	{"espalier", "budget, polls/s", 1, (*PacingOptions).budget, newEspalier},
	{"held", "budget, polls/s", 1, (*PacingOptions).budget, newHeld},
}

// budget is how many polls a second the fixed interval makes.
func (o *PacingOptions) budget() float64 { return float64(o.Hosts) / o.Interval.Seconds() }

// stateless is what the simple policies have in common.
type stateless struct{}

func (stateless) changed(int32, time.Time) {}
func (stateless) released()                {}
func (stateless) restarted(time.Time)      {}

// fixed polls at one interval.
type fixed struct {
	stateless
	interval time.Duration
}

func newFixed(_ *PacingOptions, interval float64, _ time.Time, _ *rand.Rand) policy {
	return fixed{interval: toDuration(interval)}
}

func (p fixed) polled(int32, bool, time.Time) (time.Duration, bool) { return p.interval, false }

// exponential doubles the interval while nothing changes, and resets it upon a
// change.
type exponential struct {
	stateless
	longest time.Duration
	last    []time.Duration
}

func newExponential(o *PacingOptions, longest float64, _ time.Time, _ *rand.Rand) policy {
	return &exponential{longest: toDuration(longest), last: make([]time.Duration, o.Hosts)}
}

func (p *exponential) polled(host int32, fresh bool, _ time.Time) (time.Duration, bool) {
	if fresh {
		p.last[host] = 0
	}
	p.last[host] = min(max(2*p.last[host], pace.MinHint), p.longest)
	return p.last[host], false
}

// sqrt is the rule √(2c/λ) alone, λ being the host's changes over the time, and
// half a change an hour before that.
type sqrt struct {
	stateless
	price float64
	start time.Time
	seen  []float64
}

func newSqrt(o *PacingOptions, price float64, start time.Time, _ *rand.Rand) policy {
	return &sqrt{price: price, start: start, seen: make([]float64, o.Hosts)}
}

func (p *sqrt) changed(host int32, _ time.Time) { p.seen[host]++ }

func (p *sqrt) polled(host int32, _ bool, now time.Time) (time.Duration, bool) {
	rate := (p.seen[host] + 0.5) / (now.Sub(p.start) + time.Hour/2).Seconds()
	return toDuration(math.Sqrt(2 * p.price / rate)), false
}

// espalier is package pace. A restart costs it everything but how often each set
// changed, which a server has in its journals.
type espalier struct {
	options pace.Options
	rng     *rand.Rand
	start   time.Time
	fleet   *pace.Fleet
	hosts   []pace.Host
	sets    []pace.Set
	asked   [1]*pace.Set
	seen    []int
}

func newEspalier(o *PacingOptions, budget float64, start time.Time, rng *rand.Rand) policy {
	return makeEspalier(o, budget, start, rng)
}

func makeEspalier(o *PacingOptions, budget float64, start time.Time, rng *rand.Rand) *espalier {
	p := &espalier{
		options: pace.Options{Objective: o.Objective, Budget: budget, Hosts: o.Hosts},
		rng:     rng, start: start, seen: make([]int, o.Hosts),
	}
	p.restarted(start)
	return p
}

func (p *espalier) restarted(now time.Time) {
	p.fleet = pace.NewFleet(p.options, now, p.rng)
	p.hosts = make([]pace.Host, len(p.seen))
	p.sets = make([]pace.Set, len(p.seen))
	for i, changes := range p.seen {
		p.fleet.Recall(&p.sets[i], changes, now.Sub(p.start), now)
	}
}

func (p *espalier) changed(host int32, now time.Time) {
	p.seen[host]++
	p.fleet.Changed(&p.sets[host], now)
}

func (p *espalier) polled(host int32, _ bool, now time.Time) (time.Duration, bool) {
	p.asked[0] = &p.sets[host]
	return p.fleet.Polled(&p.hosts[host], p.asked[:], now).After, false
}

func (p *espalier) released() {}

// held keeps the polls open of those hosts that would poll soonest, as many as the
// server may hold, and lets others follow hints.
type held struct {
	*espalier
	most, holding int
	// threshold is the longest hint that is held, and moves so that about as many
	// are as may be.
	threshold, longest time.Duration
}

// heldShare is the part of the fleet whose polls a server holds.
const heldShare = 0.1

func newHeld(o *PacingOptions, budget float64, start time.Time, rng *rand.Rand) policy {
	return &held{
		espalier: makeEspalier(o, budget, start, rng),
		most:     int(heldShare * float64(o.Hosts)), threshold: o.Objective, longest: o.Objective,
	}
}

func (p *held) polled(host int32, fresh bool, now time.Time) (time.Duration, bool) {
	wait, _ := p.espalier.polled(host, fresh, now)
	if p.holding < p.most {
		p.threshold = min(p.threshold*101/100, p.longest)
	} else {
		p.threshold = max(p.threshold*99/100, pace.MinHint)
	}
	if wait > p.threshold || p.holding >= p.most {
		return wait, false
	}
	p.holding++
	return p.longest, true
}

func (p *held) released() { p.holding-- }

func toDuration(seconds float64) time.Duration {
	return time.Duration(min(seconds, math.MaxInt32) * float64(time.Second))
}
