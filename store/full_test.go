//go:build linux

package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"espalier/internal/desired"
	"espalier/store"
)

// smallDisk mounts a disk of so many MiB.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Skipf("a small disk can't be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk leaves so many KiB free, until the function that it returns is
// called.
func fillDisk(t *testing.T, dir string, left int) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, int(st.Bavail)*int(st.Bsize)-left<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// large returns n objects of 10,000 bytes.
func large(n int, value string) edit {
	e := edit{}
	for i := range n {
		e[fmt.Sprintf("large/%06d", i)] = ptr(fmt.Sprintf("%-10000s", value))
	}
	return e
}

func TestFullDisk(t *testing.T) {
	dir := smallDisk(t, 48)
	s := openStore(t, dir, quiet)
	m := model{}.apply(numbered(500, "1"))
	commit(t, s, "set", m.puts())
	verify := func(what string) {
		t.Helper()
		view(t, s, "set", func(snap *store.Snapshot) { m.verify(t, snap) })
		checkClean(t, s, "set")
		if left, _ := filepath.Glob(dir + "/sets/*.new"); len(left) > 0 {
			t.Errorf("%s: left over: %v", what, left)
		}
	}
	refuse := func(what string, e edit) {
		t.Helper()
		_, err := s.Commit(t.Context(), "set", store.Commit{Changes: e.changes()})
		if !errors.Is(err, store.ErrDiskFull) {
			t.Fatalf("%s on a full disk = %v, want %v", what, err, store.ErrDiskFull)
		}
		verify(what)
	}
	refuse("a rewrite", large(6000, "1")) // finds room at first
	free := fillDisk(t, dir, 300)
	refuse("a commit in place", large(200, "1"))
	refuse("a rewrite without room", large(2000, "1"))
	if _, err := s.Compact(t.Context(), "set", store.CompactOptions{}); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("Compact = %v", err)
	}
	if _, err := s.Backup(t.Context(), "set", dir+"/backup"); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("Backup = %v", err)
	}
	small := edit{"k/000": ptr("2")}
	m = m.apply(small)
	commit(t, s, "set", small)
	verify("a small commit on a nearly full disk")
	free()
	more := large(200, "1")
	m = m.apply(more)
	commit(t, s, "set", more)
	verify("a commit with room again")
}

func TestFullDiskMirror(t *testing.T) {
	dir := smallDisk(t, 48)
	src := newSource(t, model{}.apply(large(300, "1")))
	m := openMirror(t, dir, quiet)
	src.sync(m)
	free := fillDisk(t, dir, 500)
	if _, err := m.Stage(t.Context(), store.StageCopy, src.salt()); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("StageCopy = %v, want %v", err, store.ErrDiskFull)
	}
	e := large(100, "2")
	before := src.model
	src.commit(e)
	if err := m.Adopt(t.Context(), src.head(), e.changes()); !errors.Is(err, store.ErrDiskFull) {
		t.Errorf("Adopt = %v, want %v", err, store.ErrDiskFull)
	}
	viewMirror(t, m, func(snap *store.Snapshot) { before.verify(t, snap) })
	st, err := m.Stage(t.Context(), store.StageEmpty, src.salt())
	if err != nil {
		t.Fatal(err)
	}
	staged := fillStaging(t, st, src.model.puts().list())
	free()
	for _, c := range src.model.puts().list()[staged:] {
		if err := st.Write(t.Context(), []desired.Change{c}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Promote(t.Context(), src.head()); err != nil {
		t.Fatal(err)
	}
	src.mirrors(m)
}

// fillStaging writes until the disk is full, and returns how much is staged.
func fillStaging(t *testing.T, st *store.Staging, changes []desired.Change) int {
	t.Helper()
	for i, c := range changes {
		err := st.Write(t.Context(), []desired.Change{c}, fmt.Append(nil, i))
		if err == nil {
			continue
		}
		if !errors.Is(err, store.ErrDiskFull) || int(st.Objects()) != i || string(st.Mark()) != fmt.Sprint(i-1) {
			t.Fatalf("Write %d on a full disk = %v; %d objects are staged, mark %q", i, err, st.Objects(), st.Mark())
		}
		return i
	}
	t.Fatal("the disk did not fill up")
	return 0
}
