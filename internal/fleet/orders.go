package fleet

import (
	"errors"
	"fmt"

	"espalier/internal/desired"
)

// ErrNotGuarded is what errors match about a release of what no host waits for.
var ErrNotGuarded = errors.New("nothing to release")

// OrderKind is what a host is told to do.
type OrderKind int

// The kinds; their numbers are those of the wire.
const (
	Pause   OrderKind = 1 // make nothing true for now
	Resume  OrderKind = 2
	Release OrderKind = 3 // carry out the deletions that lead to a root
)

// String returns the word that logs use.
func (k OrderKind) String() string {
	switch k {
	case Pause:
		return "pause"
	case Resume:
		return "resume"
	case Release:
		return "release"
	}
	return "unknown"
}

// Order is what an operator tells a host.
type Order struct {
	Kind OrderKind
	// Root is the host root, as desired.HostRoot has it, of a Release.
	Root desired.Digest
	// Why is kept with the host where it is paused, and recorded anyway; at most
	// desired.MaxWhyBytes.
	Why string
}

// Check returns nil if o can be an order, or an error that matches
// desired.ErrInvalid.
func (o Order) Check() error {
	switch {
	case o.Kind < Pause || o.Kind > Release:
		return fmt.Errorf("%w order: %d is none", desired.ErrInvalid, o.Kind)
	case len(o.Why) > desired.MaxWhyBytes:
		return fmt.Errorf("%w order: a reason of %d bytes, at most %d are allowed", desired.ErrInvalid, len(o.Why), desired.MaxWhyBytes)
	case o.Kind == Release && o.Root.IsZero():
		return fmt.Errorf("%w order: a release names the root that it is for", desired.ErrInvalid)
	case o.Kind != Release && !o.Root.IsZero():
		return fmt.Errorf("%w order: only a release is for a root", desired.ErrInvalid)
	}
	return nil
}

// Order returns the list that a host has at the server, and the one that tells it
// o besides: the same one, if that says so already and nothing else is known to be
// on the host. guarded is how many deletions a Release lets through. A Release of
// another root than the one for which the host reports that deletions wait is an
// error that matches ErrNotGuarded: what an operator has looked at has changed
// meanwhile.
func (f *Fleet) Order(host desired.Name, o Order) (old, next desired.List, guarded uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, seen, odd, err := f.latest(host)
	if err != nil {
		return old, next, 0, err
	}
	switch o.Kind {
	case Pause:
		next = old.Pause(seen, o.Why)
		odd = odd || !old.Paused || old.Why != o.Why
	case Resume:
		next = old.Resume(seen)
		odd = odd || old.Paused
	case Release:
		if guarded, err = f.hosts[host].guarded(o.Root); err != nil {
			return old, next, 0, err
		}
		next, odd = old.ReleaseRoot(seen, o.Root), true // anew each time: the host may have made use of an earlier one
	}
	if !odd {
		return old, old, guarded, nil
	}
	return old, next, guarded, next.Check()
}

// guarded returns how many deletions wait on a host to be released for root.
func (e *entry) guarded(root desired.Digest) (uint64, error) {
	if e == nil || e.Report.Applying == nil || e.Report.Applying.Guarded == 0 {
		return 0, fmt.Errorf("%w: the host does not report deletions that wait", ErrNotGuarded)
	}
	c := e.Report.Applying
	if c.Desired != root {
		return 0, fmt.Errorf("%w: by now deletions wait (%d) that lead to root %v, not to %v; look again before you release them",
			ErrNotGuarded, c.Guarded, c.Desired, root)
	}
	return c.Guarded, nil
}
