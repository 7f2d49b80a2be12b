package bench_test

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"espalier/bench"
	"espalier/internal/desired"
)

// TestRunPacing holds a small fleet against what is wanted of a large one, and
// against itself.
func TestRunPacing(t *testing.T) {
	o := bench.PacingOptions{Hosts: 60, Duration: 3 * time.Hour, Seed: 7}
	r, err := bench.RunPacing(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	again, err := bench.RunPacing(context.Background(), o)
	if err != nil || !reflect.DeepEqual(r, again) {
		t.Errorf("the same seed gives another report: %v", err)
	}
	if len(r.Rows) != 20 {
		t.Fatalf("%d rows, want 4 loads under 5 policies", len(r.Rows))
	}
	for i, row := range r.Rows {
		first := r.Rows[i-i%5]
		if row.Load != first.Load || row.Commits != first.Commits || row.Commits == 0 {
			t.Errorf("%s, %s: %d commits, of which the fixed policy saw %d", row.Load, row.Policy, row.Commits, first.Commits)
		}
		if row.Polls < 0.99*first.Polls || row.Polls > 1.01*first.Polls {
			t.Errorf("%s, %s: %.2f polls, the fixed policy made %.2f", row.Load, row.Policy, row.Polls, first.Polls)
		}
		if row.P50 > row.P99 || row.P99 > row.Max || row.Mean > row.Max || row.Peak < 1 || row.Stale <= 0 || row.Stale > 1 {
			t.Errorf("figures that contradict each other: %+v", row)
		}
		switch row.Policy {
		case "fixed":
			if row.Mean < 25 || row.Mean > 35 {
				t.Errorf("%s: polled every minute, changes wait %.1f s on average, want 30", row.Load, row.Mean)
			}
		case "espalier":
			if row.P99 > 132 {
				t.Errorf("%s: 99%% of the delays are below %.1f s, want the objective and a tenth", row.Load, row.P99)
			}
		}
	}
}

func TestRunPacingRefuses(t *testing.T) {
	for _, o := range []bench.PacingOptions{
		{Hosts: -1},
		{Hosts: bench.MaxPacingHosts + 1},
		{Duration: time.Minute},
		{Duration: 2 * bench.MaxPacingDuration},
		{Interval: time.Second},
		{Interval: 2 * time.Hour},
		{Objective: time.Second},
		{Objective: 2 * time.Hour},
	} {
		if _, err := bench.RunPacing(context.Background(), o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("RunPacing(%+v) = %v, want an error that matches ErrInvalid", o, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := bench.RunPacing(ctx, bench.PacingOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("RunPacing of a cancelled context = %v", err)
	}
}
