package agent

import (
	"context"
	"errors"
	"fmt"
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
	// Err says why the mirror is not what the server has, or the Handler not told
	// of it; what the mirror holds stays in force.
	Err error
}

// Sync polls and brings every set up to date that has moved, then hands what
// changed to the Handler. It returns an error if the server was not reached or
// any set is not up to date; the report tells of the others.
func (a *Agent) Sync(ctx context.Context) (Report, error) {
	start := time.Now()
	sent, received := a.traffic.sent.Load(), a.traffic.received.Load()
	report := Report{Host: a.options.Host}
	a.renew(ctx)
	answers, list, err := a.ask(ctx, &report)
	failures := []error{err}
	if list != nil && !errors.Is(list, errBehind) { // a server that lags will catch up
		failures = append(failures, list)
	}
	report.Sets = make([]SetReport, len(a.mirrors))
	for i, m := range a.mirrors {
		s := &report.Sets[i]
		if s.Set, s.Err = m.name, err; err == nil {
			report.RoundTrips += a.follow(ctx, m, answers[m.name], s)
			failures = append(failures, s.Err)
		}
		s.Head = m.Head()
		if err := a.deliver(ctx, m); err != nil {
			s.Err = errors.Join(s.Err, err)
			failures = append(failures, err)
		}
	}
	if err == nil {
		a.report.observe(a.options.Version, list, report.Sets)
	}
	failures = append(failures, a.leave(ctx))
	report.BytesSent, report.BytesReceived = a.traffic.sent.Load()-sent, a.traffic.received.Load()-received
	report.Duration = time.Since(start)
	return report, errors.Join(failures...)
}

// ask polls, and again if there are sets then that were not asked about. It
// returns an answer for each set that is not current, and apart from other errors
// why this host's list of sets is not the server's.
func (a *Agent) ask(ctx context.Context, report *Report) (answers map[desired.Name]*wire.Answer, list, err error) {
	for range maxAsks {
		report.RoundTrips++
		got, answers, err := a.poll(ctx)
		if err != nil || got.List == nil {
			return answers, nil, err
		}
		more, list := a.relist(*got.List)
		if list != nil && !errors.Is(list, errBehind) && !errors.Is(list, ErrUnsafe) {
			return answers, nil, list
		}
		if !more {
			return answers, list, nil
		}
	}
	return nil, nil, errRelisted
}

// errRelisted is why a sync is given up on; the next goes on.
var errRelisted = fmt.Errorf("this host's list of sets changed %d times within one sync", maxAsks)

// poll asks about all sets.
//
// The call is bounded by a timer and not by a deadline, which would travel as a
// header of its own with every poll.
func (a *Agent) poll(ctx context.Context) (got wire.PollAnswer, answers map[desired.Name]*wire.Answer, err error) {
	call, silence := withSilence(ctx)
	defer silence.stop()
	ask := wire.Poll{Host: a.options.Host, Held: make([]delta.Held, len(a.mirrors)), Report: a.report.due()}
	for i, m := range a.mirrors {
		ask.Held[i] = m.held()
	}
	if a.list.Version > 0 {
		ask.ListVersion, ask.ListSum = a.list.Version, a.list.Sum()
	}
	resp, err := a.client.Poll(call, wire.PollToWire(ask, a.identity == nil))
	if err != nil {
		return got, nil, fmt.Errorf("poll %s: %w", a.options.Server, silence.explain(err))
	}
	if got, err = wire.PollAnswerFromWire(resp, len(ask.Held)); err != nil {
		return got, nil, fmt.Errorf("poll %s: %w", a.options.Server, err)
	}
	if ask.Report != nil {
		a.report.told = ask.Report
	}
	if got.Tell {
		a.report.told = nil
	}
	a.next = got.Next
	answers = make(map[desired.Name]*wire.Answer, len(got.Sets))
	for i := range got.Sets {
		answers[ask.Held[got.Sets[i].Index].Name] = &got.Sets[i]
	}
	return got, answers, nil
}

// held names what the mirror holds; of one that is lost or damaged the latest
// that it ever held, so that the server can tell whether that is of its history.
func (m *mirror) held() delta.Held {
	is, gone := m.Head().Revision, m.Damaged()
	if is.Number == 0 || gone {
		is, gone = m.Floor(), m.Floor().Number > 0
	}
	return delta.Held{Name: m.name, Epoch: is.Epoch.Prefix(), Number: is.Number, Root: is.Root.Prefix(), Gone: gone}
}

// follow brings a mirror to where the answer says, nil if it is there, and
// notes in s how that went. A mirror that turns out to be damaged is mended on
// the way.
func (a *Agent) follow(ctx context.Context, m *mirror, answer *wire.Answer, s *SetReport) (trips int) {
	err := error(nil)
	if answer != nil {
		trips, err = a.act(ctx, m, answer, s)
	}
	if errors.Is(err, store.ErrCorrupt) {
		a.log.Warn("what is mirrored is damaged; comparing it anew", "set", m.name, "error", err)
		if err = m.mend(ctx); err == nil {
			var more int
			more, err = a.pull(ctx, m, s)
			trips += more
		}
	}
	if err == nil { // to a mirror that is current, what is staged is of no use
		err = m.DiscardStaging()
	}
	if err != nil {
		s.Err = fmt.Errorf("set %q: %w", m.name, err)
	}
	return trips
}

// act does what the answer to a poll says.
func (a *Agent) act(ctx context.Context, m *mirror, answer *wire.Answer, s *SetReport) (trips int, err error) {
	switch answer.Status {
	case wire.StatusDelta:
		err := a.adopt(ctx, m, answer, s)
		if !errors.Is(err, errUseless) {
			return 0, err
		}
		a.log.Warn("a delta did not give its root; pulling instead", "set", m.name, "error", err)
		return a.pull(ctx, m, s)
	case wire.StatusPull:
		if err := admit(m.Floor(), answer.Head); err != nil {
			return 0, err
		}
		return a.pull(ctx, m, s)
	case wire.StatusForked:
		return 0, a.refuse(m, answer.Head)
	case wire.StatusUnknown:
		return 0, fmt.Errorf("%w at the server; what was verified last stays in force", store.ErrNotFound)
	default:
		return 0, errors.New("the server cannot serve the set now; its log says why; what was verified last stays in force")
	}
}

// mend makes a mirror own up to what is damaged, so that a descent finds it, and
// gives up what is staged.
func (m *mirror) mend(ctx context.Context) error {
	if err := m.DiscardStaging(); err != nil {
		return err
	}
	_, err := m.Repair(ctx)
	return err
}

// errUseless is what errors match about a delta that a pull has to replace.
var errUseless = errors.New("the delta is of no use")

// adopt applies the delta that came with a poll.
func (a *Agent) adopt(ctx context.Context, m *mirror, answer *wire.Answer, s *SetReport) error {
	head := m.Head()
	if head.Number == 0 {
		return fmt.Errorf("%w: a delta to a set that is not held", delta.ErrProtocol)
	}
	head.Number, head.Root = answer.Number, answer.Root
	if err := admit(m.Floor(), head); err != nil {
		return err
	}
	changes, err := a.codec.DecodeFrame(answer.Frame)
	if err != nil {
		return fmt.Errorf("%w: %w", errUseless, err)
	}
	err = m.Adopt(ctx, head, all(changes))
	if errors.Is(err, store.ErrRootMismatch) || errors.Is(err, store.ErrTooLarge) {
		return fmt.Errorf("%w: %w", errUseless, err)
	}
	if err != nil {
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

// refuse returns why this host doesn't follow a server whose history, now at
// head, is not that of what the mirror holds.
func (a *Agent) refuse(m *mirror, head desired.Head) error {
	if err := admit(m.Floor(), head); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is at revision %d, and what it had as revision %d is not what this host has: its history was forked; %s",
		ErrUnsafe, head.Number, m.Floor().Number, remedy)
}

// remedy says what an operator can do.
const remedy = "on the server, 'espalier epoch' lets all hosts follow what it has now, and 'espalier restore' a backup"

// admit reports whether head leads on from the latest revision that this host
// has ever held. Nothing moves backwards, unless an operator started a new
// epoch, which says what it follows.
func admit(floor desired.Revision, head desired.Head) error {
	switch {
	case floor.Number == 0, head.Revision == floor, head.Follows(floor):
		return nil
	case head.Position == floor.Position:
		return fmt.Errorf("%w: it has another content as revision %s: its history was forked; %s", ErrUnsafe, floor.Position, remedy)
	case head.Epoch == floor.Epoch:
		return fmt.Errorf("%w: it is at revision %d, this host was at %d already; %s", ErrUnsafe, head.Number, floor.Number, remedy)
	default:
		return fmt.Errorf("%w: its epoch %s does not follow this host's %s, of which it does not know; on the server, "+
			"'espalier restore SET FILE' of a backup from that epoch, as this host's mirror is, lets all hosts follow", ErrUnsafe, head.Epoch, floor.Epoch)
	}
}
