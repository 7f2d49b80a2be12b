package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestStory is what an operator does with a set, from its first publication to
// its end.
func TestStory(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, filepath.Join(dir, "server"))
	agent := server.at("agent", "--host", "web-01", "--data", filepath.Join(dir, "agent"), "--once")
	input := write(t, dir, 5000, 1)

	var c commit
	must(t, &c, "", server.at("apply", "web-01", "-f", input)...)
	if c.Set != "web-01" || c.Revision != 1 || c.Objects != 5000 || c.Created != 5000 || len(c.Epoch) != 32 || len(c.Root) != 64 {
		t.Fatalf("first apply: %+v", c)
	}
	sync := func(mode string, revision, upserts, deletes uint64) {
		t.Helper()
		var s synced
		must(t, &s, "", agent...)
		got := s.Sets[0]
		if s.Host != "web-01" || got.Mode != mode || got.Revision != revision || got.Upserts != upserts || got.Deletes != deletes ||
			s.BytesSent == 0 || s.BytesReceived == 0 || s.RoundTrips == 0 {
			t.Fatalf("agent: %+v, want mode %s, revision %d, %d upserts, %d deletes", s, mode, revision, upserts, deletes)
		}
		var head commit
		if must(t, &head, "", server.at("head", "web-01")...); head.Root != got.Root {
			t.Fatalf("agent holds root %s, the head is %+v", got.Root, head)
		}
	}
	sync("full", 1, 5000, 0)
	sync("unchanged", 1, 0, 0)

	if must(t, &c, "", server.at("apply", "web-01", "-f", input)...); c.Revision != 1 || c.Unchanged != 5000 {
		t.Fatalf("unchanged apply: %+v", c)
	}
	must(t, &c, "", server.at("set", "web-01", "motd", "hello")...)
	sync("delta", 2, 1, 0)
	if r := must(t, nil, "", server.at("get", "web-01", "motd")...); r.stdout != "hello" {
		t.Fatalf("get = %q", r.stdout)
	}
	if r := must(t, nil, "", server.at("list", "web-01", "--prefix", "mo")...); r.stdout != "motd\n" {
		t.Fatalf("list = %q", r.stdout)
	}
	r := must(t, &c, "", server.at("delete", "web-01", "motd", "not-there")...)
	if c.Deleted != 1 || !strings.Contains(r.stderr, "not-there") {
		t.Fatalf("delete: %+v, %q", c, r.stderr)
	}
	sync("delta", 3, 0, 1)
	if r := espalier(t, "", server.at("get", "web-01", "motd")...); r.status != 1 {
		t.Fatalf("get of what is gone: %+v", r)
	}

	backup := filepath.Join(dir, "backup")
	must(t, nil, "", server.at("backup", "web-01", backup)...)
	must(t, &c, "", server.at("apply", "web-01", "--prune", "--max-delete", "50%", "-f", write(t, dir, 4000, 1))...)
	if c.Objects != 4000 {
		t.Fatalf("prune: %+v", c)
	}
	must(t, nil, "", server.at("restore", "web-01", backup)...)
	var head commit
	must(t, &head, "", server.at("head", "web-01")...)
	if head.Objects != 5000 || head.Epoch == c.Epoch {
		t.Fatalf("restored: %+v", head)
	}
	var s synced
	if must(t, &s, "", agent...); s.Sets[0].Root != head.Root || s.Sets[0].Epoch != head.Epoch {
		t.Fatalf("agent after the restore: %+v", s)
	}
	must(t, nil, "", server.at("check", "web-01")...)
	must(t, nil, "", server.at("compact", "web-01")...)
	if r := must(t, nil, "", server.at("sets")...); !strings.Contains(r.stdout, "web-01") || !strings.Contains(r.stdout, "5,000") {
		t.Fatalf("sets: %s", r.stdout)
	}

	server.kill(syscall.SIGTERM)
	if status := server.ProcessState.ExitCode(); status != 0 {
		t.Fatalf("the server ended with status %d", status)
	}
	data := filepath.Join(dir, "server")
	must(t, nil, "", "check", "web-01", "--data", data)
	must(t, nil, "", "compact", "web-01", "--data", data)
	must(t, nil, "", "backup", "web-01", backup+"2", "--data", data)
	must(t, nil, "", "restore", "web-01", backup+"2", "--data", data)

	server = serve(t, data)
	if r := espalier(t, "", server.at("sets", "delete", "web-01")...); r.status != 3 || !strings.Contains(r.stderr, "5,000 objects") {
		t.Fatalf("sets delete of what nobody has confirmed: %+v", r)
	}
	if r := espalier(t, "", server.at("sets", "delete", "web-01", "--expect", "1")...); r.status != 3 {
		t.Fatalf("sets delete of another revision: %+v", r)
	}
	must(t, &head, "", server.at("head", "web-01")...)
	must(t, &c, "", server.at("sets", "delete", "web-01", "--expect", fmt.Sprint(head.Revision), "-m", "the end")...)
	if c.Objects != 5000 || c.Revision != head.Revision {
		t.Fatalf("sets delete: %+v", c)
	}
	if r := espalier(t, "", server.at("sets", "delete", "web-01")...); r.status != 1 {
		t.Fatalf("sets delete of what is gone: %+v", r)
	}
	if r := espalier(t, "", server.at("head", "web-01")...); r.status != 1 {
		t.Fatalf("head of a deleted set: %+v", r)
	}
}

// TestSet sets values of an object that has more than a value, and of many at
// once.
func TestSet(t *testing.T) {
	server := serve(t, filepath.Join(t.TempDir(), "server"))
	must(t, nil, `{"key":"k","value":"old","attributes":{"mode":"0644"},"after":["a","b"]}`, server.at("apply", "s", "-f", "-")...)
	must(t, nil, "", server.at("set", "s", "k", "new")...)
	const want = `{"key":"k","value":"new","attributes":{"mode":"0644"},"after":["a","b"]}` + "\n"
	if r := must(t, nil, "", server.at("get", "s", "k", "-o", "json")...); r.stdout != want {
		t.Errorf("get = %s, want %s", r.stdout, want)
	}
	var all sync.WaitGroup
	const others = 12
	for i := range others {
		all.Go(func() {
			if r := espalier(t, "", server.at("set", "new", fmt.Sprint("k", i), "v")...); r.status != 0 {
				t.Errorf("set %d: status %d, %s", i, r.status, r.stderr)
			}
		})
	}
	all.Wait()
	var head commit
	if must(t, &head, "", server.at("head", "new")...); head.Objects != others || head.Revision != others {
		t.Errorf("%+v, want %d objects", head, others)
	}
}

// TestFolder publishes a tree of files, and then one changed file.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, filepath.Join(dir, "server"))
	site := filepath.Join(dir, "site")
	for name, content := range map[string]string{"index.html": "<h1>hi</h1>", "css/a.css": "a{}", "css/b.css": "b{}"} {
		path := filepath.Join(site, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var c commit
	must(t, &c, "", server.at("apply", "site", "-f", site, "--prune")...)
	if c.Objects != 3 {
		t.Fatalf("first: %+v", c)
	}
	if err := os.WriteFile(filepath.Join(site, "index.html"), []byte("<h1>ho</h1>"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, &c, "", server.at("apply", "site", "-f", site, "--prune")...)
	if c.Updated != 1 || c.Unchanged != 2 || c.Created+c.Deleted != 0 {
		t.Fatalf("second: %+v", c)
	}
}

// TestDocuments reads what programs are told of what was not done.
func TestDocuments(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, filepath.Join(dir, "server"))
	const object = `{"key":"a","value":"b"}`
	if r := must(t, nil, object, server.at("apply", "s", "-f", "-", "--dry-run", "-o", "json")...); !strings.Contains(r.stdout, `"created":1`) ||
		!strings.Contains(r.stdout, `"dry_run":true`) {
		t.Errorf("dry run: %s", r.stdout)
	}
	if r := must(t, nil, object, server.at("apply", "s", "-f", "-", "-o", "json")...); strings.Contains(r.stdout, "dry_run") {
		t.Errorf("no dry run: %s", r.stdout)
	}
	r := espalier(t, "", server.at("agent", "--once", "--host", "nothing", "--data", filepath.Join(dir, "agent"), "-o", "json")...)
	const want = `"sets":[{"set":"nothing","epoch":"","revision":0,"root":"","objects":0,"mode":"failed",`
	if r.status != 1 || !strings.Contains(r.stdout, want) {
		t.Errorf("agent: status %d, %s, want 1 and %s", r.status, r.stdout, want)
	}
}

// TestStatus walks the exit statuses that scripts rely on.
func TestStatus(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	server := serve(t, data)
	must(t, nil, "", server.at("apply", "s", "-f", write(t, dir, 1000, 1))...)
	nobody := []string{"--insecure", "--server", "127.0.0.1:1"}
	l, err := net.Listen("tcp", "127.0.0.1:0") // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := []string{"--insecure", "--server", l.Addr().String()}
	garbage := filepath.Join(dir, "garbage")
	overwrite(t, garbage, 0, []byte(strings.Repeat("garbage ", 5000)))
	for _, c := range []struct {
		name   string
		status int
		says   string
		stdin  string
		args   []string
	}{
		{"unknown command", 2, "unknown command", "", []string{"frobnicate"}},
		{"unknown flag", 2, "unknown flag", "", []string{"head", "s", "--frob"}},
		{"missing argument", 2, "SET", "", server.at("head")},
		{"missing flag", 2, "file", "", server.at("apply", "s")},
		{"a backup that is not there", 1, "no such file", "", server.at("restore", "s", filepath.Join(dir, "nothing"))},
		{"bad name", 2, "lower case", "", server.at("head", "Not_A_Name")},
		{"bad key", 2, "segment", "", server.at("set", "s", "a//b", "x")},
		{"bad output", 2, "json", "", server.at("head", "s", "-o", "xml")},
		{"no credentials", 2, "espalier login", "", []string{"head", "s", "--identity", filepath.Join(dir, "x")}},
		{"half a certificate", 2, "go together", "", []string{"serve", "--tls-cert", "x", "--data", filepath.Join(dir, "x")}},
		{"not joined", 3, "--join", "", []string{"agent", "--once", "--data", filepath.Join(dir, "x")}},
		{"insecure beyond loopback", 2, "loopback", "", []string{"serve", "--insecure", "--listen", "0.0.0.0:0", "--data", filepath.Join(dir, "x")}},
		{"unknown set", 1, "no such set", "", server.at("head", "nothing")},
		{"missing key", 1, "no such object", "", server.at("get", "s", "nothing")},
		{"no time to wait", 2, "--timeout", "", server.at("agent", "--once", "--timeout", "-1s", "--host", "h", "--data", filepath.Join(dir, "a"))},
		{"no objective", 2, "--objective", "", []string{"serve", "--insecure", "--objective", "0s", "--data", filepath.Join(dir, "x")}},
		{"folder in use", 1, "in use", "", []string{"serve", "--insecure", "--listen", "127.0.0.1:0", "--data", data}},
		{"stale revision", 3, "revision", `{"key":"a","value":"b"}`, server.at("apply", "s", "-f", "-", "--expect", "7")},
		{"too many deletions", 3, "delet", `{"key":"a","value":"b"}`, server.at("apply", "s", "-f", "-", "--prune")},
		{"empty input", 3, "100%", "", server.at("apply", "s", "-f", "-", "--prune")},
		{"malformed line", 2, "line 2", "{\"key\":\"a\",\"value\":\"b\"}\n{oops\n", server.at("apply", "s", "-f", "-")},
		{"duplicate key", 2, "line", "{\"key\":\"a\",\"value\":\"b\"}\n{\"key\":\"a\",\"value\":\"c\"}\n", server.at("apply", "s", "-f", "-")},
		{"nobody there", 4, "reach", "", append([]string{"head", "s"}, nobody...)},
		{"a hint", 4, "is 'espalier serve' running at 127.0.0.1:1? --server", "", append([]string{"head", "s"}, nobody...)},
		{"agent, nobody answers", 4, "longer than the 200ms of --timeout", "", append([]string{"agent", "--once", "--timeout", "200ms", "--host", "h", "--data", filepath.Join(dir, "a")}, silent...)},
		{"no backup at all", 1, "espalier: corrupt: file " + garbage + ": damaged", "", server.at("restore", "s", garbage)},
		{"agent, nobody there", 4, "reach", "", append([]string{"agent", "--once", "--host", "h", "--data", filepath.Join(dir, "a")}, nobody...)},
	} {
		r := espalier(t, c.stdin, c.args...)
		if r.status != c.status || !strings.Contains(r.stderr, c.says) {
			t.Errorf("%s: espalier %s: status %d, want %d\n%s(want %q)", c.name, strings.Join(c.args, " "), r.status, c.status, r.stderr, c.says)
		}
		if r.stdout != "" {
			t.Errorf("%s: printed %q", c.name, r.stdout)
		}
	}
}

// TestLog asks what became of a set, over a server and on its folder.
func TestLog(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	server := serve(t, data)
	must(t, nil, "", server.at("apply", "s", "-f", write(t, dir, 1000, 1), "-m", "first")...)
	must(t, nil, "", server.at("set", "s", "a", "b", "-m", "two\nlines \x1b[31m")...)
	must(t, nil, "", server.at("apply", "s", "-f", write(t, dir, 1000, 2))...)
	type entry struct {
		commit
		Who, Why string
		Time     time.Time
		Keys     *uint64
	}
	for range 2 {
		at := server.at
		if server.ProcessState != nil {
			at = func(args ...string) []string { return append(args, "--data", data) }
		}
		var entries []entry
		d := json.NewDecoder(strings.NewReader(must(t, nil, "", at("log", "s", "-o", "json")...).stdout))
		for d.More() {
			var e entry
			if err := d.Decode(&e); err != nil {
				t.Fatal(err)
			}
			entries = append(entries, e)
		}
		if len(entries) != 3 {
			t.Fatalf("log: %+v", entries)
		}
		last, middle, first := entries[0], entries[1], entries[2]
		if last.Revision != 3 || last.Keys == nil || *last.Keys != 1000 || last.Who != "127.0.0.1" || time.Since(last.Time) > time.Hour ||
			middle.Why != "two\nlines \x1b[31m" || *middle.Keys != 1 || len(middle.Root) != 64 || middle.Epoch != last.Epoch ||
			first.Why != "first" || first.Keys != nil {
			t.Errorf("log: %+v", entries)
		}
		r := must(t, nil, "", at("log", "s", "--limit", "2")...)
		if strings.Count(r.stdout, "\n") != 3 || !strings.Contains(r.stdout, "two lines") || strings.Contains(r.stdout, "\x1b") {
			t.Errorf("log of two: %q", r.stdout)
		}
		if r := espalier(t, "", at("log", "none")...); r.status != 1 {
			t.Errorf("log of no set: %+v", r)
		}
		server.kill(syscall.SIGTERM)
	}
}
