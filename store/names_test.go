package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// oddNames are no names of sets, and would lead astray as file names.
var oddNames = []desired.Name{
	"", ".", "..", "../set", "../../etc/passwd", "/etc/passwd", "a/b", "a/../b", "a/", "/a", "./a", `..\a`, `a\b`, "a\x00", "a\x00.db", "a\n",
	".hidden", "a.", "-rf", "~", "~root", "a~", "$HOME", "*", "a b", "A", "ä", "\xff", "a:b", "CON", desired.Name(strings.Repeat("n", 254)),
}

// files returns all files below dir.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestOddNames: what is no name is refused by whatever makes or replaces a file,
// and no file comes of it.
func TestOddNames(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "in", "data")
	s := openStore(t, dir, quiet)
	commit(t, s, "set", edit{"a": ptr("1")})
	backup := filepath.Join(outside, "backup")
	if _, err := s.Backup(t.Context(), "set", backup); err != nil {
		t.Fatal(err)
	}
	f, err := store.OpenFile(backup)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := files(t, outside)
	for _, name := range oddNames {
		_, err := s.Commit(t.Context(), name, store.Commit{Changes: edit{"a": ptr("1")}.changes()})
		if !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("Commit to %q = %v, want %v", name, err, desired.ErrInvalid)
		}
		if _, err := s.RestoreFile(t.Context(), name, f, store.Restore{}); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("RestoreFile to %q = %v, want %v", name, err, desired.ErrInvalid)
		}
		if _, err := store.OpenMirror(dir, name, quiet); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("OpenMirror of %q = %v, want %v", name, err, desired.ErrInvalid)
		}
		for what, err := range map[string]error{
			"Delete": s.Delete(t.Context(), name),
			"View":   s.View(name, func(*store.Snapshot) error { return nil }),
		} {
			if !errors.Is(err, store.ErrNotFound) && !errors.Is(err, desired.ErrInvalid) {
				t.Errorf("%s of %q = %v, want %v", what, name, err, store.ErrNotFound)
			}
		}
	}
	if after := files(t, outside); !slices.Equal(after, before) {
		t.Errorf("there are %q, want %q", after, before)
	}
}

// TestNamesAreFiles: each set has files of its own right in the folder of sets,
// with names that a file system takes: whatever endings the name has, however
// long it is, and though it begins like another.
func TestNamesAreFiles(t *testing.T) {
	var names []desired.Name
	for n := 200; n <= desired.MaxNameBytes; n++ {
		names = append(names, desired.Name(strings.Repeat("n", n)))
	}
	long := strings.Repeat("n", desired.MaxNameBytes-1)
	names = append(names, desired.Name(long+"a"), desired.Name("a"+long), desired.Name(long[:250]+"-0z"))
	names = append(names, "a", "a.db", "a.db.floor", "a.db.floor2", "a.db.new", "a.db.staging", "a.db.floor.new", "a..b", "a--b", "0")

	dir, home := t.TempDir(), t.TempDir()
	s := openStore(t, dir, quiet)
	epoch := desired.NewEpoch()
	for i, name := range names {
		commit(t, s, name, edit{"name": ptr(string(name))})
		m, err := store.OpenMirror(home, name, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if !m.Floor().Epoch.IsZero() {
			t.Errorf("%s: a new mirror has a floor", name)
		}
		head := desired.Head{Revision: desired.Revision{
			Position: desired.Position{Epoch: epoch, Number: uint64(i) + 1}, Root: merkle.EmptyRoot(),
		}}
		if err := m.Adopt(t.Context(), head, edit{}.changes()); err != nil {
			t.Errorf("%s: Adopt = %v", name, err)
		}
		m.Close()
	}
	s.Close()
	s = openStore(t, dir, quiet)
	for i, name := range names {
		view(t, s, name, func(snap *store.Snapshot) { model{"name": string(name)}.verify(t, snap) })
		m, err := store.OpenMirror(home, name, quiet)
		if err != nil {
			t.Fatal(err)
		}
		if m.Floor().Number != uint64(i)+1 || m.Head().Number != uint64(i)+1 {
			t.Errorf("%s: its mirror is at %v with floor %v, want %d", name, m.Head().Position, m.Floor().Position, i+1)
		}
		m.Close()
	}
	count := func(dir string, each int) {
		t.Helper()
		all, err := os.ReadDir(filepath.Join(dir, "sets"))
		if err != nil || len(all) != each*len(names) {
			t.Errorf("%d files in the folder of sets, %v, want %d", len(all), err, each*len(names))
		}
		for _, f := range all {
			if len(f.Name())+len(".new") > 255 && strings.HasSuffix(f.Name(), ".floor2") || len(f.Name()) > 255 || !f.Type().IsRegular() {
				t.Errorf("%s is no good file name", f.Name())
			}
		}
	}
	count(dir, 1)
	count(home, 3) // the mirror and two copies of its floor
}

// TestOddKeys: keys that would lead astray as paths are refused, by what takes
// changes from a user and by what takes them from a server; those that only look
// like it are not.
func TestOddKeys(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	commit(t, s, "set", edit{"a": ptr("1")})
	m := openMirror(t, t.TempDir(), quiet)
	st, err := m.Stage(t.Context(), store.StageEmpty, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"..", ".", "/", "//", "/etc/passwd", "../etc/passwd", "a/../../etc/passwd", "a/..", "a/.", "a/./b", "a//b", "a/", "\x00", "a\x00", "a\x00/../b",
		"a\nb", "a/\x7f", "a\u0085b", "\xff", "a/\xc0\xae\xc0\xae/b", "\xc0\xaf",
	} {
		for _, value := range []*string{ptr("1"), nil} {
			refused(t, s, store.Commit{Changes: edit{key: value}.changes()}, desired.ErrInvalid)
			if err := st.Write(t.Context(), edit{key: value}.list(), nil); !errors.Is(err, desired.ErrInvalid) {
				t.Errorf("Write of %q = %v, want %v", key, err, desired.ErrInvalid)
			}
			head := desired.Head{Revision: desired.Revision{
				Position: desired.Position{Epoch: desired.Epoch{1}, Number: 1}, Root: model{key: "1"}.root(0),
			}}
			if err := m.Adopt(t.Context(), head, edit{key: value}.changes()); !errors.Is(err, desired.ErrInvalid) {
				t.Errorf("Adopt of %q = %v, want %v", key, err, desired.ErrInvalid)
			}
		}
	}
	fine := edit{}
	for _, key := range []string{`..\etc`, `a\..\b`, `C:\a`, "...", "a/...", "..a", "a..", ".a/.b", "-rf", "~/a", "%2e%2e/a", "a/%2f", "．．/a", "∕etc"} {
		fine[key] = ptr("1") // a backslash and what looks like a dot or slash mean nothing
	}
	commit(t, s, "set", fine)
	checkClean(t, s, "set")
}
