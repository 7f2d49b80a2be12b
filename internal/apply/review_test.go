package apply_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"espalier/agent/driver"
	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/store"
)

// run has the applier work until the function it returns is called.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	stopped, a := make(chan error, 1), w.Applier
	go func() { stopped <- a.Run(ctx) }()
	return func() {
		w.t.Helper()
		cancel()
		if err := <-stopped; err != nil {
			w.t.Errorf("Run = %v", err)
		}
	}
}

// lose returns the host's sets with one of which nothing is known.
func (w *world) lose(name desired.Name) []apply.Set {
	w.t.Helper()
	empty, err := store.OpenMirror(w.t.TempDir(), name, store.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { empty.Close() })
	sets := slices.Clone(w.sets)
	sets[slices.IndexFunc(sets, func(s apply.Set) bool { return s.Name == name })].Mirror = empty
	return sets
}

// TestGuardCountsWhatIsUnderWay: objects that are being made while the state comes
// that has them no longer are deleted no more than others.
func TestGuardCountsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		w.policy.MaxDelete = nil
		w.driver.batch, w.driver.gate = 50, make(chan struct{})
		w.restart()
		stop := w.run()
		w.publish("web-01", many(100)) // of which two batches are under way
		synctest.Wait()
		w.publish("web-01", objects{"run/a": object("1")})
		synctest.Wait()
		close(w.driver.gate)
		time.Sleep(time.Minute)
		if c := w.Status(); c.State != desired.Guarded || c.Guarded != 100 || len(w.driver.is()) != 100 {
			t.Errorf("once they are made: %s, and the host holds %d, want 100 guarded", statusText(c), len(w.driver.is()))
		}
		if err := w.Release(w.Status().Desired); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		w.converged("once it is released", w.Status())
		stop()
	})
}

// TestGuardCountsWhatIsHalfMade: what may be on the host after a crash counts, too.
func TestGuardCountsWhatIsHalfMade(t *testing.T) {
	w := newWorld(t, "web-01")
	w.policy.MaxDelete = nil
	w.driver.batch = 50
	w.restart()
	all := many(60)
	for key := range all {
		w.driver.fail(key, errBroken)
	}
	w.publish("web-01", all)
	w.once()
	clear(w.driver.fails)
	w.publish("web-01", objects{})
	if c := w.once(); c.State != desired.Guarded || c.Guarded != 60 || c.Pending != 60 {
		t.Errorf("the status is %s, want 60 guarded", statusText(c))
	}
}

// TestReleaseIsForOnce: deletions that were let through are not let through again
// when the same state comes back later.
func TestReleaseIsForOnce(t *testing.T) {
	for _, ordered := range []bool{false, true} {
		w := newWorld(t, "web-01")
		w.policy.MaxDelete = nil
		w.restart()
		w.publish("web-01", many(100))
		w.converged("at first", w.once())
		w.publish("web-01", many(50))
		c := w.once()
		if ordered {
			w.orders.Release, w.orders.Released = c.Desired, 7
			w.Desire(w.sets, w.orders)
		} else if err := w.Release(c.Desired); err != nil {
			t.Fatal(err)
		}
		w.converged("once it is released", w.once())
		w.publish("web-01", many(100))
		w.converged("once all are there again", w.once())
		w.publish("web-01", many(50))
		if c = w.once(); c.State != desired.Guarded {
			t.Errorf("ordered %v, the same state again: %s, want it guarded", ordered, statusText(c))
		}
	}
}

// TestLostSets: nothing of a set of which nothing is known goes, whether it was
// made true or hidden, and whatever other sets do.
func TestLostSets(t *testing.T) {
	w := newWorld(t, "base", "web-01")
	w.publish("base", objects{"run/a": object("base"), "run/b": object("base"), "run/c": object("base")})
	w.publish("web-01", objects{"run/a": object("own")})
	w.converged("at first", w.once())
	known := w.sets
	w.sets = w.lose("base")
	w.publish("web-01", objects{"run/b": object("own")})
	w.once()
	if got := fmt.Sprint(w.driver.is()); got != "map[run/a:own run/b:own run/c:base]" {
		t.Errorf("while base is lost the host holds %s, want run/a as it was", got)
	}
	w.sets = known
	w.Desire(w.sets, w.orders)
	w.converged("once base is there again", w.once())
	w.driver.take()
	slices.Reverse(w.sets)
	w.Desire(w.sets, w.orders)
	w.converged("once base is the last", w.once())
	if did := w.driver.take(); !slices.Equal(did, []string{"+ run/b"}) {
		t.Errorf("once base is the last: it did %q, want run/b made anew", did)
	}
}

// TestRelistedWhileLost: the order of sets counts also where it changed while one of
// them was lost.
func TestRelistedWhileLost(t *testing.T) {
	w := newWorld(t, "base", "web-01")
	w.publish("base", objects{"run/a": object("base")})
	w.publish("web-01", objects{"run/a": object("own")})
	w.converged("at first", w.once())
	slices.Reverse(w.sets)
	w.Desire(w.lose("base"), w.orders)
	w.once()
	w.Desire(w.sets, w.orders)
	w.converged("once base is there again", w.once())
}

// TestRelistedWhileBusy: an object that is being made by an old list is made again
// by the new one.
func TestRelistedWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "base", "web-01")
		w.driver.gate = make(chan struct{})
		w.publish("base", objects{"run/a": object("base")})
		w.publish("web-01", objects{"run/a": object("own")})
		stop := w.run()
		synctest.Wait()
		slices.Reverse(w.sets)
		w.Desire(w.sets, w.orders)
		synctest.Wait()
		close(w.driver.gate)
		time.Sleep(time.Minute)
		w.converged("in the end", w.Status())
		stop()
	})
}

// TestRelistedWhileHidden: the order of sets counts also for an object that another
// set hid when it changed, and lets go of before anything was done about it.
func TestRelistedWhileHidden(t *testing.T) {
	w := newWorld(t, "base", "web-01", "late")
	w.publish("base", objects{"run/a": object("base")})
	w.publish("web-01", objects{"run/a": object("own")})
	w.publish("late", objects{})
	w.converged("at first", w.once())
	w.orders.Paused = true
	w.sets[0], w.sets[1] = w.sets[1], w.sets[0]
	w.publish("late", objects{"run/a": object("late")})
	w.once()
	w.publish("late", objects{})
	w.orders.Paused = false
	w.Desire(w.sets, w.orders)
	w.converged("in the end", w.once())
}

// TestSetComesMeanwhile: a set of which the first content comes while another is
// applied waits for the next round.
func TestSetComesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "base", "web-01")
		w.driver.batch, w.driver.gate = 1, make(chan struct{})
		stop, at := w.run(), w.Applier
		w.publish("base", many(20))
		synctest.Wait()
		w.restart() // an applier that is told instead of the one at work
		w.publish("web-01", objects{"run/019": object("own"), "run/own": object("own")})
		close(w.driver.gate)
		time.Sleep(time.Minute)
		at.Desire(w.sets, w.orders)
		time.Sleep(time.Minute)
		w.converged("in the end", at.Status())
		stop()
	})
}

// TestBusyIsNotConverged: a host whose driver is at work has not converged, though
// what is desired is again what the record says.
func TestBusyIsNotConverged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		w.publish("web-01", objects{"run/a": object("1")})
		w.converged("at first", w.once())
		w.driver.gate = make(chan struct{})
		stop := w.run()
		w.publish("web-01", objects{"run/a": object("2")})
		synctest.Wait()
		w.publish("web-01", objects{"run/a": object("1")})
		time.Sleep(time.Second)
		if c := w.Status(); c.State != desired.Applying {
			t.Errorf("while run/a is made otherwise: %s, want it applying", statusText(c))
		}
		close(w.driver.gate)
		time.Sleep(time.Minute)
		w.converged("in the end", w.Status())
		stop()
	})
}

// TestFailuresWithoutObjects: what has failed and is not wanted any more counts as
// failed no longer.
func TestFailuresWithoutObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		w.routes[0].Driver = untouched{w.driver}
		w.restart()
		w.driver.fail("run/b", errBroken)
		stop := w.run()
		w.publish("web-01", objects{"run/a": object("1"), "run/b": object("1")})
		time.Sleep(10 * time.Second)
		if c := w.Status(); c.State != desired.Waiting || c.Failed != 1 {
			t.Errorf("the status is %s, want one that has failed", statusText(c))
		}
		w.publish("web-01", objects{"run/a": object("1")})
		time.Sleep(time.Second)
		w.converged("without it", w.Status())
		stop()
	})
}

// untouched is a driver whose failures change nothing.
type untouched struct{ driver.Driver }

func (u untouched) Apply(ctx context.Context, changes []driver.Change) []driver.Result {
	results := u.Driver.Apply(ctx, changes)
	for i := range results {
		results[i].Untouched = true
	}
	return results
}

// TestRetryWhileBusy: what has failed is tried again on time while another driver
// takes long over something that others wait for.
func TestRetryWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		slow := newFake()
		slow.gate = make(chan struct{})
		w.routes = append(w.routes, apply.Route{Prefix: "slow/", Name: "slow", Driver: slow})
		w.restart()
		w.driver.fail("run/b", errBroken)
		stop := w.run()
		w.publish("web-01", objects{"slow/a": object("1"), "run/a": object("1", "slow/a"), "run/b": object("1")})
		synctest.Wait()
		w.driver.fail("run/b", nil)
		time.Sleep(10 * time.Second)
		if got := fmt.Sprint(w.driver.is()); got != "map[run/b:1]" {
			t.Errorf("while slow/a is made the host holds %s, want run/b", got)
		}
		close(slow.gate)
		stop()
	})
}

// TestOnceWithBlindDriver: a driver that can't look for drift is no reason to apply
// nothing.
func TestOnceWithBlindDriver(t *testing.T) {
	w := newWorld(t, "web-01")
	w.routes = append(w.routes, apply.Route{Prefix: "blind/", Name: "blind", Driver: blind{w.driver}})
	w.restart()
	w.publish("web-01", objects{"run/a": object("1")})
	if err := w.Once(t.Context()); err == nil || !strings.Contains(err.Error(), errBroken.Error()) {
		t.Errorf("Once = %v, want %v", err, errBroken)
	}
	w.converged("all the same", w.Status())
}

// blind is a driver that can't look for drift.
type blind struct{ *fake }

func (blind) Scan(context.Context, driver.Scan) error { return errBroken }

// TestOrderThroughFailures: however objects fail, none is made before those it
// comes after, and none goes before those that come after it.
func TestOrderThroughFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		strict := &strict{wild: newWild(t, 7), after: map[string][]string{}}
		w.routes[0].Driver = strict
		w.restart()
		all := objects{}
		for i := range 40 {
			o := object("1")
			for j := i + 1; j < 40 && j < i+4; j++ {
				o.After = append(o.After, fmt.Sprintf("run/%02d", j*7%40))
			}
			slices.Sort(o.After)
			key := fmt.Sprintf("run/%02d", i*7%40)
			all[key], strict.after[key] = o, o.After
		}
		stop := w.run()
		for range 3 {
			w.publish("web-01", all)
			time.Sleep(time.Hour)
			if n := len(strict.is()); n != 40 {
				t.Errorf("within an hour %d objects were made, want 40: %s", n, statusText(w.Status()))
			}
			w.publish("web-01", objects{})
			time.Sleep(time.Hour)
			if n := len(strict.is()); n != 0 {
				t.Errorf("within an hour all but %d went: %s", n, statusText(w.Status()))
			}
		}
		stop()
	})
}

// TestOrderWhileBusy: nothing comes after an object that is being made otherwise
// than it is to be by now.
func TestOrderWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		w.publish("web-01", objects{"run/a": object("1")})
		w.converged("at first", w.once())
		w.driver.gate = make(chan struct{})
		stop := w.run()
		w.publish("web-01", objects{"run/a": object("2")})
		synctest.Wait()
		w.driver.take()
		w.publish("web-01", objects{"run/a": object("1"), "run/b": object("1", "run/a")})
		synctest.Wait()
		close(w.driver.gate)
		time.Sleep(time.Minute)
		if did := w.driver.take(); !slices.Equal(did, []string{"+ run/a", "+ run/a", "+ run/b"}) {
			t.Errorf("it did %q, want run/a as it was, and then run/b", did)
		}
		w.converged("in the end", w.Status())
		stop()
	})
}

// strict is a wild driver that minds the order.
type strict struct {
	*wild
	mu    sync.Mutex
	after map[string][]string
	made  map[string]bool // which it said it made
}

func (s *strict) Apply(ctx context.Context, changes []driver.Change) []driver.Result {
	s.mu.Lock()
	for _, c := range changes {
		for key, after := range s.after {
			switch {
			case key == c.Key && !c.Deleted():
				for _, other := range after {
					if !s.made[other] {
						s.t.Errorf("%s is made before %s", key, other)
					}
				}
			case c.Deleted() && s.made[key] && slices.Contains(after, c.Key):
				s.t.Errorf("%s goes before %s", c.Key, key)
			}
		}
	}
	s.mu.Unlock()
	results := s.wild.Apply(ctx, changes)
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range changes[:len(results)] {
		if s.made == nil {
			s.made = map[string]bool{}
		}
		if results[i].Err == nil {
			s.made[c.Key] = !c.Deleted()
		}
	}
	return results
}

// TestFailureOfBytes: what a driver says need not be text, as the last that a
// program printed needn't be.
func TestFailureOfBytes(t *testing.T) {
	w := newWorld(t, "web-01")
	w.publish("web-01", objects{"run/a": object("1")})
	w.driver.fail("run/a", errors.New(strings.Repeat("\x80", 2*store.MaxReasonBytes)))
	if c := w.once(); c.Failed != 1 || !utf8.ValidString(c.Failures[0].Error) {
		t.Errorf("the status is %s, want one failure, in UTF-8", statusText(c))
	}
}
