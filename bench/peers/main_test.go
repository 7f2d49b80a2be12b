package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/bench/peers/internal/contest"
	"espalier/bench/peers/internal/peer"
)

func TestMain(m *testing.M) {
	if peer.IsChild() {
		return
	}
	os.Exit(m.Run())
}

func TestParse(t *testing.T) {
	c, err := parse(nil)
	if err != nil || c.options.Objects != 1_000_000 || c.options.Runs != 3 || len(c.options.Kinds) != len(kinds()) {
		t.Errorf("parse() = %d objects, %d runs, %d kinds, %v", c.options.Objects, c.options.Runs, len(c.options.Kinds), err)
	}
	c, err = parse([]string{"--only", "nats,etcd"})
	if err != nil || len(c.options.Kinds) != 2 || c.options.Kinds[0].Name != "etcd" {
		t.Errorf("parse(--only nats,etcd) = %d kinds, %v", len(c.options.Kinds), err)
	}
	for _, args := range [][]string{{"--only", "zookeeper"}, {"-o", "xml"}, {"more"}, {"--objects", "many"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("parse(%q) took it", args)
		}
	}
}

// TestReportIsWritten runs the smallest contest, and reads what it wrote.
func TestReportIsWritten(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := filepath.Join(t.TempDir(), "report")
	if err := run(context.Background(), []string{"--only", "nats", "--objects", "100", "--runs", "1", "--idle", "1ms", "--report", dir, "-o", "json"}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "peers.md"))
	if err != nil || !strings.Contains(string(text), "NATS JetStream KV, resume by revision") {
		t.Errorf("peers.md = %q, %v", text, err)
	}
	document, err := os.ReadFile(filepath.Join(dir, "peers.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r contest.Report
	if err := json.Unmarshal(document, &r); err != nil || r.Objects != 100 || len(r.Rows) == 0 {
		t.Errorf("peers.json has %d objects and %d rows, %v", r.Objects, len(r.Rows), err)
	}
	if left, err := os.ReadDir(os.TempDir()); len(left) > 0 || err != nil {
		t.Errorf("it left %v, %v behind", left, err)
	}
}

// TestOnlyKeepsTheOthers measures one after another into the same report.
func TestOnlyKeepsTheOthers(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	dir := t.TempDir()
	measure := func(only, objects string) error {
		return run(context.Background(), []string{"--only", only, "--objects", objects, "--runs", "1", "--idle", "1ms", "--report", dir, "-o", "json"})
	}
	for _, only := range []string{"nats", "xds", "nats"} {
		if err := measure(only, "100"); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "peers.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"- **NATS", "- **Envoy", "| first sync |"} {
		if n := strings.Count(string(text), line); n != 1 {
			t.Errorf("peers.md has %q %d times, want once", line, n)
		}
	}
	if err := measure("nats", "200"); err == nil {
		t.Error("a report of 200 objects took over one of 100")
	}
}
