package wire_test

import (
	"errors"
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// convergence returns one with something in each field.
func convergence() *desired.Convergence {
	return &desired.Convergence{
		Desired: desired.Digest{1}, Applied: desired.Digest{2}, Observed: desired.Digest{3}, State: desired.Waiting, Reason: "for a retry",
		Objects: 100, Pending: 7, Failed: 9, Unmanaged: 3, Drifted: 1, Found: 5, Corrected: 4, Guarded: 2,
		Failures: []desired.Failure{
			{Key: "files/a", Error: "no space", Attempts: 3, Since: time.UnixMilli(1_700_000_000_123).UTC(), Next: time.UnixMilli(1_700_000_060_000).UTC()},
			{Key: "files/b", Error: "denied"},
		},
		Stages: desired.Stages{Waited: 1500 * time.Millisecond, Transferred: 20 * time.Microsecond, Applied: time.Hour},
	}
}

func TestConvergenceRoundTrip(t *testing.T) {
	converged := &desired.Convergence{
		Desired: desired.Digest{1}, Applied: desired.Digest{1}, Observed: desired.Digest{1}, State: desired.Converged,
		Objects: 1_000_000, Found: 12, Corrected: 12, Stages: desired.Stages{Waited: 12 * time.Second, Transferred: time.Second, Applied: time.Minute},
	}
	for name, want := range map[string]*desired.Convergence{
		"nothing":             {},
		"nil":                 nil,
		"all":                 convergence(),
		"converged":           converged,
		"applied nothing yet": {Desired: desired.Digest{1}},
	} {
		p := wire.Poll{Host: "a", Report: &desired.Report{Applying: want}}
		got, err := wire.PollFromWire(over(t, wire.PollToWire(p, true)), "")
		if err != nil || !reflect.DeepEqual(got.Report, p.Report) {
			t.Errorf("%s: %+v came as %+v, %v", name, want, got.Report.Applying, err)
		}
	}
	report := desired.Report{Agent: "v1.12.3-beta.1", Applying: converged}
	if n := proto.Size(wire.PollToWire(wire.Poll{Report: &report}, false)); n >= 100 {
		t.Errorf("the report of a converged host takes %d bytes, want less than 100", n)
	}
}

// TestConvergenceOfAnyHost: what a host says is bounded, and what is nonsense is
// refused.
func TestConvergenceOfAnyHost(t *testing.T) {
	root := make([]byte, 32)
	many := make([]*espalierv1.Failure, desired.MaxFailures+1)
	for name, m := range map[string]*espalierv1.Convergence{
		"a short root":          {Desired: root[:31]},
		"a long applied root":   {Desired: root, Applied: append(root, 0)},
		"a short observed root": {Desired: root, Observed: root[:1]},
		"too many failures":     {Failures: many},
	} {
		p := &espalierv1.PollRequest{Host: "a", Report: &espalierv1.HostReport{Applying: m}}
		if _, err := wire.PollFromWire(p, ""); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, desired.ErrInvalid)
		}
	}
	odd := &espalierv1.Convergence{State: 99, WaitedUs: 1 << 63, Failures: []*espalierv1.Failure{{SinceMs: 1 << 63, NextMs: 1 << 62}}}
	got, err := wire.PollFromWire(&espalierv1.PollRequest{Host: "a", Report: &espalierv1.HostReport{Applying: odd}}, "")
	if err != nil {
		t.Fatal(err)
	}
	c := got.Report.Applying
	if c.State.String() != "unknown" || c.Stages.Waited != desired.MaxStage || !c.Failures[0].Since.IsZero() || !c.Failures[0].Next.IsZero() || c.Failed != 1 {
		t.Errorf("odd values came as %+v", c)
	}
}

func TestOrdersFromWire(t *testing.T) {
	root := desired.Digest{5}
	for _, c := range []struct {
		m    *espalierv1.SetOrdersRequest
		want wire.Orders
	}{
		{
			&espalierv1.SetOrdersRequest{Host: "a", Order: espalierv1.SetOrdersRequest_ORDER_PAUSE, Why: "x"},
			wire.Orders{Host: "a", Order: fleet.Order{Kind: fleet.Pause, Why: "x"}},
		},
		{
			&espalierv1.SetOrdersRequest{Host: "a", Order: espalierv1.SetOrdersRequest_ORDER_RESUME},
			wire.Orders{Host: "a", Order: fleet.Order{Kind: fleet.Resume}},
		},
		{
			&espalierv1.SetOrdersRequest{Host: "a", Order: espalierv1.SetOrdersRequest_ORDER_RELEASE, Root: root[:]},
			wire.Orders{Host: "a", Order: fleet.Order{Kind: fleet.Release, Root: root}},
		},
	} {
		if got, err := wire.OrdersFromWire(over(t, c.m)); err != nil || got != c.want {
			t.Errorf("%v came as %+v, %v", c.m, got, err)
		}
	}
	for name, m := range map[string]*espalierv1.SetOrdersRequest{
		"nothing":      nil,
		"no host":      {Order: espalierv1.SetOrdersRequest_ORDER_PAUSE},
		"no order":     {Host: "a"},
		"a short root": {Host: "a", Order: espalierv1.SetOrdersRequest_ORDER_RELEASE, Root: root[:8]},
		"no root":      {Host: "a", Order: espalierv1.SetOrdersRequest_ORDER_RELEASE},
	} {
		if _, err := wire.OrdersFromWire(m); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%s: %v, want %v", name, err, desired.ErrInvalid)
		}
	}
}
