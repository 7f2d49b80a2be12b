package store

import (
	"time"

	"espalier/internal/desired"
)

// AppliedState says how an object was taken account of.
type AppliedState byte

const (
	// AppliedTrue says that a driver made it true on the host.
	AppliedTrue AppliedState = iota
	// AppliedShadowed says that a later set of the host's list has the key, and wins.
	AppliedShadowed
	// AppliedUnmanaged says that it is no driver's, or none of its driver's business.
	AppliedUnmanaged

	appliedStates = 3
)

// AppliedRow is an object of a set that was taken account of.
type AppliedRow struct {
	Key []byte
	// Digest is that of the set's object.
	Digest desired.Digest
	State  AppliedState
	// Driver names the route by which it was made true; at most MaxRouteBytes.
	Driver string
	// Note is its driver's; at most MaxNoteBytes. It is never nil when it was read.
	Note []byte
	// After are the keys that it comes after, ascending.
	After [][]byte
}

// Drift is an object that is on the host otherwise than the record has it, or may
// be.
type Drift struct {
	Key []byte
	// Doubt says that a change was under way when the agent ended; else somebody
	// else changed what was there.
	Doubt bool
	// Reason says in a few words what is otherwise; at most MaxReasonBytes.
	Reason string
	// Seen is the digest of what is there instead; zero: nothing is, or it is not
	// known.
	Seen desired.Digest
	// At is when it was found, in whole milliseconds.
	At time.Time
}

// AppliedBatch is the changes that are under way together.
type AppliedBatch struct {
	ID   uint64
	Keys [][]byte // ascending
}

// AppliedRows are changes to what was taken account of of one set, each list
// ascending.
type AppliedRows struct {
	Set desired.Name
	// Put are new, or take the place of rows of their keys. Delete are keys whose
	// rows go; one that isn't there is none of an error, one that is put is.
	Put    []AppliedRow
	Delete [][]byte
}

// AppliedUpdate is a change to the record, in one transaction. Its parts are
// carried out in their order, but Settled before Drifted and Ended before Begun, so
// that a key that is in both has drifted.
type AppliedUpdate struct {
	Rows []AppliedRows
	// Drifted are found, or found anew; Settled are keys that are so no longer.
	Drifted []Drift
	Settled [][]byte
	// Begun are about to be applied, under ids that no batch has that is under way;
	// Ended are the ids of batches that are done with, whatever became of them; one
	// that isn't there is none of an error. Of a batch that began and didn't end,
	// OpenApplied makes drifts in doubt.
	Begun []AppliedBatch
	Ended []uint64
	// Forgotten are sets of which nothing stays, but for drifts.
	Forgotten []desired.Name
	// State are small values to keep under a name, at most MaxStateBytes each; nil
	// removes one.
	State map[string][]byte
}
