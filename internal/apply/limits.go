package apply

import (
	"time"

	"espalier/store"
)

// DefaultMaxDelete is what a new state may delete from a host unless its policy
// says otherwise: as much as a commit may, so that what passed the guard where it
// was published passes here, too.
var DefaultMaxDelete = store.DeleteLimit{Count: 10, Percent: 10}

// Every bound of applying, with its reason.
const (
	// DefaultTimeout is how long a driver may take for one batch.
	DefaultTimeout = 5 * time.Minute
	// DefaultScanInterval and DefaultScanRate look at a million files in a minute,
	// six times an hour, at some percent of a processor.
	DefaultScanInterval = 10 * time.Minute
	DefaultScanRate     = 20_000
	// DefaultContentsInterval, DefaultContentsRate and DefaultContentsBytes read all
	// contents once a day, at a pace that a disk hardly notices.
	DefaultContentsInterval = 24 * time.Hour
	DefaultContentsRate     = 1_000
	DefaultContentsBytes    = 4 << 20

	// defaultBatchBytes bounds the values of a batch whose driver says nothing.
	defaultBatchBytes = 8 << 20
	// maxBatch bounds the objects of a batch: they are in memory at once.
	maxBatch = 16 << 10
	// noteRows bounds what one transaction takes account of without a driver.
	noteRows = 8 << 10
	// chunkKeys bounds how long a snapshot is held open for reading ahead.
	chunkKeys = 16 << 10
	// maxTracked bounds the objects whose failures are told one by one, and whose
	// drifts are remembered: 64 Ki of them take some 30 MB. Of others that fail
	// little more than the next attempt is known.
	maxTracked = 64 << 10
	// maxWaiting bounds the objects that are known to wait for others: a million of
	// them take up to some 200 MB. Of more, those that come later in key order are
	// left to later rounds.
	maxWaiting = 1 << 20
	// breaker is after how many failures in a row a driver is left alone for the rest
	// of a round: it is the disk, and not a million objects.
	breaker = 1000
	// surveyShare is how many times as long as counting what is to do took a round goes
	// on before it is counted again for a newer state.
	surveyShare = 10
	// troublePause is how long to wait after a mirror could not be read.
	troublePause = 5 * time.Second
	// quiet is for how long an object has to stay as it was made for its failures,
	// and what somebody else does to it, to be forgotten.
	quiet = 2 * time.Minute
	// maxFindings bounds the findings of scans that wait to be recorded.
	maxFindings = 4096
	// maxLogged bounds the objects that are logged by name, of those that are found to
	// have drifted together, and of those that fail in a round.
	maxLogged = 10
	// maxHints bounds the objects that drivers want to have looked at; beyond it a
	// scan looks at all.
	maxHints = 4096
	// hintDelay gathers hints that come together.
	hintDelay = 100 * time.Millisecond
	// scanChunk is how many rows a scan reads of the record at a time.
	scanChunk = 4096
	// OnceAttempts is how often Once tries an object that fails.
	OnceAttempts = 3
)
