//go:build linux

package process_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/agent/driver/process"
)

var (
	_ driver.Driver  = (*process.Driver)(nil)
	_ driver.Scanner = (*process.Driver)(nil)
	_ driver.Watcher = (*process.Driver)(nil)
	_ driver.Batcher = (*process.Driver)(nil)
)

// TestTwoThenThree is what a process object is for: two copies run; one dies, and
// one is started; then there shall be three.
func TestTwoThenThree(t *testing.T) {
	w := newWorld(t)
	touched := w.watch()
	w.apply(w.spec(2, "stay", "a"))
	before := w.wants(0, 1)
	if f := w.scan(); f.Drift != "" || f.Err != nil {
		t.Fatalf("scan of what runs = %+v, want nothing", f)
	}

	kill(t, before[1])
	if name := next(t, touched); name != w.name {
		t.Fatalf("Watch touched %q, want %q", name, w.name)
	}
	f := w.scan()
	if want := "1 of 2 copies run; copy 1 was ended by SIGKILL after "; !strings.HasPrefix(f.Drift, want) {
		t.Fatalf("scan = %+v, want drift %q", f, want)
	}
	w.wants(0) // the driver starts nothing by itself
	w.apply(w.spec(2, "stay", "a"))
	after := w.wants(0, 1)
	if after[0] != before[0] || after[1] == before[1] {
		t.Errorf("processes %v became %v, want another copy 1 alone", before, after)
	}

	w.apply(w.spec(3, "stay", "a"))
	three := w.wants(0, 1, 2)
	if three[0] != after[0] || three[1] != after[1] {
		t.Errorf("processes %v became %v, want one more", after, three)
	}
	for i, pid := range three { // a Go program misses SIGUSR1 before it has asked for it
		w.awaitLog(i, fmt.Sprintf("ready %d\n", pid))
	}
	w.apply(w.spec(1, "stay", "a").with("stop_timeout", "1m").with("stop_signal", "USR1").with("ready_after", "300ms"))
	if one := w.wants(0); one[0] != three[0] {
		t.Errorf("processes %v became %v, want the first to stay", three, one)
	}
	w.apply(w.spec(0, "stay", "a"))
	w.wants()
	if f := w.scan(); f.Drift != "" {
		t.Errorf("scan of no copies = %+v, want nothing", f)
	}
	select {
	case name := <-touched:
		t.Errorf("Watch touched %q for copies that were meant to end", name)
	default:
	}
	w.apply(nil)
	if left, _ := filepath.Glob(filepath.Join(w.dir, "*", "*")); len(left) > 0 {
		t.Errorf("after the object was removed there are %v", left)
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// agent applies an object in a process of its own, and waits to be killed.
func agent(args []string) int {
	dir, name, value := args[0], args[1], args[2]
	exe, _ := os.Executable()
	d, err := process.New(process.Options{Dir: dir, Shim: []string{exe, "shim"}})
	if err != nil {
		return 1
	}
	r := d.Apply(context.Background(), []driver.Change{change(name, value)})
	fmt.Printf("%s\n%v\n", r[0].Note, r[0].Err)
	select {}
}

// TestAgentKilled shows that the programs of an agent that is killed go on, that
// the next one knows them, and that it notices when one of them ends.
func TestAgentKilled(t *testing.T) {
	w := newWorld(t)
	s := w.spec(2, "stay", "a")
	c := exec.Command(self(t), "agent", w.dir, w.name, string(s.value()))
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var note, failed string
	if _, err := fmt.Fscanf(out, "%s\n%s\n", &note, &failed); err != nil || failed != "<nil>" {
		t.Fatalf("the agent said %q, %q, %v", note, failed, err)
	}
	before := w.wants(0, 1)
	kill(t, c.Process.Pid)
	c.Wait()

	w.note = []byte(note)
	touched := w.watch()
	if f := w.scan(); f.Drift != "" {
		t.Fatalf("scan by the next agent = %+v, want nothing", f)
	}
	w.apply(s)
	if after := w.wants(0, 1); after[0] != before[0] || after[1] != before[1] {
		t.Fatalf("processes %v became %v, want the same", before, after)
	}
	kill(t, before[0])
	if name := next(t, touched); name != w.name {
		t.Fatalf("Watch touched %q, want %q", name, w.name)
	}
	w.apply(s)
	if after := w.wants(0, 1); after[1] != before[1] {
		t.Errorf("processes %v became %v, want copy 1 to stay", before, after)
	}
	if !strings.Contains(w.log.String(), `msg="copies found"`) {
		t.Errorf("the log says nothing of the copies that were found:\n%s", w.log.String())
	}
}

// TestSomebodyElsesProcess shows that what has the id of a copy, but isn't it, is
// left alone.
func TestSomebodyElsesProcess(t *testing.T) {
	for _, c := range []struct{ what, old, new string }{
		{"started at another time", `"start":`, `"start":9`},
		{"of another boot", `"boot":"`, `"boot":"x`},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			victim := exec.Command(self(t), "child", "stay", "victim")
			if err := victim.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() {
				kill(t, victim.Process.Pid)
				victim.Wait()
			}()
			s := w.spec(1, "stay", "a")
			w.apply(s)
			st := w.state(0)
			text, err := os.ReadFile(w.statePath(0))
			if err != nil {
				t.Fatal(err)
			}
			kill(t, st.Shim.PID)
			until(t, "the program is gone", func() bool { return !alive(st.Program.PID) })
			faked := strings.NewReplacer(c.old, c.new,
				fmt.Sprintf(`"pid":%d`, st.Shim.PID), fmt.Sprintf(`"pid":%d`, victim.Process.Pid),
				fmt.Sprintf(`"pid":%d`, st.Program.PID), fmt.Sprintf(`"pid":%d`, victim.Process.Pid)).Replace(string(text))
			if err := os.WriteFile(w.statePath(0), []byte(faked), 0o600); err != nil {
				t.Fatal(err)
			}
			until(t, "a scan sees that the copy has ended", func() bool {
				return strings.HasPrefix(w.scan().Drift, "0 of 1 copies run; copy 0 ended ")
			})
			if name := next(t, w.watch()); name != w.name {
				t.Fatalf("Watch touched %q, want %q", name, w.name)
			}
			w.apply(s)
			w.wants(0)
			if err := os.WriteFile(w.statePath(1), []byte(faked), 0o600); err != nil { // and one to be removed
				t.Fatal(err)
			}
			w.apply(nil)
			w.wants()
			if !alive(victim.Process.Pid) {
				t.Error("a process was killed that is none of the driver's")
			}
		})
	}
}

// TestStop shows what becomes of programs that don't end, and of what they have
// started.
func TestStop(t *testing.T) {
	for _, c := range []struct {
		args  []string
		ready string
		want  string // how the copy ended
	}{
		{[]string{"stubborn", "a"}, "ready", "was ended by SIGKILL"},
		{[]string{"parent", "a"}, "ready", "exited with status 0"},
		{[]string{"parent", "a", "own session"}, "ready", "exited with status 0"},
		{[]string{"stay", "a"}, "ready", "exited with status 0"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			w := newWorld(t)
			s := w.spec(1, c.args...).with("stop_timeout", "200ms")
			w.apply(s)
			w.awaitLog(0, c.ready)
			w.wants(0)
			w.apply(s.with("replicas", 0))
			if left := marked(w.name); len(left) > 0 {
				t.Errorf("after the copy was stopped there are %v", left)
			}
			if left := shims(w.name); len(left) > 0 {
				t.Errorf("after the copy was stopped there are shims %v", left)
			}
		})
	}
}

// TestStopSignal shows that the signal is the one that the object names, even if
// that was named after the copy had started.
func TestStopSignal(t *testing.T) {
	w := newWorld(t)
	s := w.spec(1, "says")
	w.apply(s)
	w.awaitLog(0, "ready")
	before := w.wants(0)
	s = s.with("stop_signal", "SIGUSR1")
	w.apply(s)
	if after := w.wants(0); after[0] != before[0] {
		t.Fatal("another signal to stop has started a copy anew")
	}
	w.apply(s.with("replicas", 0))
	w.awaitLog(0, "got user defined signal 1")
}

// TestNothingIsLeft shows that a program that ends takes along what it has
// started.
func TestNothingIsLeft(t *testing.T) {
	for _, args := range [][]string{{"leave", "a"}, {"leave", "a", "own session"}} {
		w := newWorld(t)
		err := w.tryApply(t.Context(), w.spec(1, args...).with("ready_after", "5m"))
		if err == nil || !strings.Contains(err.Error(), "copy 0 exited with status 3 after ") {
			t.Errorf("Apply(%v) = %v, want status 3", args, err)
		}
		if left := marked(w.name); len(left) > 0 {
			t.Errorf("%v left %v", args, left)
		}
	}
}

// TestRoll shows that copies are replaced one at a time.
func TestRoll(t *testing.T) {
	w := newWorld(t)
	touched := w.watch()
	file := filepath.Join(t.TempDir(), "counts")
	w.apply(w.spec(3, "counts", "old", file))
	for i := range 3 {
		w.awaitLog(i, "ready")
	}
	w.apply(w.spec(3, "counts", "new", file))
	w.wants(0, 1, 2)
	for _, p := range running(w.name) {
		if p.args[1] != "new" {
			t.Errorf("copy %d runs %v, want the new version", p.replica, p.args)
		}
	}
	got, err := os.ReadFile(file)
	if want := "old 0 3\nold 1 3\nold 2 3\n"; err != nil || string(got) != want {
		t.Errorf("the old copies were asked to end with %q, %v; want %q: all run whenever one is asked", got, err, want)
	}
	kill(t, w.wants(0, 1, 2)[0])
	next(t, touched)
	w.apply(w.spec(3, "counts", "new", file))
	select {
	case <-touched:
		t.Error("Watch touched the object for copies that were meant to end")
	default:
	}
}

// TestRollHalts shows that a version that doesn't run costs one copy.
func TestRollHalts(t *testing.T) {
	w := newWorld(t)
	good := w.spec(3, "stay", "good")
	bad := w.spec(3, "exit", "1", "no such page").with("ready_after", "5m")
	w.apply(good)
	before := w.wants(0, 1, 2)
	for range 2 { // however often it is attempted
		err := w.tryApply(t.Context(), bad)
		if err == nil || !strings.Contains(err.Error(), "copy 0 exited with status 1 after ") || !strings.Contains(err.Error(), ": no such page") {
			t.Fatalf("Apply(a version that ends) = %v, want what it said", err)
		}
		if after := w.wants(1, 2); after[1] != before[1] || after[2] != before[2] {
			t.Fatalf("processes %v became %v, want the others to stay", before, after)
		}
	}
	w.apply(good)
	if after := w.wants(0, 1, 2); after[1] != before[1] || after[2] != before[2] {
		t.Fatalf("processes %v became %v, want the others to stay", before, after)
	}
	err := w.tryApply(t.Context(), w.spec(3).with("argv", []string{"/nonexistent"}))
	if err == nil || !strings.Contains(err.Error(), "program /nonexistent: no such file or directory; 2 of 3 copies are still of another version") {
		t.Errorf("Apply(a program that isn't there) = %v", err)
	}
}

// TestCancel shows that an Apply that is cut short returns, and that the next one
// goes on from there.
func TestCancel(t *testing.T) {
	w := newWorld(t)
	s := w.spec(2, "stubborn").with("stop_timeout", "5m")
	w.apply(s)
	w.awaitLog(1, "ready")
	ctx, cancel := context.WithCancelCause(t.Context())
	errLate := errors.New("too late")
	done := make(chan error)
	go func() { done <- w.tryApply(ctx, s.with("replicas", 1)) }()
	w.awaitLog(1, "asked")
	cancel(errLate)
	if err := <-done; !errors.Is(err, errLate) {
		t.Fatalf("Apply() = %v, want %v", err, errLate)
	}
	if f := w.scan(); !strings.Contains(f.Drift, "copy 1 is being stopped") {
		t.Errorf("scan = %+v, want that copy 1 is being stopped", f)
	}
	w.restart(process.Options{})
	w.apply(s.with("replicas", 1).with("stop_timeout", "10ms")) // an earlier end
	w.wants(0)

	s = s.with("argv", w.spec(1, "stay", "a")["argv"]).with("replicas", 1).with("ready_after", "5m")
	ctx, cancel = context.WithCancelCause(t.Context())
	go func() { done <- w.tryApply(ctx, s) }()
	w.awaitLog(0, "ready")
	until(t, "the new version runs", func() bool { r := running(w.name); return len(r) == 1 && r[0].args[0] == "stay" })
	pid := w.wants(0)[0]
	until(t, "it is watched", func() bool { return strings.Count(w.log.String(), "copy started") == 3 })
	cancel(errLate)
	if err := <-done; !errors.Is(err, errLate) {
		t.Fatalf("Apply() = %v, want %v", err, errLate)
	}
	w.apply(s.with("ready_after", "0s"))
	if now := w.wants(0)[0]; now != pid {
		t.Errorf("process %d became %d, want the one that was waited for", pid, now)
	}
}

// TestShimKilled shows that nothing runs without a shim, and that what a program
// had started goes as soon as its copy is started anew.
func TestShimKilled(t *testing.T) {
	w := newWorld(t)
	touched := w.watch()
	s := w.spec(2, "parent", "a").with("stop_timeout", "100ms")
	w.apply(s)
	w.awaitLog(0, "ready")
	w.awaitLog(1, "ready")
	before := marked(w.name)
	if len(before) != 4 {
		t.Fatalf("processes %v, want two programs with a child each", before)
	}
	shim := w.state(1)
	kill(t, shim.Shim.PID)
	next(t, touched)
	until(t, "the program is gone", func() bool { return !alive(shim.Program.PID) })
	until(t, "a scan sees that the copy has ended", func() bool {
		return strings.HasPrefix(w.scan().Drift, "1 of 2 copies run; copy 1 ended unseen")
	})
	w.apply(s)
	w.awaitLog(1, "ready")
	w.wants(0, 1)
	until(t, "each program has its child", func() bool { return len(marked(w.name)) == 4 })
	for replica, pid := range before {
		if strings.HasPrefix(replica, "1/") && alive(pid) {
			t.Errorf("process %d of the copy whose shim was killed still runs", pid)
		}
	}
	kill(t, w.state(0).Shim.PID)
	w.apply(nil)
	if left := marked(w.name); len(left) > 0 {
		t.Errorf("after the object was removed there are %v", left)
	}
}

// TestShimSignals shows that a shim isn't ended by what ends other processes, and
// that SIGTERM stops its program.
func TestShimSignals(t *testing.T) {
	w := newWorld(t)
	touched := w.watch()
	w.apply(w.spec(1, "stay", "a"))
	w.awaitLog(0, "ready")
	st := w.state(0)
	for _, sig := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM} {
		if err := unix.Kill(st.Shim.PID, sig); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Kill(st.Shim.PID, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	next(t, touched)
	if end := w.state(0).End; end == nil || end.How != "exited with status 0" {
		t.Errorf("the copy ended with %+v, want status 0: it was asked to end", end)
	}
}
