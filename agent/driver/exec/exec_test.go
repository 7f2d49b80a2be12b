package exec_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"espalier/agent/driver"
	"espalier/agent/driver/exec"
	"espalier/internal/desired"
)

// said collects what the program says, and calls hear with each line.
type said struct {
	slog.Handler
	hear func(string)

	mu    sync.Mutex
	lines []string
	warns []string
}

func (s *said) Handle(_ context.Context, r slog.Record) error {
	s.mu.Lock()
	if r.Level >= slog.LevelWarn {
		text := r.Message
		r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
		s.warns = append(s.warns, text)
	}
	line := ""
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == "text" {
			line = a.Value.String()
			s.lines = append(s.lines, line)
		}
		return true
	})
	s.mu.Unlock()
	if s.hear != nil && line != "" {
		s.hear(line)
	}
	return nil
}

func (s *said) Enabled(context.Context, slog.Level) bool { return true }

func (s *said) WithAttrs([]slog.Attr) slog.Handler { return s }

// open returns a driver whose program is this test's binary, in a mode.
func open(t *testing.T, mode string, o exec.Options) (driver.Driver, *said) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.Command = []string{self}
	// Under the race detector a program would wait for a second before it ends.
	o.Env = append(o.Env, "PROGRAM_MODE="+mode, "GORACE=atexit_sleep_ms=0")
	s := &said{Handler: slog.DiscardHandler}
	o.Logger = slog.New(s)
	d, err := exec.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d, s
}

// change is what makes an object of a name and value be.
func change(name, value string) driver.Change {
	key := "hook/" + name
	return driver.Change{
		Key: key, Name: name, ID: "id-" + strings.ReplaceAll(name, "/", "-"),
		Object: &desired.Object{Key: key, Value: []byte(value)},
	}
}

func changes(names ...string) []driver.Change {
	var all []driver.Change
	for _, name := range names {
		all = append(all, change(name, "value of "+name))
	}
	return all
}

// numbered returns n changes, the last of which is named "last".
func numbered(n int) []driver.Change {
	var names []string
	for i := range n - 1 {
		names = append(names, strconv.Itoa(i))
	}
	return changes(append(names, "last")...)
}

// errorsOf returns the results as text; "" is done.
func errorsOf(results []driver.Result) []string {
	texts := make([]string, len(results))
	for i, r := range results {
		if r.Err != nil {
			texts[i] = r.Err.Error()
		}
	}
	return texts
}

// TestRequests shows what a program is told.
func TestRequests(t *testing.T) {
	d, s := open(t, "record", exec.Options{})
	full := change("a", "text \"quoted\" <&>\n")
	full.Object.Attributes, full.Object.After = map[string]string{"mode": "0644"}, []string{"hook/b"}
	binary := change("ü", "\xff\x00")
	empty := change("empty", "")
	gone := driver.Change{Key: "hook/gone", Name: "gone", ID: "id-gone", Note: []byte{1, 2, 'i', 'd', 'x', 'y'}, Doubt: true}
	odd := change("odd", "v")
	odd.ID = "white space"
	results := d.Apply(t.Context(), []driver.Change{full, binary, empty, gone, odd})
	for i, r := range results {
		if r.Err != nil {
			t.Errorf("result %d: %v", i, r.Err)
		}
	}
	text := func(s string) *string { return &s }
	want := []line{
		{ID: "id-gone", Op: "delete", Key: "hook/gone", Name: "gone", Note: text("xy"), Doubt: true}, // deletions come first
		{
			ID: "id-a", Op: "apply", Key: "hook/a", Name: "a", Value: text("text \"quoted\" <&>\n"),
			Attributes: map[string]string{"mode": "0644"}, After: []string{"hook/b"},
		},
		{Op: "apply", Key: "hook/ü", Name: "ü", ValueBase64: []byte("\xff\x00")},
		{ID: "id-empty", Op: "apply", Key: "hook/empty", Name: "empty", Value: text("")},
		{Op: "apply", Key: "hook/odd", Name: "odd", Value: text("v")},
	}
	if len(s.lines) != len(want) {
		t.Fatalf("the program was told %d lines, want %d: %q", len(s.lines), len(want), s.lines)
	}
	for i, told := range s.lines {
		var got line
		if err := json.Unmarshal([]byte(told), &got); err != nil {
			t.Fatal(err)
		}
		if i == 2 || i == 4 { // ids that are hashed
			if len(got.ID) != 64 {
				t.Errorf("line %d has the id %q, want a hash", i, got.ID)
			}
			want[i].ID = got.ID
		}
		w, _ := json.Marshal(want[i])
		if told != string(w) {
			t.Errorf("line %d is %s, want %s", i, told, w)
		}
	}
	if got := string(results[0].Note); got != "\x01\x04id-anoted a" {
		t.Errorf("the note is %q, want the id and the program's", got)
	}
	if results[3].Note != nil {
		t.Errorf("a deletion has the note %q, want none", results[3].Note)
	}
}

// TestOutcomes shows what becomes of changes, program by program. "" is done.
func TestOutcomes(t *testing.T) {
	const program = "no answer from "
	for _, c := range []struct {
		mode  string
		names []string
		want  []string // parts of the errors
	}{
		{"ok", []string{"a", "b", "c"}, []string{"", "", ""}},
		{"backwards", []string{"a", "b", "c"}, []string{"", "", ""}},
		{
			"mixed",
			[]string{"a", "refused-b", "forgotten-c"},
			[]string{"", "no room for refused-b", `it ended as if all were well; its last words were "that was all"`},
		},
		{"crash", []string{"a", "b", "c", "d"}, []string{"", "", `exit status 7; its last words were "panic: out of luck"`, program}},
		{"closes", []string{"a", "b"}, []string{program, program}},
		{"eager", []string{"a", "b"}, []string{"", ""}},
		{"flood", []string{"a"}, []string{"more than its answers can be"}},
		{"longline", []string{"a"}, []string{"more than its answers can be"}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			d, _ := open(t, c.mode, exec.Options{})
			got := errorsOf(d.Apply(t.Context(), changes(c.names...)))
			for i, want := range c.want {
				if (got[i] == "") != (want == "") || !strings.Contains(got[i], want) {
					t.Errorf("Apply(%s) = %q, want %q", c.names[i], got[i], want)
				}
			}
		})
	}
}

// TestAnswers shows what single answers are taken for.
func TestAnswers(t *testing.T) {
	long := strings.Repeat("n", exec.MaxNoteBytes)
	for _, c := range []struct{ answer, want, note string }{
		{`{"id":"ID","ok":true}`, "", ""},
		{`{"ok":true,"id":"ID","error":null}`, "", ""},
		{" {\"id\":\"ID\",\"ok\":true}\r", "", ""},
		{`{"id":"ID","ok":true,"note":"n"}`, "", "n"},
		{`{"id":"ID","ok":true,"note":"` + long + `"}`, "", long},
		{`{"id":"ID","ok":true,"note":"` + long + `n"}`, "note has 3841 bytes, at most 3840", ""},
		{`{"id":"ID","error":"full"}`, "full", ""},
		{`{"id":"ID","ok":false,"error":"full"}`, "full", ""},
		{`{"id":"ID","error":"` + strings.Repeat("é", 600) + `"}`, strings.Repeat("é", 254) + "…", ""},
		{`{"id":"ID","ok":false}`, "not why", ""},
		{`{"id":"ID","error":" "}`, "not why", ""},
		{`{"id":"ID","ok":true,"error":"full"}`, "more than one of", ""},
		{`{"id":"ID"}`, `neither "ok":true nor "error"`, ""},
		{`{"ok":true}`, "it has no id", ""},
		{`{"id":"other","ok":true}`, `an id that it was not given: "other"`, ""},
		{`{"id":"ID","OK":true}`, `a field "OK": there are`, ""},
		{`{"id":"ID","ok":"yes"}`, `its field "ok" is of the wrong type`, ""},
		{`{"id":"ID","id":"ID","ok":true}`, "no JSON", ""},
		{`{"id":"ID","ok":true} {}`, "no JSON", ""},
		{`{"id":"ID","ok":true,"drift":"gone"}`, "more than one of", ""},
		{`{"id":"ID","drift":"gone"}`, "was to apply, and answered with a drift", ""},
		{`["ID"]`, "no JSON object", ""},
		{`done ID`, `its answer "done id-a": it is no JSON`, ""},
		{``, "it ended as if all were well", ""},
		{strings.Repeat("x", exec.MaxAnswerBytes+1), "has more than 32768 bytes", ""},
		{strings.Repeat(" ", exec.MaxAnswerBytes-30) + `{"id":"ID","ok":true}`, "", ""},
		{strings.Repeat("x", 3*exec.MaxAnswerBytes) + "\n" + `{"id":"ID","ok":true}`, "", ""},
		{"starting\n" + `{"id":"ID","ok":true}`, "", ""},
		{`{"id":"ID","ok":true}` + "\n" + `{"id":"ID","ok":true}`, "", ""},
		{`{"id":"ID","ok":true}` + "\n" + `{"id":"ID","error":"after all"}`, "after all", ""},
		{`{"id":"ID","error":"first"}` + "\n" + `{"id":"ID","ok":true}`, "first", ""},
	} {
		d, s := open(t, "say", exec.Options{})
		r := d.Apply(t.Context(), []driver.Change{change("a", c.answer)})[0]
		text := fmt.Sprint(r.Err)
		if r.Err == nil {
			text = ""
		}
		if (text == "") != (c.want == "") || !strings.Contains(text, c.want) {
			t.Errorf("%.60q: error %q, want %q", c.answer, text, c.want)
		}
		if r.Err == nil && string(r.Note) != "\x01\x04id-a"+c.note {
			t.Errorf("%.60q: note %.20q, want %.20q", c.answer, r.Note, c.note)
		}
		if strings.Count(c.answer, "\n") > 0 && c.want == "" && len(s.warns) != 1 {
			t.Errorf("%.60q: warnings %q, want one", c.answer, s.warns)
		}
	}
}

// TestCancelled shows what becomes of a program that does not end by itself.
func TestCancelled(t *testing.T) {
	for _, c := range []struct {
		mode  string
		grace time.Duration
		done  int // of four
	}{
		{"hangs", time.Minute, 2},
		{"deaf", time.Minute, 0},
		{"polite", 10 * time.Minute, 4},
	} {
		t.Run(c.mode, func(t *testing.T) {
			d, s := open(t, c.mode, exec.Options{Grace: c.grace})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s.hear = func(line string) {
				if line == "ready" {
					cancel()
				}
			}
			four := numbered(4)
			four[0].Object.Value = bytes.Repeat([]byte("v"), 1<<20) // more than a pipe holds
			results := d.Apply(ctx, four)
			done := 0
			for _, r := range results {
				if r.Err == nil {
					done++
				} else if !errors.Is(r.Err, context.Canceled) || !strings.Contains(r.Err.Error(), "it was ended") {
					t.Errorf("error %v, want that it was ended", r.Err)
				}
			}
			if done != c.done {
				t.Errorf("%d are done, want %d: %q", done, c.done, errorsOf(results))
			}
		})
	}
	d, _ := open(t, "ok", exec.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := d.Apply(ctx, changes("a")); !errors.Is(got[0].Err, context.Canceled) {
		t.Errorf("Apply after its end = %v, want %v", got[0].Err, context.Canceled)
	}
}

// TestTimeout shows that a run ends in time.
func TestTimeout(t *testing.T) {
	d, _ := open(t, "deaf", exec.Options{Timeout: time.Millisecond, Grace: time.Minute})
	r := d.Apply(t.Context(), changes("a"))[0]
	if !errors.Is(r.Err, context.DeadlineExceeded) || !strings.Contains(r.Err.Error(), "longer than the 1ms that it has") {
		t.Errorf("Apply = %v, want that it took too long", r.Err)
	}
}

// fifo returns a pipe with a name that the program's child holds open, and a
// function that waits until nobody does.
func fifo(t *testing.T) (path string, abandoned func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		f, err := os.Open(path) // once the child is there
		if err == nil {
			_, err = io.Copy(io.Discard, f)
			f.Close()
		}
		ended <- err
	}()
	return path, func() {
		t.Helper()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("what the program started is still there")
		}
	}
}

// TestNothingIsLeft shows that what a program starts ends with it.
func TestNothingIsLeft(t *testing.T) {
	t.Run("ended by itself", func(t *testing.T) {
		path, abandoned := fifo(t)
		d, _ := open(t, "parent", exec.Options{Env: []string{"PROGRAM_FIFO=" + path}, Grace: time.Hour})
		if r := d.Apply(t.Context(), changes("a"))[0]; r.Err != nil {
			t.Error(r.Err)
		}
		abandoned()
	})
	t.Run("had to be killed", func(t *testing.T) {
		path, abandoned := fifo(t)
		d, s := open(t, "stubborn", exec.Options{Env: []string{"PROGRAM_FIFO=" + path}, Grace: time.Millisecond})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s.hear = func(line string) {
			if line == "ready" {
				cancel()
			}
		}
		if r := d.Apply(ctx, changes("a"))[0]; r.Err == nil {
			t.Error("a program that answered nothing did something")
		}
		abandoned()
	})
	t.Run("one that left the group does not hold anybody up", func(t *testing.T) {
		path, abandoned := fifo(t)
		d, s := open(t, "runaway", exec.Options{Env: []string{"PROGRAM_FIFO=" + path}, Grace: time.Hour})
		if r := d.Apply(t.Context(), changes("a"))[0]; r.Err != nil {
			t.Error(r.Err)
		}
		for _, text := range s.lines {
			if number, ok := strings.CutPrefix(text, "pid "); ok {
				pid, err := strconv.Atoi(number)
				if err != nil {
					t.Fatal(err)
				}
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		}
		abandoned()
	})
}

// TestAtLeastOnce applies the same changes again and again with a program that
// crashes halfway, as an agent does: all get done, and nothing that was answered
// is asked again.
func TestAtLeastOnce(t *testing.T) {
	d, _ := open(t, "crash", exec.Options{})
	ok, _ := open(t, "ok", exec.Options{})
	left := numbered(16)
	want := map[string]bool{}
	for _, c := range left {
		want[c.ID] = true
	}
	done := map[string]int{}
	for runs := 0; len(left) > 0; runs++ {
		if runs > 16 {
			t.Fatalf("%d are left after %d runs", len(left), runs)
		}
		if len(left) == 1 {
			d = ok // half of one is none
		}
		var again []driver.Change
		for i, r := range d.Apply(t.Context(), left) {
			if r.Err != nil {
				again = append(again, left[i])
			} else {
				done[left[i].ID]++
			}
		}
		left = again
	}
	if !slices.Equal(slices.Sorted(maps.Keys(done)), slices.Sorted(maps.Keys(want))) {
		t.Errorf("done are %v, want %v", done, want)
	}
}

// TestEnvironment shows that the agent's own secrets stay its own.
func TestEnvironment(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "/nowhere")
	t.Setenv("ESPALIER_IDENTITY", "/secret")
	t.Setenv("HOME", "/home")
	t.Setenv("TZ", "UTC")
	for _, name := range []string{"LANG", "LC_ALL", "TMPDIR"} {
		t.Setenv(name, "")
		os.Unsetenv(name)
	}
	dir := t.TempDir()
	d, s := open(t, "environment", exec.Options{Host: "web-01", Dir: dir, Env: []string{"A=1", "TZ=CET", "A=2"}})
	if r := d.Apply(t.Context(), changes("a"))[0]; r.Err != nil {
		t.Fatal(r.Err)
	}
	want := []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/home", "TZ=CET", "ESPALIER_HOST=web-01",
		"A=2", "PROGRAM_MODE=environment", "GORACE=atexit_sleep_ms=0", "DIR=" + dir,
	}
	if got := slices.DeleteFunc(s.lines, func(v string) bool { return strings.HasPrefix(v, "PWD=") }); !slices.Equal(got, want) {
		t.Errorf("the program has %q, want %q", got, want)
	}
}

// TestNoise shows that what a program says on standard error is read and bounded.
func TestNoise(t *testing.T) {
	d, s := open(t, "noisy", exec.Options{})
	r := d.Apply(t.Context(), changes("a"))[0]
	if r.Err == nil || !strings.Contains(r.Err.Error(), "9999 zzz") || len(r.Err.Error()) > 1000 {
		t.Errorf("Apply = %v, want the last words", r.Err)
	}
	if len(s.lines) != 200 || len(s.warns) != 1 {
		t.Errorf("%d lines and %d warnings were logged, want 200 and 1", len(s.lines), len(s.warns))
	}
}

// TestNotStarted shows what is said of programs that can't be run.
func TestNotStarted(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ command, dir, want string }{
		{filepath.Join(dir, "nothing"), "", "there is no such program"},
		{file("plain", "#!/bin/sh\n", 0o600), "", "not an executable file"},
		{dir, "", "not an executable file"},
		{file("script", "#!/nowhere/sh\n", 0o700), "", "the interpreter that it names is not there"},
		{file("text", "hello", 0o700), "", "first line is #!"},
		{self, filepath.Join(dir, "nowhere"), "is not there"},
	} {
		d, err := exec.New(exec.Options{Command: []string{c.command}, Dir: c.dir})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range d.Apply(t.Context(), changes("a", "b")) {
			if r.Err == nil || !r.Untouched || !strings.Contains(r.Err.Error(), c.want) || !strings.Contains(r.Err.Error(), c.command) {
				t.Errorf("Apply by %s = %v, want %q", c.command, r.Err, c.want)
			}
		}
	}
}

// TestNew shows which options are refused, and what a driver says of itself.
func TestNew(t *testing.T) {
	ok := []string{"/bin/true"}
	for _, o := range []exec.Options{
		{},
		{Command: []string{""}},
		{Command: []string{"true"}},
		{Command: []string{"/bin/true", "a\x00b"}},
		{Command: ok, Dir: "here"},
		{Command: ok, Batch: -1},
		{Command: ok, Batch: exec.MaxBatch + 1},
		{Command: ok, Parallel: -1},
		{Command: ok, Parallel: exec.MaxParallel + 1},
		{Command: ok, Timeout: -1},
		{Command: ok, Timeout: exec.MaxTimeout + 1},
		{Command: ok, Grace: -1},
		{Command: ok, Env: []string{"=x"}},
		{Command: ok, Env: []string{"x"}},
	} {
		if _, err := exec.New(o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("New(%+v) = %v, want %v", o, err, desired.ErrInvalid)
		}
	}
	d, err := exec.New(exec.Options{Command: ok, Parallel: 2, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	want := driver.Batching{Objects: exec.DefaultBatch, Parallel: 2, Timeout: time.Second}
	if got := d.(driver.Batcher).Batching(); got != want {
		t.Errorf("Batching() = %+v, want %+v", got, want)
	}
	if _, ok := d.(driver.Scanner); ok {
		t.Error("a driver whose program does not check is a Scanner")
	}
	if r := d.Apply(t.Context(), nil); len(r) != 0 {
		t.Errorf("Apply(nil) = %v, want nothing", r)
	}
}

// TestSameID shows that two objects are not taken for one.
func TestSameID(t *testing.T) {
	d, _ := open(t, "ok", exec.Options{})
	all := changes("a", "b")
	all[1].ID = all[0].ID
	got := errorsOf(d.Apply(t.Context(), all))
	if got[0] != "" || !strings.Contains(got[1], `is that of "hook/a" already`) {
		t.Errorf("Apply = %q, want that the second can't be told apart", got)
	}
}

// TestLarge shows that what is written and what is read don't wait for each
// other.
func TestLarge(t *testing.T) {
	d, s := open(t, "record", exec.Options{})
	s.hear = nil
	value := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	var all []driver.Change
	for i := range 20 {
		all = append(all, change(strconv.Itoa(i), string(value)))
	}
	for i, r := range d.Apply(t.Context(), all) {
		if r.Err != nil {
			t.Errorf("object %d: %v", i, r.Err)
		}
	}
}
