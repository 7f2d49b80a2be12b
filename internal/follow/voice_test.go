package follow_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/internal/wire"
)

// asked is a poll as a server saw it.
type asked struct {
	at     time.Duration // since the bubble began
	hold   time.Duration
	report *desired.Report
	cut    bool // it was given up
}

// listener is a server that holds polls, and has nothing to say.
type listener struct {
	next time.Duration // > 0: it has no room to hold, and this is when to poll next

	mu    sync.Mutex
	began time.Time
	polls []asked
	fails error        // what polls end with; nil: they don't
	list  desired.List // for the host; version 0: it has it
	tell  bool         // once
}

func (l *listener) Poll(ctx context.Context, p wire.Poll) (a wire.PollAnswer, err error) {
	l.mu.Lock()
	l.polls = append(l.polls, asked{at: time.Since(l.began), hold: p.Hold, report: p.Report})
	i := len(l.polls) - 1
	a, err = wire.PollAnswer{Held: l.next == 0, Next: l.next, Tell: l.tell}, l.fails
	if l.list.Version > p.ListVersion {
		list := l.list
		a.List = &list
	}
	l.tell = false
	l.mu.Unlock()
	if err != nil || p.Hold == 0 || a.List != nil || a.Tell {
		return a, err
	}
	select {
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.polls[i].cut = true
		return a, ctx.Err()
	case <-time.After(p.Hold):
		return a, nil
	}
}

func (l *listener) Pull(context.Context) (follow.Stream, error) {
	return nil, errors.New("nothing to pull")
}

// since returns the polls from the nth on.
func (l *listener) since(n int) []asked {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]asked(nil), l.polls[min(n, len(l.polls)):]...)
}

// shelf is a disk with nothing on it but a list, and without room for a set.
type shelf struct{ list desired.List }

func (s *shelf) List() (desired.List, error)            { return s.list, nil }
func (s *shelf) Mirrored() ([]desired.Name, error)      { return nil, nil }
func (*shelf) Open(desired.Name) (follow.Mirror, error) { return nothing{}, nil }
func (s *shelf) WriteList(l desired.List) error {
	s.list = l
	return nil
}

// nothing is a mirror of a set that nobody has made yet.
type nothing struct{ follow.Mirror }

func (nothing) Head() desired.Head      { return desired.Head{} }
func (nothing) Floor() desired.Revision { return desired.Revision{} }
func (nothing) Damaged() bool           { return false }
func (nothing) DiscardStaging() error   { return nil }
func (nothing) Close() error            { return nil }

// listening runs a host in a bubble, whose polls are held for 5 minutes.
func listening(t *testing.T, l *listener, fn func(*follow.Follower)) {
	synctest.Test(t, func(t *testing.T) {
		l.began = time.Now()
		f, err := follow.Open(follow.Options{
			Host: "web-01", Server: l, Disk: &shelf{}, Hold: 5 * time.Minute, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { f.Run(ctx) })
		fn(f)
		cancel()
		running.Wait()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

// saying is what a host reports that has so many failures and pending objects.
func saying(failed, pending uint64) *desired.Convergence {
	return &desired.Convergence{State: desired.Applying, Failed: failed, Pending: pending, Objects: 100}
}

// check compares the polls from the nth on with what is wanted: at what second of
// the bubble, with which numbers of failed and pending objects (-1: no report).
func (l *listener) check(t *testing.T, n int, want ...[3]int) {
	t.Helper()
	synctest.Wait()
	got := [][3]int{}
	for _, p := range l.since(n) {
		row := [3]int{int(p.at.Round(time.Second) / time.Second), -1, -1}
		if p.report != nil && p.report.Applying != nil {
			row[1], row[2] = int(p.report.Applying.Failed), int(p.report.Applying.Pending)
		}
		got = append(got, row)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("polls %v, want %v", got, want)
	}
}

// TestNewsCutsAHeldPoll: what matters is told at once, however long a poll may be
// held, but not again within 5 seconds; what doesn't waits for 30.
func TestNewsCutsAHeldPoll(t *testing.T) {
	l := &listener{}
	listening(t, l, func(f *follow.Follower) {
		time.Sleep(10 * time.Second)
		l.check(t, 0, [3]int{0, -1, -1}, [3]int{0, -1, -1}) // the second is held
		f.Report(saying(0, 9))
		l.check(t, 2, [3]int{10, 0, 9})
		time.Sleep(time.Second)
		f.Report(saying(1, 8)) // too soon
		l.check(t, 3)
		time.Sleep(time.Second)
		f.Report(saying(2, 7)) // takes its place
		time.Sleep(3 * time.Second)
		l.check(t, 3, [3]int{15, 2, 7})

		time.Sleep(5 * time.Second) // at 20
		f.Report(saying(2, 6))
		f.Report(saying(2, 5))
		time.Sleep(24 * time.Second)
		l.check(t, 4) // at 44
		time.Sleep(time.Second)
		l.check(t, 4, [3]int{45, 2, 5})

		f.Report(saying(3, 5))
		f.Report(saying(2, 5)) // as was told
		time.Sleep(time.Minute)
		l.check(t, 5)
		f.Report(nil)
		l.check(t, 5, [3]int{105, -1, -1})
		if last := l.since(5)[0]; last.report == nil || last.hold != 5*time.Minute {
			t.Errorf("that it only mirrors was told with %+v, want a report, and a poll that may be held", last)
		}
		for i, p := range l.since(1) {
			if wasCut := i < 4; p.cut != wasCut {
				t.Errorf("poll %d: %+v", i+1, p)
			}
		}
	})
}

// TestNewsBetweenPolls: a server without room for held polls is told as soon.
func TestNewsBetweenPolls(t *testing.T) {
	l := &listener{next: 10 * time.Minute}
	listening(t, l, func(f *follow.Follower) {
		f.Report(saying(0, 9)) // before the first poll, which it doesn't hasten
		time.Sleep(10 * time.Second)
		l.check(t, 0, [3]int{0, -1, -1}, [3]int{0, 0, 9}) // there was nothing to report before a first sync
		f.Report(saying(1, 9))
		l.check(t, 2, [3]int{10, 1, 9})
		time.Sleep(8 * time.Minute)
		l.check(t, 3)
	})
}

// TestNewsIsNoHaste: who backs off, backs off, whatever there is to tell.
func TestNewsIsNoHaste(t *testing.T) {
	l := &listener{}
	listening(t, l, func(f *follow.Follower) {
		time.Sleep(10 * time.Second)
		l.mu.Lock()
		l.fails = &wire.OverloadedError{Reason: "polls", Retry: 10 * time.Minute}
		l.mu.Unlock()
		f.Report(saying(0, 9))
		l.check(t, 2, [3]int{10, 0, 9}) // which is refused
		for i := range 10 {
			time.Sleep(10 * time.Second)
			f.Report(saying(uint64(i), 0))
		}
		l.check(t, 3)
		l.mu.Lock()
		l.fails = nil
		l.mu.Unlock()
		time.Sleep(11 * time.Minute)
		if got := l.since(3); len(got) == 0 || got[0].report == nil || got[0].report.Applying.Failed != 9 {
			t.Errorf("once it answers again it is polled as %+v, want the latest report first", got)
		}
	})
}

// TestNewsIsToldAgain: what a poll told that failed is told with the next, as is
// what the server has forgotten.
func TestNewsIsToldAgain(t *testing.T) {
	l := &listener{}
	listening(t, l, func(f *follow.Follower) {
		time.Sleep(10 * time.Second)
		l.mu.Lock()
		l.fails = fmt.Errorf("%w: gone", wire.ErrUnreachable)
		l.mu.Unlock()
		f.Report(saying(4, 0))
		synctest.Wait()
		l.mu.Lock()
		l.fails, l.tell = nil, true
		l.mu.Unlock()
		time.Sleep(10 * time.Minute)
		told := 0
		for _, p := range l.since(3) {
			if p.report != nil && p.report.Applying != nil && p.report.Applying.Failed == 4 {
				told++
			}
		}
		if told != 2 {
			t.Errorf("it was told %d times after the poll that failed, want once, and once more since the server asked:\n%+v", told, l.since(3))
		}
	})
}

// TestOrdersArrive: orders come with the list, and are there for whoever applies.
func TestOrdersArrive(t *testing.T) {
	l := &listener{}
	l.list = desired.OwnList("web-01").Pause(0, "maintenance")
	var mu sync.Mutex
	var lists []desired.List
	synctest.Test(t, func(t *testing.T) {
		l.began = time.Now()
		disk := &shelf{}
		f, err := follow.Open(follow.Options{
			Host: "web-01", Server: l, Disk: disk, Hold: time.Minute, Logger: slog.New(slog.DiscardHandler),
			Hooks: follow.Hooks{Listed: func(list desired.List) {
				mu.Lock()
				defer mu.Unlock()
				lists = append(lists, list)
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := f.List(); got.Version != 0 || got.Paused {
			t.Errorf("before the server said, the list is %+v", got)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { f.Run(ctx) })
		time.Sleep(time.Second)
		synctest.Wait()
		if got := f.List(); got.Sum() != l.list.Sum() || disk.list.Sum() != l.list.Sum() {
			t.Errorf("the list is %+v, on disk %+v, want %+v", got, disk.list, l.list)
		}
		l.mu.Lock()
		l.list = l.list.Resume(0)
		l.mu.Unlock()
		time.Sleep(2 * time.Minute)
		cancel()
		running.Wait()
		mu.Lock()
		defer mu.Unlock()
		if len(lists) != 2 || !lists[0].Paused || lists[0].Why != "maintenance" || lists[1].Paused || f.List().Paused {
			t.Errorf("it was told of %+v, want a pause and its end", lists)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
}

var _ follow.Disk = (*shelf)(nil)
