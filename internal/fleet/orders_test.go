package fleet_test

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/internal/desired"
	"espalier/internal/fleet"
)

// reporting returns a fleet of one host that has reported c.
func reporting(c *desired.Convergence) *fleet.Fleet {
	f := fleet.New(nil, nil)
	f.Poll(now, fleet.Poll{Host: "web-01", Report: &desired.Report{Agent: "v", Applying: c}})
	return f
}

// TestOrder tells a host one thing after the other, of which each has to follow
// from the one before.
func TestOrder(t *testing.T) {
	root := desired.Digest{7}
	f := reporting(&desired.Convergence{Desired: root, State: desired.Guarded, Guarded: 40})
	sets := []desired.Name{"web-01"}
	paused := desired.Orders{Paused: true, Why: "new disk"}
	for _, c := range []struct {
		order   fleet.Order
		want    desired.List
		guarded uint64
	}{
		{fleet.Order{Kind: fleet.Resume}, desired.List{Sets: sets}, 0},
		{fleet.Order{Kind: fleet.Pause, Why: "new disk"}, desired.List{Version: 1, Sets: sets, Orders: paused}, 0},
		{fleet.Order{Kind: fleet.Pause, Why: "new disk"}, desired.List{Version: 1, Sets: sets, Orders: paused}, 0},
		{fleet.Order{Kind: fleet.Pause}, desired.List{Version: 2, Sets: sets, Orders: desired.Orders{Paused: true}}, 0},
		{
			fleet.Order{Kind: fleet.Release, Root: root, Why: "they may go"},
			desired.List{Version: 3, Sets: sets, Orders: desired.Orders{Paused: true, Release: root, Released: 3}},
			40,
		},
		{fleet.Order{Kind: fleet.Resume, Why: "done"}, desired.List{Version: 4, Sets: sets, Orders: desired.Orders{Release: root, Released: 3}}, 0},
		{fleet.Order{Kind: fleet.Resume}, desired.List{Version: 4, Sets: sets, Orders: desired.Orders{Release: root, Released: 3}}, 0},
		{fleet.Order{Kind: fleet.Release, Root: root}, desired.List{Version: 5, Sets: sets, Orders: desired.Orders{Release: root, Released: 5}}, 40},
	} {
		if err := c.order.Check(); err != nil {
			t.Errorf("%+v: %v", c.order, err)
		}
		_, next, guarded, err := f.Order("web-01", c.order)
		if err != nil || !reflect.DeepEqual(next, c.want) || guarded != c.guarded {
			t.Errorf("%v leads to %+v, %d, %v, want %+v, %d", c.order.Kind, next, guarded, err, c.want, c.guarded)
		}
		f.SetList("web-01", next)
	}
	if a := f.Poll(now, fleet.Poll{Host: "web-01"}); a.List == nil || a.List.Released != 5 {
		t.Errorf("the host is told %+v", a.List)
	}
}

// TestOrderAfterAnother: a host that has a later list than the server, or another
// one, is told with a version that it follows, whatever was ordered before.
func TestOrderAfterAnother(t *testing.T) {
	for _, order := range []fleet.Order{{Kind: fleet.Resume}, {Kind: fleet.Pause}} {
		f := reporting(nil)
		f.Poll(now, fleet.Poll{Host: "web-01", ListVersion: 8, ListSum: 1})
		if _, next, _, err := f.Order("web-01", order); err != nil || next.Version != 9 || next.Paused != (order.Kind == fleet.Pause) {
			t.Errorf("%v of a host that is ahead: %+v, %v", order.Kind, next, err)
		}
		f.Poll(now, fleet.Poll{Host: "web-01", ListVersion: desired.MaxNumber, ListSum: 1})
		if _, next, _, err := f.Order("web-01", order); err != nil || next.Version > 1<<24 {
			t.Errorf("%v of a host that claims the last version: %+v, %v", order.Kind, next, err)
		}
	}
}

// TestRelease lets through what waits, as it is known to wait, and nothing else.
func TestRelease(t *testing.T) {
	root, other := desired.Digest{7}, desired.Digest{8}
	for name, c := range map[string]struct {
		f    *fleet.Fleet
		root desired.Digest
		want string
	}{
		"a host that only mirrors": {reporting(nil), root, "does not report"},
		"nothing waits":            {reporting(&desired.Convergence{Desired: root, State: desired.Converged}), root, "does not report"},
		"something else waits":     {reporting(&desired.Convergence{Desired: other, State: desired.Guarded, Guarded: 1}), root, "wait (1) that lead to root " + other.String()},
		"nobody":                   {fleet.New(nil, nil), root, "does not report"},
	} {
		if _, next, n, err := c.f.Order("web-01", fleet.Order{Kind: fleet.Release, Root: c.root}); !errors.Is(err, fleet.ErrNotGuarded) ||
			!strings.Contains(err.Error(), c.want) || n != 0 {
			t.Errorf("%s: %+v, %d, %v, want %v that says %q", name, next, n, err, fleet.ErrNotGuarded, c.want)
		}
	}
}

func TestOrderCheck(t *testing.T) {
	for name, o := range map[string]fleet.Order{
		"none":                 {},
		"one of times to come": {Kind: 4},
		"a long reason":        {Kind: fleet.Pause, Why: strings.Repeat("x", desired.MaxWhyBytes+1)},
		"a release of nothing": {Kind: fleet.Release},
		"a pause of a root":    {Kind: fleet.Pause, Root: desired.Digest{1}},
	} {
		if err := o.Check(); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, desired.ErrInvalid)
		}
	}
}

// TestListsAndOrders: whatever is made of a host's list, in whatever order, is what
// two plain variables say.
func TestListsAndOrders(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	root := desired.Digest{7}
	f := reporting(&desired.Convergence{Desired: root, Guarded: 1})
	want := desired.OwnList("web-01")
	for range 500 {
		var old, next desired.List
		var err error
		if r.IntN(2) == 0 {
			want.Sets = []desired.Name{"web-01"}
			if r.IntN(2) == 0 {
				want.Sets = append(want.Sets, "base")
			}
			old, next, err = f.Next("web-01", want.Sets)
		} else {
			o := fleet.Order{Kind: fleet.OrderKind(1 + r.IntN(3))}
			switch o.Kind {
			case fleet.Pause:
				o.Why = []string{"a", "b"}[r.IntN(2)]
				want.Paused, want.Why = true, o.Why
			case fleet.Resume:
				want.Paused, want.Why = false, ""
			case fleet.Release:
				o.Root = root
				want.Release, want.Released = root, next.Version
			}
			if old, next, _, err = f.Order("web-01", o); o.Kind == fleet.Release {
				want.Released = next.Version
			}
		}
		changed := !reflect.DeepEqual(old, next)
		if err != nil || next.Check() != nil || changed != (next.Version == old.Version+1) || !changed && next.Version != old.Version {
			t.Fatalf("seed %d: after %+v comes %+v, %v", seed, old, next, err)
		}
		if !slices.Equal(next.Sets, want.Sets) || next.Orders != want.Orders {
			t.Fatalf("seed %d: after %+v comes %+v, want %+v", seed, old, next, want)
		}
		f.SetList("web-01", next)
	}
}

func TestProgress(t *testing.T) {
	for _, c := range []struct {
		says     *desired.Convergence
		want     fleet.Progress
		troubled bool
	}{
		{nil, fleet.OnlyMirrors, false},
		{&desired.Convergence{}, fleet.Applying, false},
		{&desired.Convergence{State: desired.Converged}, fleet.Converged, false},
		{&desired.Convergence{State: desired.Waiting}, fleet.Waiting, false},
		{&desired.Convergence{State: desired.Waiting, Failed: 1}, fleet.Failing, true},
		{&desired.Convergence{State: desired.Applying, Failed: 1, Pending: 9}, fleet.Failing, true},
		{&desired.Convergence{State: desired.Paused, Failed: 1}, fleet.Paused, true},
		{&desired.Convergence{State: desired.Paused}, fleet.Paused, false},
		{&desired.Convergence{State: desired.Guarded, Guarded: 3, Failed: 2}, fleet.Guarded, true},
		{&desired.Convergence{State: desired.Guarded}, fleet.Guarded, true},
		{&desired.Convergence{State: desired.Detecting, Drifted: 3}, fleet.Detecting, false},
		{&desired.Convergence{State: desired.Closed}, fleet.Closed, false},
		{&desired.Convergence{State: 99}, fleet.Unknown, false},
		{&desired.Convergence{State: -1}, fleet.Unknown, false},
	} {
		h := fleet.Host{At: now, Next: time.Minute, Report: desired.Report{Applying: c.says}}
		if got := h.Progress(); got != c.want {
			t.Errorf("%+v is %v, want %v", c.says, got, c.want)
		}
		want := fleet.InStep
		if c.troubled {
			want = fleet.Troubled
		}
		if got := h.State(now, false); got != want {
			t.Errorf("a host of which %+v is %v, want %v", c.says, got, want)
		}
	}
	f := reporting(&desired.Convergence{Failed: 1 << 63})
	f.Poll(now, fleet.Poll{Host: "web-02", Report: &desired.Report{Applying: &desired.Convergence{Failed: 1 << 63}}})
	f.Poll(now, fleet.Poll{Host: "web-03"})
	hosts, failed := f.Progress()
	if want := map[fleet.Progress]int{fleet.Failing: 2, fleet.OnlyMirrors: 1}; !reflect.DeepEqual(hosts, want) || failed != 1<<64 {
		t.Errorf("the fleet is %v, %v have failed, want %v", hosts, failed, want)
	}
}

// TestOnlyHidesObjects: who may not use all sets of a host learns how many of its
// objects failed, not which.
func TestOnlyHidesObjects(t *testing.T) {
	c := desired.Convergence{State: desired.Waiting, Reason: "for db/password", Failed: 1, Failures: []desired.Failure{{Key: "db/password", Error: "denied"}}}
	h := fleet.Host{List: desired.List{Version: 1, Sets: []desired.Name{"web", "secret"}}, Report: desired.Report{Applying: &c}}
	some := h.Only(func(name desired.Name) bool { return name == "web" }).Report.Applying
	if some.Failed != 1 || some.Failures != nil || some.Reason != "" {
		t.Errorf("who may see web alone is told %+v", some)
	}
	if all := h.Only(func(desired.Name) bool { return true }).Report.Applying; !all.Equal(c) || c.Reason == "" {
		t.Errorf("who may see all is told %+v", all)
	}
}
