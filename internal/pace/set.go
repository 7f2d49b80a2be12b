package pace

import (
	"math"
	"time"
)

// Set is what a server remembers of a set's changes: 24 bytes. The zero value is
// a set that is known since the server started. It belongs to the Fleet that it
// was used with first.
type Set struct {
	// long and recent are counts of changes that decay with rateMemory and
	// burstMemory, as they were at the last change.
	long, recent float32
	// changed is when that was, known since when changes are counted; in seconds
	// of the Fleet's clock.
	changed, known float64
}

// activity is how often a set is expected to change, in changes a second: rate
// on its own, lasting, and burst on top, which fades with burstMemory.
type activity struct{ rate, burst float64 }

// at decays the set's counts to the time now.
func (s *Set) at(now float64) (long, recent float64) {
	age := max(now-s.changed, 0)
	return float64(s.long) * math.Exp(-age/rateMemory.Seconds()), float64(s.recent) * math.Exp(-age/burstMemory.Seconds())
}

// observed returns for how long changes were counted, with the weight that the
// decay leaves to it.
func (s *Set) observed(now float64) float64 {
	memory := rateMemory.Seconds()
	return memory * -math.Expm1(-max(now-s.known, 0)/memory)
}

func (s *Set) change(now float64) {
	long, recent := s.at(now)
	s.long, s.recent, s.changed = float32(long+1), float32(recent+1), now
}

// recall makes the set one that changed so often, evenly, over the time before
// now.
func (s *Set) recall(now float64, changes int, over time.Duration) {
	*s = Set{changed: now, known: now - over.Seconds()}
	s.long = float32(float64(changes) / over.Seconds() * s.observed(now))
}

// habits is what all sets of a fleet have in common, learned from them.
type habits struct {
	// changes and observed are sums over sets, as they are met at polls: their
	// quotient is the mean rate.
	changes, observed float64
	// follow is the share of changes that come because of one before.
	follow float64
}

func newHabits() habits {
	return habits{changes: priorRate * priorTime.Seconds(), observed: priorTime.Seconds(), follow: startFollow}
}

// expect returns what is to be expected of a set. rate is the mean of the gamma
// distribution that the fleet's mean rate and the set's own changes leave; it
// includes changes that follow others, since each first one brings its followers
// with it, which wait as well.
func (h *habits) expect(s *Set, now float64) activity {
	long, recent := s.at(now)
	rate := (long + priorChanges) / (s.observed(now) + priorChanges*h.observed/h.changes)
	return activity{rate: max(rate, slowest), burst: h.follow * recent / burstMemory.Seconds()}
}

// learn takes a change of s into account, before s does: how likely it is that
// the change follows an earlier one, given what was expected, moves the share of
// those that do (the expectation step of Veen & Schoenberg, one change at a time).
func (h *habits) learn(s *Set, now float64) {
	a := h.expect(s, now)
	own := (1 - h.follow) * a.rate
	follows := a.burst / (a.burst + own)
	h.follow = min(max(h.follow+followLearning*(follows-h.follow), minFollow), maxFollow)
}

// meet adds a set to the fleet's mean. A set that keeps being asked for weighs 1 if
// weight is the interval to the next poll, over the time constant of forgetting.
func (h *habits) meet(s *Set, now, weight float64) {
	long, _ := s.at(now)
	h.changes += weight * long
	h.observed += weight * s.observed(now)
}

// forget lets the sums fade by a factor, but not below what they started with.
func (h *habits) forget(factor float64) {
	factor = max(factor, min(priorTime.Seconds()/h.observed, 1))
	h.changes *= factor
	h.observed *= factor
}

// wait returns for how long, in seconds, a host with that activity may wait until
// the delays that its changes are expected to suffer, together, cost what a poll
// does: price. For a lasting rate alone that is √(2 price/rate).
//
// Changes that come s after the last poll wait T−s for the next, so what is to
// be solved is, with m = burstMemory,
//
//	price = ∫₀ᵀ (rate + burst·e^(−s/m)) (T−s) ds = rate·T²/2 + burst·m·(T − m(1−e^(−T/m)))
//
// whose right side is convex and at least rate·T²/2, so that Newton's method
// descends to it from √(2 price/rate).
func (a activity) wait(price float64) float64 {
	t := math.Sqrt(2 * price / a.rate)
	if a.burst == 0 {
		return t
	}
	m := burstMemory.Seconds()
	for range 20 {
		fresh := -math.Expm1(-t / m)
		excess := a.rate*t*t/2 + a.burst*m*(t-m*fresh) - price
		step := excess / (a.rate*t + a.burst*m*fresh)
		t -= step
		if step < t/1000 {
			break
		}
	}
	return t
}
