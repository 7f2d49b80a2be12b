package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestFork puts an older copy of a set's file back behind the server's back, and
// publishes past what a host holds: both sides stop, until an operator says
// who is right.
func TestFork(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	file := filepath.Join(data, "sets", "web-01.db")
	server := serve(t, data)
	must(t, nil, "", server.at("set", "web-01", "a", "1")...)
	server.kill(syscall.SIGTERM)
	old, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	server = serve(t, data)
	must(t, nil, "", server.at("set", "web-01", "a", "2")...)
	var held synced
	must(t, &held, "", server.at("agent", "--once", "--host", "web-01", "--data", filepath.Join(dir, "agent"))...)
	server.kill(syscall.SIGTERM)
	overwrite(t, file, 0, old)

	server = serve(t, data)
	for _, value := range []string{"3", "4", "5"} {
		must(t, nil, "", server.at("set", "web-01", "a", value)...)
	}
	agent := server.at("agent", "--once", "--host", "web-01", "--data", filepath.Join(dir, "agent"))
	if r := espalier(t, "", agent...); r.status != 3 || !strings.Contains(r.stderr, "'espalier epoch") {
		t.Errorf("agent: %+v, want status 3", r)
	}
	if r := espalier(t, "", server.at("set", "web-01", "a", "6")...); r.status != 3 || !strings.Contains(r.stderr, "'espalier epoch web-01'") {
		t.Errorf("set: %+v, want status 3", r)
	}
	_ = espalier(t, "", agent...) // says it again
	if r := must(t, nil, "", server.at("audit")...); strings.Count(r.stdout, "fork  web-01") != 1 {
		t.Errorf("audit: %s, want the fork once", r.stdout)
	}
	if r := must(t, nil, "", server.at("sets")...); !strings.Contains(r.stdout, "another history") {
		t.Errorf("sets: %s", r.stdout)
	}
	var head commit
	must(t, &head, "", server.at("epoch", "web-01", "-m", "the server is right")...)
	if head.Epoch == held.Sets[0].Epoch || head.Revision <= held.Sets[0].Revision {
		t.Errorf("epoch: %+v after %+v", head, held)
	}
	var s synced
	if must(t, &s, "", agent...); s.Sets[0].Root != head.Root || s.Sets[0].Revision != head.Revision {
		t.Errorf("agent: %+v, want %+v", s, head)
	}
	must(t, nil, "", server.at("set", "web-01", "a", "6")...)
	if r := must(t, nil, "", server.at("sets")...); strings.Contains(r.stdout, "another history") {
		t.Errorf("sets: %s", r.stdout)
	}
}
