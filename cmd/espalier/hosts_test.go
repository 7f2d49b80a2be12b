package main

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	"espalier/store"
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

// reports polls as a host that has joined, with what it says of applying, and
// returns the list of sets that it is told; nil: it is told of none.
func reports(t *testing.T, server *daemon, data string, has desired.List, c desired.Convergence) *desired.List {
	t.Helper()
	creds, err := pki.ReadCredentials(filepath.Join(data, store.IdentityFile))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(server.address, grpc.WithTransportCredentials(credentials.NewTLS(pki.NewHolder(creds).ClientConfig())))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	p := wire.Poll{Host: creds.Identity().Name, ListVersion: has.Version, ListSum: has.Sum(), Report: &desired.Report{Agent: "v1", Applying: &c}}
	a, err := wire.Ask(t.Context(), conn, p, false)
	if err != nil {
		t.Fatal(err)
	}
	return a.List
}

// TestHostOrders looks at a host that fails, waits and drifts, as it reports, and
// tells it to pause, to go on, and to carry out what it holds back.
func TestHostOrders(t *testing.T) {
	dir := t.TempDir()
	server, admin := secured(t, filepath.Join(dir, "server"))
	says := func(args ...string) string {
		t.Helper()
		return must(t, nil, "", server.as(admin, args...)...).stdout
	}
	shows := func(out string, want ...string) {
		t.Helper()
		for _, text := range want {
			if !strings.Contains(out, text) {
				t.Errorf("no %q in\n%s", text, out)
			}
		}
	}
	must(t, nil, "", server.as(admin, "set", "web-01", "motd", "hello")...)
	data := filepath.Join(dir, "agent")
	must(t, nil, "", server.host("agent", "--once", "--data", data, "--join", token(t, server, admin, "--host", "web-01"))...)
	shows(says("status"), "1 host: 1 in step")
	if out := says("hosts"); strings.Contains(out, "APPLYING") {
		t.Errorf("a fleet that only mirrors: %s", out)
	}
	refused(t, 3, "holds no deletions back", server.as(admin, "host", "release", "web-01")...)

	root, before := desired.Digest{0xab, 1}, desired.Digest{0xcd, 2}
	is := desired.OwnList("web-01")
	c := desired.Convergence{
		Desired: root, Applied: before, Observed: before, State: desired.Waiting, Reason: "the next attempt is due", Objects: 1234, Pending: 3, Failed: 2,
		Found: 7, Corrected: 6, Stages: desired.Stages{Waited: 1500 * time.Millisecond, Transferred: 2300 * time.Microsecond, Applied: 40 * time.Second},
		Failures: []desired.Failure{{Key: "files/a\x1b[31m", Error: "no space\nleft", Attempts: 4, Since: time.UnixMilli(1_700_000_000_000)}},
	}
	reports(t, server, data, is, c)
	shows(says("status"), "1 host: 1 troubled", "applying: 1 failing", "failing (2)", "(1 of 2) files/a [31m: no space left")
	shows(says("hosts"), "APPLYING", "failing (2)")
	shows(says("status", "web-01"), "web-01 is troubled", "failing (2): the next attempt is due",
		"desired ab01000000000000, applied cd02000000000000, observed cd02", "1,234, 3 pending, 2 failed", "7 found, 6 corrected",
		"waited 1.5s · transferred 2.3ms · applied 40s", "files/a [31m", "no space left", "and 1 more")
	var host struct {
		State, Progress, Release, Why string
		Paused                        bool
		Applying                      struct {
			Desired, State string
			Failed         uint64
			DriftFound     uint64 `json:"drift_found"`
			Failures       []struct{ Key string }
			Stages         struct {
				Waited float64 `json:"waited_seconds"`
			}
		}
	}
	must(t, &host, "", server.as(admin, "status", "web-01")...)
	if a := host.Applying; host.Progress != "failing" || host.Paused || a.Desired != root.String() || a.State != "waiting" || a.Failed != 2 || a.DriftFound != 7 ||
		a.Failures[0].Key != "files/a\x1b[31m" || a.Stages.Waited != 1.5 {
		t.Errorf("status for programs: %+v", host)
	}

	refused(t, 1, "no such host", server.as(admin, "host", "pause", "web-09")...)
	refused(t, 2, "HOST", server.as(admin, "host", "pause")...)
	shows(says("host", "pause", "web-01", "-m", "new\x1bdisk"), "makes nothing true until 'espalier host resume web-01', once it has heard of it (version 1)")
	shows(says("status", "web-01"), "paused      new disk", "failing (2), to be paused")
	list := reports(t, server, data, is, c)
	if list == nil || !list.Paused || list.Why != "new\x1bdisk" {
		t.Fatalf("the host is told %+v", list)
	}
	c = desired.Convergence{Desired: root, Applied: root, Observed: root, State: desired.Paused, Objects: 1234}
	reports(t, server, data, *list, c)
	shows(says("status"), "1 host: 1 in step", "applying: 1 paused", "web-01")
	shows(says("status", "web-01"), "root        ab01000000000000, desired, applied and observed")
	shows(says("host", "resume", "web-01"), "goes on", "version 2")
	shows(says("hosts"), "paused, to be resumed")

	c = desired.Convergence{Desired: root, Applied: before, Observed: before, State: desired.Guarded, Objects: 1234, Pending: 500, Guarded: 500}
	reports(t, server, data, is, c)
	shows(says("status", "web-01"), "guarded (500)", "500 deletions; 'espalier host release web-01' lets them through")
	refused(t, 3, "500 deletions that lead to root "+root.String()+", and leave 1,234 objects; nothing was released", server.as(admin, "host", "release", "web-01")...)
	refused(t, 3, "not to cd020000", server.as(admin, "host", "release", "web-01", before.String()[:8])...)
	refused(t, 2, "hexadecimal", server.as(admin, "host", "release", "web-01", "ab01")...)
	shows(says("host", "release", "web-01", root.String()[:16], "-m", "it may"), "carries out 500 deletions, to root "+root.String(), "version 3")
	var orders struct {
		Version, Deletions uint64
		Release            string
	}
	must(t, &orders, "", server.as(admin, "host", "release", "web-01", "--yes")...)
	if orders.Version != 4 || orders.Deletions != 500 || orders.Release != root.String() {
		t.Errorf("a release for programs: %+v", orders)
	}
	if list = reports(t, server, data, is, c); list == nil || list.Release != root || list.Released != 4 || list.Paused {
		t.Errorf("the host is told %+v", list)
	}
	shows(says("status", "web-01"), "released    the deletions that lead to root ab01000000000000, with version 4")
	shows(says("audit"), "pause  host/web-01", "new disk", "resume  host/web-01", "release  host/web-01", "deletions: 500, to root "+root.String()+"; it may")
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
