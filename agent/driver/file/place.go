//go:build linux

package file

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// place gives a temporary file its name, if what was there still is.
func (b *batch) place(w *work) error {
	if w.temp == "" {
		return nil
	}
	f, err := b.t.folder(w.dir)
	if err != nil {
		return err
	}
	if w.before.Nlink == 0 {
		err = b.placeNew(f, w)
	} else {
		err = b.placeOver(f, w)
	}
	if err != nil {
		return err
	}
	w.temp = ""
	b.touch(f)
	var st unix.Stat_t
	if err := unix.Fstatat(f.fd, w.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return explain("look at", b.t.full(w.Name), err)
	}
	if st.Ino != w.tempIno {
		return fmt.Errorf("%q: somebody else replaced it at once: it is looked at anew at the next attempt", b.t.full(w.Name))
	}
	w.accept(&st)
	return nil
}

// placeNew renames to a name that is free, atomically where the file system can.
func (b *batch) placeNew(f *folder, w *work) error {
	err := unix.Renameat2(f.fd, w.temp, f.fd, w.base, unix.RENAME_NOREPLACE)
	var st unix.Stat_t
	switch {
	case errors.Is(err, unix.EEXIST):
		if err := unix.Fstatat(f.fd, w.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return explain("look at", b.t.full(w.Name), err)
		}
		return b.foreign(f, w, &st)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		if err := unix.Fstatat(f.fd, w.base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			return b.foreign(f, w, &st)
		}
		err = unix.Renameat(f.fd, w.temp, f.fd, w.base)
	}
	if err != nil {
		return explain("rename to", b.t.full(w.Name), err)
	}
	return nil
}

// placeOver renames over what was looked at.
func (b *batch) placeOver(f *folder, w *work) error {
	var st unix.Stat_t
	err := unix.Fstatat(f.fd, w.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return b.placeNew(f, w)
	}
	if err != nil {
		return explain("look at", b.t.full(w.Name), err)
	}
	if !replaceable(&st) {
		return b.foreign(f, w, &st)
	}
	if !w.known && (st.Ino != w.before.Ino || st.Ctim != w.before.Ctim) {
		return fmt.Errorf("%q: %w: it is looked at anew at the next attempt", b.t.full(w.Name), errReplaced)
	}
	if err := unix.Renameat(f.fd, w.temp, f.fd, w.base); err != nil {
		return explain("rename to", b.t.full(w.Name), err)
	}
	return nil
}

// accept notes what is there as what shall be.
func (w *work) accept(st *unix.Stat_t) {
	w.note, w.done = noteOf(st), true
	w.note.group, w.note.made = w.want.group, w.made
}

// noteOf returns what is noted of a regular file or symbolic link.
func noteOf(st *unix.Stat_t) note {
	n := note{
		kind: regular, mode: uint16(st.Mode & 0o777), uid: st.Uid, gid: st.Gid, size: st.Size, ino: st.Ino,
		mtime: unix.TimespecToNsec(st.Mtim), ctime: unix.TimespecToNsec(st.Ctim),
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		n.kind = symlink
	}
	return n
}

// clean removes what was prepared and not placed, and the folders that were made
// for it alone. What has neither failed nor been done fails with stopped.
func (b *batch) clean(stopped error) {
	failed := false
	for _, w := range b.upserts {
		if w.temp != "" {
			if f, err := b.t.folder(w.dir); err == nil {
				b.unlinkTemp(f, w)
			}
		}
		if stopped != nil && !w.done && !w.failed() {
			w.fail(stopped)
		}
		failed = failed || w.failed()
	}
	for _, w := range b.deletes {
		if stopped != nil && !w.done && !w.failed() {
			w.fail(stopped)
		}
	}
	if !failed {
		return
	}
	for _, path := range slices.Backward(b.t.made) {
		dir, base := split(path)
		if f, err := b.t.folder(dir); err == nil && unix.Unlinkat(f.fd, base, unix.AT_REMOVEDIR) == nil {
			b.forget(path)
		}
	}
}

// unlinkTemp removes a temporary file. If it can't, it is left over, and swept away
// by a later process.
func (b *batch) unlinkTemp(f *folder, w *work) {
	if err := unix.Unlinkat(f.fd, w.temp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		b.t.driver.options.Logger.Warn("a temporary file stays", "path", b.t.full(join(w.dir, w.temp)), "error", err)
	}
	w.temp = ""
}
