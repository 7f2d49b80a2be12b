//go:build linux

package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// prepare finds out what is at a name, and writes what shall be beside it. If the
// folder goes meanwhile, as another call may have emptied it, it is made anew.
func (b *batch) prepare(w *work) error {
	err := b.prepareOnce(w)
	for range folderAttempts {
		if !errors.Is(err, unix.ENOENT) {
			break
		}
		b.t.flush()
		err = b.prepareOnce(w)
	}
	return err
}

func (b *batch) prepareOnce(w *work) error {
	f, err := b.t.makeFolder(w.dir)
	if err != nil {
		return err
	}
	b.sweep(f)
	w.made = max(f.made, w.note.made)
	if f.fresh {
		return b.write(f, w) // nothing is there, or what is makes the rename fail
	}
	err = unix.Fstatat(f.fd, w.base, &w.before, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		w.before = unix.Stat_t{}
		return b.write(f, w)
	}
	if err != nil {
		return explain("look at", b.t.full(w.Name), err)
	}
	if !replaceable(&w.before) {
		return b.foreign(f, w, &w.before)
	}
	if (!w.known || w.Doubt) && !b.t.driver.distrusted(w.Name) {
		if same, err := b.same(f, w); err != nil || same {
			return err
		}
	}
	if !w.known && !b.t.driver.options.Adopt && (!w.Doubt || !b.t.marked(f, w.base, &w.before)) {
		return b.foreign(f, w, &w.before)
	}
	return b.write(f, w)
}

// replaceable reports whether something can be replaced by a rename, and is of a
// kind that the driver makes.
func replaceable(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFREG || st.Mode&unix.S_IFMT == unix.S_IFLNK
}

// foreign says what is in the way.
func (b *batch) foreign(f *folder, w *work, st *unix.Stat_t) error {
	path := b.t.full(w.Name)
	if other := b.otherCase(f, w.base); other != "" {
		return fmt.Errorf("%q: the folder holds %q, and its file system takes both for one name; "+
			"use keys that differ in more than case: %w", path, other, ErrForeign)
	}
	if !replaceable(st) {
		return fmt.Errorf("%q is in the way: %s, which is never replaced: move it away: %w", path, describe(st), ErrForeign)
	}
	return fmt.Errorf("%q is there already: %s: move it away, or set adopt on the driver to take it over: %w", path, describe(st), ErrForeign)
}

// otherCase returns what the folder has in place of base, if it is listed by
// another name. An error of listing is none of what the caller reports.
func (b *batch) otherCase(f *folder, base string) (other string) {
	_ = b.t.list(f, func(name string) bool {
		if name == base {
			other = ""
			return false
		}
		if strings.EqualFold(name, base) {
			other = name
		}
		return true
	})
	return other
}

// same reports whether what is there is what shall be; then nothing is written,
// but what somebody else wrote has to be made durable.
func (b *batch) same(f *folder, w *work) (bool, error) {
	if !w.want.fits(&w.before) {
		return false, nil
	}
	if w.want.kind == symlink {
		target, err := readLink(f, w.base)
		if err != nil || target != w.want.target {
			return false, nil
		}
	} else {
		same, err := b.sameContent(f, w)
		if err != nil || !same {
			return false, err
		}
	}
	b.touch(f)
	w.accept(&w.before)
	return true, nil
}

// fits reports whether all is as it shall be but for what is in it.
func (w *want) fits(st *unix.Stat_t) bool {
	switch {
	case st.Uid != w.uid, w.group && st.Gid != w.gid:
		return false
	case w.kind == symlink:
		return st.Mode&unix.S_IFMT == unix.S_IFLNK
	default:
		return st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o7777 == w.mode && st.Size == int64(len(w.value))
	}
}

func (b *batch) sameContent(f *folder, w *work) (bool, error) {
	fd, err := b.t.openFile(f, w.base, &w.before)
	if errors.Is(err, unix.EACCES) {
		return false, nil // it may be replaced all the same
	}
	if err != nil {
		return false, explain("read", b.t.full(w.Name), err)
	}
	defer unix.Close(fd)
	if b.read == nil {
		b.read = make([]byte, readChunk)
	}
	for rest := w.want.value; ; {
		n, err := retry(func() (int, error) { return unix.Read(fd, b.read) })
		if err != nil {
			return false, explain("read", b.t.full(w.Name), err)
		}
		if n == 0 {
			if len(rest) > 0 || !b.syncsEach(f) {
				return len(rest) == 0, nil
			}
			if err := unix.Fsync(fd); err != nil {
				return false, explain("sync", b.t.full(w.Name), err)
			}
			return true, nil
		}
		if n > len(rest) || !bytes.Equal(b.read[:n], rest[:n]) {
			return false, nil
		}
		rest = rest[n:]
	}
}

// errReplaced: what was looked at is not there any more.
var errReplaced = errors.New("it was replaced while it was looked at")

// openFile opens a regular file for reading, if it is still the one that st tells
// of.
func (t *tree) openFile(f *folder, base string, st *unix.Stat_t) (int, error) {
	fd, err := t.openat(f.fd, base, unix.O_RDONLY)
	if err != nil {
		return -1, err
	}
	var now unix.Stat_t
	if err := unix.Fstat(fd, &now); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	if now.Ino != st.Ino || now.Dev != st.Dev || now.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return -1, errReplaced
	}
	return fd, nil
}

// marked reports whether what st tells of bears the driver's mark.
func (t *tree) marked(f *folder, base string, st *unix.Stat_t) bool {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return t.driver.markedLink(f, base, st.Ino)
	}
	fd, err := t.openFile(f, base, st)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return t.driver.marked(fd, st.Ino)
}

// readLink returns what a symbolic link points to.
func readLink(f *folder, base string) (string, error) {
	var target [maxTargetBytes + 1]byte
	n, err := unix.Readlinkat(f.fd, base, target[:])
	if err != nil {
		return "", err
	}
	return string(target[:n]), nil
}

// write makes what shall be under a temporary name.
func (b *batch) write(f *folder, w *work) error {
	for range tempAttempts {
		temp := b.t.driver.tempName()
		err := b.writeTemp(f, w, temp)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err != nil {
			if w.temp != "" {
				b.unlinkTemp(f, w)
			}
			return explain("write", b.t.full(w.Name), err)
		}
		return nil
	}
	return explain("write", b.t.full(w.Name), unix.EEXIST)
}

func (d *Driver) tempName() string {
	return fmt.Sprintf("%s%08x%08x", tempPrefix, d.session, d.names.Add(1))
}

func (b *batch) writeTemp(f *folder, w *work, temp string) error {
	if w.want.kind == symlink {
		return b.writeLink(f, w, temp)
	}
	create := w.want.mode
	if w.want.uid != b.t.driver.uid {
		create &= 0o600 // until it is its owner's
	}
	if b.t.driver.markName == userMark {
		create |= 0o200 // a mark needs it; fill takes it away
	}
	fd, err := retry(func() (int, error) {
		return unix.Openat(f.fd, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, create)
	})
	if err != nil {
		return err
	}
	w.temp = temp
	err = b.fill(f, w, fd)
	if e := unix.Close(fd); err == nil && !errors.Is(e, unix.EINTR) {
		err = e
	}
	return err
}

// fill gives a new file its content, mark, owner and mode.
func (b *batch) fill(f *folder, w *work, fd int) error {
	for rest := w.want.value; len(rest) > 0; {
		n, err := retry(func() (int, error) { return unix.Write(fd, rest) })
		if err == nil && n == 0 {
			err = io.ErrShortWrite
		}
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	w.tempIno = st.Ino
	if !w.known {
		b.t.driver.mark(fd, st.Ino)
	}
	if w.want.uid != st.Uid || w.want.group && w.want.gid != st.Gid {
		if err := unix.Fchown(fd, int(w.want.uid), w.want.chownGroup()); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 != w.want.mode {
		if err := unix.Fchmod(fd, w.want.mode); err != nil {
			return err
		}
	}
	if b.syncsEach(f) {
		return unix.Fsync(fd)
	}
	return nil
}

// chownGroup returns the group to give a file; -1: leave it.
func (w *want) chownGroup() int {
	if w.group {
		return int(w.gid)
	}
	return -1
}

// writeLink makes a symbolic link. It can't be synced by itself; it is with its
// folder.
func (b *batch) writeLink(f *folder, w *work, temp string) error {
	if err := unix.Symlinkat(w.want.target, f.fd, temp); err != nil {
		return err
	}
	w.temp = temp
	var st unix.Stat_t
	if err := unix.Fstatat(f.fd, temp, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	w.tempIno = st.Ino
	if !w.known {
		b.t.driver.markLink(f, temp, st.Ino)
	}
	if w.want.uid != st.Uid || w.want.group && w.want.gid != st.Gid {
		if err := unix.Fchownat(f.fd, temp, int(w.want.uid), w.want.chownGroup(), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	if b.syncsEach(f) {
		return unix.Fsync(f.fd)
	}
	return nil
}
