//go:build linux

package file

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// sweep removes what an earlier process left in a folder, once.
func (b *batch) sweep(f *folder) {
	switch d := b.t.driver; {
	case f.swept:
		return
	case f.fresh:
		d.setSwept(f.path)
	case !d.isSwept(f.path):
		b.sweepNow(f)
	}
	f.swept = true
}

func (b *batch) sweepNow(f *folder) {
	d := b.t.driver
	err := b.t.list(f, func(base string) bool {
		var st unix.Stat_t
		if !isTemp(base) || base[len(tempPrefix):][:8] == fmt.Sprintf("%08x", d.session) {
			return true
		}
		if unix.Fstatat(f.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || !replaceable(&st) {
			return true
		}
		if time.Unix(st.Ctim.Unix()).After(d.opened) {
			return true // of another driver that is at work
		}
		if err := unix.Unlinkat(f.fd, base, 0); err != nil {
			d.options.Logger.Warn("a temporary file of an earlier process stays", "path", b.t.full(join(f.path, base)), "error", err)
		}
		return true
	})
	if err != nil {
		d.options.Logger.Warn("folder can't be listed for temporary files of an earlier process", "path", b.t.full(f.path), "error", err)
	}
	d.setSwept(f.path)
}

func (d *Driver) isSwept(path string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.swept[path]
	return ok
}

func (d *Driver) setSwept(path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.swept) >= maxSwept {
		clear(d.swept)
	}
	d.swept[path] = struct{}{}
}
