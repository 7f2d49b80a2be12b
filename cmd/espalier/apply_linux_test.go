package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// What configurations of these tests say: that files are made, and that drift in
// them is looked for soon, whether or not it was noticed.
const (
	files   = "drivers:\n  - {prefix: files/, driver: file, root: $ROOT}\n"
	looking = "scan: {interval: 1s}\n"
)

// TestGoSources makes a host's folder what the sources of Go are, and again so after
// somebody has worked in it.
func TestGoSources(t *testing.T) {
	t.Parallel()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skipf("where are the sources of Go? %v", err)
	}
	src := filepath.Join(strings.TrimSpace(string(root)), "src")
	parts := []string{""}
	if testing.Short() || raced {
		parts = []string{"net", "fmt"}
	}
	m := manage(t, files)
	for _, part := range parts {
		m.publish("", "apply", m.name, "-f", filepath.Join(src, part), "--key-prefix", "files/"+strings.TrimPrefix(part+"/", "/"))
	}
	compare := func(what string) {
		t.Helper()
		for _, part := range parts {
			same(t, what, filepath.Join(src, part), filepath.Join(m.root, part))
		}
	}
	applied := m.converge()
	compare("made")
	t.Logf("%d files", applied)

	touched := uint64(vandalize(t, m.root))
	if got := m.converge(); got != touched {
		t.Errorf("%d files were applied anew, want the %d that were touched", got, touched)
	}
	compare("mended")
	if got := m.converge(); got != 0 {
		t.Errorf("%d files were applied where nothing was to do", got)
	}
}

// vandalize does to files below a folder what people and programs do, and returns to
// how many.
func vandalize(t *testing.T, root string) (touched int) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var names []string
	gone := filepath.Join(root, "net", "http")
	for name, what := range listing(t, root) {
		path := filepath.Join(root, name)
		switch inside := strings.HasPrefix(path, gone+"/"); {
		case what == "folder":
		case inside:
			touched++
		default:
			names = append(names, path)
		}
	}
	slices.Sort(names)
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	deeds := []func(path string, st os.FileInfo) error{
		func(path string, _ os.FileInfo) error { return os.Remove(path) },
		func(path string, _ os.FileInfo) error { return os.WriteFile(path, []byte("other"), 0) },
		func(path string, st os.FileInfo) error { return os.Truncate(path, st.Size()/2) },
		func(path string, st os.FileInfo) error { return os.Chmod(path, st.Mode()^0o111) },
		func(path string, st os.FileInfo) error { // of the same size and time
			text := []byte(strings.Repeat("x", int(st.Size())))
			return anyError(os.WriteFile(path, text, 0), os.Chtimes(path, st.ModTime(), st.ModTime()))
		},
		func(path string, st os.FileInfo) error { // as editors do
			return anyError(os.WriteFile(path+"~", []byte("edited"), st.Mode()), os.Rename(path+"~", path))
		},
	}
	for i, path := range names[:min(len(names), 60)] {
		st, err := os.Stat(path)
		if err == nil && st.Size() > 1 {
			err, touched = deeds[i%len(deeds)](path, st), touched+1
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	return touched
}

// anyError returns the first error of several.
func anyError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestOffline starts an agent that can't reach its server: it keeps up what it
// verified last, and the server hears of it later.
func TestOffline(t *testing.T) {
	t.Parallel()
	m := manage(t, looking+files)
	way := newNetwork(t, 1)
	way.reach(m.server.address)
	m.address = way.Addr().String()
	m.configure(looking + files)
	m.lines(`{"key":"files/a","value":"a"}`, `{"key":"files/b","value":"b"}`)
	first := m.start()
	m.settle()
	first.kill(syscall.SIGKILL)
	m.server.kill(syscall.SIGKILL)
	if err := os.Remove(m.file("a")); err != nil {
		t.Fatal(err)
	}

	second := m.start()
	c := m.await("what went while nobody looked is back", func(c desired.Convergence) bool { return m.isConverged(c) && c.Corrected == 1 })
	m.wants("a", "a")
	if err := os.WriteFile(m.file("b"), []byte("other"), 0o644); err != nil {
		t.Fatal(err)
	}
	c = m.await("what goes while it looks is back", func(c desired.Convergence) bool {
		return m.isConverged(c) && c.Corrected == c.Found && c.Corrected >= 2
	})
	m.wants("b", "b")

	m.server = serve(t, filepath.Join(m.dir, "server"))
	way.reach(m.server.address)
	reported := func() (r desired.Convergence) {
		if a := m.reported().Applying; a != nil {
			r = *a
		}
		return r
	}
	until(t, func() string { return fmt.Sprintf("the server hears of %+v; it knows of %+v", c, reported()) }, func() bool {
		return reported().Corrected == c.Corrected && m.isConverged(reported())
	})
	m.set("files/c", "c")
	m.settle()
	m.wants("c", "c")
	second.kill(syscall.SIGTERM)
	if status := second.ProcessState.ExitCode(); status != 0 {
		t.Errorf("the agent ended with status %d:\n%s", status, second.log.String())
	}
}

// reported returns what the server knows of the host by its reports, which it
// forgets when it ends.
func (m *managed) reported() desired.Report {
	m.t.Helper()
	conn, err := grpc.NewClient(m.server.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	resp, err := espalierv1.NewFleetServiceClient(conn).GetHost(m.t.Context(), &espalierv1.GetHostRequest{Host: m.name})
	if status.Code(err) == codes.NotFound {
		return desired.Report{}
	}
	if err != nil {
		m.t.Fatal(err)
	}
	h, err := wire.HostFromWire(resp.GetHost())
	if err != nil {
		m.t.Fatal(err)
	}
	return h.Report
}

// hookScript is a program for the driver exec: it notes each line that it reads, and
// answers that it is done. $1 is the file that it notes them in.
const hookScript = `#!/bin/sh
while IFS= read -r line; do
	printf '%s\n' "$line" >>"$1"
	id=${line#*'"id":"'}
	printf '{"id":"%s","ok":true}\n' "${id%%'"'*}"
done
`

// hook writes the program of hookScript to a folder.
func hook(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "hook"), []byte(hookScript), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestAfter makes a file, a process and what a program makes, each after the other;
// and takes them away again in the reverse order.
func TestAfter(t *testing.T) {
	t.Parallel()
	m := manage(t, files+"  - {prefix: run/, driver: process}\n  - {prefix: hook/, driver: exec, command: [$DIR/hook, $DIR/diary]}\n")
	hook(t, m.dir)
	object, diary := fmt.Sprintf("after-%d", os.Getpid()), filepath.Join(m.dir, "diary")
	endProcesses(t, object)
	// It notes whether the file is there when it starts and when it ends.
	program := fmt.Sprintf(`note() { if [ -e %[1]s ]; then echo "$1 with the file"; else echo "$1 without the file"; fi >>%[2]s; }
		trap 'note ends; exit 0' TERM; note starts; sleep 1200 & wait`, m.file("conf"), diary)
	order := func() (words []string) {
		text, err := os.ReadFile(diary)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			_, op, is := strings.Cut(line, `"op":"`)
			if op, _, _ := strings.Cut(op, `"`); is {
				line = op
			}
			words = append(words, strings.TrimSpace(line))
		}
		return words
	}
	m.start()
	m.lines( // the names are such that any other order would be the wrong one
		`{"key":"hook/a","value":"x","after":["run/`+object+`"]}`,
		fmt.Sprintf(`{"key":"run/%s","value":%q,"after":["files/conf"]}`, object,
			fmt.Sprintf(`{"argv":["/bin/sh","-c",%q],"ready_after":"0s"}`, program)),
		`{"key":"files/conf","value":"x"}`)
	m.settle()
	until(t, func() string { return fmt.Sprintf("the program has started: %q", order()) }, func() bool { return len(order()) >= 2 })
	m.publish("", "delete", m.name, "files/conf", "run/"+object, "hook/a")
	m.settle()
	want := []string{"starts with the file", "apply", "delete", "ends with the file"}
	if got := order(); !slices.Equal(inOrder(got), inOrder(want)) || slices.Index(got, "delete") > slices.Index(got, "ends with the file") {
		t.Errorf("it went %q, want %q", got, want)
	}
	m.wants("conf", absent)

	r := espalier(t, `{"key":"files/x","value":"","after":["run/y"]}
{"key":"hook/z","value":"","after":["files/x"]}
{"key":"run/y","value":"","after":["hook/z"]}`, m.server.at("apply", m.name, "-f", "-")...)
	const cycle = `"files/x" comes after "run/y", which comes after "hook/z", which comes after "files/x"`
	if r.status != 3 || !strings.Contains(r.stderr, cycle) {
		t.Errorf("apply of a cycle: status %d, %q, want 3 and %s", r.status, r.stderr, cycle)
	}
}

func inOrder(words []string) []string { return slices.Sorted(slices.Values(words)) }

// TestTrouble gives drivers what they can't make true: it is named, with what is
// wrong, and the rest is made true.
func TestTrouble(t *testing.T) {
	t.Parallel()
	m := manage(t, files+"  - {prefix: lost/, driver: file, root: $DIR/lost}\n  - {prefix: run/, driver: process}\n"+
		"  - {prefix: hook/, driver: exec, command: [$DIR/hook]}\n")
	m.lines(`{"key":"files/a","value":"a"}`, `{"key":"files/b","value":"b","attributes":{"mode":"loud"}}`,
		`{"key":"lost/a","value":"x"}`, `{"key":"run/a","value":"not a process"}`, `{"key":"run/b","value":"{\"argv\":[\"relative\"]}"}`,
		`{"key":"hook/a","value":"x"}`, `{"key":"other/a","value":"x"}`)
	failures := [][2]string{
		{"files/b", "mode"}, {"hook/a", "no such program"}, {"lost/a", "lost"}, {"run/a", "not one JSON object"}, {"run/b", "absolute"},
	}
	o, r := m.once(1)
	m.wants("a", "a")
	if got := o.Applying; got.State != desired.Waiting || got.Failed != uint64(len(failures)) || got.Unmanaged != 1 || o.Failed != got.Failed || o.Applied != 1 {
		t.Errorf("agent --once: %+v, want %d failed and 1 unmanaged", o, len(failures))
	}
	for _, f := range failures {
		if !slices.ContainsFunc(o.Applying.Failures, func(g desired.Failure) bool {
			return g.Key == f[0] && strings.Contains(g.Error, f[1]) && g.Attempts > 1
		}) {
			t.Errorf("agent --once: %s, want %s to fail with %q", r.stdout, f[0], f[1])
		}
	}

	m.start()
	m.await("all have failed", func(c desired.Convergence) bool { return c.Failed == uint64(len(failures)) })
	for _, args := range [][]string{{"status"}, {"status", "--failed"}, {"status", "-o", "json"}, {"status", "--failed", "-o", "json"}} {
		r := m.local(args...)
		for _, f := range failures {
			if r.status != 0 || !strings.Contains(r.stdout, f[0]) || !strings.Contains(r.stdout, f[1]) {
				t.Errorf("agent %s: status %d, %s%s, want %s and %q", strings.Join(args, " "), r.status, r.stdout, r.stderr, f[0], f[1])
			}
		}
	}
	if r := m.local("status", "--failed"); strings.Count(r.stdout, "\n") != len(failures) {
		t.Errorf("agent status --failed: %q, want %d lines", r.stdout, len(failures))
	}

	// What was wrong is put right, some of it on the host and the rest in the set.
	hook(t, m.dir)
	if err := os.Mkdir(filepath.Join(m.dir, "lost"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.set("files/b", "b")
	m.publish("", "delete", m.name, "run/a", "run/b", "files/b", "hook/a")
	m.settle()
	if b, err := os.ReadFile(filepath.Join(m.dir, "lost", "a")); err != nil || string(b) != "x" {
		t.Errorf("the lost folder holds %q, %v", b, err)
	}
	if r := m.local("status", "--failed"); r.status != 0 || r.stdout != "" {
		t.Errorf("agent status --failed: %+v, want nothing", r)
	}
}
