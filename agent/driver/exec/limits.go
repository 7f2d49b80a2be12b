package exec

import (
	"time"

	"espalier/agent/driver"
)

// Every bound of this package, with its reason.
const (
	// DefaultBatch is how many changes one run of the program is given: starting it
	// costs some milliseconds, and what a crash makes it repeat is a batch.
	DefaultBatch = 100
	// MaxBatch and MaxParallel bound what an operator may ask for.
	MaxBatch    = 10_000
	MaxParallel = 64
	// MaxTimeout bounds how long a run may take, by an operator's word.
	MaxTimeout = 24 * time.Hour
	// DefaultTimeout bounds a run that looks at objects, where nothing is said.
	DefaultTimeout = 5 * time.Minute
	// DefaultGrace is what a program that is told to end has for it.
	DefaultGrace = 5 * time.Second

	// MaxNoteBytes bounds the note of an answer. The rest of driver.MaxNoteBytes is
	// the change's id.
	MaxNoteBytes = driver.MaxNoteBytes - 256
	// MaxTextBytes bounds what an answer says in words; what is longer is cut. A
	// host's report has as much room.
	MaxTextBytes = 512
	// MaxAnswerBytes bounds a line of the program's standard output: a note of
	// which each byte is escaped, and room for the rest.
	MaxAnswerBytes = 32 << 10
	// outputSlack is what a run may write to its standard output beyond a line for
	// each object.
	outputSlack = 1 << 20

	// maxIDBytes bounds an id; one that is longer is hashed.
	maxIDBytes = 128
	// batchBytes bounds the values of one run that looks at objects, as those of
	// changes are bounded.
	batchBytes = 8 << 20

	// Of standard error so many lines of a run are logged, each cut; and of the last
	// of them so much goes into the error of what was not answered.
	maxLogLines    = 200
	maxLogBytes    = 4 << 10
	lastWords      = 5
	lastWordsBytes = 256
)
