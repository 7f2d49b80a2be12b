package main

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestHosts lets a host join, gives it another list of sets, and looks at it as an
// operator does, from before it has polled until it is shut out.
func TestHosts(t *testing.T) {
	dir := t.TempDir()
	server, admin := secured(t, filepath.Join(dir, "server"))
	says := func(args ...string) string {
		t.Helper()
		return must(t, nil, "", server.as(admin, args...)...).stdout
	}
	for _, args := range [][]string{{"hosts"}, {"status"}} {
		if out := says(args...); !strings.Contains(out, "no host has joined yet") {
			t.Errorf("%v without hosts: %s", args, out)
		}
	}
	must(t, nil, "", server.as(admin, "apply", "web-01", "-f", write(t, dir, 100, 1))...)
	must(t, nil, "", server.as(admin, "set", "base", "motd", "hello")...)
	data := filepath.Join(dir, "agent")
	sync := server.host("agent", "--once", "--data", data)
	must(t, nil, "", append(sync, "--join", token(t, server, admin, "--host", "web-01"))...)

	var host struct {
		Host, State, Agent string
		Sets               []string
		ListVersion        uint64 `json:"list_version"`
		Held               []struct {
			Set      string
			Revision uint64
			Current  bool
		}
	}
	look := func() string {
		t.Helper()
		must(t, &host, "", server.as(admin, "status", "web-01")...)
		return fmt.Sprint(host.State, " ", host.Sets, " ", host.ListVersion, " ", host.Held)
	}
	if got, want := look(), "in step [web-01] 0 [{web-01 1 true}]"; got != want || host.Agent == "" {
		t.Errorf("after it has synced: %s, agent %q, want %s", got, host.Agent, want)
	}

	refused(t, 1, "no such set: bose", server.as(admin, "host", "sets", "web-01", "bose", "web-01")...)
	refused(t, 3, "100 of 100 objects", server.as(admin, "host", "sets", "web-01", "base")...)
	refused(t, 3, "--max-delete allows it", server.as(admin, "host", "sets", "web-01", "base", "--dry-run")...)
	refused(t, 2, "HOST", server.as(admin, "host", "sets")...)
	refused(t, 1, "no such host", server.as(admin, "status", "web-09")...)
	if out := says("host", "sets", "web-01", "base", "web-01", "-m", "share"); !strings.Contains(out, "base, web-01 (version 1)") {
		t.Errorf("host sets says %s", out)
	}
	if out := says("host", "sets", "web-01"); out != "base\nweb-01\n" {
		t.Errorf("the list is %q", out)
	}
	if got, want := look(), "behind [base web-01] 1 [{web-01 1 true}]"; got != want {
		t.Errorf("before it knows: %s, want %s", got, want)
	}
	must(t, nil, "", sync...)
	if got, want := look(), "in step [base web-01] 1 [{base 1 true} {web-01 1 true}]"; got != want {
		t.Errorf("once it knows: %s, want %s", got, want)
	}
	for _, out := range []string{says("hosts"), says("status")} {
		if !strings.Contains(out, "in step") {
			t.Errorf("the fleet: %s", out)
		}
	}
	must(t, nil, "", server.as(admin, "host", "revoke", "web-01")...)
	if out := says("status"); !strings.Contains(out, "1 host: 1 revoked") {
		t.Errorf("once it was shut out: %s", out)
	}
	if out := says("audit"); !strings.Contains(out, "set list  host/web-01") || !strings.Contains(out, "share") {
		t.Errorf("the audit log: %s", out)
	}
}

// TestStatusOfTroubledHost: a host whose set does not exist says so once.
func TestStatusOfTroubledHost(t *testing.T) {
	dir := t.TempDir()
	server, admin := secured(t, filepath.Join(dir, "server"))
	ticket := token(t, server, admin, "--host", "web-01")
	r := espalier(t, "", server.host("agent", "--once", "--data", filepath.Join(dir, "agent"), "--join", ticket)...)
	if r.status != 1 || !strings.Contains(r.stderr, "no such set at the server") {
		t.Errorf("agent: status %d, %s", r.status, r.stderr)
	}
	out := must(t, nil, "", server.as(admin, "status", "web-01")...).stdout
	if !strings.Contains(out, "web-01 is troubled") || !strings.Contains(out, `set "web-01": no such set`) {
		t.Errorf("status says %s", out)
	}
}

// TestHTTP: what --http serves is there, counts, and ends with the server.
func TestHTTP(t *testing.T) {
	dir := t.TempDir()
	server := serveWith(t, filepath.Join(dir, "server"), "--http", "127.0.0.1:0", "--max-pulls", "7")
	address := server.says(t, regexp.MustCompile(`msg=metrics address=(\S+)`))
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v", path, resp.Status, err)
		}
		return string(text)
	}
	if got := get("/healthz"); got != "ok\n" {
		t.Errorf("healthz: %q", got)
	}
	for _, want := range []string{`espalier_limit{name="pulls"} 7`, "espalier_polls_held 0", "go_goroutines"} {
		if got := get("/metrics"); !strings.Contains(got, want) {
			t.Errorf("metrics lack %s:\n%s", want, got)
		}
	}
	refused(t, 2, "--http", "serve", "--data", filepath.Join(dir, "x"), "--http", "nowhere")
}
