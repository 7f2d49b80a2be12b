package bench

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// load is a history of commits to the hosts of a fleet, and what happens to the
// server meanwhile. It is the same for every policy.
type load struct {
	name    string
	commits []commit // ascending by time
	// The server is down from down until up; zero: never.
	down, up time.Duration
}

// commit is one to a host's set, at a time since the start.
type commit struct {
	at   time.Duration
	host int32
}

// The loads. Rates are log-normal, as those of what people maintain are, widely
// spread: with the spread 2, one host in forty changes 50 times as often as the
// median one, or more.
const (
	poissonMedian = 6.0 / 24 // changes of the median host an hour
	poissonSpread = 2.0      // of the rate's logarithm
	burstsMedian  = 3.0 / 24 // bursts of the median host an hour
	burstsSpread  = 1.0
	burstChanges  = 6.0              // mean changes of a burst, geometric
	burstGap      = 20 * time.Second // mean time between them, exponential
	mostRate      = 360.0            // changes, or bursts, an hour

	rolloutEvery = 3 * time.Hour    // mean time between rollouts, exponential
	rolloutShare = 0.3              // of the fleet is touched
	rolloutTime  = 10 * time.Minute // within this; each host then has a burst
	rolloutCalm  = 0.25             // of the rates of poisson beside

	outage = 2 * time.Minute
)

// loads returns the loads of a run, each a pure function of the options.
func (o *PacingOptions) loads() []*load {
	whole := o.whole()
	poisson := o.newLoad("poisson", 1, func(rng *rand.Rand, host int32, add func(time.Duration)) {
		arrivals(rng, logNormal(rng, poissonMedian, poissonSpread), whole, add)
	})
	bursty := o.newLoad("bursty", 2, func(rng *rand.Rand, host int32, add func(time.Duration)) {
		arrivals(rng, logNormal(rng, burstsMedian, burstsSpread), whole, func(at time.Duration) { burst(rng, at, add) })
	})
	rollouts := o.newLoad("rollouts", 3, o.rollouts())
	restart := o.newLoad("restart", 4, func(rng *rand.Rand, host int32, add func(time.Duration)) {
		arrivals(rng, logNormal(rng, poissonMedian/2, poissonSpread), whole, add)
		arrivals(rng, logNormal(rng, burstsMedian/2, burstsSpread), whole, func(at time.Duration) { burst(rng, at, add) })
	})
	restart.stop(o.warmUp()+o.Duration/2, o.Seed)
	return []*load{poisson, bursty, rollouts, restart}
}

// newLoad makes a load host by host.
func (o *PacingOptions) newLoad(name string, stream uint64, history func(rng *rand.Rand, host int32, add func(time.Duration))) *load {
	l := &load{name: name}
	whole := o.whole()
	for host := range int32(o.Hosts) {
		rng := rand.New(rand.NewPCG(o.Seed, stream<<32|uint64(host)))
		history(rng, host, func(at time.Duration) {
			if at < whole {
				l.commits = append(l.commits, commit{at, host})
			}
		})
	}
	l.sort()
	return l
}

func (l *load) sort() {
	slices.SortFunc(l.commits, func(a, b commit) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.host, b.host)) })
}

// rollouts returns histories that have rollouts in common.
func (o *PacingOptions) rollouts() func(rng *rand.Rand, host int32, add func(time.Duration)) {
	var starts []time.Duration
	arrivals(rand.New(rand.NewPCG(o.Seed, 0)), 1/rolloutEvery.Hours(), o.whole(), func(at time.Duration) { starts = append(starts, at) })
	return func(rng *rand.Rand, host int32, add func(time.Duration)) {
		arrivals(rng, rolloutCalm*logNormal(rng, poissonMedian, poissonSpread), o.whole(), add)
		for _, start := range starts {
			if rng.Float64() < rolloutShare {
				burst(rng, start+time.Duration(rng.Float64()*float64(rolloutTime)), add)
			}
		}
	}
}

// stop lets the server be down for a while: what would be committed meanwhile is
// in the minute after.
func (l *load) stop(at time.Duration, seed uint64) {
	l.down, l.up = at, at+outage
	rng := rand.New(rand.NewPCG(seed, 1))
	for i, c := range l.commits {
		if c.at >= l.down && c.at < l.up {
			l.commits[i].at = l.up + time.Duration(rng.Float64()*float64(time.Minute))
		}
	}
	l.sort()
}

// logNormal draws a rate an hour.
func logNormal(rng *rand.Rand, median, spread float64) float64 {
	return min(median*math.Exp(spread*rng.NormFloat64()), mostRate)
}

// arrivals adds the times of a Poisson process of so many an hour, until end.
func arrivals(rng *rand.Rand, rate float64, end time.Duration, add func(time.Duration)) {
	for at := 0.0; ; {
		at += rng.ExpFloat64() / rate * float64(time.Hour)
		if at >= float64(end) {
			return
		}
		add(time.Duration(at))
	}
}

// burst adds a first time and those that follow it.
func burst(rng *rand.Rand, at time.Duration, add func(time.Duration)) {
	for add(at); rng.Float64() > 1/burstChanges; add(at) {
		at += time.Duration(rng.ExpFloat64() * float64(burstGap))
	}
}
