package apply_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"espalier/agent/driver"
	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/store"
)

// many returns so many objects.
func many(n int) objects {
	all := objects{}
	for i := range n {
		all[fmt.Sprintf("run/%03d", i)] = object("1")
	}
	return all
}

// TestGuard: a state that deletes too much waits for an operator, all of it, while
// drift is corrected; what he releases is that state alone.
func TestGuard(t *testing.T) {
	w := newWorld(t, "web-01")
	w.policy.MaxDelete = nil
	w.restart()
	w.publish("web-01", many(100))
	w.converged("at first", w.once())
	next := many(100)
	for i := range 11 {
		delete(next, fmt.Sprintf("run/%03d", i))
	}
	next["run/new"] = object("2")
	w.publish("web-01", next)
	w.driver.set("run/050", "else")
	w.driver.take()
	c := w.once()
	if c.State != desired.Guarded || c.Guarded != 11 || !strings.Contains(c.Reason, "11 of 100") {
		t.Fatalf("the status is %s, want 11 guarded deletions", statusText(c))
	}
	if did := w.driver.take(); !slices.Equal(did, []string{"+ run/050"}) {
		t.Errorf("it did %q, want the drift corrected, and nothing else", did)
	}
	if err := w.Release(desired.Digest{1}); err != nil {
		t.Fatal(err)
	}
	if c = w.once(); c.State != desired.Guarded {
		t.Fatalf("once another root is released: %s, want it guarded", statusText(c))
	}
	if err := w.Release(c.Desired); err != nil {
		t.Fatal(err)
	}
	w.restart() // the record keeps it
	w.converged("once it is released", w.once())
	w.publish("web-01", objects{})
	if c = w.once(); c.State != desired.Guarded || c.Guarded != 90 {
		t.Fatalf("after the next state: %s, want it guarded", statusText(c))
	}
	w.orders.Release, w.orders.Released = c.Desired, 1
	w.Desire(w.sets, w.orders)
	w.converged("once the server released it", w.once())
}

// TestGuardAllowsFew: a state that deletes no more than a tenth, or ten, goes
// through.
func TestGuardAllowsFew(t *testing.T) {
	w := newWorld(t, "web-01")
	w.policy.MaxDelete = nil
	w.restart()
	w.publish("web-01", many(10))
	w.converged("at first", w.once())
	w.publish("web-01", objects{})
	w.converged("after ten deletions", w.once())
}

func TestPause(t *testing.T) {
	w := newWorld(t, "web-01")
	w.publish("web-01", many(3))
	if err := w.Pause("a look"); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if c := w.once(); c.State != desired.Paused || c.Reason != "on the host: a look" || c.Pending != 3 || len(w.driver.is()) > 0 {
		t.Fatalf("paused: %s, want 3 pending", statusText(c))
	}
	w.orders.Paused, w.orders.Why = true, "the fleet"
	w.Desire(w.sets, w.orders)
	if err := w.Resume(); err != nil {
		t.Fatal(err)
	}
	if c := w.once(); c.State != desired.Paused || c.Reason != "by an operator: the fleet" {
		t.Fatalf("paused by the server: %s", statusText(c))
	}
	w.orders = desired.Orders{}
	w.Desire(w.sets, w.orders)
	w.converged("resumed", w.once())
}

// TestDetect: what would be done shows in the plan, and nothing is.
func TestDetect(t *testing.T) {
	w := newWorld(t, "web-01")
	w.publish("web-01", objects{"run/a": object("1"), "run/b": object("2"), "run/c": object("3"), "free": object("x")})
	w.converged("at first", w.once())
	w.policy.Detect = true
	w.restart()
	w.publish("web-01", objects{"run/a": object("1"), "run/c": object("4"), "run/d": object("5"), "free": object("y")})
	w.driver.set("run/a", "else")
	w.driver.take()
	c := w.once()
	if c.State != desired.Detecting || c.Drifted != 1 || c.Found != 1 || c.Corrected != 0 {
		t.Errorf("the status is %s, want one drift found", statusText(c))
	}
	if did := w.driver.take(); did != nil {
		t.Errorf("it did %q, want nothing", did)
	}
	var plan []string
	for s, err := range w.Plan() {
		if err != nil {
			t.Fatal(err)
		}
		plan = append(plan, s.Action+" "+s.Key)
	}
	want := []string{"correct run/a", "delete run/b", "update run/c", "create run/d"}
	if !slices.Equal(plan, want) {
		t.Errorf("the plan is %q, want %q", plan, want)
	}
}

// TestWindows: a new state waits for a window, and is applied once it opens; drift
// is corrected at all times.
func TestWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which begins at midnight, UTC
		w := newWorld(t, "web-01")
		w.publish("web-01", many(2))
		w.converged("at first", w.once())
		now := time.Now()
		from := time.Duration(now.Hour())*time.Hour + 2*time.Hour
		w.policy.Windows = []apply.Window{{From: from % (24 * time.Hour), Until: (from + time.Hour) % (24 * time.Hour)}}
		w.policy.ScanInterval = time.Minute
		w.restart()
		w.publish("web-01", many(3))
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- w.Run(ctx) }()
		w.driver.set("run/000", "else")
		time.Sleep(time.Hour)
		if c := w.Status(); c.State != desired.Closed || c.Pending != 1 || c.Corrected != 1 {
			t.Errorf("before it opens: %s, want one pending, and the drift corrected", statusText(c))
		}
		time.Sleep(time.Hour + time.Minute)
		w.converged("once it has opened", w.Status())
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestRate: no more is applied in a time than the policy allows.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		w.policy.Rate = 2
		w.restart()
		w.publish("web-01", many(20))
		began := time.Now()
		w.converged("in the end", w.once())
		if took := time.Since(began); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("20 objects at 2 a second took %v", took)
		}
	})
}

// TestNewStateWhileBusy: a driver that takes its time holds up neither other
// drivers nor what comes next.
func TestNewStateWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		slow := newFake()
		slow.batch, slow.gate = 1, make(chan struct{})
		w.routes = append(w.routes, apply.Route{Prefix: "slow/", Name: "slow", Driver: slow})
		w.restart()
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- w.Run(ctx) }()
		w.publish("web-01", objects{"slow/a": object("1"), "run/a": object("1"), "run/late": object("1", "slow/a")})
		synctest.Wait()
		w.publish("web-01", objects{"slow/a": object("1"), "run/a": object("2"), "run/late": object("1", "slow/a")})
		time.Sleep(time.Second)
		if got := w.driver.is(); fmt.Sprint(got) != "map[run/a:2]" {
			t.Errorf("while a driver is at work the host holds %v, want the new run/a", got)
		}
		slow.gate <- struct{}{}
		time.Sleep(time.Second)
		if c := w.Status(); c.State != desired.Converged || w.driver.is()["run/late"] != "1" {
			t.Errorf("once it is done: %s, the host holds %v", statusText(c), w.driver.is())
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestCutShort: what was under way when the agent ended is in doubt, and done anew,
// even where what is desired is again what was there before.
func TestCutShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		w.publish("web-01", objects{"run/a": object("1")})
		w.converged("at first", w.once())
		w.driver.gate = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- w.Run(ctx) }()
		w.publish("web-01", objects{"run/a": object("2"), "run/b": object("2")})
		synctest.Wait()
		w.driver.set("run/a", "half") // which its driver has written so far
		cancel()
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
		w.driver.gate = nil
		w.restart()
		w.publish("web-01", objects{"run/a": object("1")})
		w.driver.take()
		w.converged("afterwards", w.once())
		if did := w.driver.take(); !slices.Equal(did, []string{"+ run/a", "- run/b"}) {
			t.Errorf("it did %q, want both that were in doubt", did)
		}
	})
}

// TestCycle: sets that make a cycle together are told so, and hold up nothing else.
func TestCycle(t *testing.T) {
	w := newWorld(t, "base", "web-01")
	w.publish("base", objects{"run/a": object("1", "run/b"), "run/b": object("1"), "run/d": object("1", "run/a")})
	w.publish("web-01", objects{"run/b": object("2", "run/a"), "run/c": object("2")})
	c := w.once()
	if c.Failed != 2 || c.Pending != 3+1 { // run/b of base is hidden by one that isn't there yet
		t.Errorf("the status is %s, want two failures", statusText(c))
	}
	if want := `"run/a" after "run/b" after "run/a"`; len(c.Failures) == 0 || !strings.Contains(c.Failures[0].Error, want) {
		t.Errorf("the failures are %v, want %s", c.Failures, want)
	}
	if got := w.driver.is(); fmt.Sprint(got) != "map[run/c:2]" {
		t.Errorf("the host holds %v, want run/c alone", got)
	}
	w.publish("web-01", objects{"run/b": object("2"), "run/c": object("2")})
	w.converged("once it is none", w.once())
}

// TestFlapping: an object that drifts again as soon as it was corrected is left
// alone for longer and longer.
func TestFlapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "web-01")
		w.policy.ScanInterval, w.policy.ContentsInterval = time.Second, -1
		w.restart()
		w.publish("web-01", objects{"run/a": object("1")})
		ctx, cancel := context.WithCancel(t.Context())
		stopped := make(chan error, 1)
		go func() { stopped <- w.Run(ctx) }()
		for range 3600 {
			time.Sleep(time.Second)
			w.driver.set("run/a", "else")
		}
		if n := len(w.driver.take()); n < 20 || n > 150 {
			t.Errorf("within an hour it was corrected %d times, want once in a minute or so", n)
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// TestManyFailures: a driver for which everything fails is left alone for a while.
func TestManyFailures(t *testing.T) {
	w := newWorld(t, "web-01")
	w.driver.batch = 500
	all := many(999)
	for key := range all {
		w.driver.fail(key, errBroken)
	}
	for i := range 2500 {
		all[fmt.Sprintf("run/x%04d", i)] = object("1")
		w.driver.fail(fmt.Sprintf("run/x%04d", i), errBroken)
	}
	w.publish("web-01", all)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- w.Run(ctx) }()
	for w.Status().Failed == 0 {
		time.Sleep(time.Millisecond)
	}
	if c := w.Status(); c.Failed > 2500 || c.Pending != 3499 {
		t.Errorf("after a round: %s, want about a thousand tried", statusText(c))
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestBadOptions(t *testing.T) {
	w := newWorld(t)
	for what, o := range map[string]apply.Options{
		"no driver":    {Routes: []apply.Route{{Prefix: "a", Name: "a"}}},
		"no name":      {Routes: []apply.Route{{Prefix: "a", Driver: idle{}}}},
		"two":          {Routes: []apply.Route{{Prefix: "a", Name: "a", Driver: idle{}}, {Prefix: "a", Name: "b", Driver: idle{}}}},
		"window":       {Policy: apply.Policy{Windows: []apply.Window{{From: -1}}}},
		"a long route": {Routes: []apply.Route{{Name: strings.Repeat("x", store.MaxRouteBytes+1), Driver: idle{}}}},
	} {
		o.Record = w.record
		if _, err := apply.New(o); err == nil {
			t.Errorf("%s: New = nil, want an error", what)
		}
	}
}

// TestNotesFit: the record keeps what a driver may note.
func TestNotesFit(t *testing.T) {
	if store.MaxNoteBytes != driver.MaxNoteBytes {
		t.Errorf("a driver may note %d bytes, and the record keeps %d", driver.MaxNoteBytes, store.MaxNoteBytes)
	}
}
