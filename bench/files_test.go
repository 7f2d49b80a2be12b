package bench_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"espalier/bench"
	"espalier/internal/desired"
)

// TestFiles measures a few files in two rounds, and leaves nothing behind.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	r, err := bench.RunFiles(t.Context(), bench.FilesOptions{Files: 1234, Rounds: 2, Dir: dir})
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for what, figure := range map[string]float64{
		"write": r.Write, "apply": r.Apply, "walk": r.Walk, "scan": r.Scan, "contents": r.Contents,
		"apply ratio": r.ApplyRatio, "scan ratio": r.ScanRatio, "batch": float64(r.Batch), "parallel": float64(r.Parallel),
	} {
		if figure <= 0 {
			t.Errorf("%s is %g, want more than 0", what, figure)
		}
	}
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("%v is left, %v", left, err)
	}
}

func TestFilesRefused(t *testing.T) {
	for _, c := range []struct {
		stopped bool
		o       bench.FilesOptions
		want    string
	}{
		{false, bench.FilesOptions{Files: -1}, desired.ErrInvalid.Error()},
		{false, bench.FilesOptions{Files: 100, Rounds: -1}, desired.ErrInvalid.Error()},
		{false, bench.FilesOptions{Files: bench.MaxObjects, ValueBytes: desired.MaxValueBytes}, "name another folder, or fewer files"},
		{true, bench.FilesOptions{Files: 5000}, context.Canceled.Error()},
	} {
		c.o.Dir = t.TempDir()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		if c.stopped {
			stop()
		}
		if _, err := bench.RunFiles(ctx, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("RunFiles(%+v) = %v, want an error with %q", c.o.Files, err, c.want)
		}
		if left, err := os.ReadDir(c.o.Dir); len(left) > 0 || err != nil {
			t.Errorf("%v is left, %v", left, err)
		}
	}
}
