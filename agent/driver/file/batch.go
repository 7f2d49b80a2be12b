//go:build linux

package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
)

// work is a change under way.
type work struct {
	*driver.Change
	result    *driver.Result
	dir, base string
	want      want
	known     bool // note is what the change came with
	note      note
	temp      string // what is to be renamed; "": nothing
	tempIno   uint64
	before    unix.Stat_t // what is replaced; Nlink 0: nothing
	made      uint16
	done      bool // true, once it is durable
}

func (w *work) fail(err error) {
	w.done = false
	w.result.Err, w.result.Note = err, nil
}

func (w *work) failed() bool { return w.result.Err != nil }

// batch is the changes of one Apply. They go through steps, all of them one step
// after the other: deletions; temporary files; a sync; renames; a sync. A change
// that fails leaves the steps, and the others go on.
type batch struct {
	t       *tree
	owners  owners
	deletes []*work
	upserts []*work
	// each says that files and folders are made durable one by one.
	each bool
	// touched are the folders whose entries changed, by path, as they were then.
	touched map[string]identity
	read    []byte // what files are read into
}

// identity tells a folder from another in its place.
type identity struct{ dev, ino uint64 }

func newBatch(t *tree, changes []driver.Change, results []driver.Result) *batch {
	b := &batch{t: t, owners: owners{self: t.driver.uid}, touched: map[string]identity{}}
	b.each = t.driver.each || len(changes) <= t.driver.few
	all := make([]work, len(changes))
	for i := range changes {
		w := &all[i]
		w.Change, w.result = &changes[i], &results[i]
		w.dir, w.base = split(w.Name)
		if err := b.admit(w); err != nil {
			w.fail(err)
			continue
		}
		if w.Deleted() {
			b.deletes = append(b.deletes, w)
		} else {
			b.upserts = append(b.upserts, w)
		}
	}
	// By folders, so that each is opened once. Of deletions those below come first.
	slices.SortStableFunc(b.upserts, func(v, w *work) int {
		return cmp.Or(strings.Compare(v.dir, w.dir), strings.Compare(v.base, w.base))
	})
	slices.SortStableFunc(b.deletes, func(v, w *work) int {
		return cmp.Or(strings.Compare(w.dir, v.dir), strings.Compare(v.base, w.base))
	})
	return b
}

// admit says whether a change is any of the driver's business, and what it wants.
func (b *batch) admit(w *work) error {
	if err := checkName(w.Name); err != nil {
		return err
	}
	if b.t.driver.unmanaged.match(w.Name) {
		return fmt.Errorf("%q is left alone, as a pattern of the driver's option unmanaged says: %w", b.t.full(w.Name), driver.ErrUnmanaged)
	}
	if w.Note != nil {
		n, err := decodeNote(w.Note)
		if err != nil {
			return fmt.Errorf("%q: %w: another driver, or a newer one, made it", b.t.full(w.Name), err)
		}
		w.note, w.known = n, true
	}
	if w.Deleted() {
		return nil
	}
	var err error
	w.want, err = b.owners.want(w.Object)
	return err
}

func (b *batch) apply(ctx context.Context) {
	stopped := b.run(ctx, b.deletes, b.remove)
	b.removeEmptied()
	if stopped == nil {
		stopped = b.run(ctx, b.upserts, b.prepare)
	}
	if err := b.sync(b.hasTemps(), nil); err != nil {
		b.abandon(err)
		return
	}
	if stopped == nil {
		stopped = b.run(ctx, b.upserts, b.place)
	}
	b.clean(stopped)
	b.touchMade()
	b.checkFolders()
	if err := b.sync(len(b.touched) > 0, b.touched); err != nil {
		b.abandon(err)
		return
	}
	b.settle()
}

// run takes each of the works a step further, until ctx is done.
func (b *batch) run(ctx context.Context, works []*work, step func(*work) error) error {
	for _, w := range works {
		if w.failed() {
			continue
		}
		if ctx.Err() != nil {
			return errStopped(ctx)
		}
		if err := step(w); err != nil {
			w.fail(err)
		}
	}
	return nil
}

func (b *batch) hasTemps() bool {
	return slices.ContainsFunc(b.upserts, func(w *work) bool { return w.temp != "" })
}

// touch remembers a folder whose entries change.
func (b *batch) touch(f *folder) { b.touched[f.path] = identity{f.dev, f.ino} }

// touchMade touches the folders that were made, and those that hold them.
func (b *batch) touchMade() {
	for _, path := range b.t.made {
		above, _ := split(path)
		for _, path := range [...]string{path, above} {
			if f, err := b.t.folder(path); err == nil {
				b.touch(f)
			}
		}
	}
}

// touchAbove touches the folder that is left of those above a name.
func (b *batch) touchAbove(dir string) {
	for {
		if f, err := b.t.folder(dir); err == nil {
			b.touch(f)
			return
		}
		dir, _ = split(dir)
	}
}

// sync makes durable what was written so far, if there is something. Where files
// are synced one by one, they are already, and only the folders are left.
func (b *batch) sync(needed bool, dirs map[string]identity) error {
	if !needed {
		return nil
	}
	if !b.each {
		if err := unix.Syncfs(b.t.root.fd); err != nil {
			return explain("sync file system of", b.t.driver.options.Root, err)
		}
	}
	for path, id := range dirs {
		if !b.each && id.dev == b.t.root.dev {
			continue
		}
		f, err := b.t.folder(path)
		if errors.Is(err, unix.ENOENT) {
			continue // it was emptied, and its parent is touched
		}
		if err == nil {
			err = unix.Fsync(f.fd)
		}
		if err != nil {
			return explain("sync folder", b.t.full(path), err)
		}
	}
	return nil
}

// syncsEach reports whether what is written in a folder is made durable at once.
func (b *batch) syncsEach(f *folder) bool { return b.each || f.dev != b.t.root.dev }

// abandon ends a batch that could not be made durable: nobody knows which part of
// it is.
func (b *batch) abandon(err error) {
	b.clean(err)
	for _, w := range slices.Concat(b.deletes, b.upserts) {
		if w.failed() {
			continue
		}
		b.t.driver.distrust(w.Name)
		w.fail(err)
	}
}

// checkFolders fails what was made in folders that are elsewhere by now: the
// descriptors led there, the names don't.
func (b *batch) checkFolders() {
	moved := map[string]bool{}
	for path, id := range b.touched {
		if !b.t.inPlace(path, id.dev, id.ino) {
			moved[path] = true
			b.forget(path)
		}
	}
	for _, w := range b.upserts {
		if w.done && moved[w.dir] {
			w.fail(fmt.Errorf("folder %q was moved away or replaced while %q was written to it: it is made anew at the next attempt",
				b.t.full(w.dir), w.base))
		}
	}
}

// settle reports what is done. What is not has left the steps early.
func (b *batch) settle() {
	d := b.t.driver
	names := make([]string, 0, len(b.upserts)+len(b.deletes))
	learnt, last := false, ""
	for _, w := range slices.Concat(b.deletes, b.upserts) {
		if !w.done {
			continue
		}
		names = append(names, w.Name)
		if w.Deleted() {
			continue
		}
		w.result.Note = w.note.encode()
		if !learnt || w.dir != last {
			d.watched.learn(w.dir, d.options.MaxWatches)
			learnt, last = true, w.dir
		}
	}
	d.trust(names)
}
