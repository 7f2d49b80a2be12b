package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/bench"
)

func TestBenchFleet(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	args := strings.Fields("bench fleet --agents 20 --interval 100ms --duration 300ms")
	var report bench.FleetReport
	must(t, &report, "", args...)
	if len(report.Runs) != 2 || report.Runs[1].Held != 20 {
		t.Errorf("report: %+v", report)
	}
	r := must(t, nil, "", append(args, "--insecure")...)
	for _, want := range []string{"agents held", "PLAIN TEXT", "a change for all", "1% change a second", "20 agents"} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("it does not say %q:\n%s", want, r.stdout)
		}
	}
	if strings.Contains(r.stdout, "TLS") || r.stderr != "" {
		t.Errorf("without TLS it says:\n%s%s", r.stdout, r.stderr)
	}
}

// TestBenchFleetInterrupted takes both processes away, and what they have on the
// disk.
func TestBenchFleetInterrupted(t *testing.T) {
	temp := t.TempDir()
	c := exec.Command(os.Args[0], strings.Fields("bench fleet --agents 5 --duration 1h")...)
	var stderr bytes.Buffer
	c.Stderr, c.Env = &stderr, append(os.Environ(), "TMPDIR="+temp)
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	for { // until it measures
		if sets, _ := filepath.Glob(filepath.Join(temp, "*/server/sets/*.db")); len(sets) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	c.Process.Signal(syscall.SIGINT)
	if err := c.Wait(); c.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "interrupted") {
		t.Errorf("it ended with %v, and says %q", err, stderr.String())
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("it leaves %v, %v", left, err)
	}
}
