package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"espalier/agent/driver"
	"espalier/internal/durable"
)

// Driver keeps copies of programs running. It implements driver.Driver, Scanner,
// Watcher and Batcher. Its copies outlive it: the next Driver of its folder finds
// them.
type Driver struct {
	runDir, logDir string
	logBytes       int64
	logFiles       int
	shim           []string
	orphanAfter    time.Duration
	boot           string
	log            *slog.Logger

	mu     sync.Mutex
	claims map[string]*claim // the objects that somebody is at work on, or looks at
	// asked are the objects that were asked for since Watch found them.
	asked map[string]bool
	// fresh are copies that Watch, if it runs, doesn't know yet; it is told by news.
	watching bool
	fresh    []copyState
	news     chan struct{}
}

// New returns a Driver. It starts and stops nothing.
func New(o Options) (*Driver, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	d := &Driver{
		runDir: filepath.Join(o.Dir, "run"), logDir: o.LogDir, logBytes: o.LogBytes, logFiles: o.LogFiles,
		shim: o.Shim, orphanAfter: o.OrphanAfter, log: o.Logger,
		claims: map[string]*claim{}, asked: map[string]bool{}, news: make(chan struct{}, 1),
	}
	var err error
	if d.boot, err = bootID(); err != nil {
		return nil, fmt.Errorf("process driver: %w", err)
	}
	for _, dir := range []string{o.Dir, d.runDir, d.logDir} {
		if err := durable.MakeFolder(dir); err != nil {
			return nil, fmt.Errorf("process driver: %w", err)
		}
	}
	return d, nil
}

// Batching implements driver.Batcher: an object waits for its programs most of the
// time, and none waits for another.
func (d *Driver) Batching() driver.Batching {
	return driver.Batching{Objects: 1, Parallel: applyParallel, Timeout: applyTimeout}
}

// Apply implements driver.Driver. Copies that run what shall run are left alone,
// however many more or fewer of them there shall be. Those of another version
// are replaced one after the other, and not before what is missing runs. It
// returns once each copy that it started has stayed up for as long as the object
// says; an error leaves as they are those that run.
func (d *Driver) Apply(ctx context.Context, changes []driver.Change) []driver.Result {
	results := make([]driver.Result, len(changes))
	for _, deleted := range []bool{true, false} {
		for i, c := range changes {
			switch {
			case c.Deleted() != deleted:
			case ctx.Err() != nil:
				results[i].Err = context.Cause(ctx)
			default:
				results[i].Note, results[i].Err = d.apply(ctx, c)
			}
		}
	}
	return results
}

func (d *Driver) apply(ctx context.Context, c driver.Change) ([]byte, error) {
	if c.Name == "" {
		return nil, errors.New("the object's key has no name behind the prefix")
	}
	if err := d.take(ctx, c.Name); err != nil {
		return nil, err
	}
	defer d.release(c.Name)
	d.mentioned(c.Name)
	before, err := readNote(c.Note)
	if err != nil {
		d.log.Warn("note of an object", "name", c.Name, "error", err)
	}
	if c.Deleted() {
		return nil, d.remove(ctx, c.Name, before)
	}
	spec, err := ParseSpec(c.Object.Value)
	if err != nil {
		return nil, err
	}
	if err := d.makeFolder(c.Name); err != nil {
		return nil, fmt.Errorf("state of the copies: %w", err)
	}
	r := &roll{d: d, name: c.Name, spec: spec, version: spec.version(), before: before}
	defer r.watch()
	if err := r.run(ctx); err != nil {
		return nil, err
	}
	return json.Marshal(note{Version: r.version, Replicas: spec.Replicas, Stop: spec.Stop})
}

// note is what is kept with an object: what was made true.
type note struct {
	Version  string   `json:"version"`
	Replicas int      `json:"replicas"`
	Stop     Stopping `json:"stop"`
}

// readNote returns the zero note where there is none.
func readNote(text []byte) (note, error) {
	var n note
	if text == nil {
		return n, nil
	}
	err := json.Unmarshal(text, &n)
	if err == nil && (n.Version == "" || n.Replicas < 0 || n.Replicas > MaxReplicas) {
		err = errors.New("it names no version, or no number of copies that there can be")
	}
	if err != nil {
		return note{}, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return n, nil
}

// stopping returns how a copy is to be stopped: as its object says now, where the
// copy is of that version, else as was said for its own.
func (n note) stopping(st *state) Stopping {
	if n.Version == st.Version {
		return n.Stop
	}
	return st.Stop
}

// remove stops all copies of an object, side by side, and forgets it.
func (d *Driver) remove(ctx context.Context, name string, before note) error {
	copies, err := d.settled(ctx, name, 0)
	if err != nil {
		return err
	}
	errs := make([]error, len(copies))
	var all sync.WaitGroup
	for i, c := range copies {
		all.Go(func() {
			var how Stopping
			if c.state != nil {
				how = before.stopping(c.state)
			}
			errs[i] = c.stop(ctx, c, how)
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return errors.Join(os.RemoveAll(d.folder(name)), d.removeLogs(name), durable.SyncFolder(d.runDir))
}

func (d *Driver) removeLogs(name string) error {
	entries, err := os.ReadDir(d.logDir)
	if err != nil {
		return err
	}
	pattern := logPattern(name)
	var errs []error
	for _, e := range entries {
		if pattern.MatchString(e.Name()) {
			errs = append(errs, os.RemoveAll(filepath.Join(d.logDir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// folder returns the folder of what is known of an object's copies.
func (d *Driver) folder(name string) string { return filepath.Join(d.runDir, fileName(name)) }

var slotFile = regexp.MustCompile(`^(0|[1-9][0-9]{0,3})\.(json|lock)$`)

// slots returns the slots of an object that have been used, and those below
// atLeast, ascending.
func (d *Driver) slots(name string, atLeast int) ([]slot, error) {
	entries, err := os.ReadDir(d.folder(name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var replicas []int
	for i := range atLeast {
		replicas = append(replicas, i)
	}
	for _, e := range entries {
		if m := slotFile.FindStringSubmatch(e.Name()); m != nil {
			i, _ := strconv.Atoi(m[1]) // the pattern says so
			replicas = append(replicas, i)
		}
	}
	slices.Sort(replicas)
	var slots []slot
	for _, i := range slices.Compact(replicas) {
		slots = append(slots, slot{d, name, i})
	}
	return slots, nil
}

// settled returns what the slots hold, once nothing of it comes or goes.
func (d *Driver) settled(ctx context.Context, name string, atLeast int) ([]copyState, error) {
	slots, err := d.slots(name, atLeast)
	if err != nil {
		return nil, err
	}
	var copies []copyState
	for _, s := range slots {
		c, err := s.settle(ctx)
		if err != nil {
			return nil, err
		}
		copies = append(copies, c)
	}
	return copies, nil
}
