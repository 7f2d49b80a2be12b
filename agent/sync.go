package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/store"
)

// ErrUnsafe is what errors match that say that the server's history is not one
// that leads on from what this host holds. The agent keeps what it has until an
// operator steps in.
var ErrUnsafe = errors.New("refused to follow the server")

// Unchanged is the mode of a set that was current.
const Unchanged delta.Mode = 0

// Report is the outcome of a Sync.
type Report struct {
	Host desired.Name
	Sets []SetReport
	// BytesSent and BytesReceived count the connection's, framing included.
	BytesSent, BytesReceived uint64
	// RoundTrips counts the times that the server's answer was waited for.
	RoundTrips int
	Duration   time.Duration
}

// SetReport is the outcome of a Sync for one set.
type SetReport struct {
	Set desired.Name
	// Head is what the mirror holds, verified; zero: nothing yet.
	Head             desired.Head
	Mode             delta.Mode
	Upserts, Deletes uint64
	// Err says why the mirror is not what the server has; what it holds stays
	// in force.
	Err error
}

// Sync polls once and brings every set up to date that has moved, then hands
// what changed to the Handler. It returns an error if the server was not
// reached or any set is not up to date; the report tells of the others.
func (a *Agent) Sync(ctx context.Context) (Report, error) {
	start := time.Now()
	sent, received := a.traffic.sent.Load(), a.traffic.received.Load()
	report := Report{Host: a.options.Host, Sets: make([]SetReport, len(a.mirrors)), RoundTrips: 1}
	answers, err := a.poll(ctx)
	for i, m := range a.mirrors {
		s := &report.Sets[i]
		s.Set = m.name
		if answer, ok := answers[i]; ok && err == nil {
			var trips int
			if trips, s.Err = a.follow(ctx, m, answer, s); s.Err != nil {
				s.Err = fmt.Errorf("set %q: %w", m.name, s.Err)
			}
			report.RoundTrips += trips
		}
		if s.Head = m.Head(); s.Err == nil {
			s.Err = a.deliver(ctx, m)
		}
		err = errors.Join(err, s.Err)
	}
	report.BytesSent, report.BytesReceived = a.traffic.sent.Load()-sent, a.traffic.received.Load()-received
	report.Duration = time.Since(start)
	return report, err
}

// poll asks about all sets and returns the answers by the index of the mirror.
//
// The call is bounded by a timer and not by a deadline, which would travel as a
// header of its own with every poll.
func (a *Agent) poll(ctx context.Context) (map[int]wire.Answer, error) {
	call, silence := withSilence(ctx)
	defer silence.stop()
	held := make([]delta.Held, len(a.mirrors))
	for i, m := range a.mirrors {
		held[i] = m.held()
	}
	resp, err := a.client.Poll(call, wire.PollRequestToWire(held))
	if err != nil {
		return nil, fmt.Errorf("poll %s: %w", a.options.Server, silence.explain(err))
	}
	next, list, err := wire.PollResponseFromWire(resp, len(held))
	if err != nil {
		return nil, fmt.Errorf("poll %s: %w", a.options.Server, err)
	}
	a.next = next
	answers := make(map[int]wire.Answer, len(list))
	for _, answer := range list {
		answers[answer.Index] = answer
	}
	return answers, nil
}

// held names what the mirror holds, honestly: a damaged one by the root of what
// is really there.
func (m *mirror) held() delta.Held {
	head := m.Head()
	root := head.Root
	if m.Damaged() {
		root = m.TreeRoot()
	}
	return delta.Held{Name: m.name, Epoch: head.Epoch.Prefix(), Number: head.Number, Root: root.Prefix()}
}

// follow brings a mirror to where the answer says.
func (a *Agent) follow(ctx context.Context, m *mirror, answer wire.Answer, s *SetReport) (trips int, err error) {
	switch answer.Status {
	case wire.StatusDelta:
		err := a.adopt(ctx, m, answer, s)
		if !errors.Is(err, store.ErrRootMismatch) {
			return 0, err
		}
		a.log.Warn("a delta did not give its root; comparing trees instead", "set", m.name)
		return a.pull(ctx, m, s)
	case wire.StatusPull:
		if err := admit(m.Floor(), answer.Head); err != nil {
			return 0, err
		}
		return a.pull(ctx, m, s)
	case wire.StatusUnknown:
		return 0, fmt.Errorf("the server has no such set; what was verified last stays in force: %w", store.ErrNotFound)
	default:
		return 0, errors.New("the server cannot serve the set now; what was verified last stays in force")
	}
}

// adopt applies the delta that came with a poll.
func (a *Agent) adopt(ctx context.Context, m *mirror, answer wire.Answer, s *SetReport) error {
	changes, err := a.codec.DecodeFrame(answer.Frame)
	if err != nil {
		return err
	}
	head := m.Head()
	if answer.Number <= head.Number {
		return fmt.Errorf("%w: a delta from revision %d back to %d", ErrUnsafe, head.Number, answer.Number)
	}
	head.Number, head.Root = answer.Number, answer.Root
	if err := m.Adopt(ctx, head, all(changes)); err != nil {
		return err
	}
	s.Mode = delta.Since
	for _, c := range changes {
		if c.Deleted() {
			s.Deletes++
		} else {
			s.Upserts++
		}
	}
	return nil
}

// all returns changes as a stream.
func all(changes []desired.Change) func(func(desired.Change, error) bool) {
	return func(yield func(desired.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// admit reports whether head leads on from the latest revision that this host
// has ever held. Nothing moves backwards, unless an operator started a new
// epoch, which says what it follows.
func admit(floor desired.Revision, head desired.Head) error {
	switch {
	case floor.Number == 0, head.Revision == floor, head.Follows(floor):
		return nil
	case head.Position == floor.Position:
		return fmt.Errorf("%w: it has another content as revision %s: its history was forked", ErrUnsafe, floor.Position)
	case head.Epoch == floor.Epoch:
		return fmt.Errorf("%w: it is at revision %d, this host was at %d already", ErrUnsafe, head.Number, floor.Number)
	case slices.ContainsFunc(head.Lineage, func(p desired.Position) bool { return p.Epoch == floor.Epoch }):
		return nil
	default:
		return fmt.Errorf("%w: its epoch %s does not follow this host's %s; restore the set with 'espalier restore', "+
			"or clear the agent's data folder to start over", ErrUnsafe, head.Epoch, floor.Epoch)
	}
}
