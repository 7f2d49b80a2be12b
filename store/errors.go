package store

import (
	"errors"
	"fmt"
)

// What callers branch on. Errors name the set, and the file where it matters.
var (
	// ErrNotFound: there is no such set, or no mirror yet.
	ErrNotFound = errors.New("no such set")
	// ErrExists: what was to be created is there already.
	ErrExists = errors.New("already exists")
	// ErrClosed: the store is closed.
	ErrClosed = errors.New("the store is closed")
	// ErrInUse: another process holds the data folder or the file.
	ErrInUse = errors.New("in use by another process")
	// ErrForeign: the data folder belongs to something else.
	ErrForeign = errors.New("not this data folder")
	// ErrCorrupt: what is on the disk contradicts itself.
	ErrCorrupt = errors.New("corrupt")
	// ErrQuarantined: the set is not served until an operator restores or
	// deletes it; the error says why.
	ErrQuarantined = errors.New("quarantined")
	// ErrFormat: the file was written by another version of the program, or by
	// another program.
	ErrFormat = errors.New("unknown format version")
	// ErrDiskFull: there was no room; nothing was changed.
	ErrDiskFull = errors.New("no space left on the disk")
	// ErrForked: a host holds another history of the set than the store has; no
	// commit is accepted until an operator starts an epoch.
	ErrForked = errors.New("history is forked")
	// ErrConflict: the revision that a commit expected is not the head.
	ErrConflict = errors.New("the set is at another revision")
	// ErrTooManyDeletes: a commit deletes more than its guard allows. The error
	// is a *DeleteGuardError.
	ErrTooManyDeletes = errors.New("too many deletions")
	// ErrCycle: an object would come after itself, by way of others; the error
	// names them.
	ErrCycle = errors.New("objects come after each other in a cycle")
	// ErrRequestReused: a request id came again with other content.
	ErrRequestReused = errors.New("request id was used for another request")
	// ErrTooLarge: there are too many changes for one transaction.
	ErrTooLarge = errors.New("too many changes for one transaction")
	// ErrRootMismatch: the content does not have the root that it must have;
	// nothing was changed.
	ErrRootMismatch = errors.New("root does not match")
)

// DeleteGuardError says by how much a commit or restore exceeds its DeleteLimit. It
// matches ErrTooManyDeletes.
type DeleteGuardError struct {
	// Deletes is how many objects the commit or restore deletes; for a commit by
	// rewrite, how many it had deleted when it was stopped.
	Deletes uint64
	// Limit is how many it may, Of how many objects there are.
	Limit, Of uint64
}

func (e *DeleteGuardError) Error() string {
	return fmt.Sprintf("%v: %d of %d objects, at most %d are allowed", ErrTooManyDeletes, e.Deletes, e.Of, e.Limit)
}

// Is reports whether target is ErrTooManyDeletes.
func (e *DeleteGuardError) Is(target error) bool { return target == ErrTooManyDeletes }
