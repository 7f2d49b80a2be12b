package process

import "time"

// Every bound of this package.
const (
	// MaxSpecBytes bounds an object's value: room for all that a program can be
	// given by hand, and little enough to hand to a shim as it is.
	MaxSpecBytes = 256 << 10
	// MaxReplicas bounds the copies of one program: each costs a shim.
	MaxReplicas = 256
	// MaxArgs and MaxEnv bound how many arguments and variables a program gets,
	// MaxTextBytes the bytes of one; Linux takes 128 KiB.
	MaxArgs      = 1024
	MaxEnv       = 1024
	MaxTextBytes = 64 << 10
	// MaxStopTimeout and MaxReadyAfter bound how long one copy may hold up an
	// Apply.
	MaxStopTimeout = 5 * time.Minute
	MaxReadyAfter  = 5 * time.Minute

	// DefaultStopTimeout is what people are used to from elsewhere;
	// DefaultReadyAfter is enough for a program to find out that it can't start.
	DefaultStopTimeout = 10 * time.Second
	DefaultReadyAfter  = time.Second
	// DefaultLogBytes and DefaultLogFiles bound the logs of one copy.
	DefaultLogBytes = 10 << 20
	DefaultLogFiles = 5
	// DefaultOrphanAfter is several times what an agent takes to ask for all
	// objects once.
	DefaultOrphanAfter = 6 * time.Hour

	// applyTimeout bounds one Apply: two copies that take as long as they may. A
	// roll of more that is cut short goes on with the next attempt.
	applyTimeout = 2*(MaxStopTimeout+MaxReadyAfter) + time.Minute
	// applyParallel bounds the Apply at once, and startParallel the copies that
	// one of them starts at once: most of the time they wait.
	applyParallel = 16
	startParallel = 8

	// startTimeout bounds how long a shim may take to start its program: an
	// overloaded machine, a slow disk.
	startTimeout = time.Minute
	// settleTimeout bounds how long a shim may be between two states, and
	// settleEvery is how often it is looked at meanwhile.
	settleTimeout = time.Minute
	settleEvery   = 20 * time.Millisecond
	// stopGrace is what a shim gets on top of the stop timeout; then it is killed.
	stopGrace = 15 * time.Second
	// killTimeout bounds how long a process may take to go once it was killed: one
	// that waits for a disk doesn't go before that.
	killTimeout = 30 * time.Second
	// sweepRounds bounds how often what is left of a copy is looked for, since it
	// may go on forking.
	sweepRounds = 10

	// maxStateBytes bounds a file of a copy's state, maxReplyBytes what a shim may
	// say of its start, maxEnvironBytes what is read of a process's environment.
	maxStateBytes = 64 << 10
	// maxOrderBytes bounds what a shim is told: a whole value with every byte
	// escaped, and some paths.
	maxOrderBytes   = 8*MaxSpecBytes + 64<<10
	maxReplyBytes   = 4 << 10
	maxEnvironBytes = 4 << 20
	// maxFileName bounds an escaped name; file systems take 255 bytes, and a
	// replica and a suffix follow.
	maxFileName = 180
	// maxDriftBytes bounds what is told of an object's drift.
	maxDriftBytes = 500

	// maxTailBytes bounds the last line of output that is told when a copy ends.
	maxTailBytes = 200
	// maxLineSlack is how far a log may grow beyond its bound in order to end with
	// a whole line.
	maxLineSlack = 64 << 10
	// outputChunk and outputChunks bound the output that waits for the disk. Where
	// it is full for outputPatience, output is dropped, so that a disk that hangs
	// doesn't stop a program for longer.
	outputChunk    = 32 << 10
	outputChunks   = 32
	outputPatience = 10 * time.Second
	// drainTimeout bounds how long a shim waits for the last of the output, and
	// for the disk to take it.
	drainTimeout = 15 * time.Second
)
