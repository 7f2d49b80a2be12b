package bench_test

import (
	"errors"
	"testing"

	"espalier/bench"
	"espalier/internal/desired"
)

// TestHeld times a few changes: each arrives, and takes longer than its commit.
func TestHeld(t *testing.T) {
	r, err := bench.RunHeld(t.Context(), bench.HeldOptions{Size: bench.Size{Objects: 1000}, Changes: 3})
	if err != nil {
		t.Fatal(err)
	}
	if r.Changes != 3 || r.Commit.P50 <= 0 || r.Delay.P50 <= r.Commit.P50 || r.Sync.P50 <= 0 {
		t.Errorf("report %+v", r)
	}
	if _, err := bench.RunHeld(t.Context(), bench.HeldOptions{Changes: -1}); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("RunHeld = %v, want %v", err, desired.ErrInvalid)
	}
}
