package contest

import "time"

// Every bound of this package.
const (
	// MaxRuns bounds how often something is measured.
	MaxRuns = 100
	// MaxIdle bounds for how long a client that waits is watched.
	MaxIdle = time.Hour
	// stepPatience bounds a step: etcd's default pages take two minutes for a
	// million objects on two quiet cores.
	stepPatience = 20 * time.Minute
	// quiet is for how long nothing has to cross a connection until what a step
	// causes is over: more than a delayed acknowledgement takes.
	quiet = 250 * time.Millisecond
	// calm is how much CPU a server uses meanwhile that has nothing to do, at most;
	// calmPatience bounds the wait for one that always has.
	calm         = 20 * time.Millisecond
	calmPatience = 30 * time.Second
	// checks is how many checks are made in a row, so that 10 ms of CPU, which is
	// as exact as it gets, are 10 µs a check.
	checks = 1000
)

// DefaultSizes are how many objects change at a time.
func DefaultSizes() []int { return []int{1, 100, 10_000} }
