package follow

import (
	"cmp"
	"math"
	"math/rand/v2"
	"time"
)

// Every bound of following, with its reason. Those of messages are in package
// delta.
const (
	// DefaultInterval is the time between polls of a server that says nothing.
	DefaultInterval = 30 * time.Second
	// MinInterval and MaxInterval bound what a server can ask for.
	MinInterval = time.Second
	MaxInterval = time.Hour
	// holdGap is the least time from one held poll to the next: of changes that
	// follow each other faster, a poll brings several.
	holdGap = 200 * time.Millisecond
	// PullAttempts is how often a pull is tried again that brought nothing new.
	PullAttempts = 3
	// maxAsks is how many polls a sync begins with, each of which may bring another
	// list of sets.
	maxAsks = 4
)

// Limits bounds what is handled at once. The zero value of a field stands for what
// suits a machine; a simulator's are so small that small sets meet them.
type Limits struct {
	// AdoptChanges and AdoptBytes bound what is applied to a mirror in one
	// transaction; more is staged beside it.
	AdoptChanges, AdoptBytes int
	// StageChanges and StageBytes bound one transaction of a staging: what a
	// cut can cost, and what is held in memory, twice.
	StageChanges, StageBytes int
}

func (l Limits) orDefault() Limits {
	return Limits{
		AdoptChanges: cmp.Or(l.AdoptChanges, 16<<10), AdoptBytes: cmp.Or(l.AdoptBytes, 8<<20),
		StageChanges: cmp.Or(l.StageChanges, 20_000), StageBytes: cmp.Or(l.StageBytes, 8<<20),
	}
}

// interval returns how long to wait for the next poll.
func (f *Follower) interval() time.Duration {
	d := min(max(cmp.Or(f.options.Interval, f.next, DefaultInterval), MinInterval), MaxInterval)
	return time.Duration(float64(d) * (0.9 + 0.2*f.float())) // fixed phases echo through a fleet
}

// backoff returns how long to wait after so many failures in a row: at random
// up to 1 s, growing by 1.6 with each, at most 120 s (full jitter; Brooker,
// "Exponential Backoff And Jitter", 2015).
func (f *Follower) backoff(failures int) time.Duration {
	most := min(120, math.Pow(1.6, float64(failures-1)))
	return time.Duration(f.float() * most * float64(time.Second))
}

func (f *Follower) float() float64 {
	if f.options.Random != nil {
		return f.options.Random.Float64()
	}
	return rand.Float64()
}
