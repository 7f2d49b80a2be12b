// Package driver says what it takes to make objects true on a host. An agent
// hands a driver the changes of the objects under its prefix: what shall be, in
// the order that "after" asks for, again and again until it is; and lets it look
// whether what it made true still is.
//
// A driver decides nothing about when: order, retries with backoff, limits,
// windows, pauses, the guard against deleting too much, and the record of what
// was applied are the agent's. It is called from several goroutines, but for one
// object by one at a time.
package driver

import (
	"context"
	"errors"
	"iter"
	"time"

	"espalier/internal/desired"
)

// Driver makes objects true on a host.
type Driver interface {
	// Apply makes changes true, and returns what became of each, in their order and
	// as many. They are of different objects, none of which waits for another;
	// deletions among them are best carried out first. What is reported done has to
	// outlive a power cut. A change may come again that was applied already: after a
	// crash, or where the answer was lost. Apply returns soon after ctx is done,
	// with errors for what was not done.
	Apply(ctx context.Context, changes []Change) []Result
}

// Change is what shall become of one object.
type Change struct {
	// Key is the object's; Name is what follows the driver's prefix in it, and the
	// driver's own name for it.
	Key, Name string
	// Object is what shall be; nil: it is to go.
	Object *desired.Object
	// ID is the same whenever the same content of this object is applied, and a
	// different one otherwise: what makes a repeated change recognisable.
	ID string
	// Note is what the driver noted of the object when it last made it true; nil:
	// this host's record says that it never did, so that whatever is there is
	// somebody else's.
	Note []byte
	// Doubt says that an earlier attempt may have been cut short, or that the host
	// drifted: what is there need be neither what Note tells of nor what shall be.
	// Where Note is nil, what is there may still be this driver's own, half done.
	Doubt bool
}

// Deleted reports whether the object is to go.
func (c Change) Deleted() bool { return c.Object == nil }

// Result is what became of a change.
type Result struct {
	// Note is kept with the object, and comes back with its next change and with
	// each look at it; at most MaxNoteBytes. Of a deletion it is ignored.
	Note []byte
	// Err says why the change is not true, what to do included; nil: it is.
	Err error
	// Untouched says of an error that nothing of the object was changed on the host,
	// so that the next attempt needn't doubt what is there.
	Untouched bool
}

// Scanner is a Driver that can tell whether what it made true still is.
type Scanner interface {
	// Scan looks at objects and reports what it finds wrong. It changes nothing on
	// the host. What it can't look at it reports as an error of that object; its own
	// error ends the scan.
	Scan(ctx context.Context, s Scan) error
}

// Scan asks for a look at objects that were made true.
type Scan struct {
	// Objects are in key order; each is valid for as long as the scan runs.
	Objects iter.Seq2[Known, error]
	// Contents asks for all that the driver can tell, contents included, which costs
	// as much as reading them; else for what is cheap, as a stat.
	Contents bool
	// Load returns what shall be under a key.
	Load func(key string) (*desired.Object, error)
	// Spend waits until so many objects and bytes may be looked at. It returns an
	// error once the scan is to end.
	Spend func(ctx context.Context, objects, bytes int) error
	// Report takes what was found; of objects that are as they shall be, and whose
	// note stays, nothing has to be said. It may be called from several goroutines.
	Report func(Known, Finding)
}

// Known is an object that was made true.
type Known struct {
	Key, Name string
	Note      []byte
}

// Finding is what a scan found of one object.
type Finding struct {
	// Drift says in a few words what is otherwise than it was made, as "missing" or
	// "mode 0600, not 0644"; empty: nothing is.
	Drift string
	// Seen is the digest of the object that is there instead, as far as the driver
	// can tell; zero: none is, or it can't.
	Seen desired.Digest
	// Note takes the place of the object's; nil: it stays.
	Note []byte
	// Err says why the object could not be looked at.
	Err error
}

// Watcher is a Driver that may notice by itself that something has changed.
type Watcher interface {
	// Watch calls touched with the driver's name of each object that may have
	// drifted, until ctx is done or it can't go on. A hint that is lost costs
	// nothing but time: the next scan finds what it missed.
	Watch(ctx context.Context, touched func(name string)) error
}

// Batching says how a driver likes its changes.
type Batching struct {
	// Objects and Bytes bound the changes that are applied at once; 0: 1, and 8 MiB.
	// A single larger object comes alone.
	Objects, Bytes int
	// Parallel is how many Apply run at once; 0: 1.
	Parallel int
	// Timeout is how long one Apply may take; 0: what the agent's options say.
	Timeout time.Duration
}

// Batcher is a Driver that takes more than one change at a time.
type Batcher interface {
	Batching() Batching
}

// MaxNoteBytes bounds what a driver notes of one object: there is one for each of
// a million.
const MaxNoteBytes = 4096

// ErrUnmanaged is what the error of a Result matches if the object is none of the
// driver's business, by an operator's word: it counts neither as failed nor as
// applied.
var ErrUnmanaged = errors.New("unmanaged")
