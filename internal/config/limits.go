package config

import "time"

// Every bound of this package, with its reason.
const (
	// MaxFileBytes bounds a file: a person writes it.
	MaxFileBytes = 1 << 20
	// maxProblems bounds the problems that are told at once.
	maxProblems = 100

	// maxRoutes bounds the drivers of one host: each key is held against all.
	maxRoutes = 64
	// maxServers bounds the servers that are tried one after the other.
	maxServers = 16
	// maxWindows bounds the windows: each day and hour could have its own.
	maxWindows = 7 * 24
	// maxPatterns is what the driver "file" takes of patterns of unmanaged names.
	maxPatterns = 1024
	// maxWords bounds the arguments, or the variables, of a program; maxPathBytes a
	// path, as Linux does.
	maxWords     = 1024
	maxPathBytes = 4095
	// maxWatches is more than any system allows one user.
	maxWatches = 1 << 24
	// maxLogFiles is what is still a list that somebody looks through.
	maxLogFiles = 1000
	// minLogBytes is one long line, maxLogBytes a disk.
	minLogBytes = 64 << 10
	maxLogBytes = 1 << 40
	// maxRate is more objects, and maxByteRate more bytes a second than any disk
	// has.
	maxRate     = 1e9
	maxByteRate = 1 << 40

	// minInterval keeps a typing error, 1ms for 1m, from being a busy loop; what is
	// longer than maxInterval is as good as never, for which there is a word.
	minInterval = time.Second
	maxInterval = 366 * 24 * time.Hour
	// maxTimeout bounds what one call of a driver may take.
	maxTimeout = 24 * time.Hour
	// minDeletes is what a percentage allows in any case, as with `espalier apply`:
	// in a small set a tenth is next to nothing.
	minDeletes = 10
)
