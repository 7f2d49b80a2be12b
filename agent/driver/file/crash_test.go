//go:build linux

package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/agent/driver/file"
	"espalier/internal/desired"
)

// childRoot is the variable that makes the test binary a child that works below
// the root that it names.
const childRoot = "ESPALIER_TEST_FILE_ROOT"

func TestMain(m *testing.M) {
	root := os.Getenv(childRoot)
	if root == "" {
		os.Exit(m.Run())
	}
	var err error
	switch os.Getenv(childRoot + "_DOES") {
	case "churn":
		err = churn(root)
	case "once":
		err = once(root)
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// child is this binary in that role.
func child(ctx context.Context, root, does string, before ...string) *exec.Cmd {
	args := append(before, os.Args[0])
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = append(os.Environ(), childRoot+"="+root, childRoot+"_DOES="+does)
	return c
}

// whole returns the content that tells which version of a file it is of, and
// whether it is all of it.
func whole(name string, version uint64) string {
	line := fmt.Sprintf("version %d of %s\n", version, name)
	return strings.Repeat(line, 1+20_000/len(line))
}

func isWhole(name, content string) bool {
	var version uint64
	_, err := fmt.Sscanf(content, "version %d of ", &version)
	return err == nil && content == whole(name, version)
}

// churn replaces files, and makes and deletes some, until it is killed.
func churn(root string) error {
	d, err := file.New(file.Options{Root: root, Adopt: true})
	if err != nil {
		return err
	}
	if rand.IntN(2) == 0 {
		file.WithSyncfs(d)
	}
	notes := map[string][]byte{}
	for version := rand.Uint64(); ; version++ {
		var changes []driver.Change
		for i := range 60 {
			name := fmt.Sprintf("d%d/%d", i%3, i)
			c := driver.Change{Key: name, Name: name, Note: notes[name], Doubt: true}
			if i < 40 || (version+uint64(i))%5 > 0 {
				c.Object = &desired.Object{Key: name, Value: []byte(whole(name, version))}
			}
			changes = append(changes, c)
		}
		for i, r := range d.Apply(context.Background(), changes) {
			if r.Err != nil {
				return r.Err
			}
			notes[changes[i].Name] = r.Note
		}
		fmt.Println(version)
	}
}

// TestKill kills a process in the midst of batches, again and again: every file is
// one version or another, and the next one cleans up.
func TestKill(t *testing.T) {
	root := t.TempDir()
	left, kills := 0, 30
	if testing.Short() {
		kills = 10
	}
	for range kills {
		c := child(t.Context(), root, "churn")
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fscanln(out, new(uint64)); err != nil {
			t.Errorf("the child ends by itself: %v", err)
		}
		time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond) // any time is as good
		if err := c.Process.Kill(); err != nil {
			t.Error(err)
		}
		if c.Wait(); stderr.Len() > 0 {
			t.Fatalf("the child says %s", &stderr)
		}
		left += len(temps(t, root))
		checkWhole(t, root)
	}
	t.Logf("%d temporary files were left over in %d kills", left, kills)
	// What can be told from a leftover stays.
	if err := os.WriteFile(filepath.Join(root, "d0/.espalier-theirs"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "d0/.espalier-0123456789abcdef"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h := newHost(t, file.Options{Root: root, Adopt: true})
	h.must(h.upsert("d0/x", object("x")), h.upsert("d1/x", object("x")), h.upsert("d2/x", object("x")))
	if got := temps(t, root); len(got) != 1 || filepath.Base(got[0]) != ".espalier-theirs" {
		t.Errorf("%v is left over after the next batch, want the file of somebody else alone", got)
	}
}

// checkWhole fails if a file below root is none of its versions.
func checkWhole(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || strings.HasPrefix(e.Name(), ".espalier-") {
			return err
		}
		name, _ := filepath.Rel(root, path)
		b, err := os.ReadFile(path)
		if !isWhole(name, string(b)) {
			t.Errorf("%s is torn: %d bytes, beginning with %.50q", name, len(b), b)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReader reads a file all the time while it is replaced: it is always there,
// and whole.
func TestReader(t *testing.T) {
	h := newHost(t, file.Options{})
	h.must(h.upsert("a", object(whole("a", 0))))
	stop, done := make(chan struct{}), make(chan error)
	reads := 0
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			b, err := os.ReadFile(h.path("a"))
			if err != nil || !isWhole("a", string(b)) {
				done <- fmt.Errorf("read %d: %w, %d bytes, beginning with %.50q", reads, err, len(b), b)
				return
			}
			reads++
		}
	}()
	for version := range uint64(200) {
		h.must(h.upsert("a", object(whole("a", version))))
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Logf("%d reads", reads)
}

// onceFiles is how many files the child "once" replaces.
const onceFiles = 10

// once applies one batch over what TestFaults has prepared, and says what became
// of each change.
func once(root string) error {
	d, err := file.New(file.Options{Root: root, Adopt: true})
	if err != nil {
		return err
	}
	if os.Getenv(childRoot+"_EACH") == "" {
		file.WithSyncfs(d)
	}
	var changes []driver.Change
	for _, name := range onceNames() {
		o := &desired.Object{Key: name, Value: []byte(whole(name, 2)), Attributes: map[string]string{"mode": "0666"}}
		if name == "link" {
			o.Value, o.Attributes = nil, map[string]string{"symlink": "new"}
		}
		changes = append(changes, driver.Change{Key: name, Name: name, Object: o})
	}
	for i, r := range d.Apply(context.Background(), changes) {
		fmt.Printf("%s=%v\n", changes[i].Name, r.Err)
	}
	os.Exit(0)
	return nil
}

func onceNames() []string {
	names := []string{"new", "newfolder/deep/a", "link"}
	for i := range onceFiles {
		names = append(names, fmt.Sprint("f", i))
	}
	return names
}

// strace returns how to run a program under it, or skips the test.
func strace(t *testing.T, args ...string) []string {
	t.Helper()
	path, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if out, err := exec.CommandContext(t.Context(), path, "-o", os.DevNull, "true").CombinedOutput(); err != nil {
		t.Skipf("strace may not trace here: %v: %s", err, out)
	}
	return append([]string{path, "-f"}, args...)
}

// prepareOnce makes what the child "once" finds.
func prepareOnce(t *testing.T, root string) {
	t.Helper()
	for i := range onceFiles {
		name := fmt.Sprint("f", i)
		if err := os.WriteFile(filepath.Join(root, name), []byte(whole(name, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("old", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
}

// TestFaults has each system call of a batch fail in turn, the first time, later
// and always: whatever is not reported done says why, nothing is torn, and nothing
// is left over.
func TestFaults(t *testing.T) {
	for _, fault := range []struct{ errno, says string }{
		{"ENOSPC", "no space left on device: free space, or inodes"},
		{"EIO", "input/output error: check the disk"},
		{"EROFS", "read-only file system: remount"},
		{"EDQUOT", "disk quota exceeded: raise the quota"},
	} {
		for _, call := range []string{"mkdirat", "fchmod", "syncfs", "renameat2", "renameat", "symlinkat", "fsync"} {
			for _, when := range []string{"1", "2", "3+", "1+"} {
				if fault.errno != "ENOSPC" && (testing.Short() || when != "2") {
					continue
				}
				t.Run(fault.errno+"/"+call+"/"+when, func(t *testing.T) {
					testFault(t, call, fmt.Sprintf("%s:error=%s:when=%s", call, fault.errno, when), fault.says)
				})
			}
		}
	}
}

func testFault(t *testing.T, call, inject, says string) {
	root := t.TempDir()
	prepareOnce(t, root)
	c := child(t.Context(), root, "once", strace(t, "-o", os.DevNull, "-e", "inject="+inject)...)
	if call == "fsync" {
		c.Env = append(c.Env, childRoot+"_EACH=1")
	}
	out, err := c.Output()
	if err != nil {
		t.Fatalf("the child ends with %v: %s", err, out)
	}
	results := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, result, _ := strings.Cut(strings.TrimSpace(line), "=")
		results[name] = result
	}
	failed := 0
	for _, name := range onceNames() {
		got, err := os.ReadFile(filepath.Join(root, name))
		if name == "link" {
			target, e := os.Readlink(filepath.Join(root, name))
			got, err = []byte(whole(name, map[string]uint64{"old": 1, "new": 2}[target])), e
		}
		switch result, ok := results[name]; {
		case !ok:
			t.Errorf("%s has no result", name)
		case err != nil && (!errors.Is(err, fs.ErrNotExist) || result == "<nil>"):
			t.Errorf("%s: %v, and its result is %s", name, err, result)
		case err == nil && string(got) != whole(name, 2) && (result == "<nil>" || string(got) != whole(name, 1)):
			t.Errorf("%s holds %.50q, and its result is %s", name, got, result)
		case result != "<nil>":
			failed++
			if !strings.Contains(result, says) {
				t.Errorf("%s fails with %s, want it to say %q", name, result, says)
			}
		}
	}
	if left := temps(t, root); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if call == "syncfs" && failed != 0 && failed != len(results) {
		t.Errorf("%d of %d fail, want all or none", failed, len(results))
	}
	if call != "symlinkat" && failed == 0 && !strings.HasSuffix(inject, "when=2") && !strings.HasSuffix(inject, "when=3+") {
		t.Error("nothing fails: the fault was not met")
	}
}

// TestOrder looks at the order of system calls: all is synced between the last
// write and the first rename, and after the last rename.
func TestOrder(t *testing.T) {
	root := t.TempDir()
	prepareOnce(t, root)
	trace := filepath.Join(t.TempDir(), "trace")
	args := strace(t, "-o", trace, "-e", "trace=syncfs,renameat,renameat2,fchmod,symlinkat,write")
	if out, err := child(t.Context(), root, "once", args...).CombinedOutput(); err != nil {
		t.Fatalf("the child ends with %v: %s", err, out)
	}
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for line := range strings.Lines(string(b)) {
		_, call, _ := strings.Cut(line, " ")
		call, rest, _ := strings.Cut(strings.TrimSpace(call), "(")
		switch {
		case call == "write" && (strings.HasPrefix(rest, "1,") || !strings.Contains(rest, "version 2")):
			if !strings.HasPrefix(rest, "1,") {
				continue
			}
			call = "report"
		case call == "renameat2":
			call = "renameat"
		case call == "fchmod", call == "symlinkat":
			call = "write"
		case call != "write" && call != "syncfs" && call != "renameat":
			continue
		}
		if len(order) == 0 || order[len(order)-1] != call {
			order = append(order, call)
		}
	}
	if got, want := strings.Join(order, " "), "write syncfs renameat syncfs report"; got != want {
		t.Errorf("the calls are %s, want %s", got, want)
	}
}

// TestFull fills a small file system, so that no file, no folder, and no content
// finds room, in turn.
func TestFull(t *testing.T) {
	for _, c := range []struct{ name, options string }{
		{"no room for content", "size=256k,nr_inodes=1000"},
		{"no room for inodes", "size=64m,nr_inodes=30"},
		{"no room for folders", "size=64m,nr_inodes=24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := filepath.Join(t.TempDir(), "full")
			mount(t, root, c.options)
			h := newHost(t, file.Options{Root: root})
			for version := range uint64(3) {
				var changes []driver.Change
				for i := range 20 {
					name := fmt.Sprintf("%d/%d", i, i)
					changes = append(changes, h.upsert(name, object(whole(name, version))))
				}
				failed := 0
				for i, err := range h.apply(changes...) {
					if err == nil {
						continue
					}
					failed++
					if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left on device: free space, or inodes") ||
						!strings.Contains(err.Error(), fmt.Sprintf("full/%d", i)) {
						t.Errorf("%s fails with %v", changes[i].Name, err)
					}
				}
				if failed == 0 || version == 0 && failed == len(changes) {
					t.Errorf("%d of %d fail, want some", failed, len(changes))
				}
				checkWhole(t, root)
				if left := temps(t, root); len(left) > 0 {
					t.Errorf("left over: %v", left)
				}
			}
			var changes []driver.Change
			for _, name := range slices.Sorted(maps.Keys(h.notes)) {
				changes = append(changes, h.remove(name))
			}
			h.must(changes...)
			if left, err := os.ReadDir(root); len(left) > 0 || err != nil {
				t.Errorf("in the end %v is left, %v", left, err)
			}
		})
	}
}

// TestReadOnly says that a file system takes no writes.
func TestReadOnly(t *testing.T) {
	root := filepath.Join(t.TempDir(), "ro")
	mount(t, root, "size=1m")
	h := newHost(t, file.Options{Root: root})
	h.must(h.upsert("a", object("x")))
	if err := unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Skipf("it can't be remounted: %v", err)
	}
	h.refused(h.upsert("a", object("y")), "read-only file system: remount the file system")
	h.refused(h.upsert("b/c", object("y")), "read-only file system: remount the file system")
	h.refused(h.remove("a"), "read-only file system: remount the file system")
	h.holds("a", "x", 0o644)
}

// TestStopped ends a batch before its end: what is reported done is, and nothing
// is left over.
func TestStopped(t *testing.T) {
	h := newHost(t, file.Options{})
	enough := errors.New("enough")
	ctx, stop := context.WithCancelCause(t.Context())
	stop(enough)
	var changes []driver.Change
	for i := range 20 {
		changes = append(changes, h.upsert(fmt.Sprint("d/", i), object("x")))
	}
	for i, r := range h.driver.Apply(ctx, changes) {
		if !errors.Is(r.Err, enough) || r.Note != nil {
			t.Errorf("%s: %v, want %v", changes[i].Name, r.Err, enough)
		}
	}
	if left, err := os.ReadDir(h.root); len(left) > 0 || err != nil {
		t.Errorf("in the end %v is left, %v", left, err)
	}
}
