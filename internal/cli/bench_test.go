package cli_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"espalier/bench"
	"espalier/bench/pattern"
	"espalier/internal/cli"
)

// runBench runs a command and returns its exit status and what it printed.
func runBench(t *testing.T, args ...string) (status int, out, errs string) {
	t.Helper()
	t.Setenv("TMPDIR", t.TempDir())
	var stdout, stderr bytes.Buffer
	status = cli.Main(args, cli.Streams{In: strings.NewReader(""), Out: &stdout, Err: &stderr})
	return status, stdout.String(), stderr.String()
}

func TestDemo(t *testing.T) {
	status, out, errs := runBench(t, "demo", "--objects", "2000")
	if status != 0 || errs != "" {
		t.Fatalf("demo ends with %d: %s", status, errs)
	}
	for _, want := range []string{
		"2,000 objects, 250.0 KB of keys and values, were published",
		"changed      sent", "first full sync     2,000", "one change              1", "scattered             100",
		"clustered             100", "scattered             200", "one deletion            1", "history lost          100",
		"bytes flipped          10", "nothing changed         0",
		"1,999 objects that remain", "the same root",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if n := len([]rune(strings.TrimRight(line, "\n"))); n > 80 {
			t.Errorf("%d columns are too wide: %s", n, line)
		}
	}
}

// TestSmallDemo shows no line twice that says the same.
func TestSmallDemo(t *testing.T) {
	for _, objects := range []string{"100", "1000", "1010"} {
		status, out, errs := runBench(t, "demo", "--objects", objects)
		if status != 0 || errs != "" {
			t.Fatalf("demo ends with %d: %s", status, errs)
		}
		seen := map[string]bool{}
		for line := range strings.Lines(out) {
			what := line[:min(len(line), 25)]
			if seen[what] && strings.TrimSpace(what) != "" {
				t.Errorf("%s objects: %q comes twice:\n%s", objects, what, out)
			}
			seen[what] = true
		}
	}
}

func TestDemoJSON(t *testing.T) {
	status, out, errs := runBench(t, "demo", "--objects", "2000", "-o", "json")
	var report bench.TransferReport
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != 0 || errs != "" {
		t.Fatalf("demo ends with %d: %v, %s", status, err, errs)
	}
	if len(report.Rows) != 11 || report.Objects != 2000 || report.Count != 1999 {
		t.Errorf("the demo reports %+v", report)
	}
}

func TestBench(t *testing.T) {
	for _, c := range []struct {
		args string
		want []string
	}{
		{"transfer --objects 2000 --rounds 1", append(bench.Cases(), "CASE", "OVER PAYLOAD", "2,000 objects")},
		{"transfer --objects 2000 --rounds 1 --cases full,idle", []string{"full", "idle", "106"}},
		{"commit --objects 2000 --rounds 1", []string{"1 change", "100 changes, scattered", "200 changes, clustered", "Growth"}},
		{"poll --agents 2 --seconds 0.5", []string{"idle poll", "empty call", "106 B", "the median of 1 pair"}},
		{"pacing --hosts 20 --hours 1", []string{"poisson", "bursty", "rollouts", "restart", "espalier", "held", "20 hosts, 1 hours"}},
		{"convergence --duration 15m --objects 500,1000 --patterns poll,delta,espalier --faults none,partitions", []string{
			"500 objects\n", "1000 objects, faults: partitions\n", "P99", "espalier ", "20 of 20", "never", "states change for 15 minutes",
		}},
		{"convergence --duration 15m --every 30s --patterns informer -o markdown", []string{"### a commit every 30 s", "| pattern | p50", "| informer |"}},
		{"convergence --duration 15m --loss 0,0.1 --delay 20ms --patterns espalier -o csv", []string{"objects,value_bytes", "loss,delay_ms", ",0.1,20,"}},
		{"poll --agents 2 --seconds 0.5 --tls", []string{"idle poll over TLS", "Over TLS it takes"}},
	} {
		status, out, errs := runBench(t, append([]string{"bench"}, strings.Fields(c.args)...)...)
		if status != 0 || errs != "" {
			t.Errorf("bench %s ends with %d: %s", c.args, status, errs)
		}
		for _, want := range c.want {
			if !strings.Contains(out, want) {
				t.Errorf("bench %s does not say %q:\n%s", c.args, want, out)
			}
		}
	}
}

func TestBenchJSON(t *testing.T) {
	for args, report := range map[string]any{
		"transfer --objects 2000 --rounds 1 --cases warm-1": &bench.TransferReport{},
		"commit --objects 2000 --rounds 1":                  &bench.CommitReport{},
		"poll --agents 2 --seconds 0.5":                     &bench.PollReport{},
		"pacing --hosts 20 --hours 1":                       &bench.PacingReport{},
		"convergence --duration 15m --agents 3 --clustered": &pattern.Report{},
	} {
		status, out, errs := runBench(t, append([]string{"bench", "-o", "json"}, strings.Fields(args)...)...)
		d := json.NewDecoder(strings.NewReader(out))
		d.DisallowUnknownFields()
		if err := d.Decode(report); err != nil || status != 0 || errs != "" || d.More() {
			t.Errorf("bench %s ends with %d: %v, %s\n%s", args, status, err, errs, out)
		}
	}
}

func TestBenchMisuse(t *testing.T) {
	for _, args := range []string{
		"demo --objects 3", "demo extra", "bench nothing", "bench transfer --cases warm-2", "bench transfer --rounds -1",
		"bench commit --value-bytes 1", "bench fleet --agents 0", "bench fleet --interval 0s", "bench fleet --agents 30001", "bench poll --agents 1001", "bench poll --seconds 0", "bench poll --seconds 1e300",
		"bench transfer --rounds 0", "bench commit --rounds 0", "bench commit --objects-large -1", "bench poll --agents 0",
		"bench poll --concurrency -1", "bench pacing --hosts 0", "bench pacing --hours 0.5", "bench pacing --hours NaN",
		"bench convergence --patterns telepathy", "bench convergence --loss 1", "bench convergence --faults meteor", "bench convergence -o xml",
		"bench convergence --duration 0s", "bench convergence --objects 99", "bench convergence --changes 0", "bench transfer -o csv",
		"bench pacing --interval 0s", "bench pacing --interval 1s", "bench pacing --objective 10s", "bench pacing --objective 2h",
	} {
		status, out, errs := runBench(t, strings.Fields(args)...)
		if status != 2 || out != "" || !strings.HasPrefix(errs, "espalier: ") {
			t.Errorf("%s ends with %d, %q, %q; want 2 and an error", args, status, out, errs)
		}
	}
}
