package bench

import (
	"fmt"
	"time"

	"espalier/internal/desired"
)

// Every bound of this package.
const (
	// MinObjects leaves something to change, MaxObjects is what the keys have
	// room for.
	MinObjects = 100
	MaxObjects = 100_000_000
	// MinValueBytes makes sure that no two values are the same by chance.
	MinValueBytes = 8
	// MaxRounds bounds how often a case is repeated.
	MaxRounds = 1000
	// MaxAgents bounds the agents of one process: each has files and a
	// connection.
	MaxAgents = 1000
	// MaxFleetAgents bounds those of a fleet, which have a connection alone: a few
	// less than server.MaxConnections.
	MaxFleetAgents = 30_000
	// MinFleetInterval leaves time for something to be measured.
	MinFleetInterval = 100 * time.Millisecond
	// MaxHeldChanges bounds how many changes are timed one by one.
	MaxHeldChanges = 10_000
	// MaxPollDuration bounds a run of polls.
	MaxPollDuration = time.Hour

	// filesKept is what a host keeps of a small file, in its mirror and its record.
	filesKept = 512
	// filesPerFolder is how many files are in a folder, and so how often a plain loop
	// looks whether it is to stop.
	filesPerFolder = 1000

	// changeShare is the largest part of a set that one change set touches:
	// what is asked for beyond is cut.
	changeShare = 10

	// flippedValues is how many values the corrupt case damages.
	flippedValues = 10
)

// MostChanges returns how many objects of a set one change set touches at most.
func MostChanges(objects int) int { return objects / changeShare }

// checkSizes returns nil if a workload of that size can be made up.
func checkSizes(objects, valueBytes int) error {
	if objects < MinObjects || objects > MaxObjects {
		return fmt.Errorf("%w number of objects %d: want %d to %d", desired.ErrInvalid, objects, MinObjects, MaxObjects)
	}
	if valueBytes < MinValueBytes || valueBytes > desired.MaxValueBytes {
		return fmt.Errorf("%w size of values %d: want %d to %d bytes", desired.ErrInvalid, valueBytes, MinValueBytes, desired.MaxValueBytes)
	}
	return nil
}

func checkRounds(rounds int) error {
	if rounds < 1 || rounds > MaxRounds {
		return fmt.Errorf("%w number of rounds %d: want 1 to %d", desired.ErrInvalid, rounds, MaxRounds)
	}
	return nil
}
