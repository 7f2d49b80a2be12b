package apply

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"espalier/internal/desired"
	"espalier/store"
)

// Status returns how far the host is. Stages.Waited and Transferred, which are
// others' to know, are 0.
func (a *Applier) Status() desired.Convergence {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.status
	s.Failures = slices.Clone(s.Failures)
	return s
}

// Applied returns how many objects were made true, deletions included.
func (a *Applier) Applied() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.applied
}

// Failures returns what has failed, by key: all, or the first many thousands that
// did.
func (a *Applier) Failures() []desired.Failure {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.failures)
}

// Pause has the host stay as it is until Resume, also once the agent has been
// started again. The record keeps why.
func (a *Applier) Pause(why string) error {
	return a.keep(statePaused, []byte(cutText(why)))
}

// Resume ends a Pause. One that the server ordered goes on.
func (a *Applier) Resume() error { return a.keep(statePaused, nil) }

// Release lets the deletions through that lead to the host root, however many there
// are.
func (a *Applier) Release(root desired.Digest) error { return a.keep(stateReleased, root[:]) }

func (a *Applier) keep(name string, value []byte) error {
	err := a.record.Update(store.AppliedUpdate{State: map[string][]byte{name: value}})
	if err != nil {
		return fmt.Errorf("keep what this host is told: %w", err)
	}
	a.nudge()
	return nil
}

// publish makes a survey the status.
func (a *Applier) publish(s *survey) {
	failures, now := a.failing(), time.Now()
	a.mu.Lock()
	if s.desired != a.root {
		a.root, a.since = s.desired, now
	}
	c := &a.status
	c.Desired, c.Applied, c.Observed, c.State, c.Reason = s.desired, s.applied, s.observed, s.state, s.reason
	c.Objects, c.Pending, c.Unmanaged, c.Drifted = s.objects, s.pending, s.unmanaged, s.drifts-s.doubts
	c.Guarded = 0
	if s.state == desired.Guarded {
		c.Guarded = s.removals
	}
	if s.state == desired.Converged && !a.since.IsZero() {
		c.Stages.Applied, a.since = now.Sub(a.since), time.Time{}
	}
	a.failures = failures
	c.Failed, c.Failures = uint64(a.retries.failing()), failures[:min(len(failures), desired.MaxFailures)]
	a.mu.Unlock()
	a.tell()
}

// tell says that the status has changed.
func (a *Applier) tell() {
	if a.options.Changed != nil {
		a.options.Changed()
	}
}

// failing returns what has failed, by key.
func (a *Applier) failing() []desired.Failure {
	all := make([]desired.Failure, 0, a.retries.failed)
	for key, at := range a.retries.all {
		if at.text != "" {
			all = append(all, desired.Failure{Key: key, Error: at.text, Attempts: uint32(at.failures), Since: at.since, Next: at.next})
		}
	}
	slices.SortFunc(all, func(a, b desired.Failure) int { return cmp.Compare(a.Key, b.Key) })
	return all
}

// advance counts an item that is done.
func (a *Applier) advance(it *item) {
	a.mu.Lock()
	c := &a.status
	a.applied++
	if it.action != correct {
		c.Pending -= min(c.Pending, 1)
	}
	if it.found {
		c.Corrected++
		c.Drifted -= min(c.Drifted, 1)
	}
	a.mu.Unlock()
}

// finish ends a round, and returns when to begin another at the latest; zero: when
// there is something new.
func (a *Applier) finish(r *round) (due time.Time, err error) {
	r.end()
	s, err := a.survey(r.sets)
	if err != nil {
		return due, err
	}
	if s.state == desired.Applying && (r.hold || r.idle) {
		r.moved = true // a round that may do more is due
	}
	if s.state == desired.Applying && !r.moved && len(a.flying) == 0 {
		s.state = desired.Waiting
		s.reason = "what has failed is tried again"
		if !a.again.IsZero() {
			s.reason += ", the next in " + max(0, time.Until(a.again)).Round(time.Second).String()
		}
	}
	a.publish(s)
	return s.look, nil
}

// unfinished reports whether there is something that may be done.
func (a *Applier) unfinished() bool { return a.is(desired.Applying) }

// is reports whether the host is in a state.
func (a *Applier) is(s desired.State) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status.State == s
}

// exhausted reports whether nothing that could be done now would help: a host has
// converged, waits for an operator, or what is left has failed several times.
func (a *Applier) exhausted() bool {
	if a.unfinished() {
		return false
	}
	return a.retries.exhausted(time.Now(), a.is(desired.Waiting))
}
