package fleet

import (
	"iter"

	"espalier/internal/desired"
)

// Progress is how a host fares with making true what it mirrors.
type Progress int

// What a host may be at.
const (
	OnlyMirrors Progress = iota // it makes nothing true, or hasn't said
	Converged
	Applying
	Waiting
	Failing // some objects could not be made true
	Paused
	Guarded // deletions wait to be released
	Detecting
	Closed
	Unknown // a state of another version
)

var progressNames = [...]string{
	"only mirrors", "converged", "applying", "waiting", "failing", "paused", "guarded", "detecting", "closed", "unknown",
}

// String returns the word that people are shown.
func (p Progress) String() string { return progressNames[p] }

// AllProgress returns all there is, in order.
func AllProgress() iter.Seq[Progress] {
	return func(yield func(Progress) bool) {
		for i := range progressNames {
			if !yield(Progress(i)) {
				return
			}
		}
	}
}

// Progress returns how h fares with making true what it mirrors, as it last said.
// A pause is an operator's own doing, and comes before what failed meanwhile.
func (h Host) Progress() Progress {
	c := h.Report.Applying
	switch {
	case c == nil:
		return OnlyMirrors
	case c.State == desired.Paused:
		return Paused
	case c.Guarded > 0:
		return Guarded
	case c.Failed > 0:
		return Failing
	}
	switch c.State {
	case desired.Applying:
		return Applying
	case desired.Converged:
		return Converged
	case desired.Waiting:
		return Waiting
	case desired.Guarded:
		return Guarded
	case desired.Detecting:
		return Detecting
	case desired.Closed:
		return Closed
	}
	return Unknown
}

// troubled reports whether objects have failed on h, or wait for an operator.
func (h Host) troubled() bool {
	c := h.Report.Applying
	return c != nil && (c.Failed > 0 || c.Guarded > 0 || c.State == desired.Guarded)
}

// Progress counts the hosts by how they fare with making true what they mirror,
// and all objects that have failed: a float, since no host's word makes it overflow.
func (f *Fleet) Progress() (hosts map[Progress]int, failed float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	hosts = map[Progress]int{}
	for _, e := range f.hosts {
		hosts[e.Progress()]++
		if e.Report.Applying != nil {
			failed += float64(e.Report.Applying.Failed)
		}
	}
	return hosts, failed
}
