package pace_test

import (
	"fmt"
	"math"
	"testing"
	"time"
	"unsafe"

	"espalier/internal/pace"
)

// after returns for how long a schedule waits.
func after(s *pace.Schedule, now time.Time) time.Duration { return s.Due().Sub(now) }

func TestInterval(t *testing.T) {
	for _, c := range []struct{ own, hint, want time.Duration }{
		{0, 0, pace.DefaultInterval},
		{0, 10 * time.Second, 10 * time.Second},
		{20 * time.Second, 10 * time.Second, 20 * time.Second},
		{0, time.Millisecond, pace.MinInterval},
		{0, -1, pace.MinInterval},
		{0, math.MaxInt64, pace.MaxInterval},
	} {
		s := pace.NewSchedule(c.own, newRand(1))
		least, most, seen := c.want, c.want, map[time.Duration]bool{}
		for range 1000 {
			s.Succeeded(c.hint, start)
			got := after(s, start)
			least, most, seen[got] = min(least, got), max(most, got), true
		}
		if least < c.want*9/10 || most > c.want*11/10 {
			t.Errorf("own %v, told %v: it waits %v to %v, want %v ± 10%%", c.own, c.hint, least, most, c.want)
		}
		if len(seen) < 990 {
			t.Errorf("own %v, told %v: %d different waits of 1000: the jitter isn't fresh", c.own, c.hint, len(seen))
		}
	}
}

func TestFirst(t *testing.T) {
	var tenths [10]int
	for i := range 10_000 {
		name := fmt.Sprintf("web-%d", i)
		s, again := pace.NewSchedule(0, newRand(1)), pace.NewSchedule(0, newRand(2))
		s.First(name, start)
		again.First(name, start)
		if s.Due() != again.Due() || after(s, start) < 0 || after(s, start) >= pace.DefaultInterval {
			t.Fatalf("%s polls first after %v, and after %v", name, after(s, start), after(again, start))
		}
		tenths[after(s, start)*10/pace.DefaultInterval]++
	}
	for i, n := range tenths {
		if n < 850 || n > 1150 {
			t.Errorf("%d of 10,000 hosts poll first in tenth %d of the interval", n, i)
		}
	}
}

func TestBackoff(t *testing.T) {
	for seed := range uint64(100) {
		s, now := pace.NewSchedule(0, newRand(seed)), start
		for failure := range 1000 {
			s.Failed(now)
			most := time.Duration(min(math.Pow(1.6, float64(failure)), 120) * float64(time.Second))
			if got := after(s, now); got < 0 || got > most {
				t.Fatalf("seed %d: after %d failures it waits %v, want at most %v", seed, failure+1, got, most)
			}
			now = s.Due()
		}
	}
}

// TestHealthy: a success now and then does not reset the backoff, two minutes of
// them do.
func TestHealthy(t *testing.T) {
	s, now := pace.NewSchedule(0, newRand(1)), start
	for range 20 {
		s.Failed(now)
		now = now.Add(time.Second)
		s.Succeeded(time.Second, now)
		now = now.Add(time.Second)
	}
	if got := s.Failures(); got != 20 {
		t.Errorf("with every other poll %d failures count, want 20", got)
	}
	now = now.Add(pace.HealthyTime)
	s.Succeeded(time.Second, now)
	if got := s.Failures(); got != 0 {
		t.Errorf("after two healthy minutes %d failures count", got)
	}
	s.Failed(now)
	if got := after(s, now); got > pace.MinBackoff {
		t.Errorf("a first failure waits %v", got)
	}
}

func TestRefusedAgent(t *testing.T) {
	s := pace.NewSchedule(0, newRand(1))
	for retry, want := range map[time.Duration]time.Duration{0: pace.MinRetry, 20 * time.Second: 20 * time.Second, math.MaxInt64: pace.MaxRetry} {
		s.Refused(retry, start)
		if got := after(s, start); got < want*9/10 || got > want*11/10 || s.Failures() != 0 {
			t.Errorf("told to retry after %v it waits %v, with %d failures", retry, got, s.Failures())
		}
	}
}

// sleeper is a machine whose clocks can part.
type sleeper struct{ now time.Time }

// untilPoll returns how long the machine runs until it polls.
func (m *sleeper) untilPoll(s *pace.Schedule) time.Duration {
	from := m.now
	for {
		d := s.Wait(m.now)
		if d == 0 {
			return m.now.Sub(from)
		}
		m.now = m.now.Add(d)
	}
}

// shiftWall returns t with its wall clock moved and its monotonic clock, which is
// the second word of a Time that has one, as it was: no public way leads there.
func shiftWall(t time.Time, d time.Duration) time.Time {
	t = t.Add(d)
	(*[2]int64)(unsafe.Pointer(&t))[1] -= int64(d)
	return t
}

func TestWait(t *testing.T) {
	for seed := range uint64(100) {
		m := sleeper{time.Now()}
		s := pace.NewSchedule(0, newRand(seed))
		s.Succeeded(time.Minute, m.now)
		want := after(s, m.now)
		if got := m.untilPoll(s); got != want {
			t.Fatalf("seed %d: undisturbed it polls after %v, want %v", seed, got, want)
		}
		for what, jump := range map[string]func(){
			"a process that was stopped":                 func() { m.now = m.now.Add(time.Hour) },
			"a suspend that stopped the monotonic clock": func() { m.now = shiftWall(m.now, time.Hour) },
		} {
			s.Succeeded(30*time.Minute, m.now)
			jump()
			if got := m.untilPoll(s); got == 0 || got > pace.WakeWindow {
				t.Fatalf("seed %d, %s: it polls after %v, want a part of %v", seed, what, got, pace.WakeWindow)
			}
		}
		s.Succeeded(30*time.Minute, m.now)
		want = after(s, m.now)
		m.now = shiftWall(m.now, -time.Hour)
		if got := m.untilPoll(s); got != want {
			t.Fatalf("seed %d: with a clock that is set back it polls after %v, want %v", seed, got, want)
		}
	}
}

// TestWakeSooner: a poll that was due soon anyway is not put off.
func TestWakeSooner(t *testing.T) {
	for seed := range uint64(100) {
		m := sleeper{time.Now()}
		s := pace.NewSchedule(0, newRand(seed))
		s.Succeeded(2*time.Second, m.now)
		want := after(s, m.now)
		m.now = shiftWall(m.now, time.Hour)
		if got := m.untilPoll(s); got > want {
			t.Fatalf("seed %d: due in %v, it polls after %v", seed, want, got)
		}
	}
}
