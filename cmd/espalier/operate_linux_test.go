package main

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"espalier/internal/desired"
)

// TestProcesses keeps two copies of a program running, and then three, whatever
// becomes of them or of the agent.
func TestProcesses(t *testing.T) {
	t.Parallel()
	m := manage(t, "drivers:\n  - {prefix: run/, driver: process}\n")
	object := fmt.Sprintf("apache-%d", os.Getpid())
	endProcesses(t, object)
	agent := m.start("--interval", "200ms")
	m.set("run/"+object, sleeping(2))
	m.settle()
	two := m.sleepers(object, 2)

	if err := syscall.Kill(two[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.await("the end of a copy is noticed, and made up for", func(c desired.Convergence) bool { return m.isConverged(c) && c.Corrected == 1 })
	again := m.sleepers(object, 2)
	if slices.Contains(again, two[0]) || !slices.Contains(again, two[1]) {
		t.Errorf("copies %v run after the end of %d, of %v", again, two[0], two)
	}

	m.set("run/"+object, sleeping(3))
	m.settle()
	three := m.sleepers(object, 3)
	if !slices.Contains(three, again[0]) || !slices.Contains(three, again[1]) {
		t.Errorf("copies %v run, want %v and another", three, again)
	}

	agent.kill(syscall.SIGKILL)
	if got := m.sleepers(object, 3); !slices.Equal(got, three) {
		t.Errorf("copies %v run once the agent is dead, want %v", got, three)
	}
	m.start("--interval", "200ms")
	m.settle()
	if got := m.sleepers(object, 3); !slices.Equal(got, three) {
		t.Errorf("copies %v run when the agent is back, want %v", got, three)
	}

	m.publish("", "delete", m.name, "run/"+object)
	m.settle()
	if got := processes(object); len(got) > 0 {
		t.Errorf("processes %v are left of what was deleted", got)
	}
}

// TestGuard holds back a state that deletes too much, until somebody on the host
// lets it through.
func TestGuard(t *testing.T) {
	t.Parallel()
	m := manage(t, files)
	const n = 40
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(`{"key":"files/%02d","value":"x"}`, i)
	}
	m.lines(lines...)
	m.converge()
	if err := os.Truncate(m.file("07"), 0); err != nil {
		t.Fatal(err)
	}
	if r := must(t, nil, "", m.agent("--dry-run")...); !strings.Contains(r.stdout, "correct files/07 (") {
		t.Errorf("agent --dry-run after a drift: %s", r.stdout)
	}
	m.wants("07", "")
	m.converge()
	m.wants("07", "x")
	m.publish(`{"key":"files/new","value":"x"}`, "apply", m.name, "-f", "-", "--prune", "--max-delete", "100%")
	all := func(want int) {
		t.Helper()
		if got := len(listing(t, m.root)) - 1; got != want {
			t.Errorf("%d files are there, want %d", got, want)
		}
	}
	o, r := m.once(3)
	if got := o.Applying; got.State != desired.Guarded || got.Guarded != n || got.Desired != m.want || o.Applied != 0 || !strings.Contains(r.stderr, "40 of 40") {
		t.Errorf("agent --once: %+v\n%s", o, r.stderr)
	}
	all(n)

	r = must(t, nil, "", m.agent("--dry-run")...)
	if got := strings.Count(r.stdout, "delete  files/"); got != n || !strings.Contains(r.stdout, "create  files/new") ||
		!strings.Contains(r.stdout, "1 would be created, 0 updated, 40 deleted, 0 corrected\n") {
		t.Errorf("agent --dry-run: %s", r.stdout)
	}
	r = must(t, nil, "", m.agent("--dry-run", "-o", "json")...)
	if got := strings.Count(r.stdout, `"action":"delete"`); got != n || strings.Count(r.stdout, "\n") != n+1 {
		t.Errorf("agent --dry-run -o json: %s", r.stdout)
	}
	all(n)

	m.start()
	m.await("the agent holds the deletions back", func(c desired.Convergence) bool { return c.State == desired.Guarded && c.Desired == m.want })
	release := func(status int, root desired.Digest, says string) {
		t.Helper()
		if r := m.local("release", root.String()); r.status != status || !strings.Contains(r.stderr, says) {
			t.Errorf("agent release: status %d, %q, want %d and %q", r.status, r.stderr, status, says)
		}
	}
	if r := m.local("status"); r.status != 0 || !strings.Contains(r.stdout, "is guarded: 40 of 40") || !strings.Contains(r.stdout, "espalier agent release "+m.want.String()) {
		t.Errorf("agent status: %+v", r)
	}
	release(3, desired.Digest{1}, "this host waits for "+m.want.String())
	all(n)
	release(0, m.want, "")
	m.settle()
	all(1)
	release(3, m.want, "nothing waits to be released")
	if r := m.local("release", "x"); r.status != 2 {
		t.Errorf("agent release x: %+v", r)
	}
}

// TestPause has a host left alone, across a restart of its agent.
func TestPause(t *testing.T) {
	t.Parallel()
	m := manage(t, looking+files)
	m.set("files/a", "1")
	agent := m.start()
	m.settle()
	if r := m.local("pause", "-m", "we look into it"); r.status != 0 {
		t.Fatalf("agent pause: %+v", r)
	}
	m.set("files/a", "2")
	paused := func(c desired.Convergence) bool {
		return c.State == desired.Paused && c.Desired == m.want && c.Pending == 1 && strings.Contains(c.Reason, "we look into it")
	}
	m.await("the agent leaves the host as it is", paused)
	m.wants("a", "1")
	agent.kill(syscall.SIGKILL)
	o, r := m.once(1)
	if !paused(o.Applying) || !strings.Contains(r.stderr, "we look into it") {
		t.Errorf("agent --once: %+v\n%s", o, r.stderr)
	}
	m.start()
	m.await("the agent is back, and leaves the host as it is", paused)
	m.wants("a", "1")
	if r := m.local("status"); r.status != 0 || !strings.Contains(r.stdout, "is paused: on the host: we look into it") {
		t.Errorf("agent status: %+v", r)
	}
	if r := m.local("resume"); r.status != 0 {
		t.Fatalf("agent resume: %+v", r)
	}
	m.settle()
	m.wants("a", "2")
}

// TestReload has a running agent read its configuration again: a better one, and
// one that is broken.
func TestReload(t *testing.T) {
	t.Parallel()
	if signal.Ignored(syscall.SIGHUP) {
		t.Skip("SIGHUP is ignored here, as under nohup, and by whatever is started from here")
	}
	const detect = looking + "apply: {mode: detect}\n" + files
	m := manage(t, detect)
	if err := os.Mkdir(filepath.Join(m.dir, "more"), 0o755); err != nil {
		t.Fatal(err)
	}
	m.lines(`{"key":"files/a","value":"a"}`, `{"key":"more/b","value":"b"}`)
	o, r := m.once(1)
	if o.Applying.State != desired.Detecting || o.Applying.Pending == 0 || o.Applied != 0 || !strings.Contains(r.stderr, "only reports") {
		t.Errorf("agent --once: %+v\n%s", o, r.stderr)
	}
	agent := m.start()
	m.await("the agent reports what it would do", func(c desired.Convergence) bool { return c.State == desired.Detecting && c.Pending > 0 })
	reload := func(config string, says string) {
		t.Helper()
		m.configure(config)
		if err := agent.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		agent.says(t, regexp.MustCompile(says))
	}
	m.wants("a", absent)

	reload(looking+files, `has been read again.* changed=apply`)
	m.settle()
	m.wants("a", "a")

	const more = looking + files + "  - {prefix: more/, driver: file, root: $DIR/more}\n"
	reload("drivers: [{prefix: files/, driver: fiel}]\n", `stays as it was.*agent.yaml:4: unknown driver`)
	m.set("files/a", "still")
	m.settle()
	m.wants("a", "still")

	reload(more, `has been read again.* changed=drivers`)
	m.await("what was unmanaged is made", func(c desired.Convergence) bool { return m.isConverged(c) && c.Unmanaged == 0 })
	if b, err := os.ReadFile(filepath.Join(m.dir, "more", "b")); err != nil || string(b) != "b" {
		t.Errorf("more/b holds %q, %v", b, err)
	}

	reload("interval: 3s\n"+more, `once the agent is started anew.* fields=interval`)
	agent.kill(syscall.SIGTERM)
	if status := agent.ProcessState.ExitCode(); status != 0 {
		t.Errorf("the agent ended with status %d:\n%s", status, agent.log.String())
	}
}

// TestConfiguration checks files, good and bad, and runs agents by bad ones.
func TestConfiguration(t *testing.T) {
	t.Parallel()
	m := manage(t, files)
	r := must(t, nil, "", "agent", "check-config", m.config())
	if !strings.Contains(r.stdout, m.name) || !strings.Contains(r.stdout, "files/*") || !strings.Contains(r.stdout, m.root) {
		t.Errorf("agent check-config: %s", r.stdout)
	}
	m.configure("drivers:\n  - {prefix: files, driver: file, root: $ROOT}\n  - {prefix: run/, driver: processes}\napply: {max_delete: many}\n")
	for _, args := range [][]string{{"agent", "check-config", m.config()}, {"agent", "check-config", "-o", "json", m.config()}, m.agent("--once"), m.agent("--dry-run"), m.agent()} {
		r := espalier(t, "", args...)
		if r.status != 2 || r.stdout != "" {
			t.Errorf("espalier %s: status %d, want 2; it printed %q", strings.Join(args, " "), r.status, r.stdout)
		}
		for line, says := range map[int]string{5: `prefix "files"`, 6: "unknown driver", 7: "max_delete"} {
			if !strings.Contains(r.stderr, fmt.Sprintf("%s:%d: %s", m.config(), line, says)) {
				t.Errorf("espalier %s: %q, want line %d, %s", strings.Join(args, " "), r.stderr, line, says)
			}
		}
	}
	m.configure("drivers: [{prefix: files/, driver: file, root: $DIR/agent/files}]\n")
	if r := espalier(t, "", m.agent("--once")...); r.status != 2 || !strings.Contains(r.stderr, "the agent's own folder") {
		t.Errorf("agent --once on files in its own folder: %+v", r)
	}
	for _, args := range [][]string{{"status"}, {"pause"}, {"resume"}, {"release", m.want.String()}, {"status", "--failed"}} {
		if r := m.local(args...); r.status != 1 || !strings.Contains(r.stderr, "no agent is running in "+m.data()) {
			t.Errorf("agent %s where none runs: %+v", args[0], r)
		}
	}
}
