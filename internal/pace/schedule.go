package pace

import (
	"cmp"
	"math"
	"math/rand/v2"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Schedule is when one agent polls. Call First once, then Succeeded, Failed or
// Refused after each poll; Wait says how long there is to sleep.
type Schedule struct {
	interval time.Duration
	rng      *rand.Rand
	// due is when the next poll is; redrawn says that it is because of a wake.
	due     time.Time
	redrawn bool
	// failures counts since polls went well for HealthyTime; well is since when
	// they do, zero if the last one failed.
	failures int
	well     time.Time
}

// NewSchedule returns the schedule of an agent that polls every interval, or, if
// that is 0, when its server asks it to. rng is the Schedule's from then on.
func NewSchedule(interval time.Duration, rng *rand.Rand) *Schedule {
	return &Schedule{interval: interval, rng: rng}
}

// First plans the first poll: within an interval, at a phase that the host's name
// fixes, so that a fleet that is started at once is spread, and a host that is
// started over and over keeps its place.
func (s *Schedule) First(host string, now time.Time) {
	phase := float64(xxhash.Sum64String(host)>>11) / (1 << 53)
	s.plan(time.Duration(phase*float64(s.base(0))), now)
}

// Succeeded plans the next poll after one that was answered. hint is what the
// server asked for; 0: nothing.
func (s *Schedule) Succeeded(hint time.Duration, now time.Time) {
	if s.well.IsZero() {
		s.well = now
	}
	s.settle(now)
	s.plan(s.jitter(s.base(hint)), now)
}

// Failed plans the next poll after one that failed: at random within a time that
// grows by 1.6 from 1 s to 120 s with each (full jitter; Brooker, "Exponential
// Backoff And Jitter", 2015). Only polls that succeed for HealthyTime make it
// short again.
func (s *Schedule) Failed(now time.Time) {
	s.settle(now)
	s.well = time.Time{}
	s.failures++
	s.plan(Backoff(s.failures, s.rng), now)
}

// Backoff returns how long to wait after so many failures in a row, as Failed
// has it.
func Backoff(failures int, rng *rand.Rand) time.Duration {
	most := min(MinBackoff.Seconds()*math.Pow(backoffGrowth, float64(failures-1)), MaxBackoff.Seconds())
	return seconds(rng.Float64() * most)
}

// Held plans the next poll after one that began at a time and that was answered by
// a server with room to hold the next: at once, but HoldGap after it began.
func (s *Schedule) Held(began, now time.Time) {
	if s.well.IsZero() {
		s.well = now
	}
	s.settle(now)
	s.plan(max(0, HoldGap-now.Sub(began)), now)
}

// Now plans the first poll for now: of a host that holds nothing yet.
func (s *Schedule) Now(now time.Time) { s.plan(0, now) }

// Refused plans the next poll after a server that is overloaded said when to
// retry, which it drew for this client. It counts neither as failed nor as well.
func (s *Schedule) Refused(retry time.Duration, now time.Time) {
	s.settle(now)
	s.well = time.Time{}
	s.plan(s.jitter(min(max(retry, MinRetry), MaxRetry)), now)
}

// settle forgets failures before a time that was well for long enough.
func (s *Schedule) settle(now time.Time) {
	if !s.well.IsZero() && now.Sub(s.well) >= HealthyTime {
		s.failures = 0
	}
}

// Failures returns how many polls have failed since they last succeeded for
// HealthyTime.
func (s *Schedule) Failures() int { return s.failures }

// Due returns when the next poll is.
func (s *Schedule) Due() time.Time { return s.due }

// Wait returns how long to sleep before calling it again, at most Nap; 0: poll
// now. now has to carry the monotonic clock, as time.Now does.
//
// A poll that is overdue by more than WakeSlack, by either clock, means that the
// machine slept (the monotonic clock may stand still meanwhile), or that its clock
// was set forward. Then the poll is drawn anew, once, within WakeWindow: machines
// that wake together don't come together. A clock that was set back changes
// nothing.
func (s *Schedule) Wait(now time.Time) time.Duration {
	left := s.due.Sub(now)
	wall := s.due.Round(0).Sub(now.Round(0)) // without the monotonic clock
	if min(left, wall) < -WakeSlack && !s.redrawn {
		anew := time.Duration(s.rng.Float64() * float64(WakeWindow))
		if left > 0 { // by a clock that stood still
			anew = min(anew, left)
		}
		s.plan(anew, now)
		s.redrawn, left = true, anew
	}
	return min(max(left, 0), Nap)
}

func (s *Schedule) plan(wait time.Duration, now time.Time) {
	s.due, s.redrawn = now.Add(wait), false
}

// base is the interval before jitter.
func (s *Schedule) base(hint time.Duration) time.Duration {
	return min(max(cmp.Or(s.interval, hint, DefaultInterval), MinInterval), MaxInterval)
}

// jitter returns d, give or take Jitter of it: fixed phases echo through a fleet.
func (s *Schedule) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 - Jitter + 2*Jitter*s.rng.Float64()))
}
