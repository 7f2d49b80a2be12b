package follow

import (
	"cmp"
	"time"
)

// Every bound of following, with its reason. Those of messages are in package
// delta.
const (
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
	// NewsGap is the least time from one wait that is cut short, to tell the server
	// what it shall know soon, to the next; ProgressGap is how long mere progress is
	// kept back that was told before.
	NewsGap, ProgressGap time.Duration
}

func (l Limits) orDefault() Limits {
	return Limits{
		AdoptChanges: cmp.Or(l.AdoptChanges, 16<<10), AdoptBytes: cmp.Or(l.AdoptBytes, 8<<20),
		StageChanges: cmp.Or(l.StageChanges, 20_000), StageBytes: cmp.Or(l.StageBytes, 8<<20),
		NewsGap: cmp.Or(l.NewsGap, 5*time.Second), ProgressGap: cmp.Or(l.ProgressGap, 30*time.Second),
	}
}
