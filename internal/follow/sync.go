package follow

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

// Sync polls and brings every set up to date that has moved. It returns an error
// if the server was not reached or any set is not up to date; the report tells of
// the others. Bytes are not counted here.
func (f *Follower) Sync(ctx context.Context) (Report, error) { return f.sync(ctx, 0) }

// sync is Sync with a poll that the server may hold.
func (f *Follower) sync(ctx context.Context, hold time.Duration) (Report, error) {
	start := f.options.Clock.Now()
	report := Report{Host: f.options.Host}
	if f.options.Before != nil {
		f.options.Before(ctx)
	}
	answers, list, err := f.ask(ctx, hold, &report)
	failures := []error{err}
	if list != nil && !errors.Is(list, errBehind) { // a server that lags will catch up
		failures = append(failures, list)
	}
	report.Sets = make([]SetReport, len(f.sets))
	for i, set := range f.sets {
		s := &report.Sets[i]
		if s.Set, s.Err = set.Name, err; err == nil {
			report.RoundTrips += f.follow(ctx, set, answers[set.Name], s)
			failures = append(failures, s.Err)
		}
		s.Head = set.Head()
		if f.options.Took == nil {
			continue
		}
		if err := f.options.Took(ctx, set); err != nil {
			s.Err = errors.Join(s.Err, err)
			failures = append(failures, err)
		}
	}
	if err == nil {
		f.report.observe(f.options.Version, list, report.Sets)
	}
	failures = append(failures, f.leave(ctx))
	f.stuck = !slices.ContainsFunc(failures, func(err error) bool {
		return err != nil && !errors.Is(err, ErrUnsafe) && !errors.Is(err, errServers)
	})
	report.Duration = f.options.Clock.Now().Sub(start)
	return report, errors.Join(failures...)
}

// Tell tells the server how this host fares after a Sync, if that is news to it. It
// changes nothing here.
func (f *Follower) Tell(ctx context.Context) error {
	_, _, err := f.poll(ctx, 0)
	return err
}

// ask polls, and again if there are sets then that were not asked about. It
// returns an answer for each set that is not current, and apart from other errors
// why this host's list of sets is not the server's.
func (f *Follower) ask(ctx context.Context, hold time.Duration, report *Report) (answers map[desired.Name]*wire.Answer, list, err error) {
	for range maxAsks {
		report.RoundTrips++
		got, answers, err := f.poll(ctx, hold)
		if err != nil || got.List == nil {
			return answers, nil, err
		}
		more, list := f.relist(*got.List)
		if list != nil && !errors.Is(list, errBehind) && !errors.Is(list, ErrUnsafe) {
			return answers, nil, list
		}
		if !more {
			return answers, list, nil
		}
		hold = 0
	}
	return nil, nil, errRelisted
}

// errRelisted is why a sync is given up on; the next goes on.
var errRelisted = fmt.Errorf("this host's list of sets changed %d times within one sync", maxAsks)

// poll asks about all sets. A poll that is held is cut short, and made again, if
// there is something to tell meanwhile.
func (f *Follower) poll(ctx context.Context, hold time.Duration) (got wire.PollAnswer, answers map[desired.Name]*wire.Answer, err error) {
	ask := wire.Poll{Host: f.options.Host, Held: make([]delta.Held, len(f.sets)), Hold: hold}
	for i, s := range f.sets {
		ask.Held[i] = s.held()
	}
	if f.list.Version > 0 {
		ask.ListVersion, ask.ListSum = f.list.Version, f.list.Sum()
	}
	f.asked = hold > 0
	for again := true; again; {
		if ask.Report = f.report.due(&f.voice); ask.Report != nil {
			f.voice.tells(ask.Report.Applying)
		}
		got, again, err = f.hear(ctx, ask)
	}
	if err != nil {
		return got, nil, err
	}
	if ask.Report != nil {
		f.report.told = ask.Report
	}
	if got.Tell {
		f.report.told = nil
	}
	f.next, f.held = got.Next, got.Held
	answers = make(map[desired.Name]*wire.Answer, len(got.Sets))
	for i := range got.Sets {
		answers[ask.Held[got.Sets[i].Index].Name] = &got.Sets[i]
	}
	return got, answers, nil
}

// hear returns the answer to a poll; again says that it was cut short, since there
// is something to tell.
func (f *Follower) hear(ctx context.Context, ask wire.Poll) (got wire.PollAnswer, again bool, err error) {
	asking, over := ctx, func() {}
	if ask.Hold > 0 {
		asking, over = f.voice.wait(ctx)
	}
	got, err = f.options.Server.Poll(asking, ask)
	again = err != nil && errors.Is(context.Cause(asking), errNews)
	over()
	return got, again, err
}

// held names what the mirror holds; of one that is lost or damaged the latest
// that it ever held, so that the server can tell whether that is of its history.
func (s *Set) held() delta.Held {
	is, gone := s.Head().Revision, s.Damaged()
	if is.Number == 0 || gone {
		is, gone = s.Floor(), s.Floor().Number > 0
	}
	return delta.Held{Name: s.Name, Epoch: is.Epoch.Prefix(), Number: is.Number, Root: is.Root.Prefix(), Gone: gone}
}

// follow brings a mirror to where the answer says, nil if it is there, and
// notes in s how that went. A mirror that turns out to be damaged is mended on
// the way.
func (f *Follower) follow(ctx context.Context, set *Set, answer *wire.Answer, s *SetReport) (trips int) {
	began, waited := f.options.Clock.Now(), time.Duration(0)
	err := error(nil)
	if answer != nil {
		if set.Head().Number > 0 { // else it was not this host that waited
			waited = answer.Age
		}
		trips, err = f.act(ctx, set, answer, s)
	}
	if errors.Is(err, store.ErrCorrupt) {
		f.log.Warn("what is mirrored is damaged; comparing it anew", "set", set.Name, "error", err)
		if err = set.mend(ctx); err == nil {
			var more int
			more, err = f.pull(ctx, set, s)
			trips += more
		}
	}
	if err == nil { // to a mirror that is current, what is staged is of no use
		err = set.DiscardStaging()
	}
	if err != nil {
		s.Err = fmt.Errorf("set %q: %w", set.Name, err)
	} else if s.Mode != Unchanged {
		set.Stages = desired.Stages{Waited: waited, Transferred: f.options.Clock.Now().Sub(began)}
	}
	return trips
}

// act does what the answer to a poll says.
func (f *Follower) act(ctx context.Context, set *Set, answer *wire.Answer, s *SetReport) (trips int, err error) {
	switch answer.Status {
	case wire.StatusDelta:
		err := f.adopt(ctx, set, answer, s)
		if !errors.Is(err, errUseless) {
			return 0, err
		}
		f.log.Warn("a delta did not give its root; pulling instead", "set", set.Name, "error", err)
		return f.pull(ctx, set, s)
	case wire.StatusPull:
		if err := admit(set.Floor(), answer.Head); err != nil {
			return 0, err
		}
		return f.pull(ctx, set, s)
	case wire.StatusForked:
		return 0, f.refuse(set, answer.Head)
	case wire.StatusUnknown:
		return 0, fmt.Errorf("%w %w; what was verified last stays in force", store.ErrNotFound, errServers)
	default:
		return 0, fmt.Errorf("it can't be served now %w, whose log says why; what was verified last stays in force", errServers)
	}
}

// errServers is what errors match that only the server can do something about: no
// haste of this host's will change anything.
var errServers = errors.New("at the server")

// mend makes a mirror own up to what is damaged, so that a descent finds it, and
// gives up what is staged.
func (s *Set) mend(ctx context.Context) error {
	if err := s.DiscardStaging(); err != nil {
		return err
	}
	_, err := s.Repair(ctx)
	return err
}

// errUseless is what errors match about a delta that a pull has to replace.
var errUseless = errors.New("the delta is of no use")

// adopt applies the delta that came with a poll.
func (f *Follower) adopt(ctx context.Context, set *Set, answer *wire.Answer, s *SetReport) error {
	head := set.Head()
	if head.Number == 0 {
		return fmt.Errorf("%w: a delta to a set that is not held", delta.ErrProtocol)
	}
	head.Number, head.Root = answer.Number, answer.Root
	if err := admit(set.Floor(), head); err != nil {
		return err
	}
	changes, err := f.codec.DecodeFrame(answer.Frame)
	if err != nil {
		return fmt.Errorf("%w: %w", errUseless, err)
	}
	err = set.Adopt(ctx, head, all(changes))
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
func (f *Follower) refuse(set *Set, head desired.Head) error {
	if err := admit(set.Floor(), head); err != nil {
		return err
	}
	return fmt.Errorf("%w: it is at revision %d, and what it had as revision %d is not what this host has: its history was forked; %s",
		ErrUnsafe, head.Number, set.Floor().Number, remedy)
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
