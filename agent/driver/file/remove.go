//go:build linux

package file

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// remove deletes what is the driver's own. What is gone is gone; what is somebody
// else's stays, and is no object any more.
func (b *batch) remove(w *work) error {
	f, err := b.t.folder(w.dir)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		b.touchAbove(w.dir) // it may have gone a moment ago
		w.done = true
		return nil
	}
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstatat(f.fd, w.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		b.touch(f)
		w.done = true
		return nil
	}
	if err != nil {
		return explain("look at", b.t.full(w.Name), err)
	}
	if !w.known && (!w.Doubt || !replaceable(&st) || !b.t.marked(f, w.base, &st)) {
		w.done = true
		return nil
	}
	if !replaceable(&st) {
		return fmt.Errorf("%q is to be deleted, and by now is %s, which the driver did not make: move it away: %w",
			b.t.full(w.Name), describe(&st), ErrForeign)
	}
	if err := unix.Unlinkat(f.fd, w.base, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return explain("delete", b.t.full(w.Name), err)
	}
	b.touch(f)
	w.done = true
	return nil
}

// removeEmptied removes folders that deletions have emptied, if they are ours and
// nothing is about to be made in them.
func (b *batch) removeEmptied() {
	if len(b.deletes) == 0 {
		return
	}
	needed := map[string]bool{"": true}
	for _, w := range b.upserts {
		for dir := w.dir; !w.failed() && !needed[dir]; dir, _ = split(dir) {
			needed[dir] = true
		}
	}
	unmarked := map[string]uint16{} // folder → how many, up from it, the notes say were made
	for _, w := range b.deletes {
		if w.done {
			unmarked[w.dir] = max(unmarked[w.dir], w.note.made)
		}
	}
	for len(unmarked) > 0 {
		dirs := slices.SortedFunc(maps.Keys(unmarked), func(v, w string) int { return strings.Compare(w, v) })
		for _, path := range dirs { // those below first
			made := unmarked[path]
			delete(unmarked, path)
			if needed[path] || !b.removeFolder(path, made > 0) {
				continue
			}
			above, _ := split(path)
			unmarked[above] = max(unmarked[above], made-min(made, 1))
		}
	}
}

// removeFolder removes a folder if it is empty and ours: by its mark, or by note.
func (b *batch) removeFolder(path string, ours bool) bool {
	dir, base := split(path)
	f, err := b.t.folder(path)
	if err != nil || !ours && !b.t.driver.marked(f.fd, f.ino) {
		return false
	}
	if !b.t.driver.isSwept(path) {
		b.sweepNow(f)
	}
	parent, err := b.t.folder(dir)
	if err != nil || unix.Unlinkat(parent.fd, base, unix.AT_REMOVEDIR) != nil {
		return false // it isn't empty, or somebody works in it
	}
	b.touch(parent)
	b.forget(path)
	return true
}

// forget drops what is remembered of a folder that is gone.
func (b *batch) forget(path string) {
	if f := b.t.open[path]; f != nil {
		_ = unix.Close(f.fd)
		delete(b.t.open, path)
	}
	delete(b.touched, path)
}
