//go:build linux

package process_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/agent/driver/process"
	"espalier/internal/desired"
)

// goRace keeps the race detector from letting each process sleep for a second
// before it ends.
const goRace = "atexit_sleep_ms=10"

// world is a host of one object.
type world struct {
	t    testing.TB
	dir  string
	name string // like no other of this host
	d    *process.Driver
	log  lockedBuffer
	note []byte
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), name: "web/" + rand.Text()}
	w.restart(process.Options{})
	t.Cleanup(w.endAll)
	return w
}

// restart puts a new Driver in the place of the old one.
func (w *world) restart(o process.Options) {
	w.t.Helper()
	o.Dir = w.dir
	if o.Shim == nil {
		o.Shim = []string{self(w.t), "shim"}
	}
	o.Logger = slog.New(slog.NewTextHandler(&w.log, nil))
	d, err := process.New(o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.d = d
}

func self(t testing.TB) string {
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// endAll ends whatever a test has left.
func (w *world) endAll() {
	until(w.t, "all processes of the test have ended", func() bool {
		left := append(shims(w.name), slices.Collect(maps.Values(marked(w.name)))...)
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // of a shim that nobody looked at
		}
		return len(left) == 0
	})
}

// spec is an object's value; replicas and the rest are added to the program's
// mode and arguments.
type spec map[string]any

func (w *world) spec(replicas int, args ...string) spec {
	return spec{"argv": append([]string{self(w.t), "child"}, args...), "replicas": replicas, "ready_after": "0s", "env": map[string]string{"GORACE": goRace}}
}

func (s spec) with(field string, value any) spec {
	c := maps.Clone(s)
	c[field] = value
	return c
}

func (s spec) value() []byte {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return text
}

// tryApply applies s, nil to delete, and keeps the note.
func (w *world) tryApply(ctx context.Context, s spec) error {
	c := driver.Change{Key: "run/" + w.name, Name: w.name, Note: w.note}
	if s != nil {
		c.Object = &desired.Object{Key: c.Key, Value: s.value()}
	}
	r := w.d.Apply(ctx, []driver.Change{c})
	if len(r) != 1 {
		w.t.Fatalf("Apply returned %d results, want 1", len(r))
	}
	if r[0].Err == nil {
		w.note = r[0].Note
	}
	if len(r[0].Note) > driver.MaxNoteBytes {
		w.t.Fatalf("the note has %d bytes", len(r[0].Note))
	}
	return r[0].Err
}

func (w *world) apply(s spec) {
	w.t.Helper()
	if err := w.tryApply(w.t.Context(), s); err != nil {
		w.t.Fatalf("Apply: %v\n%s", err, w.log.String())
	}
}

// scan returns what a scan reports.
func (w *world) scan() driver.Finding {
	w.t.Helper()
	var found driver.Finding
	err := w.d.Scan(w.t.Context(), driver.Scan{
		Objects: func(yield func(driver.Known, error) bool) {
			yield(driver.Known{Key: "run/" + w.name, Name: w.name, Note: w.note}, nil)
		},
		Spend:  func(context.Context, int, int) error { return nil },
		Report: func(_ driver.Known, f driver.Finding) { found = f },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return found
}

// watch runs Watch until the test ends, and returns the names that it touches.
func (w *world) watch() <-chan string {
	touched := make(chan string, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	d := w.d
	go func() { done <- d.Watch(ctx, func(name string) { touched <- name }) }()
	w.t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			w.t.Errorf("Watch() = %v, want the end of its context", err)
		}
	})
	return touched
}

// wants fails unless these replicas run, each one once.
func (w *world) wants(replicas ...int) map[int]int {
	w.t.Helper()
	all := running(w.name)
	var got []int
	pids := map[int]int{}
	for _, p := range all {
		got = append(got, p.replica)
		pids[p.replica] = p.pid
	}
	slices.Sort(got)
	if !slices.Equal(got, replicas) {
		w.t.Fatalf("copies %v run, want %v\n%s", got, replicas, w.log.String())
	}
	return pids
}

// state reads a copy's file.
func (w *world) state(replica int) (s struct {
	Run     string
	Boot    string
	Shim    struct{ PID int }
	Program struct{ PID int }
	End     *struct{ How, Tail string }
},
) {
	w.t.Helper()
	text, err := os.ReadFile(w.statePath(replica))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) statePath(replica int) string {
	return filepath.Join(w.dir, "run", strings.ReplaceAll(w.name, "/", "%2F"), strconv.Itoa(replica)+".json")
}

func (w *world) logPath(replica int) string {
	return filepath.Join(w.dir, "log", fmt.Sprintf("%s.%d.log", strings.ReplaceAll(w.name, "/", "%2F"), replica))
}

// awaitLog waits until a copy's log has a text.
func (w *world) awaitLog(replica int, text string) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("the log of copy %d has %q", replica, text), func() bool {
		b, _ := os.ReadFile(w.logPath(replica))
		return bytes.Contains(b, []byte(text))
	})
}

// program is a process that bears the name of an object.
type program struct {
	pid, replica int
	args         []string // behind "child"
}

// running returns the programs of an object as the host has them: not what they
// have started, nor what is dead or not yet the program.
func running(name string) []program {
	var all []program
	for replica, pid := range marked(name) {
		args := cmdline(pid)
		i, err := strconv.Atoi(strings.Split(replica, "/")[0])
		if err != nil || len(args) < 3 || args[1] != "child" || session(pid) != pid || args[2] == "grandchild" {
			continue
		}
		all = append(all, program{pid, i, args[2:]})
	}
	return all
}

// marked returns all processes that have an object's name in their environment, by
// replica and process.
func marked(name string) map[string]int {
	found := map[string]int{}
	for _, pid := range allPIDs() {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !bytes.Contains(append([]byte{0}, env...), []byte("\x00ESPALIER_NAME="+name+"\x00")) {
			continue
		}
		_, rest, _ := bytes.Cut(env, []byte("ESPALIER_REPLICA="))
		replica, _, _ := bytes.Cut(rest, []byte{0})
		found[fmt.Sprintf("%s/%d", replica, pid)] = pid
	}
	return found
}

// shims returns the shims of an object.
func shims(name string) []int {
	var found []int
	for _, pid := range allPIDs() {
		if args := cmdline(pid); len(args) == 5 && args[1] == "shim" && args[3] == name {
			found = append(found, pid)
		}
	}
	return found
}

func allPIDs() []int {
	entries, _ := os.ReadDir("/proc")
	var all []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

func cmdline(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(text) == 0 { // empty: a zombie
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
}

func statField(pid, i int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	n, _ := strconv.Atoi(fields[i])
	return n
}

func session(pid int) int { return statField(pid, 3) }

func alive(pid int) bool { return cmdline(pid) != nil }

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func change(name, value string) driver.Change {
	return driver.Change{Key: "run/" + name, Name: name, Object: &desired.Object{Key: "run/" + name, Value: []byte(value)}}
}
