package cli_test

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"espalier/bench"
)

func TestBenchFiles(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the driver of files needs Linux")
	}
	status, out, errs := runBench(t, "bench", "files", "--files", "300", "-o", "json")
	var r bench.FilesReport
	if err := json.Unmarshal([]byte(out), &r); status != 0 || errs != "" || err != nil {
		t.Fatalf("bench files ends with %d, %v: %s%s", status, err, out, errs)
	}
	if r.Files != 300 || r.ApplyRatio <= 0 || r.ScanRatio <= 0 {
		t.Errorf("report %+v", r)
	}
	status, out, errs = runBench(t, "bench", "files", "--files", "300", "--rounds", "2")
	if status != 0 || errs != "" || !strings.Contains(out, "host's apply") || !strings.Contains(out, "medians of 2") {
		t.Errorf("bench files ends with %d: %s%s", status, out, errs)
	}
	if status, _, errs := runBench(t, "bench", "files", "--files", "0"); status != 2 || !strings.Contains(errs, "--files 0: want 1 or more") {
		t.Errorf("bench files --files 0 ends with %d: %s", status, errs)
	}
}
