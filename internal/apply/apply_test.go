package apply_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/internal/desired"
)

type objects = map[string]desired.Object

func TestApply(t *testing.T) {
	w := newWorld(t, "web-01")
	w.publish("web-01", objects{"run/a": object("1"), "run/b": object("2"), "other": object("3")})
	c := w.once()
	w.converged("at first", c)
	if c.Objects != 3 || c.Unmanaged != 1 {
		t.Errorf("at first: %s, want 3 objects, one of them unmanaged", statusText(c))
	}
	w.driver.take()
	w.converged("again", w.once())
	if did := w.driver.take(); did != nil {
		t.Errorf("again: it did %q, want nothing", did)
	}
	w.publish("web-01", objects{"run/a": object("1"), "run/b": object("4")})
	w.converged("after a change", w.once())
	if did := w.driver.take(); !slices.Equal(did, []string{"+ run/b"}) {
		t.Errorf("after a change: it did %q, want the change alone", did)
	}
	w.publish("web-01", objects{"run/b": object("4")})
	w.converged("after a deletion", w.once())
}

func TestDrift(t *testing.T) {
	w := newWorld(t, "web-01")
	w.publish("web-01", objects{"run/a": object("1"), "run/b": object("2"), "run/c": object("3")})
	w.converged("at first", w.once())
	w.driver.take()
	w.driver.set("run/a", "")
	w.driver.set("run/c", "else")
	c := w.once()
	w.converged("after a drift", c)
	if c.Found != 2 || c.Corrected != 2 {
		t.Errorf("after a drift: %s, want 2 found and corrected", statusText(c))
	}
	if did := w.driver.take(); !slices.Equal(did, []string{"+ run/a", "+ run/c"}) {
		t.Errorf("after a drift: it did %q", did)
	}
}

// TestSets: of several sets the later wins, whatever comes and goes.
func TestSets(t *testing.T) {
	w := newWorld(t, "base", "web-01")
	w.publish("base", objects{"run/a": object("base"), "run/b": object("base")})
	w.publish("web-01", objects{"run/b": object("own"), "run/c": object("own")})
	w.converged("at first", w.once())
	w.driver.take()
	w.publish("base", objects{"run/a": object("base"), "run/b": object("hidden")})
	w.converged("after a change that is hidden", w.once())
	if did := w.driver.take(); did != nil {
		t.Errorf("after a change that is hidden: it did %q, want nothing", did)
	}
	w.publish("web-01", objects{"run/c": object("own")})
	w.converged("after what hid it has gone", w.once())
	w.publish("web-01", objects{"run/a": object("own"), "run/c": object("own")})
	w.converged("after another is hidden", w.once())
	slices.Reverse(w.sets)
	w.Desire(w.sets, w.orders)
	w.converged("after the order has changed", w.once())
	left := w.sets[0]
	w.sets = w.sets[1:]
	delete(w.state, left.Name)
	w.Desire(w.sets, w.orders)
	w.converged("after a set has left", w.once())
}

// TestRoutes: other routes take over what others made, of a large set, too.
func TestRoutes(t *testing.T) {
	w := newWorld(t, "web-01")
	w.driver.batch = 4000
	all := objects{}
	for i := range 10_000 {
		all[fmt.Sprintf("run/%05d", i)] = object("1")
	}
	w.publish("web-01", all)
	w.converged("at first", w.once())
	w.driver.take()
	w.routes[0].Version = "another"
	w.restart()
	w.converged("set up otherwise", w.once())
	if did := w.driver.take(); did != nil {
		t.Errorf("set up otherwise: it did %d things, want none", len(did))
	}
	w.routes[0].Name = "another"
	w.restart()
	w.converged("by another driver", w.once())
	if did := w.driver.take(); len(did) != len(all) {
		t.Errorf("by another driver: it did %d things, want each anew", len(did))
	}
}

// TestOrder: what comes after others is applied after them, and goes before them.
func TestOrder(t *testing.T) {
	w := newWorld(t, "web-01")
	w.publish("web-01", objects{"run/a": object("1", "run/b", "run/z"), "run/b": object("2", "run/c"), "run/c": object("3"), "run/z": object("4")})
	w.converged("at first", w.once())
	did := w.driver.take()
	before(t, did, "+ run/b", "+ run/a")
	before(t, did, "+ run/z", "+ run/a")
	before(t, did, "+ run/c", "+ run/b")
	w.publish("web-01", objects{})
	w.converged("once all has gone", w.once())
	did = w.driver.take()
	before(t, did, "- run/a", "- run/b")
	before(t, did, "- run/a", "- run/z")
	before(t, did, "- run/b", "- run/c")
}

func before(t *testing.T, did []string, first, then string) {
	t.Helper()
	if i, j := slices.Index(did, first), slices.Index(did, then); i < 0 || j < i {
		t.Errorf("it did %q, want %q before %q", did, first, then)
	}
}

// TestFailure: an object that fails holds back what comes after it, and nothing
// else.
func TestFailure(t *testing.T) {
	w := newWorld(t, "web-01")
	w.driver.fail("run/b", errBroken)
	w.publish("web-01", objects{"run/a": object("1", "run/b"), "run/b": object("2"), "run/c": object("3")})
	c := w.once()
	if c.State != desired.Waiting || c.Failed != 1 || c.Pending != 2 || c.Failures[0].Key != "run/b" || c.Failures[0].Error != "broken" {
		t.Errorf("the status is %s, want run/b to have failed, and two pending", statusText(c))
	}
	if got := w.driver.is(); fmt.Sprint(got) != "map[run/c:3]" {
		t.Errorf("the host holds %v, want run/c alone", got)
	}
	w.driver.fail("run/b", nil)
	w.converged("once it is mended", w.once())
	w.driver.fail("run/b", errBroken)
	w.publish("web-01", objects{"run/a": object("1"), "run/b": object("5"), "run/c": object("3")})
	if c = w.once(); c.Failed != 1 {
		t.Errorf("the status is %s, want one that failed", statusText(c))
	}
	w.publish("web-01", objects{"run/a": object("1"), "run/b": object("2"), "run/c": object("3")})
	w.driver.fail("run/b", nil)
	w.converged("once it is as it was", w.once())
}

// TestHistories holds a host against plain maps through random histories of sets,
// drift, failures and restarts.
func TestHistories(t *testing.T) {
	for range 60 {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %#x", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			names := []desired.Name{"one", "two", "three"}[:1+rng.IntN(3)]
			w := newWorld(t, names...)
			keys := make([]string, 3+rng.IntN(40))
			for i := range keys {
				keys[i] = fmt.Sprintf("%s/%d", []string{"run", "run", "run", "free"}[rng.IntN(4)], i)
			}
			for range 12 {
				for range rng.IntN(4) {
					w.change(rng, keys)
				}
				if rng.IntN(4) == 0 {
					rng.Shuffle(len(w.sets), func(i, j int) { w.sets[i], w.sets[j] = w.sets[j], w.sets[i] })
					w.Desire(w.sets, w.orders)
				}
				if rng.IntN(4) == 0 {
					w.restart()
				}
				for range rng.IntN(3) {
					w.driver.set("run/"+fmt.Sprint(rng.IntN(len(keys))), []string{"", "drift"}[rng.IntN(2)])
				}
				w.tidy()
				w.converged("after some changes", w.once())
				w.ordered()
			}
		})
	}
}

// change publishes a random state of a random set. Objects come only after those
// of lesser keys, so that no sets make a cycle together.
func (w *world) change(rng *rand.Rand, keys []string) {
	next := objects{}
	for i, key := range keys {
		if rng.IntN(3) == 0 {
			continue
		}
		o := object(fmt.Sprint(rng.IntN(3)))
		for range rng.IntN(3) {
			if i > 0 {
				if other := keys[rng.IntN(i)]; !slices.Contains(o.After, other) {
					o.After = append(o.After, other)
				}
			}
		}
		next[key] = o
	}
	w.publish(w.sets[rng.IntN(len(w.sets))].Name, next)
}

// tidy removes from the host what nobody made: a driver doesn't find it, either.
func (w *world) tidy() {
	known := map[string]bool{}
	for key := range w.wanted() {
		known[key] = true
	}
	for key := range w.driver.is() {
		if !known[key] && w.driver.is()[key] == "drift" {
			w.driver.set(key, "")
		}
	}
}

// ordered fails the test if something was made before what it comes after, where
// both were made at once.
func (w *world) ordered() {
	w.t.Helper()
	did := w.driver.take()
	at := map[string]int{}
	for i, what := range did {
		at[what] = i
	}
	winner := map[string]desired.Object{}
	for _, s := range w.sets {
		for key, o := range w.state[s.Name] {
			winner[key] = o
		}
	}
	for key, o := range winner {
		i, made := at["+ "+key]
		for _, other := range o.After {
			if j, too := at["+ "+other]; made && too && j > i {
				w.t.Errorf("it did %q, but %s comes after %s", did, key, other)
			}
		}
	}
}
