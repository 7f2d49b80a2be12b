//go:build linux

package file

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// folder is an open folder below the root, or the root.
type folder struct {
	fd       int
	path     string
	dev, ino uint64
	// fresh says that this call made it, so that no leftovers are in it; swept that
	// none are by now.
	fresh, swept bool
	// made is how many folders were made in a row, up from this one, that can't bear
	// the mark.
	made uint16
}

// tree is one call's way to what is below the root. It is not safe for concurrent
// use.
type tree struct {
	driver *Driver
	root   folder
	open   map[string]*folder // at most maxFolders
	made   []string           // folders that were made, those above before those below
	// fallback says that the system has no openat2.
	fallback bool
}

// tree opens the root.
func (d *Driver) tree() (*tree, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(d.options.Root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	})
	if err != nil {
		return nil, explainRoot(d.options.Root, err)
	}
	t := &tree{driver: d, root: folder{fd: fd}, open: map[string]*folder{}, fallback: d.fallback.Load()}
	if err := t.root.identify(); err != nil {
		t.close()
		return nil, explainRoot(d.options.Root, err)
	}
	d.probe.Do(func() { d.markName = markName(fd) })
	return t, nil
}

func explainRoot(root string, err error) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("root folder %q: %w: create it, or mount what holds it", root, err)
	}
	return explain("open root folder", root, err)
}

func (t *tree) close() {
	t.flush()
	_ = unix.Close(t.root.fd) // nothing is written through it
}

func (t *tree) flush() {
	for path, f := range t.open {
		_ = unix.Close(f.fd)
		delete(t.open, path)
	}
}

// full returns the path of a name for people.
func (t *tree) full(name string) string { return t.driver.full(name) }

func (f *folder) identify() error {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	f.dev, f.ino = uint64(st.Dev), st.Ino //nolint:unconvert // not of that type on every architecture
	return nil
}

// folder opens an existing folder. What it returns is valid until the next call of
// folder or makeFolder. Where there is none, the error matches unix.ENOENT; where
// something else is in the way, it matches unix.ENOTDIR, ELOOP or EXDEV, and says
// where and what.
func (t *tree) folder(path string) (*folder, error) {
	if path == "" {
		return &t.root, nil
	}
	if f := t.open[path]; f != nil {
		return f, nil
	}
	fd, err := t.resolve(path)
	if err != nil {
		return nil, t.explainFolder(path, err)
	}
	return t.keep(&folder{fd: fd, path: path})
}

func (t *tree) keep(f *folder) (*folder, error) {
	if err := f.identify(); err != nil {
		_ = unix.Close(f.fd)
		return nil, explain("open folder", t.full(f.path), err)
	}
	if len(t.open) >= maxFolders {
		t.flush()
	}
	t.open[f.path] = f
	return f, nil
}

// resolve opens the folder of a path without following anything.
func (t *tree) resolve(path string) (int, error) {
	if !t.fallback {
		fd, err := t.openat(t.root.fd, path, unix.O_RDONLY|unix.O_DIRECTORY)
		if !errors.Is(err, unix.ENOSYS) {
			return fd, err
		}
		t.driver.fallback.Store(true)
		t.fallback = true
	}
	at := t.root.fd
	for segment := range strings.SplitSeq(path, "/") {
		next, err := t.openat(at, segment, unix.O_RDONLY|unix.O_DIRECTORY)
		if at != t.root.fd {
			_ = unix.Close(at)
		}
		if err != nil {
			return -1, err
		}
		at = next
	}
	return at, nil
}

// openat opens what is below a folder for reading, without following a symbolic
// link, waiting for a peer, or crossing a mount point. Without openat2, path is one
// segment, and mounts within one file system are not noticed.
func (t *tree) openat(at int, path string, flags int) (int, error) {
	flags |= unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY
	if !t.fallback {
		how := unix.OpenHow{
			Flags:   uint64(flags),
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		}
		if !t.driver.options.CrossMounts {
			how.Resolve |= unix.RESOLVE_NO_XDEV
		}
		for range folderAttempts {
			fd, err := retry(func() (int, error) { return unix.Openat2(at, path, &how) })
			if !errors.Is(err, unix.EAGAIN) {
				return fd, err
			}
		}
		return -1, unix.EAGAIN
	}
	fd, err := retry(func() (int, error) { return unix.Openat(at, path, flags, 0) })
	if err != nil || t.driver.options.CrossMounts {
		return fd, err
	}
	f := folder{fd: fd}
	if err := f.identify(); err != nil || f.dev != t.root.dev {
		_ = unix.Close(fd)
		return -1, errors.Join(err, unix.EXDEV)
	}
	return fd, nil
}

// explainFolder says which part of a folder's path is in the way.
func (t *tree) explainFolder(path string, err error) error {
	if !errors.Is(err, unix.ELOOP) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.EXDEV) {
		return explain("open folder", t.full(path), err)
	}
	at, parent := "", t.root.fd
	defer func() {
		if parent != t.root.fd {
			_ = unix.Close(parent)
		}
	}()
	for segment := range strings.SplitSeq(path, "/") {
		at = join(at, segment)
		var st unix.Stat_t
		if e := unix.Fstatat(parent, segment, &st, unix.AT_SYMLINK_NOFOLLOW); e != nil {
			break
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			what := unix.ENOTDIR
			if st.Mode&unix.S_IFMT == unix.S_IFLNK {
				what = unix.ELOOP
			}
			return fmt.Errorf("folder %q: it is %s, and not followed: move it away, and what shall be is made there: %w", t.full(at), kindOf(st.Mode), what)
		}
		next, e := t.openat(parent, segment, unix.O_RDONLY|unix.O_DIRECTORY)
		if errors.Is(e, unix.EXDEV) {
			return fmt.Errorf("folder %q: it is a mount point: unmount it, or set cross_mounts on the driver: %w", t.full(at), unix.EXDEV)
		}
		if e != nil {
			break
		}
		if parent != t.root.fd {
			_ = unix.Close(parent)
		}
		parent = next
	}
	return explain("open folder", t.full(path), err)
}

// makeFolder opens a folder, which it makes if there is none, with those above.
func (t *tree) makeFolder(path string) (*folder, error) {
	f, err := t.folder(path)
	if err == nil || !errors.Is(err, unix.ENOENT) {
		return f, err
	}
	dir, base := split(path)
	parent, err := t.makeFolder(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Mkdirat(parent.fd, base, 0o755)
	fresh := err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, explain("make folder", t.full(path), err)
	}
	fd, err := t.openat(parent.fd, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, t.explainFolder(path, err)
	}
	above := parent.made
	if f, err = t.keep(&folder{fd: fd, path: path, fresh: fresh}); err != nil || !fresh {
		return f, err
	}
	t.made = append(t.made, path)
	if !t.driver.mark(f.fd, f.ino) {
		f.made = above + 1
	}
	return f, nil
}

// inPlace reports whether a folder is still where it was found.
func (t *tree) inPlace(path string, dev, ino uint64) bool {
	if path == "" {
		f := folder{}
		var err error
		if f.fd, err = retry(func() (int, error) {
			return unix.Open(t.driver.options.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}); err != nil {
			return false
		}
		defer unix.Close(f.fd)
		return f.identify() == nil && f.dev == dev && f.ino == ino
	}
	fd, err := t.resolve(path)
	if err != nil {
		return false
	}
	f := folder{fd: fd}
	defer unix.Close(fd)
	return f.identify() == nil && f.dev == dev && f.ino == ino
}

// list calls each with the names in a folder, in no order, until it returns false.
func (t *tree) list(f *folder, each func(base string) bool) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return err
	}
	dir := os.NewFile(uintptr(fd), f.path)
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(listEntries)
		for _, name := range names {
			if !each(name) {
				return nil
			}
		}
		if err != nil || len(names) == 0 {
			return nil // what is not listed is not there, or left for the next time
		}
	}
}

// retry calls again what a signal interrupted.
func retry[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}
