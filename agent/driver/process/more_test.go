//go:build linux

package process_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/agent/driver/process"
)

// lines returns all that a copy's logs have, the oldest first.
func (w *world) lines(replica int) (all []string, files int) {
	w.t.Helper()
	paths, err := filepath.Glob(w.logPath(replica) + ".*")
	if err != nil {
		w.t.Fatal(err)
	}
	for i := len(paths); i >= 0; i-- {
		path := w.logPath(replica)
		if i > 0 {
			path = fmt.Sprintf("%s.%d", path, i)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		if len(text) > 0 && text[len(text)-1] != '\n' {
			w.t.Errorf("%s ends within a line", path)
		}
		all = append(all, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
		files++
	}
	return all, files
}

// TestLogRotation shows that no line is lost between one file and the next.
func TestLogRotation(t *testing.T) {
	const n, size = 20000, 64 << 10
	w := newWorld(t)
	w.restart(process.Options{LogBytes: size, LogFiles: 50})
	w.apply(w.spec(1, "lines", "0", fmt.Sprint(n)))
	w.awaitLog(0, "ready")
	w.apply(w.spec(0, "lines", "0", fmt.Sprint(n)))
	got, files := w.lines(0)
	if len(got) != n+1 || files < 10 {
		t.Fatalf("%d lines in %d files, want %d in several", len(got), files, n+1)
	}
	for i, l := range got[:n] {
		if l != line(i) {
			t.Fatalf("line %d is %q, want %q", i, l, line(i))
		}
	}

	w.restart(process.Options{LogBytes: size, LogFiles: 2})
	w.apply(w.spec(1, "lines", "0", fmt.Sprint(n), "again"))
	w.awaitLog(0, "ready")
	for i := range 60 {
		path := w.logPath(0)
		if i > 0 {
			path = fmt.Sprintf("%s.%d", path, i)
		}
		info, err := os.Stat(path)
		switch {
		case i <= 2 && (err != nil || info.Size() > size+100):
			t.Errorf("%s: %v, %v; want at most %d bytes", path, info, err, size)
		case err == nil && info.Mode().Perm() != 0o600:
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

// TestUnwritableLog shows that a program runs on while its log can't be written,
// and that the log tells what it misses.
func TestUnwritableLog(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(w.logPath(0), 0o700); err != nil { // a folder where the log should be
		t.Fatal(err)
	}
	s := w.spec(1, "lines", "0", "30000") // more than pipes and buffers hold
	w.apply(s)
	pid := w.wants(0)[0]
	until(t, "all is printed", func() bool { return asleepInRead(pid) })
	if err := os.Remove(w.logPath(0)); err != nil {
		t.Fatal(err)
	}
	w.apply(s.with("replicas", 0))
	got, err := os.ReadFile(w.logPath(0))
	if err != nil || !strings.HasPrefix(string(got), "espalier: ") || !strings.Contains(string(got), "bytes of output were lost: open ") {
		t.Errorf("the log says %.200q, %v; want what was lost", got, err)
	}
}

// asleepInRead reports whether a program of mode "lines" waits for a signal: what
// it does once it has printed all.
func asleepInRead(pid int) bool {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	var read, written int
	_, err := fmt.Sscanf(string(text), "rchar: %d\nwchar: %d\n", &read, &written)
	total := len("ready\n")
	for i := range 30000 {
		total += len(line(i)) + 1
	}
	return err == nil && written >= total
}

// TestFullDisk shows the same of a disk that is full.
func TestFullDisk(t *testing.T) {
	logs := t.TempDir()
	if err := unix.Mount("tmpfs", logs, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(logs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t)
	w.restart(process.Options{LogDir: logs, LogBytes: 1 << 20})
	filler := filepath.Join(logs, "filler")
	if err := os.WriteFile(filler, make([]byte, 200<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	w.apply(w.spec(1, "lines", "0", "30000"))
	pid := w.wants(0)[0]
	until(t, "all is printed", func() bool { return asleepInRead(pid) })
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.apply(w.spec(1, "drip"))
	pid = w.wants(0)[0]
	log := filepath.Join(logs, filepath.Base(w.logPath(0)))
	has := func(text string) func() bool {
		return func() bool {
			got, err := os.ReadFile(log)
			return err == nil && strings.Contains(string(got), text)
		}
	}
	until(t, "the log has the loss", has("bytes of output were lost: write "))
	until(t, "the next program has begun", has("\nready\n"))
	for i := range 2 {
		if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		until(t, "the log goes on", has(line(i)+"\n"))
	}
}

// TestEnvironment shows what a program is given, and what it isn't.
func TestEnvironment(t *testing.T) {
	t.Setenv("SECRET", "of the agent")
	w := newWorld(t)
	dir := t.TempDir()
	w.apply(w.spec(2, "env").with("env", map[string]string{"A": "b c", "PATH": "/mine"}).with("dir", dir))
	w.awaitLog(1, "ready")
	text, err := os.ReadFile(w.logPath(1))
	if err != nil {
		t.Fatal(err)
	}
	got := "\n" + string(text)
	for _, want := range []string{"A=b c", "PATH=/mine", "ESPALIER_NAME=" + w.name, "ESPALIER_REPLICA=1", "dir=" + dir, "ESPALIER_RUN=" + w.state(1).Run} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("a program is given %q, want %q", got, want)
		}
	}
	if strings.Contains(got, "SECRET") || strings.Contains(got, "GOMAXPROCS") {
		t.Errorf("a program is given %q, want nothing of the agent's", got)
	}
	for fd := 3; fd < 20; fd++ { // what Go itself opens is no file
		if target, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", w.wants(0, 1)[1], fd)); err == nil && strings.Contains(target, w.dir) {
			t.Errorf("a program has %s open", target)
		}
	}
}

// TestUser shows as whom a program runs.
func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start programs as somebody else")
	}
	for user, want := range map[string]string{"nobody": "uid=65534", "65534": "uid=65534", "nobody:0": "uid=65534 gid=0", "1234:5678": "uid=1234 gid=5678"} {
		w := newWorld(t)
		exe := filepath.Join("/tmp", "espalier-"+filepath.Base(w.name)) // where everybody may read
		text, err := os.ReadFile(self(t))
		if err == nil {
			err = os.WriteFile(exe, text, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(exe)
		w.apply(w.spec(1).with("argv", []string{exe, "child", "env"}).with("user", user))
		w.awaitLog(0, want)
		shim := w.state(0)
		kill(t, shim.Shim.PID)
		until(t, "the program of another user has ended with its shim", func() bool { return !alive(shim.Program.PID) })
	}
	w := newWorld(t)
	if err := w.tryApply(t.Context(), w.spec(1, "env").with("user", "no such user")); err == nil || !strings.Contains(err.Error(), `copy 0: user "no such user" is not known on this host`) {
		t.Errorf("Apply(a user that isn't there) = %v", err)
	}
}

// TestNotStarted shows what is said of programs that can't be started.
func TestNotStarted(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		s    spec
		want string
	}{
		{w.spec(1).with("argv", []string{"/no/such/program"}), "copy 0: program /no/such/program: no such file or directory"},
		{w.spec(1).with("argv", []string{"/etc/passwd"}), "copy 0: program /etc/passwd: permission denied"},
		{w.spec(1, "stay", "a").with("dir", "/no/such/dir"), "copy 0: dir /no/such/dir: stat /no/such/dir: no such file or directory"},
		{w.spec(1, "stay", "a").with("dir", "/etc/passwd"), "copy 0: dir /etc/passwd: not a directory"},
		{w.spec(3, "exit", "7", "bye").with("ready_after", "5m"), "copy 0 exited with status 7 after "},
		{w.spec(3, "exit", "7", "bye").with("ready_after", "5m"), ": bye; and 2 more of its copies"},
		{spec{"argv": []string{"a"}}, "field argv"},
	} {
		if err := w.tryApply(t.Context(), c.s); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Apply(%s) = %v, want %q", c.s.value(), err, c.want)
		}
		w.wants()
	}
	w.restart(process.Options{Shim: []string{"/bin/echo", "what?"}})
	if err := w.tryApply(t.Context(), w.spec(1, "stay", "a")); err == nil || !strings.Contains(err.Error(), "doesn't work: what?") {
		t.Errorf("Apply(without a shim) = %v", err)
	}
	if _, err := process.New(process.Options{}); err == nil {
		t.Error("New(without a folder) returned no error")
	}
}

// TestOrphans shows that copies for which nobody asks are told of, and run on.
func TestOrphans(t *testing.T) {
	w := newWorld(t)
	w.apply(w.spec(2, "stay", "a"))
	w.restart(process.Options{OrphanAfter: 1})
	w.watch()
	until(t, "the orphans are told of", func() bool {
		return strings.Contains(w.log.String(), "copies run that nothing asks for") && strings.Contains(w.log.String(), fmt.Sprint(w.state(1).Shim.PID))
	})
	w.wants(0, 1)
}

// TestNextBoot shows that copies of an earlier boot are drift that is noticed at
// once.
func TestNextBoot(t *testing.T) {
	w := newWorld(t)
	s := w.spec(1, "stay", "a")
	w.apply(s)
	st := w.state(0)
	kill(t, st.Shim.PID)
	until(t, "the program is gone", func() bool { return !alive(st.Program.PID) })
	text, err := os.ReadFile(w.statePath(0))
	if err == nil {
		err = os.WriteFile(w.statePath(0), []byte(strings.Replace(string(text), st.Boot, "another", 1)), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if name := next(t, w.watch()); name != w.name {
		t.Fatalf("Watch touched %q, want %q", name, w.name)
	}
	until(t, "a scan tells it", func() bool { // the lock may outlive the program for a moment
		return w.scan().Drift == "0 of 1 copies run; copy 0 ended with the host's last boot"
	})
	w.apply(s)
	w.wants(0)
}

// TestScanFinds shows what else is drift.
func TestScanFinds(t *testing.T) {
	w := newWorld(t)
	w.apply(w.spec(3, "stay", "a"))
	note := w.note
	w.apply(w.spec(2, "stay", "b"))
	other := w.note
	for _, c := range []struct {
		note []byte
		want string
	}{
		{other, ""},
		{note, "2 of 3 copies run; copy 0 is of another version; copy 1 is of another version; copy 2 is not there"},
		{[]byte(strings.Replace(string(other), `"replicas":2`, `"replicas":1`, 1)), "1 of 1 copies run; copy 1 runs, too"},
		{[]byte("{"), "nothing is known of what was applied"},
		{nil, "nothing is known of what was applied"},
	} {
		w.note = c.note
		if f := w.scan(); f.Drift != c.want || f.Err != nil {
			t.Errorf("with the note %s a scan finds %+v, want %q", c.note, f, c.want)
		}
	}
	w.note = []byte("{")
	w.apply(w.spec(2, "stay", "b"))
	w.wants(0, 1)
}

// TestDamage shows what becomes of files that somebody has spoilt.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	s := w.spec(1, "stay", "a")
	w.apply(s)
	pid := w.wants(0)[0]
	st := w.state(0)
	if err := os.WriteFile(w.statePath(0), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.tryApply(t.Context(), s); err == nil || !strings.Contains(err.Error(), "copy 0: state: damaged") {
		t.Errorf("Apply(a running copy whose state is damaged) = %v", err)
	}
	if w.wants(0)[0] != pid {
		t.Error("a copy whose state is damaged was started anew")
	}
	kill(t, st.Shim.PID)
	until(t, "the program is gone", func() bool { return !alive(pid) })
	until(t, "it is started anew", func() bool { return w.tryApply(t.Context(), s) == nil })
	w.wants(0)
}
