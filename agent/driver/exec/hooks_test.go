package exec_test

import (
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"testing"

	"espalier/agent/driver"
	"espalier/agent/driver/exec"
	"espalier/internal/desired"
)

// hook is one of the examples, and the folder that it keeps.
type hook struct {
	driver.Driver
	dir string
}

func openHook(t *testing.T, name string) hook {
	t.Helper()
	path, err := filepath.Abs("../../../examples/exec/" + name)
	if err != nil {
		t.Fatal(err)
	}
	h := hook{dir: filepath.Join(t.TempDir(), "folder")}
	o := exec.Options{Command: []string{path}, Check: true, Env: []string{"HOOK_DIR=" + h.dir, "HOOK_SYNC=true"}} // a test of no power cuts
	if name == "hook.py" {
		python, err := osexec.LookPath("python3")
		if err != nil {
			t.Skip("there is no python3 here, so that the example in Python is not tried")
		}
		o.Command = []string{python, path, h.dir, filepath.Join(t.TempDir(), "state")}
	}
	if h.Driver, err = exec.New(o); err != nil {
		t.Fatal(err)
	}
	return h
}

// apply applies changes, and returns their notes, which have to be nil for those
// that fail as want says, in its order.
func (h hook) apply(t *testing.T, all []driver.Change, want ...string) map[string][]byte {
	t.Helper()
	notes := map[string][]byte{}
	for i, r := range h.Apply(t.Context(), all) {
		text := ""
		if r.Err != nil {
			text = r.Err.Error()
		}
		if expected := want[i]; (text == "") != (expected == "") || !strings.Contains(text, expected) {
			t.Errorf("%s: error %q, want %q", all[i].Name, text, expected)
		}
		notes[all[i].Name] = r.Note
	}
	return notes
}

func (h hook) holds(t *testing.T, name, want string) {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(h.dir, name))
	if err != nil && want != "" || string(got) != want {
		t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
	}
}

// drifts looks at objects that were made true, and returns what is said of each.
func (h hook) drifts(t *testing.T, notes map[string][]byte, contents map[string]string, names ...string) string {
	t.Helper()
	var known []driver.Known
	for _, name := range names {
		known = append(known, driver.Known{Key: "hook/" + name, Name: name, Note: notes[name]})
	}
	s := driver.Scan{Contents: contents != nil, Load: func(key string) (*desired.Object, error) {
		return &desired.Object{Key: key, Value: []byte(contents[strings.TrimPrefix(key, "hook/")])}, nil
	}}
	found, _, _, err := scanned(t, h.Driver, known, s)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, name := range names {
		if f, ok := found[name]; ok {
			texts = append(texts, fmt.Sprint(name, ": ", f.Drift, f.Err))
		}
	}
	return strings.Join(texts, ", ")
}

func deletion(name string) driver.Change {
	return driver.Change{Key: "hook/" + name, Name: name, ID: "gone-" + name}
}

func TestHookInShell(t *testing.T) {
	h := openHook(t, "hook.sh")
	withAttribute := change("d", "fourth")
	withAttribute.Object.Attributes = map[string]string{"value": "none of this"}
	all := []driver.Change{
		change("a", "first"), change("b", ""), change("quoted", `"`), change("bytes", "\xff"), change("deep/er", "x"),
		change("lines", "one\ntwo"), withAttribute,
	}
	notes := h.apply(t, all, "", "", "no escapes", "text alone", "without a slash", "no escapes", "")
	h.holds(t, "a", "first\n")
	h.holds(t, "b", "\n")
	h.holds(t, "d", "fourth\n")
	if err := os.Remove(filepath.Join(h.dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "a"), []byte("changed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := h.drifts(t, notes, nil, "a", "b", "d"), "b: missing<nil>"; got != want {
		t.Errorf("a look finds %q, want %q", got, want)
	}
	want := "a: another line<nil>, b: missing<nil>"
	if got := h.drifts(t, notes, map[string]string{"a": "first", "d": "fourth"}, "a", "b", "d"); got != want {
		t.Errorf("a look at contents finds %q, want %q", got, want)
	}
	h.apply(t, []driver.Change{deletion("a"), deletion("a-that-never-was"), change("d", "anew")}, "", "", "")
	h.holds(t, "a", "")
	h.holds(t, "d", "anew\n")
}

func TestHookInPython(t *testing.T) {
	h := openHook(t, "hook.py")
	all := []driver.Change{change("a", "one\n\"two\""), change("bytes", "\xff\x00"), change("deep/er", "x")}
	notes := h.apply(t, all, "", "", "without a slash")
	h.holds(t, "a", "one\n\"two\"")
	h.holds(t, "bytes", "\xff\x00")

	// What comes again is not done again, unless there is a doubt.
	if err := os.WriteFile(filepath.Join(h.dir, "a"), []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := h.apply(t, all[:1], "")
	if h.holds(t, "a", "changed"); !strings.HasSuffix(string(again["a"]), "again") {
		t.Errorf("the note is %q, want that it was done", again["a"])
	}
	if got, want := h.drifts(t, notes, nil, "a", "bytes"), ""; got != want {
		t.Errorf("a look finds %q, want %q", got, want)
	}
	if got, want := h.drifts(t, notes, map[string]string{"a": "one\n\"two\"", "bytes": "\xff\x00"}, "a", "bytes"), "a: other contents<nil>"; got != want {
		t.Errorf("a look at contents finds %q, want %q", got, want)
	}
	doubted := all[0]
	doubted.Doubt = true
	h.apply(t, []driver.Change{doubted}, "")
	h.holds(t, "a", "one\n\"two\"")

	// Back to what it was, by way of another: the id of then is not in force.
	other := change("a", "other")
	other.ID = "another"
	h.apply(t, []driver.Change{other}, "")
	h.holds(t, "a", "other")
	h.apply(t, all[:1], "")
	h.holds(t, "a", "one\n\"two\"")
	h.apply(t, []driver.Change{deletion("a"), deletion("a-that-never-was")}, "", "")
	h.holds(t, "a", "")
	if got, want := h.drifts(t, notes, nil, "a", "bytes"), "a: made by another change<nil>"; got != want {
		t.Errorf("a look finds %q, want %q", got, want)
	}
}
