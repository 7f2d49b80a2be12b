//go:build linux

package file

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watched are the folders that are known to hold objects.
type watched struct {
	mu      sync.Mutex
	folders map[string]struct{}  // all that are watched or to be, at most as many as watches
	fresh   map[string]time.Time // those among them that are not watched yet, and since when
}

// learn adds a folder, if there is room.
func (w *watched) learn(dir string, most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.folders[dir]; ok || len(w.folders) >= most {
		return
	}
	if w.folders == nil {
		w.folders, w.fresh = map[string]struct{}{}, map[string]time.Time{}
	}
	w.folders[dir] = struct{}{}
	w.fresh[dir] = time.Now()
}

// forget makes room; the folder may be learnt again.
func (w *watched) forget(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.folders, dir)
	delete(w.fresh, dir)
}

// due returns the folders to watch by now, which were not written to in a while.
func (w *watched) due(now time.Time) (dirs []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir, since := range w.fresh {
		if now.Sub(since) >= watchDelay {
			dirs = append(dirs, dir)
			delete(w.fresh, dir)
		}
	}
	return dirs
}

// restart makes all folders due, for a new Watch.
func (w *watched) restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for dir := range maps.Keys(w.folders) {
		w.fresh[dir] = time.Time{}
	}
}

// watchMask is what may be drift: not reading, and of writing only its end.
const watchMask = unix.IN_CLOSE_WRITE | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR | unix.IN_EXCL_UNLINK

// Watch implements driver.Watcher, by inotify. It watches the folders that Apply
// and Scan have come by, up to Options.MaxWatches, a moment after they did. What
// the driver itself writes is told of, too, as long as nobody looks: a scan of it
// finds nothing, and changes nothing.
func (d *Driver) Watch(ctx context.Context, touched func(name string)) error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("watch for drift: %w: raise fs.inotify.max_user_instances; scans find it meanwhile", err)
	}
	in := os.NewFile(uintptr(fd), "inotify")
	w := &watcher{driver: d, fd: fd, touched: touched, dirs: map[int32]string{}}
	d.watched.restart()
	stop := context.AfterFunc(ctx, func() { _ = in.SetReadDeadline(time.Unix(1, 0)) }) // it can: inotify is pollable
	defer stop()
	return errors.Join(w.run(ctx, in), in.Close())
}

type watcher struct {
	driver  *Driver
	fd      int
	touched func(name string)
	dirs    map[int32]string // by watch
	full    bool             // the system has no more watches, and that was said
}

// run reads events, and adds watches in between.
func (w *watcher) run(ctx context.Context, in *os.File) error {
	buf := make([]byte, 64<<10)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		w.add()
		if err := in.SetReadDeadline(time.Now().Add(watchDelay)); err != nil {
			return fmt.Errorf("watch for drift: %w", err)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx) // its deadline may just have been overwritten
		}
		n, err := in.Read(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			continue
		case err != nil:
			return fmt.Errorf("watch for drift: %w", err)
		}
		w.events(buf[:n])
	}
}

// add watches what is due.
func (w *watcher) add() {
	d := w.driver
	dirs := d.watched.due(time.Now())
	if len(dirs) == 0 {
		return
	}
	t, err := d.tree()
	if err != nil {
		return // calls that matter say so
	}
	defer t.close()
	for _, dir := range dirs {
		f, err := t.folder(dir)
		if err != nil {
			d.watched.forget(dir)
			continue
		}
		// By descriptor: the path may lead elsewhere by now.
		wd, err := d.addWatch(w.fd, fmt.Sprintf("/proc/self/fd/%d", f.fd), watchMask)
		if err != nil {
			w.refused(err) // the folder stays known, so that it isn't tried again and again
			continue
		}
		w.dirs[int32(wd)] = dir
	}
}

// refused logs the first error of watching.
func (w *watcher) refused(err error) {
	if w.full {
		return
	}
	w.full = true
	w.driver.options.Logger.Warn("folders are not watched: scans alone find drift in them; raise fs.inotify.max_user_watches, or lower max_watches of the driver",
		"watched", len(w.dirs), "error", err)
}

// events hands on what was read, as inotify(7) lays it out.
func (w *watcher) events(b []byte) {
	for len(b) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(b))
		mask := binary.NativeEndian.Uint32(b[4:])
		size := min(int(binary.NativeEndian.Uint32(b[12:])), len(b)-unix.SizeofInotifyEvent)
		base := unix.ByteSliceToString(b[unix.SizeofInotifyEvent:][:size])
		b = b[unix.SizeofInotifyEvent+size:]
		w.event(wd, mask, base)
	}
}

func (w *watcher) event(wd int32, mask uint32, base string) {
	dir, ok := w.dirs[wd]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0:
		w.driver.options.Logger.Debug("hints of drift were lost; scans find it")
	case !ok:
	case mask&unix.IN_IGNORED != 0:
		delete(w.dirs, wd)
		w.driver.watched.forget(dir)
	case mask&unix.IN_MOVE_SELF != 0:
		_, _ = unix.InotifyRmWatch(w.fd, uint32(wd)) // IN_IGNORED follows
	case base == "" || isTemp(base) || mask&unix.IN_ISDIR != 0:
	default:
		w.touched(join(dir, base))
	}
}
