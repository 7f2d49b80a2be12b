package process

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Watch implements driver.Watcher. It begins with the copies that are there, whose
// objects it touches at once where they have ended, and goes on with those that
// Apply starts. It is for one caller at a time.
func (d *Driver) Watch(ctx context.Context, touched func(name string)) error {
	d.listen(true) // before the look, so that no copy falls between
	defer d.listen(false)
	found, err := d.find()
	if err != nil {
		return fmt.Errorf("process driver: %w", err)
	}
	w := &watch{d: d, touched: touched, known: map[identity]bool{}}
	defer w.all.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.greet(found)
	for _, copies := range found {
		for _, c := range copies {
			w.follow(ctx, c)
		}
	}
	orphans := time.NewTimer(d.orphanAfter)
	defer orphans.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-d.news:
			for _, c := range d.takeFresh() {
				w.follow(ctx, c)
			}
		case <-orphans.C:
			d.reportOrphans(found)
		}
	}
}

// watch is one run of Watch.
type watch struct {
	d       *Driver
	touched func(name string)
	all     sync.WaitGroup

	mu    sync.Mutex
	known map[identity]bool // the shims that are followed
}

// find returns the copies that there are by the names of their objects.
func (d *Driver) find() (map[string][]copyState, error) {
	entries, err := os.ReadDir(d.runDir)
	if err != nil {
		return nil, err
	}
	found := map[string][]copyState{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		copies, err := d.findIn(e.Name())
		if err != nil {
			d.log.Warn("copies that can't be told", "folder", filepath.Join(d.runDir, e.Name()), "error", err)
		}
		for _, c := range copies {
			found[c.name] = append(found[c.name], c)
		}
	}
	return found, nil
}

// findIn returns the copies of a folder, whose name need not tell that of the
// object.
func (d *Driver) findIn(folder string) ([]copyState, error) {
	entries, err := os.ReadDir(filepath.Join(d.runDir, folder))
	if err != nil {
		return nil, err
	}
	var copies []copyState
	var errs []error
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" || !slotFile.MatchString(e.Name()) {
			continue
		}
		st, err := readState(filepath.Join(d.runDir, folder, e.Name()))
		if err == nil && st != nil && (slot{d, st.Name, st.Replica}).statePath() != filepath.Join(d.runDir, folder, e.Name()) {
			err = fmt.Errorf("%s: %w: it is of copy %d of %q", e.Name(), errDamaged, st.Replica, st.Name)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if st == nil {
			continue // it was stopped right now
		}
		c, err := slot{d, st.Name, st.Replica}.look()
		if err != nil {
			errs = append(errs, err)
		} else if c.state != nil {
			copies = append(copies, c)
		}
	}
	return copies, errors.Join(errs...)
}

// greet tells what was found.
func (w *watch) greet(found map[string][]copyState) {
	for _, name := range slices.Sorted(maps.Keys(found)) {
		running := 0
		for _, c := range found[name] {
			if c.phase == phaseLive {
				running++
			}
		}
		w.d.log.Info("copies found", "name", name, "running", running, "ended", len(found[name])-running)
	}
}

// follow waits for the end of a copy on the side.
func (w *watch) follow(ctx context.Context, c copyState) {
	if c.state == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[c.Shim] {
		return
	}
	w.known[c.Shim] = true
	w.all.Go(func() {
		err := w.await(ctx, c)
		w.mu.Lock()
		delete(w.known, c.Shim)
		w.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			w.d.log.Warn("copy can't be watched; a scan will find its end", "name", c.name, "replica", c.replica, "error", err)
		}
	})
}

// await waits until a copy has ended, and touches its object unless it was meant
// to end.
func (w *watch) await(ctx context.Context, c copyState) error {
	h, err := c.openShim()
	if err == nil {
		err = h.wait(ctx)
		h.close()
	}
	if err != nil && !errors.Is(err, errGone) {
		return err
	}
	// Whoever stops a copy has claimed its object, and lets go of it once the slot
	// is empty, or holds another run.
	if err := w.d.awaitLook(ctx, c.name); err != nil {
		return err
	}
	st, err := readState(c.statePath())
	w.d.release(c.name)
	if err != nil || st != nil && st.Run == c.Run {
		w.touched(c.name)
	}
	return nil
}

// listen says whether Watch takes news.
func (d *Driver) listen(watching bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watching, d.fresh = watching, nil
}

// tell hands copies to Watch. One that doesn't run now will find them.
func (d *Driver) tell(copies []copyState) {
	d.mu.Lock()
	if d.watching {
		d.fresh = append(d.fresh, copies...)
	}
	d.mu.Unlock()
	select {
	case d.news <- struct{}{}:
	default:
	}
}

func (d *Driver) takeFresh() []copyState {
	d.mu.Lock()
	defer d.mu.Unlock()
	fresh := d.fresh
	d.fresh = nil
	return fresh
}

// mentioned remembers that an object is somebody's.
func (d *Driver) mentioned(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked[name] = true
}

// reportOrphans tells of objects whose copies are there although nobody has asked
// for them since. They are not stopped: that the agent's record is lost is more
// likely than that they have no business here.
func (d *Driver) reportOrphans(found map[string][]copyState) {
	for _, name := range slices.Sorted(maps.Keys(found)) {
		d.mu.Lock()
		asked := d.asked[name]
		d.mu.Unlock()
		if asked {
			continue
		}
		var shims []int
		for _, c := range found[name] {
			if now, err := c.look(); err == nil && now.phase == phaseLive {
				shims = append(shims, now.Shim.PID)
			}
		}
		if len(shims) > 0 {
			d.log.Warn("copies run that nothing asks for; set and delete their object, or send SIGTERM to these processes",
				"name", name, "shims", shims)
		}
	}
}
