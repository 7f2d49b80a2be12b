package bench

import (
	"slices"
	"sync"
	"time"
)

// Spread is how times lie, in seconds.
type Spread struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// spreadOf returns the spread of times, which it sorts; of none, zero.
func spreadOf(times []time.Duration) Spread {
	if len(times) == 0 {
		return Spread{}
	}
	slices.Sort(times)
	at := func(percent int) float64 { return times[(len(times)-1)*percent/100].Seconds() }
	return Spread{P50: at(50), P99: at(99), Max: at(100)}
}

// record is what polls took while it was in use.
type record struct {
	mu      sync.Mutex
	idle    []time.Duration // found nothing
	changed []time.Duration // brought something
	failed  int
	err     error // of the first that failed
}

func (r *record) add(took time.Duration, changed bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err != nil:
		if r.failed++; r.err == nil {
			r.err = err
		}
	case changed:
		r.changed = append(r.changed, took)
	default:
		r.idle = append(r.idle, took)
	}
}

// polls returns what all polls came to in a time in which the server's CPUs
// worked for so long.
func (r *record) polls(took, cpu time.Duration) FleetPolls {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := float64(len(r.idle) + len(r.changed))
	p := FleetPolls{Failed: r.failed, PerSecond: n / took.Seconds(), Idle: spreadOf(r.idle)}
	if n > 0 {
		p.CPUSeconds = cpu.Seconds() / n
	}
	return p
}

// carried returns how long the polls took that brought something.
func (r *record) carried() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.changed)
}

// failures returns how many polls failed, and why the first did.
func (r *record) failures() (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed, r.err
}
