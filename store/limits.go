package store

import "time"

// bounds bounds how much is handled at once.
type bounds struct{ rows, bytes int }

func (b bounds) exceeded(rows, bytes int) bool { return rows > b.rows || bytes > b.bytes }

// Every bound of this package. Those on keys and values stand in
// internal/desired.
const (
	// MaxAdoptChanges and MaxAdoptBytes bound what Mirror.Adopt applies in one
	// transaction; more has to be staged. A commit with more rewrites its set's
	// file. bbolt holds all pages of a transaction in memory, about 7 KiB for
	// each: with scattered changes to 1,000,000 objects 10,000 peak at 70 MiB of
	// heap and 16,384 at 102; to 5,000,000 objects, whose changes share fewer
	// pages, at 115 and 157.
	MaxAdoptChanges = 12288
	MaxAdoptBytes   = 16 << 20

	// largeCommit is from how many pages on the garbage of a transaction is
	// collected at once. Otherwise it would stand beside that of whatever comes
	// next.
	largeCommit = 4096

	// MaxProblems bounds the problems that a Report lists.
	MaxProblems = 100
	// MaxWhoBytes, MaxWhyBytes and MaxRequestIDBytes bound what a commit may
	// say of itself.
	MaxWhoBytes       = 256
	MaxWhyBytes       = 1024
	MaxRequestIDBytes = 128
	// MaxTokens bounds the tokens that wait to be used, MaxGrantBytes what one
	// grants.
	MaxTokens     = 10_000
	MaxGrantBytes = 8 << 10
	// maxLead bounds by how much a host's number can raise that of an epoch which
	// is begun after a fork: the word of one host must not use numbers up.
	maxLead = 1 << 32
	// MaxRouteBytes, MaxNoteBytes, MaxReasonBytes, MaxStateNameBytes and
	// MaxStateBytes bound what a host's record keeps: the name of a route, a
	// driver's note, why an object drifted, a value of its state and the name of
	// that.
	MaxRouteBytes     = 256
	MaxNoteBytes      = 4096 // driver.MaxNoteBytes
	MaxReasonBytes    = 512
	MaxStateNameBytes = 128
	MaxStateBytes     = 4 << 10
	// maxOverlay is up to how many drifts the observed root is computed from what
	// they change, which is held in memory, some 200 bytes for each; more are
	// merged with all rows as those are read.
	maxOverlay = 1 << 15
	// MaxMarkBytes bounds the mark of a staging.
	MaxMarkBytes = 64 << 10

	// maxCycleKeys and maxCycleKeyBytes bound what a message names of a cycle.
	maxCycleKeys     = 8
	maxCycleKeyBytes = 120

	// DefaultOpenFiles is how many sets' files a store keeps open.
	DefaultOpenFiles = 64

	// batchRows and batchBytes bound what a staging that is appended to makes
	// durable at once.
	batchRows  = 20000
	batchBytes = 8 << 20

	// chunkRows and chunkBytes bound what a backup or a scrub reads of a set
	// before it lets go of the snapshot.
	chunkRows  = 4096
	chunkBytes = 1 << 20

	// minJournalKeys is what the journal keeps at least, journalShare the part
	// of the set's objects that it keeps where that is more. It is trimmed to
	// journalSlack less than that, so that not every commit pays for it.
	minJournalKeys = 4096
	journalShare   = 8
	journalSlack   = 64
	// inheritKeys bounds the keys that a mirror takes over from the journal of
	// the one that it replaces, and those that it adds: both are held in memory.
	inheritKeys = 1 << 17
	// journalPartBytes bounds a row of the journal: a longer one goes on in
	// parts.
	journalPartBytes = 32 << 10

	// requestSlot is the precision to which a request's age is known: it is
	// forgotten between requestLife and one slot later.
	requestLife  = 24 * time.Hour
	requestSlot  = 4 * time.Hour
	requestSweep = 256 // requests that one commit forgets at most

	// backupAttempts bounds how often a backup follows a set that moves before
	// it holds up the set's commits.
	backupAttempts = 4

	// lockTimeout bounds the wait for bbolt's lock on a file: the folder's lock
	// should have kept others away.
	lockTimeout = 2 * time.Second

	// appendFill is how full bbolt leaves pages that are appended: with room
	// for what is inserted later, which would split a full page in two.
	appendFill = 0.9

	// roomMargin is what must be free on a disk beyond what a new file needs.
	roomMargin = 16 << 20
)
