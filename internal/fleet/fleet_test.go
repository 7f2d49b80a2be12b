package fleet_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
)

var now = time.Unix(1_700_000_000, 0)

func TestState(t *testing.T) {
	base := fleet.Host{Name: "a", At: now, Next: 30 * time.Second}
	with := func(change func(*fleet.Host)) fleet.Host {
		h := base
		change(&h)
		return h
	}
	for _, c := range []struct {
		host   fleet.Host
		behind bool
		want   fleet.State
	}{
		{fleet.Host{}, true, fleet.NeverSeen},
		{base, false, fleet.InStep},
		{base, true, fleet.Behind},
		{with(func(h *fleet.Host) { h.ListState = fleet.ListBehind }), false, fleet.Behind},
		{with(func(h *fleet.Host) { h.ListState = fleet.ListAhead }), false, fleet.Refusing},
		{with(func(h *fleet.Host) { h.ListState = fleet.ListForked }), false, fleet.Refusing},
		{with(func(h *fleet.Host) { h.Report.Problems = []desired.Problem{{Text: "x"}} }), true, fleet.Troubled},
		{with(func(h *fleet.Host) { h.Report.Problems = []desired.Problem{{Text: "x"}, {Refused: true}} }), true, fleet.Refusing},
		{with(func(h *fleet.Host) { h.At = now.Add(-119 * time.Second) }), false, fleet.InStep},
		{with(func(h *fleet.Host) { h.At = now.Add(-121 * time.Second) }), false, fleet.Silent},
	} {
		if got := c.host.State(now, c.behind); got != c.want {
			t.Errorf("State of %+v, behind %v = %v, want %v", c.host, c.behind, got, c.want)
		}
	}
}

// TestRestart hands what a fleet knows to another, as a restart does.
func TestRestart(t *testing.T) {
	f := fleet.New(nil, nil)
	for i := range 25 {
		name := desired.Name(fmt.Sprintf("h%02d", i))
		f.Poll(now, fleet.Poll{Host: name, Address: "::1", Held: []delta.Held{{Name: name, Number: uint64(i)}}, Report: &desired.Report{
			Agent: "v", Applying: &desired.Convergence{Desired: desired.Digest{1}, State: desired.Waiting, Failed: 1, Failures: []desired.Failure{
				{Key: "a", Error: "no", Attempts: 2, Since: time.UnixMilli(1_700_000_000_123).UTC()},
			}, Stages: desired.Stages{Waited: 1234567 * time.Microsecond}},
		}})
		f.Paced(name, time.Minute, "burst")
	}
	lists := map[desired.Name]desired.List{"h04": desired.OwnList("h04").Pause(0, "why"), "h03": desired.OwnList("h03").Next(0, []desired.Name{"base"}), "new": desired.OwnList("new").Next(0, []desired.Name{"base"})}
	for host, list := range lists {
		f.SetList(host, list)
	}
	rows := map[desired.Name][]byte{"odd": []byte("{")}
	for more := true; more; {
		var some map[desired.Name][]byte
		if some, more = f.Changed(10); len(some) > 10 {
			t.Fatalf("%d rows at once", len(some))
		}
		for name, row := range some {
			rows[name] = row
		}
	}
	if some, more := f.Changed(10); len(some) > 0 || more {
		t.Errorf("%d rows that did not change", len(some))
	}
	g := fleet.New(lists, rows)
	all := func(f *fleet.Fleet) (hosts []fleet.Host) {
		for after, more := desired.Name(""), true; more; after = hosts[len(hosts)-1].Name {
			var page []fleet.Host
			page, more = f.After(after, 7, func(fleet.Host) bool { return true })
			hosts = append(hosts, page...)
		}
		for i := range hosts {
			hosts[i].At = hosts[i].At.UTC()
		}
		return hosts
	}
	if before, after := all(f), all(g); !reflect.DeepEqual(before, after) || len(after) != 26 {
		t.Errorf("before: %+v\nafter: %+v", before, after)
	}
	if a := g.Poll(now, fleet.Poll{Host: "h00"}); !a.Tell {
		t.Error("after a restart no report is wanted")
	}
}

func TestMaxHosts(t *testing.T) {
	f := fleet.New(nil, nil)
	for i := range fleet.MaxHosts + 10 {
		f.Poll(now, fleet.Poll{Host: desired.Name(fmt.Sprint(i))})
	}
	if _, ok := f.Get(desired.Name(fmt.Sprint(fleet.MaxHosts))); ok {
		t.Error("there are more hosts than there may be")
	}
	if _, _, err := f.Next("x", []desired.Name{"x"}); err == nil {
		t.Error("a list for a host too many")
	}
	if !f.Mirrors("x", "x") || f.Mirrors("x", "y") {
		t.Error("a host that isn't known mirrors something else than its own set")
	}
}
