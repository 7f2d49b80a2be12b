package follow

import (
	"context"
	"errors"
	"sync"
	"time"

	"espalier/internal/desired"
)

// errNews is why a wait was cut short: there is something to tell.
var errNews = errors.New("there is something to tell the server")

// voice is what this host says of applying: whoever applies says it at any time,
// and the Follower tells it with its polls. Where the server shall know soon, what
// the Follower waits for is cut short, be it the next poll or a poll that is held;
// no more often than Limits allow, so that a host whose state flaps polls no more
// often than one whose sets change all the time.
type voice struct {
	clock  Clock
	limits Limits

	mu     sync.Mutex
	now    *desired.Convergence // as it was said last; nil: nothing was
	told   *desired.Convergence // as the server was told last, or is being told
	toldAt time.Time
	cutAt  time.Time               // when a wait was last cut short
	cut    context.CancelCauseFunc // of what is waited for; nil: of nothing
	stop   func()                  // what will cut it later; nil: nothing will
}

// say takes what is so from now on, bounded.
func (v *voice) say(c *desired.Convergence) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = c
	v.arm()
}

// wait returns a context for what may be cut short. over is called once it has
// ended, however it did.
func (v *voice) wait(ctx context.Context) (waiting context.Context, over func()) {
	waiting, cut := context.WithCancelCause(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cut = cut
	v.arm()
	return waiting, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.disarm()
		v.cut = nil
		cut(nil)
	}
}

// arm cuts what is waited for short, or sees to it that this happens once it may.
// v.mu is held.
func (v *voice) arm() {
	v.disarm()
	due, ok := v.due()
	if !ok || v.cut == nil {
		return
	}
	now := v.clock.Now()
	if left := due.Sub(now); left > 0 {
		v.stop = v.clock.AfterFunc(left, v.fire)
		return
	}
	v.cutAt = now
	v.cut(errNews)
	v.cut = nil
}

func (v *voice) disarm() {
	if v.stop != nil {
		v.stop()
		v.stop = nil
	}
}

// fire is called when something may be due. It looks anew: what it was set for may
// be over.
func (v *voice) fire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.arm()
}

// due returns when the server shall hear of what is new; false: nothing is. v.mu
// is held.
func (v *voice) due() (time.Time, bool) {
	soonest := v.cutAt.Add(v.limits.NewsGap)
	switch {
	case telling(v.now, v.told):
		return soonest, true
	case v.now == nil || v.now.Equal(*v.told):
		return time.Time{}, false
	}
	if later := v.toldAt.Add(v.limits.ProgressGap); later.After(soonest) {
		return later, true
	}
	return soonest, true
}

// telling reports whether what is so is something else for an operator than what
// was told.
func telling(now, told *desired.Convergence) bool {
	if now == nil {
		return told != nil
	}
	return now.Telling(told)
}

// latest returns what is so; ripe says that it is worth a report of its own to a
// server that knows what it was told.
func (v *voice) latest(told *desired.Convergence) (now *desired.Convergence, ripe bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now, telling(v.now, told) || v.clock.Now().Sub(v.toldAt) >= v.limits.ProgressGap
}

// tells notes what a poll is about to tell.
func (v *voice) tells(c *desired.Convergence) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.told, v.toldAt = c, v.clock.Now()
}
