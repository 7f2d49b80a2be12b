package bench_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"espalier/bench"
	"espalier/internal/desired"
)

const serveFleet = "ESPALIER_TEST_SERVE_FLEET"

// TestMain lets the tests' own binary be the server of a fleet.
func TestMain(m *testing.M) {
	if os.Getenv(serveFleet) == "" {
		os.Exit(m.Run())
	}
	if err := bench.ServeFleet(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func fleetServer() (*exec.Cmd, error) {
	c := exec.Command(os.Args[0])
	c.Env, c.Stderr = append(os.Environ(), serveFleet+"=1"), os.Stderr
	return c, nil
}

func TestFleet(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	profile := filepath.Join(t.TempDir(), "heap")
	report, err := bench.RunFleet(t.Context(), bench.FleetOptions{
		Agents: 50, Interval: 100 * time.Millisecond, Duration: 500 * time.Millisecond, Child: fleetServer, HeapProfile: profile,
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Runs) != 2 || report.Runs[0].TLS || !report.Runs[1].TLS || report.FillSeconds <= 0 {
		t.Fatalf("report: %+v", report)
	}
	for _, r := range report.Runs {
		if r.Held != 50 || r.ConnectSeconds <= 0 || r.Memory.Heap <= 0 || r.Idle.PerSecond <= 0 || r.Idle.Idle.Max <= 0 {
			t.Errorf("TLS %t: something is missing in %+v", r.TLS, r)
		}
		if r.All.Commits != 50 || r.One.Commits != 10 || r.All.Delay.Max < r.All.Delay.P50 || r.All.Seconds <= 0 || r.All.Carried.P50 <= 0 {
			t.Errorf("TLS %t: changes: %+v, %+v", r.TLS, r.All, r.One)
		}
		if failed := r.Idle.Failed + r.All.Polls.Failed + r.One.Polls.Failed + r.Churn.Polls.Failed; failed > 0 {
			t.Errorf("TLS %t: %d polls failed", r.TLS, failed)
		}
	}
	for _, name := range []string{"-plain.pprof", "-tls.pprof"} {
		if info, err := os.Stat(profile + name); err != nil || info.Size() == 0 {
			t.Errorf("heap profile: %v", err)
		}
	}
	nothingIn(t, dir)
}

func nothingIn(t *testing.T, dir string) {
	t.Helper()
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v behind, %v", left, err)
	}
}

// TestFleetIsGivenUp ends a run wherever it is.
func TestFleetIsGivenUp(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	for _, stopAt := range []string{"creating sets", "connecting", "connecting over TLS", "changing all"} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := bench.RunFleet(ctx, bench.FleetOptions{
			Agents: 10, Interval: 100 * time.Millisecond, Duration: 100 * time.Millisecond, Child: fleetServer,
			Observer: bench.Observer{Progress: func(what string, _, _ uint64) {
				if what == stopAt {
					cancel()
				}
			}},
		})
		if cancel(); !errors.Is(err, context.Canceled) {
			t.Errorf("given up at %q, it ends with %v", stopAt, err)
		}
		nothingIn(t, dir)
	}
}

// TestFleetWithoutServer has a process that ends at once, or says nonsense.
func TestFleetWithoutServer(t *testing.T) {
	for _, program := range []string{"false", "echo"} {
		_, err := bench.RunFleet(t.Context(), bench.FleetOptions{Agents: 1, Child: func() (*exec.Cmd, error) {
			return exec.Command(program, "nonsense"), nil
		}})
		if err == nil || !strings.Contains(err.Error(), "server's process") {
			t.Errorf("with %s for a server it ends with %v", program, err)
		}
	}
}

func TestBadFleetOptions(t *testing.T) {
	for _, o := range []bench.FleetOptions{
		{},
		{Agents: -1, Child: fleetServer},
		{Agents: bench.MaxFleetAgents + 1, Child: fleetServer},
		{Interval: time.Millisecond, Child: fleetServer},
		{Duration: 2 * bench.MaxPollDuration, Child: fleetServer},
	} {
		if _, err := bench.RunFleet(t.Context(), o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("RunFleet(%+v) = %v, want an error that matches desired.ErrInvalid", o, err)
		}
	}
}
