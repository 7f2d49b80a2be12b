//go:build linux

package file_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/agent/driver/file"
	"espalier/internal/desired"
)

// host is a root folder with a driver, and the record that an agent would keep.
type host struct {
	*testing.T
	root   string
	driver *file.Driver
	notes  map[string][]byte
	want   map[string]*desired.Object
}

func newHost(t *testing.T, o file.Options) *host {
	t.Helper()
	if o.Root == "" {
		o.Root = t.TempDir()
	}
	d, err := file.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return &host{T: t, root: o.Root, driver: d, notes: map[string][]byte{}, want: map[string]*desired.Object{}}
}

// object makes up an object; attributes come as name, value, name, value.
func object(value string, attributes ...string) *desired.Object {
	o := &desired.Object{Value: []byte(value)}
	for i := 0; i < len(attributes); i += 2 {
		if o.Attributes == nil {
			o.Attributes = map[string]string{}
		}
		o.Attributes[attributes[i]] = attributes[i+1]
	}
	return o
}

// upsert and remove are changes as the record has them.
func (h *host) upsert(name string, o *desired.Object) driver.Change {
	o.Key = "files/" + name
	return driver.Change{Key: o.Key, Name: name, Object: o, ID: string(o.Value), Note: h.notes[name]}
}

func (h *host) remove(name string) driver.Change {
	return driver.Change{Key: "files/" + name, Name: name, Note: h.notes[name]}
}

// apply applies changes, records what is done, and returns the errors.
func (h *host) apply(changes ...driver.Change) []error {
	h.Helper()
	results := h.driver.Apply(h.Context(), changes)
	if len(results) != len(changes) {
		h.Fatalf("Apply returns %d results of %d changes", len(results), len(changes))
	}
	errs := make([]error, len(results))
	for i, r := range results {
		errs[i] = r.Err
		switch c := changes[i]; {
		case r.Err != nil:
			if r.Note != nil {
				h.Errorf("%s: a note beside an error", c.Name)
			}
		case c.Deleted():
			delete(h.notes, c.Name)
			delete(h.want, c.Name)
		default:
			if len(r.Note) == 0 || len(r.Note) > driver.MaxNoteBytes {
				h.Errorf("%s: a note of %d bytes", c.Name, len(r.Note))
			}
			h.notes[c.Name], h.want[c.Name] = r.Note, c.Object
		}
	}
	return errs
}

// must applies changes that have to succeed.
func (h *host) must(changes ...driver.Change) {
	h.Helper()
	for i, err := range h.apply(changes...) {
		if err != nil {
			h.Fatalf("apply %s: %v", changes[i].Name, err)
		}
	}
}

// refused applies a change that has to fail with an error that holds a text.
func (h *host) refused(c driver.Change, text string) error {
	h.Helper()
	err := h.apply(c)[0]
	if err == nil || !strings.Contains(err.Error(), text) {
		h.Errorf("apply %s = %v, want an error with %q", c.Name, err, text)
	}
	return err
}

func (h *host) path(name string) string { return filepath.Join(h.root, name) }

// holds fails unless the file has that content and mode.
func (h *host) holds(name, content string, mode os.FileMode) {
	h.Helper()
	b, err := os.ReadFile(h.path(name))
	if err != nil || string(b) != content {
		h.Errorf("%s holds %q, %v, want %q", name, b, err, content)
		return
	}
	if st, err := os.Lstat(h.path(name)); err != nil || st.Mode() != mode {
		h.Errorf("%s has mode %v, %v, want %v", name, st.Mode(), err, mode)
	}
}

func (h *host) write(name, content string) {
	h.Helper()
	if err := os.WriteFile(h.path(name), []byte(content), 0o644); err != nil {
		h.Fatal(err)
	}
}

func (h *host) absent(name string) {
	h.Helper()
	if _, err := os.Lstat(h.path(name)); !errors.Is(err, os.ErrNotExist) {
		h.Errorf("%s is there, %v, want nothing", name, err)
	}
}

// temps returns the temporary files below a folder.
func temps(t *testing.T, root string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if strings.HasPrefix(filepath.Base(path), ".espalier-") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// variants are drivers that do without something.
var variants = map[string]func(*file.Driver) *file.Driver{
	"as it is":        func(d *file.Driver) *file.Driver { return d },
	"without openat2": file.WithoutOpenat2,
	"without syncfs":  file.WithoutSyncfs,
	"without marks":   file.WithoutMarks,
	"without anything": func(d *file.Driver) *file.Driver {
		return file.WithoutOpenat2(file.WithoutSyncfs(file.WithoutMarks(d)))
	},
}

func TestApply(t *testing.T) {
	for name, variant := range variants {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, file.Options{})
			variant(h.driver)
			h.must(h.upsert("a", object("one")), h.upsert("b/c/d", object("two", "mode", "0600", "colour", "red")),
				h.upsert("b/link", object("", "symlink", "/nowhere/..")), h.upsert("b/run", object("", "mode", "0777")))
			h.holds("a", "one", 0o644)
			h.holds("b/c/d", "two", 0o600)
			h.holds("b/run", "", 0o777)
			if target, err := os.Readlink(h.path("b/link")); target != "/nowhere/.." {
				t.Errorf("b/link points to %q, %v", target, err)
			}
			h.must(h.upsert("a", object("", "symlink", "b")), h.upsert("b/link", object("now a file")), h.upsert("b/c/d", object("two", "mode", "0444")))
			h.holds("b/link", "now a file", 0o644)
			h.holds("b/c/d", "two", 0o444)
			if target, err := os.Readlink(h.path("a")); target != "b" {
				t.Errorf("a points to %q, %v", target, err)
			}
			// A file becomes a folder and a folder a file, within one batch.
			h.must(h.upsert("a/x/y", object("below")), h.remove("a"), h.upsert("b", object("flat")), h.remove("b/run"),
				h.remove("b/link"), h.remove("b/c/d"))
			h.holds("a/x/y", "below", 0o644)
			h.holds("b", "flat", 0o644)
			h.must(h.remove("b"), h.remove("a/x/y"), h.remove("never/was"))
			if left, err := os.ReadDir(h.root); len(left) > 0 || err != nil {
				t.Errorf("in the end %v is left, %v", left, err)
			}
		})
	}
}

func TestOwner(t *testing.T) {
	needRoot(t)
	h := newHost(t, file.Options{})
	h.must(h.upsert("f", object("x", "owner", "12:34", "mode", "0640")), h.upsert("l", object("", "symlink", "x", "owner", "root:12")))
	for name, want := range map[string][2]uint32{"f": {12, 34}, "l": {0, 12}} {
		st, err := os.Lstat(h.path(name))
		if err != nil {
			t.Fatal(err)
		}
		if s := st.Sys().(*syscall.Stat_t); s.Uid != want[0] || s.Gid != want[1] {
			t.Errorf("%s is of %d:%d, want %v", name, s.Uid, s.Gid, want)
		}
	}
	h.holds("f", "x", 0o640)
	h.refused(h.upsert("g", object("x", "owner", "nobody-of-that-name:0")), `user "nobody-of-that-name": unknown; create it`)
	h.refused(h.upsert("g", object("x", "owner", "root:nogroupofthatname")), `group "nogroupofthatname": unknown`)
	h.refused(h.upsert("g", object("x", "owner", "root")), `want "user:group"`)
	h.refused(h.upsert("g", object("x", "owner", "4294967295:0")), "invalid number")
	h.absent("g")
}

func TestMalformed(t *testing.T) {
	outside := t.TempDir()
	h := newHost(t, file.Options{})
	for _, c := range []struct {
		name string
		o    *desired.Object
		want string
	}{
		{"../x", object("x"), `a segment is ".."`},
		{"a/../../x", object("x"), `a segment is ".."`},
		{outside + "/x", object("x"), "it is absolute"},
		{"", object("x"), "it is empty"},
		{"a//b", object("x"), "segment between slashes is empty"},
		{"a/", object("x"), "segment between slashes is empty"},
		{"./a", object("x"), `a segment is "."`},
		{"a\x00b", object("x"), "control character"},
		{strings.Repeat("x", 256), object("x"), "has 256 bytes, at most 255"},
		{strings.Repeat("x/", 512) + "x", object("x"), "1025 bytes"},
		{"a/.espalier-0123456789abcdef", object("x"), "kept for the driver's temporary files"},
		{"a", object("x", "mode", "04755"), "setuid"},
		{"a", object("x", "mode", "1777"), "sticky"},
		{"a", object("x", "mode", "rw"), "octal permission bits"},
		{"a", object("x", "mode", "99999999999"), "octal permission bits"},
		{"a", object("x", "symlink", "y"), "it has a value of 1 bytes"},
		{"a", object("", "symlink", ""), "0 bytes, 1 to 4095"},
		{"a", object("", "symlink", strings.Repeat("x", 4096)), "4096 bytes, 1 to 4095"},
		{"a", object("", "symlink", "a\x00b"), "zero byte"},
	} {
		if err := h.refused(h.upsert(c.name, c.o), c.want); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("%q, %v: %v does not match %v", c.name, c.o.Attributes, err, desired.ErrInvalid)
		}
	}
	for _, dir := range []string{h.root, outside} {
		if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
			t.Errorf("%s holds %v, %v, want nothing", dir, left, err)
		}
	}
	// Names that are long and allowed.
	long := strings.Repeat("x", 255) + "/" + strings.Repeat("y", 255)
	deep := strings.Repeat("z/", 511) + "zz"
	h.must(h.upsert(long, object("long")), h.upsert(deep, object("deep")), h.upsert(".espalier-not", object("near")))
	h.holds(long, "long", 0o644)
	h.holds(deep, "deep", 0o644)
	h.must(h.remove(deep), h.remove(long))
	h.absent("z")
}

func TestNew(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o    file.Options
		want string
	}{
		{file.Options{}, "it is empty"},
		{file.Options{Root: filepath.Join(dir, "file")}, "not a directory"},
		{file.Options{Root: dir, MaxWatches: -1}, "less than 0"},
		{file.Options{Root: dir, Unmanaged: []string{"a/[b"}}, `segment "[b" is malformed`},
		{file.Options{Root: dir, Unmanaged: []string{"/a"}}, `segment "" is malformed`},
		{file.Options{Root: dir, Unmanaged: make([]string, file.MaxPatterns+1)}, "at most 1024"},
	} {
		if _, err := file.New(c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%+v) = %v, want an error with %q", c.o.Root, err, c.want)
		}
	}
	d, err := file.New(file.Options{Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	if b := d.Batching(); b.Objects < 100 || b.Bytes < desired.MaxValueBytes || b.Parallel < 1 {
		t.Errorf("Batching() = %+v", b)
	}
}

// TestLateRoot begins before its root is there.
func TestLateRoot(t *testing.T) {
	root := filepath.Join(t.TempDir(), "late")
	d, err := file.New(file.Options{Root: root})
	if err != nil {
		t.Fatal(err)
	}
	changes := []driver.Change{{Key: "files/a/b", Name: "a/b", Object: object("x"), ID: "1"}}
	r := d.Apply(t.Context(), changes)
	if r[0].Err == nil || !r[0].Untouched || !strings.Contains(r[0].Err.Error(), "create it, or mount what holds it") {
		t.Errorf("Apply below what isn't there = %+v", r[0])
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	if r := d.Apply(t.Context(), changes); r[0].Err != nil {
		t.Errorf("Apply below what is there by now = %v", r[0].Err)
	}
	if b, err := os.ReadFile(filepath.Join(root, "a", "b")); err != nil || string(b) != "x" {
		t.Errorf("it holds %q, %v", b, err)
	}
}

func TestForeign(t *testing.T) {
	for name, variant := range variants {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, file.Options{})
			variant(h.driver)
			h.write("theirs", "precious")
			err := h.refused(h.upsert("theirs", object("ours")), "move it away, or set adopt")
			if !errors.Is(err, file.ErrForeign) || !strings.Contains(err.Error(), "a file of 8 bytes, mode 0644, owner") {
				t.Errorf("the error is %v", err)
			}
			// Nor in doubt: somebody else's does not become ours by a crash.
			doubtful := h.upsert("theirs", object("ours"))
			doubtful.Doubt = true
			h.refused(doubtful, "move it away, or set adopt")
			h.holds("theirs", "precious", 0o644)
			// Deleting what the record says was never made leaves it alone.
			gone := h.remove("theirs")
			h.must(gone)
			gone.Doubt = true
			h.must(gone)
			h.holds("theirs", "precious", 0o644)
			// What is there as it shall be is taken over without a write.
			before := stat(t, h.path("theirs"))
			h.must(h.upsert("theirs", object("precious")))
			if after := stat(t, h.path("theirs")); after.Ino != before.Ino || after.Ctim != before.Ctim {
				t.Error("what was there as it shall be was written to")
			}
			h.must(h.remove("theirs"))
			h.absent("theirs")
		})
	}
}

func stat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return st
}

func TestAdopt(t *testing.T) {
	h := newHost(t, file.Options{Adopt: true})
	h.write("file", "theirs")
	if err := errors.Join(os.Symlink("elsewhere", h.path("link")), os.Mkdir(h.path("dir"), 0o755), unix.Mkfifo(h.path("fifo"), 0o644)); err != nil {
		t.Fatal(err)
	}
	h.must(h.upsert("file", object("ours")), h.upsert("link", object("ours, too")))
	h.holds("file", "ours", 0o644)
	h.holds("link", "ours, too", 0o644)
	h.refused(h.upsert("dir", object("x")), "a folder, owner")
	h.refused(h.upsert("fifo", object("x")), "a named pipe")
	h.absent("elsewhere")
}

// TestDoubt cuts attempts short after the fact: the files are made, the notes are
// lost, and what shall be has changed since.
func TestDoubt(t *testing.T) {
	h := newHost(t, file.Options{})
	h.must(h.upsert("a", object("one")), h.upsert("b", object("one")), h.upsert("c", object("one")), h.upsert("d", object("one")))
	if h.must(h.upsert("l", object("", "symlink", "one"))); os.Geteuid() != 0 {
		t.Log("not root: links can't bear the mark")
	}
	clear(h.notes)
	// A copy doesn't pass for the original, attributes included.
	if err := os.Rename(h.path("c"), h.path("original")); err != nil {
		t.Fatal(err)
	}
	h.write("c", "copy")
	for _, name := range []string{"trusted.espalier", "user.espalier"} {
		value := make([]byte, 8)
		if n, err := unix.Getxattr(h.path("original"), name, value); err == nil {
			if err := unix.Setxattr(h.path("c"), name, value[:n], 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	doubt := func(c driver.Change) driver.Change {
		c.Doubt = true
		return c
	}
	h.must(doubt(h.upsert("a", object("two"))), doubt(h.remove("b")))
	h.holds("a", "two", 0o644)
	h.absent("b")
	h.refused(doubt(h.upsert("c", object("two"))), "set adopt")
	h.holds("c", "copy", 0o644)
	h.refused(h.upsert("d", object("two")), "set adopt") // not in doubt: the record is right
	if os.Geteuid() == 0 {
		h.must(doubt(h.upsert("l", object("", "symlink", "two"))))
	}
}

func TestUnmanaged(t *testing.T) {
	h := newHost(t, file.Options{Unmanaged: []string{"tmp", "etc/*.local", "**/cache"}})
	changes := []driver.Change{
		h.upsert("tmp/x", object("x")), h.upsert("etc/a.local", object("x")), h.upsert("a/b/cache/c", object("x")),
		h.remove("tmp/y"), h.upsert("etc/a.conf", object("x")),
	}
	errs := h.apply(changes...)
	for i, c := range changes {
		if want := i < 4; errors.Is(errs[i], driver.ErrUnmanaged) != want {
			t.Errorf("apply %s = %v, unmanaged should be %t", c.Name, errs[i], want)
		}
	}
	h.holds("etc/a.conf", "x", 0o644)
	h.absent("tmp")
	h.absent("a")
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "a/b", true},
		{"a", "ab", false},
		{"a/b", "a", false},
		{"a/*", "a/b/c", true},
		{"a/*", "a", false},
		{"*.conf", "x.conf", true},
		{"*.conf", "a/x.conf", false},
		{"**/x.conf", "x.conf", true},
		{"**/x.conf", "a/b/x.conf", true},
		{"**/x.conf", "a/b/y.conf", false},
		{"a/**/b/**/c", "a/b/b/x/c", true},
		{"a/**/b/**/c", "a/x/c/b", false},
		{"a/**/b/c", "a/b/x/b/c", true},
		{"a/**", "a", true},
		{"**", "x", true},
		{"[a-c]x", "bx", true},
	} {
		if got, err := file.Match([]string{c.pattern}, c.name); got != c.want || err != nil {
			t.Errorf("Match(%q, %q) = %t, %v, want %t", c.pattern, c.name, got, err, c.want)
		}
	}
}

// TestFolders removes folders that are empty and ours, and no others.
func TestFolders(t *testing.T) {
	for name, variant := range variants {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, file.Options{})
			variant(h.driver)
			if err := os.MkdirAll(h.path("theirs/sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			h.must(h.upsert("theirs/sub/a", object("x")), h.upsert("theirs/ours/b", object("x")), h.upsert("ours/c/d", object("x")),
				h.upsert("mixed/e/f", object("x")), h.upsert("kept/g", object("x")), h.upsert("kept/h", object("x")))
			h.write("mixed/note", "somebody else's")
			h.must(h.remove("theirs/sub/a"), h.remove("theirs/ours/b"), h.remove("ours/c/d"), h.remove("mixed/e/f"), h.remove("kept/g"))
			for _, gone := range []string{"theirs/ours", "ours", "mixed/e", "kept/g"} {
				h.absent(gone)
			}
			for _, kept := range []string{"theirs/sub", "mixed/note", "kept/h"} {
				stat(t, h.path(kept))
			}
			// A folder that goes and comes within a batch stays the same.
			before := stat(t, h.path("kept"))
			h.must(h.remove("kept/h"), h.upsert("kept/i", object("x")))
			if after := stat(t, h.path("kept")); after.Ino != before.Ino {
				t.Error("the folder was removed and made anew")
			}
			if os.RemoveAll(h.path("kept")) != nil {
				t.Fatal("can't remove")
			}
			h.must(h.remove("kept/i")) // gone is gone
		})
	}
}

// TestFailedLeavesNothing makes folders for a file that can't be made.
func TestFailedLeavesNothing(t *testing.T) {
	h := newHost(t, file.Options{})
	if err := unix.Mkfifo(h.path("fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	h.write("flat", "x")
	errs := h.apply(h.upsert("fifo/a", object("x")), h.upsert("flat/b/c", object("x")), h.upsert("fine", object("x")))
	if errs[0] == nil || errs[1] == nil || errs[2] != nil {
		t.Errorf("apply = %v, want the first two to fail", errs)
	}
	if !strings.Contains(fmt.Sprint(errs[0]), "a named pipe, and not followed") || !strings.Contains(fmt.Sprint(errs[1]), "it is a file") {
		t.Errorf("the errors are %v", errs)
	}
	if left := temps(t, h.root); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}
