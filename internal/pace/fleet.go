package pace

import (
	"cmp"
	"math"
	"math/rand/v2"
	"time"
)

// Options say what a Fleet is to be held to. The zero value works.
type Options struct {
	// Objective is the longest that a change shall wait to be noticed; 0:
	// DefaultObjective. It is held between MinHint and MaxHint.
	Objective time.Duration
	// Budget is how many polls a second the server takes in the long run; 0:
	// DefaultBudget. While much changes at once, for some minutes, it may be half
	// as many more.
	Budget float64
	// Hosts is how many hosts there are, as far as the server knows when it
	// starts; 0: half as many as the budget allows to meet the objective. It is only
	// the first guess: hosts are counted as they poll.
	Hosts int
}

// Fleet paces the hosts of one server. Its methods take the time, which may jump:
// backwards counts as standing still. They take constant time, and need a lock if
// they are called by several goroutines.
type Fleet struct {
	rng       *rand.Rand
	start     time.Time
	now       float64 // seconds since start, never less than before
	objective float64 // seconds
	budget    float64
	habits    habits
	census    census
	// price is what a poll costs at the moment, in seconds that one change waits;
	// solved is when it was computed.
	price, solved float64
	polls         decaying
	// expected is how many polls a second follow from the census and the price,
	// stray how many come besides, smoothed: of hosts that don't listen, say.
	expected, stray float64
	// refused counts clients that were told to retry, and drains as they come back.
	refused, drained float64
}

// Host is what a server remembers of a host: whether it has polled since the
// server started. The zero value is one that has not.
type Host struct{ known bool }

// Hint tells a host when to poll next, and an operator why then.
type Hint struct {
	// After is how long to wait. The host adds its own jitter.
	After  time.Duration
	Reason Reason
}

// NewFleet returns the pace of a server that starts now. rng is the Fleet's from
// then on.
func NewFleet(o Options, now time.Time, rng *rand.Rand) *Fleet {
	objective := min(max(cmp.Or(o.Objective, DefaultObjective), MinHint), MaxHint).Seconds()
	budget := o.Budget
	if !(budget > 0) {
		budget = DefaultBudget
	}
	hosts := cmp.Or(float64(max(o.Hosts, 0)), budget*objective/2)
	f := &Fleet{
		rng: rng, start: now, objective: objective, budget: budget,
		habits: newHabits(),
		census: newCensus(hosts, priorRate, memoryOf(objective)),
		polls:  decaying{memory: rateWindow.Seconds()},
	}
	f.solve(math.Inf(1))
	return f
}

// Recall tells the Fleet, once it starts, how often a set changed over some time
// before now, so that a restart doesn't forget which hosts matter.
func (f *Fleet) Recall(s *Set, changes int, over time.Duration, now time.Time) {
	if changes >= 0 && over > 0 {
		s.recall(f.advance(now), changes, over)
	}
}

// Created tells the Fleet that a set is new.
func (f *Fleet) Created(s *Set, now time.Time) { *s = Set{known: f.advance(now)} }

// Changed tells the Fleet of a commit to a set.
func (f *Fleet) Changed(s *Set, now time.Time) {
	at := f.advance(now)
	f.habits.learn(s, at)
	s.change(at)
}

// Polled tells the Fleet that a host polled for sets, and returns when it should
// poll next: between MinHint and MaxHint.
func (f *Fleet) Polled(h *Host, sets []*Set, now time.Time) Hint {
	at := f.advance(now)
	f.polls.add(at)
	var a activity
	for _, s := range sets {
		of := f.habits.expect(s, at)
		a.rate += of.rate
		a.burst += of.burst
	}
	a.rate = max(a.rate, slowest) // if there is no set
	wait := a.wait(f.price)
	rate := 2 * f.price / (wait * wait) // the lasting rate that would ask for the same
	interval := f.interval(wait, f.price)
	f.census.count(rate, interval)
	for _, s := range sets {
		f.habits.meet(s, at, interval/memoryOf(f.cap(f.price)))
	}
	if !h.known {
		h.known = true
		return f.spread(interval)
	}
	return Hint{After: seconds(interval), Reason: f.reason(interval, wait, a)}
}

// interval bounds a wait, below by MinHint, above by the objective, or by what is
// left of that at a price.
func (f *Fleet) interval(wait, price float64) float64 {
	return max(min(wait, f.cap(price)), MinHint.Seconds())
}

// cap is the longest interval at a price: the objective, until the price is such
// that even a host whose sets change every MinHint would wait as long, and
// all hosts poll alike. Beyond, it grows as a host's interval would.
func (f *Fleet) cap(price float64) float64 {
	full := f.objective * f.objective / (2 * MinHint.Seconds())
	return min(f.objective*math.Sqrt(max(price/full, 1)), MaxHint.Seconds())
}

// reason says why the interval is what it is.
func (f *Fleet) reason(interval, wait float64, a activity) Reason {
	switch {
	case interval > f.objective:
		return Budget
	case wait > interval:
		return Objective
	case a.burst > a.rate:
		return Burst
	default:
		return Changing
	}
}

// spread returns the hint for a host that the server hasn't met before: at random
// over the time that the fleet takes to poll once within the budget, so that
// hosts that came together don't stay together.
func (f *Fleet) spread(interval float64) Hint {
	window := min(max(interval, f.census.hosts()/f.budget), MaxHint.Seconds())
	h := Hint{After: max(seconds(f.rng.Float64()*window), MinHint), Reason: Joined}
	if f.now < RestartWindow.Seconds() {
		h.Reason = Restart
	}
	return h
}

// Refused returns when a client should retry that the server has no room for now:
// at random over a window in which all who were refused and have not been back
// yet take half of the budget.
func (f *Fleet) Refused(now time.Time) Hint {
	at := f.advance(now)
	room := f.budget * retryShare
	f.refused = max(f.refused-(at-f.drained)*room, 0) + 1
	f.drained = at
	window := min(max(f.refused/room, 2*MinRetry.Seconds()), MaxRetry.Seconds())
	return Hint{After: max(seconds(f.rng.Float64()*window), MinRetry), Reason: Overloaded}
}

// Load is how a server's polls stand to what it is held to.
type Load struct {
	// Budget and Polls are polls a second: those it takes, and those that came,
	// over about a minute.
	Budget, Polls float64
	// Hosts is how many hosts poll, about.
	Hosts int
	// Objective is the longest that a change shall wait to be noticed, Longest
	// how long a host is told to wait at most: more, if the budget can't hold the
	// objective.
	Objective, Longest time.Duration
}

// Load returns how the server stands.
func (f *Fleet) Load(now time.Time) Load {
	at := f.advance(now)
	return Load{
		Budget: f.budget, Polls: f.polls.rate(at), Hosts: int(math.Round(f.census.hosts())),
		Objective: seconds(f.objective), Longest: seconds(f.cap(f.price)),
	}
}

// advance moves the clock to now, unless that is in the past, and returns it. It
// computes the price once that is due.
func (f *Fleet) advance(now time.Time) float64 {
	f.now = max(f.now, now.Sub(f.start).Seconds())
	if since := f.now - f.solved; since >= solveEvery.Seconds() {
		f.correct(since)
		memory := memoryOf(f.cap(f.price))
		f.habits.forget(math.Exp(-since / memory))
		f.census.pass(since, memory)
		f.solve(since)
	}
	return f.now
}

// memoryOf returns the time constant of the census for a longest interval.
func memoryOf(longest float64) float64 { return censusMemory * longest }

// correct notes how many polls come that hints don't explain, over so many
// seconds.
func (f *Fleet) correct(since float64) {
	weight := -math.Expm1(-since / (strayMemory * f.objective))
	f.stray += weight * (f.polls.rate(f.now) - f.expected - f.stray)
}

// solve lets the price follow, over so many seconds, the one at which the fleet fills
// its part of the budget. It follows slowly, since a price that stays as it is
// while much changes at once serves more changes with the same polls; but never
// below the price at which the fleet surges as far as it may.
func (f *Fleet) solve(since float64) {
	f.solved = f.now
	room := f.budget * max(aim-max(f.stray, 0)/f.budget, minRoom)
	price := f.priceFor(room)
	if !math.IsInf(since, 1) {
		price *= math.Pow(f.price/price, math.Exp(-since/surgeTime.Seconds()))
		price = max(price, f.priceFor(room+surge*f.budget))
	}
	f.price = price
	f.expected = f.pollsAt(price)
}

// priceFor returns the price at which the fleet makes at most so many polls a
// second, and at least pollCost: by bisection, since polls fall as the price grows.
func (f *Fleet) priceFor(room float64) float64 {
	low, high := math.Log(pollCost), math.Log(MaxHint.Seconds()*MaxHint.Seconds()/MinHint.Seconds())
	for high-low > 0.01 {
		if middle := (low + high) / 2; f.pollsAt(math.Exp(middle)) > room {
			low = middle
		} else {
			high = middle
		}
	}
	return math.Exp(high)
}

// pollsAt returns how many polls a second the fleet makes at a price.
func (f *Fleet) pollsAt(price float64) float64 {
	return f.census.polls(func(rate float64) float64 { return f.interval(math.Sqrt(2*price/rate), price) })
}

// decaying measures how often something happens.
type decaying struct{ count, at, memory float64 }

func (d *decaying) add(now float64) {
	d.count = d.count*math.Exp(-(now-d.at)/d.memory) + 1
	d.at = now
}

// rate returns how often it happens, a second.
func (d *decaying) rate(now float64) float64 {
	return d.count * math.Exp(-(now-d.at)/d.memory) / d.memory
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
