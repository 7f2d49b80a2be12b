//go:build linux

package file_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/agent/driver/file"
)

// snapshot returns what is below a folder, as text.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st := stat(t, path)
		fmt.Fprintf(&b, "%s %o %d %d %d\n", path, st.Mode, st.Ino, st.Size, st.Ctim.Nano())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestSwap applies, deletes and scans thousands of files in a folder that somebody
// swaps for a symbolic link to a folder outside, all the time.
func TestSwap(t *testing.T) {
	for _, name := range []string{"as it is", "without openat2"} {
		t.Run(name, func(t *testing.T) { testSwap(t, variants[name]) })
	}
}

func testSwap(t *testing.T, variant func(*file.Driver) *file.Driver) {
	h := newHost(t, file.Options{Adopt: true})
	variant(h.driver)
	outside := t.TempDir()
	for _, dir := range []string{outside, filepath.Join(outside, "sub")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 50 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(os.MkdirAll(h.path("d/sub"), 0o755), os.Symlink(outside, h.path("link"))); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, outside)
	stop, swapped := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				swapped <- n
				return
			default:
				if unix.Renameat2(unix.AT_FDCWD, h.path("d"), unix.AT_FDCWD, h.path("link"), unix.RENAME_EXCHANGE) == nil {
					n++
				}
			}
		}
	}()
	done, refused := 0, 0
	began := time.Now()
	for round := 0; round < 100 || (done == 0 || refused == 0) && time.Since(began) < time.Minute; round++ {
		var changes []driver.Change
		for i := range 50 {
			dir := [...]string{"d", "d/sub"}[i%2]
			name := fmt.Sprintf("%s/f%d", dir, i)
			if round%5 == 4 {
				changes = append(changes, h.remove(name))
			} else {
				changes = append(changes, h.upsert(name, object(fmt.Sprint("ours ", round))))
			}
		}
		for _, err := range h.apply(changes...) {
			if err == nil {
				done++
			} else {
				refused++
			}
		}
		if round%10 == 0 {
			h.scan(true)
		}
	}
	close(stop)
	t.Logf("%d swaps, %d changes done, %d refused", <-swapped, done, refused)
	if after := snapshot(t, outside); after != before {
		t.Errorf("outside the root it was\n%s\nand is\n%s", before, after)
	}
	if done == 0 || refused == 0 {
		t.Errorf("%d changes done, %d refused: nothing was raced for", done, refused)
	}
}

// TestLinkedFolder follows no symbolic link, not even one that stays below the root.
func TestLinkedFolder(t *testing.T) {
	for name, variant := range variants {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, file.Options{Adopt: true})
			variant(h.driver)
			outside := t.TempDir()
			if err := errors.Join(os.Symlink(outside, h.path("out")), os.Mkdir(h.path("real"), 0o755), os.Symlink("real", h.path("in")),
				os.Symlink(filepath.Join(outside, "dangling"), h.path("dangling"))); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"out/a", "out/b/c", "in/a", "dangling/a"} {
				h.refused(h.upsert(name, object("x")), "it is a symbolic link, and not followed")
			}
			// A link in the file's own place is replaced, not written through.
			h.must(h.upsert("dangling", object("x")))
			h.holds("dangling", "x", 0o644)
			for _, dir := range []string{outside, h.path("real")} {
				if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
					t.Errorf("%s holds %v, %v, want nothing", dir, left, err)
				}
			}
		})
	}
}

// TestMovedAway moves a folder out of the root and puts another in its place,
// between a scan and the next change.
func TestMovedAway(t *testing.T) {
	h := newHost(t, file.Options{})
	outside := t.TempDir()
	h.must(h.upsert("d/a", object("x")), h.upsert("d/b", object("x")))
	if err := errors.Join(os.Rename(h.path("d"), filepath.Join(outside, "d")), os.Mkdir(h.path("d"), 0o755)); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, outside)
	h.drifts(h.scan(false), map[string]string{"d/a": "missing", "d/b": "missing"})
	h.must(h.upsert("d/a", object("y")), h.remove("d/b"))
	h.holds("d/a", "y", 0o644)
	if after := snapshot(t, outside); after != before {
		t.Errorf("outside the root it was\n%s\nand is\n%s", before, after)
	}
}

// TestSpecial has what never to open, to write through or to replace in the way.
func TestSpecial(t *testing.T) {
	h := newHost(t, file.Options{})
	if err := errors.Join(unix.Mkfifo(h.path("fifo"), 0o644), os.Mkdir(h.path("dir"), 0o755)); err != nil {
		t.Fatal(err)
	}
	names := []string{"fifo", "dir"}
	if unix.Mknod(h.path("device"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))) == nil {
		names = append(names, "device")
	} else {
		t.Log("no device: not permitted")
	}
	for _, name := range names {
		before := stat(t, h.path(name))
		for _, doubt := range []bool{false, true} {
			c := h.upsert(name, object(""))
			c.Doubt = doubt
			if err := h.refused(c, "is never replaced: move it away"); !errors.Is(err, file.ErrForeign) {
				t.Errorf("%s: %v does not match %v", name, err, file.ErrForeign)
			}
			h.must(driver.Change{Key: c.Key, Name: name, Doubt: doubt}) // not ours, so not deleted
		}
		if after := stat(t, h.path(name)); after != before {
			t.Errorf("%s was %v and is %v", name, before, after)
		}
	}
	// What took the place of ours is not deleted, and what is in it neither.
	h.must(h.upsert("a", object("x")), h.upsert("b", object("x")))
	if err := errors.Join(os.Remove(h.path("a")), os.Mkdir(h.path("a"), 0o755), os.WriteFile(h.path("a/theirs"), nil, 0o644),
		os.Remove(h.path("b")), unix.Mkfifo(h.path("b"), 0o644)); err != nil {
		t.Fatal(err)
	}
	h.refused(h.remove("a"), "by now is a folder")
	h.refused(h.remove("b"), "by now is a named pipe")
	h.holds("a/theirs", "", 0o644)
}

// TestHardLink never writes through an inode that has another name.
func TestHardLink(t *testing.T) {
	h := newHost(t, file.Options{Adopt: true})
	outside := filepath.Join(t.TempDir(), "precious")
	if err := errors.Join(os.WriteFile(outside, []byte("precious"), 0o644), os.Link(outside, h.path("a"))); err != nil {
		t.Fatal(err)
	}
	h.must(h.upsert("a", object("ours", "mode", "0600")))
	h.holds("a", "ours", 0o600)
	// Nor where only the mode differs, and where ours was linked by somebody since.
	if err := errors.Join(os.Link(h.path("a"), outside+"2"), os.Chmod(outside+"2", 0o644)); err != nil {
		t.Fatal(err)
	}
	h.drifts(h.scan(false), map[string]string{"a": "mode 0644, not 0600"})
	h.must(h.upsert("a", object("ours", "mode", "0600")))
	h.holds("a", "ours", 0o600)
	for path, want := range map[string]string{outside: "precious", outside + "2": "ours"} {
		st := stat(t, path)
		if b, err := os.ReadFile(path); string(b) != want || err != nil || st.Mode&0o7777 != 0o644 || st.Nlink != 1 {
			t.Errorf("%s is %q, %v, mode %o, %d links", path, b, err, st.Mode, st.Nlink)
		}
	}
	h.must(h.remove("a"))
}

// mount mounts a file system in memory, or skips the test.
func mount(t *testing.T, at, options string) {
	t.Helper()
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
	})
}

// TestMount does not enter a file system below the root, unless it is told to.
func TestMount(t *testing.T) {
	for _, name := range []string{"as it is", "without openat2"} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, file.Options{})
			variants[name](h.driver)
			mount(t, h.path("a/mnt"), "size=1m")
			h.refused(h.upsert("a/mnt/x", object("x")), `a/mnt": it is a mount point: unmount it, or set cross_mounts`)
			h.refused(h.upsert("a/mnt/b/x", object("x")), "it is a mount point")
			if left, err := os.ReadDir(h.path("a/mnt")); len(left) > 0 || err != nil {
				t.Errorf("the other file system holds %v, %v", left, err)
			}
			cross := newHost(t, file.Options{Root: h.root, CrossMounts: true})
			variants[name](cross.driver)
			var changes []driver.Change
			for i := range 10 {
				changes = append(changes, cross.upsert(fmt.Sprintf("a/mnt/b/%d", i), object("x")))
			}
			cross.must(changes...)
			cross.holds("a/mnt/b/9", "x", 0o644)
			cross.drifts(cross.scan(true), nil)
			h.notes["a/mnt/b/9"] = cross.notes["a/mnt/b/9"]
			h.drifts(h.scan(false), map[string]string{"a/mnt/b/9": "missing: a mount point is in the place of a folder"})
			h.refused(h.remove("a/mnt/b/9"), "it is a mount point")
			for i := range changes {
				changes[i] = cross.remove(changes[i].Name)
			}
			cross.must(changes...)
			cross.absent("a/mnt/b")
		})
	}
}

// TestCase has a file system that takes two names for one.
func TestCase(t *testing.T) {
	dir := t.TempDir()
	mount(t, dir, "size=4m,casefold")
	flags := uint32(0x40000000) // FS_CASEFOLD_FL
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(sub)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags)); err != nil {
		t.Skipf("no folder can be made to fold case here: %v", err)
	}
	h := newHost(t, file.Options{Root: dir})
	h.must(h.upsert("sub/Name", object("one")))
	h.refused(h.upsert("sub/name", object("two")), `the folder holds "Name", and its file system takes both for one name`)
	errs := h.apply(h.upsert("sub/X", object("one")), h.upsert("sub/x", object("two")))
	if errs[0] != nil || errs[1] == nil || !strings.Contains(errs[1].Error(), "takes both for one name") {
		t.Errorf("apply = %v, want the second to fail", errs)
	}
	h.holds("sub/Name", "one", 0o644)
	h.holds("sub/X", "one", 0o644)
}

// TestTogether empties and fills the same folders from several goroutines: a folder
// that one removes while another is about to use it is made anew.
func TestTogether(t *testing.T) {
	h := newHost(t, file.Options{})
	var wait sync.WaitGroup
	for worker := range 4 {
		wait.Go(func() {
			name := fmt.Sprintf("a/b/%d/x", worker%2) + fmt.Sprint(worker)
			for range 100 {
				key := "files/" + name
				made := h.driver.Apply(t.Context(), []driver.Change{{Key: key, Name: name, Object: object(name)}})
				if made[0].Err != nil {
					t.Errorf("apply %s: %v", name, made[0].Err)
					return
				}
				gone := h.driver.Apply(t.Context(), []driver.Change{{Key: key, Name: name, Note: made[0].Note}})
				if gone[0].Err != nil {
					t.Errorf("delete %s: %v", name, gone[0].Err)
					return
				}
			}
		})
	}
	wait.Wait()
	if left, err := os.ReadDir(h.root); len(left) > 0 || err != nil {
		t.Errorf("in the end %v is left, %v", left, err)
	}
}
