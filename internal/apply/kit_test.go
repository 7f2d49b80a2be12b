package apply_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"

	"espalier/agent/driver"
	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// world is a host whose driver keeps objects in a map.
type world struct {
	t      testing.TB
	record *store.Applied
	dir    string
	sets   []apply.Set
	orders desired.Orders
	state  map[desired.Name]map[string]desired.Object // what the sets hold
	driver *fake
	policy apply.Policy
	routes []apply.Route
	*apply.Applier
}

func newWorld(t testing.TB, names ...desired.Name) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), state: map[desired.Name]map[string]desired.Object{}, driver: newFake()}
	w.routes = []apply.Route{{Prefix: "run/", Name: "fake", Driver: w.driver}}
	w.policy.MaxDelete = &store.DeleteLimit{Percent: 100}
	lock, err := store.LockDir(w.dir, "agent of test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	for _, name := range names {
		w.addSet(name)
	}
	w.openRecord()
	w.restart()
	return w
}

func (w *world) addSet(name desired.Name) {
	w.t.Helper()
	m, err := store.OpenMirror(w.dir, name, store.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { m.Close() })
	w.sets = append(w.sets, apply.Set{Name: name, Mirror: m})
}

func (w *world) openRecord() {
	w.t.Helper()
	record, err := store.OpenApplied(w.dir, "test", store.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.record = record
	w.t.Cleanup(func() { record.Close() })
}

// restart makes the applier anew, as an agent that starts does.
func (w *world) restart() {
	w.t.Helper()
	a, err := apply.New(apply.Options{Record: w.record, Routes: w.routes, Policy: w.policy, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Applier = a
	w.Desire(w.sets, w.orders)
}

// publish makes a set hold what objects says, as its next revision.
func (w *world) publish(name desired.Name, objects map[string]desired.Object) {
	w.t.Helper()
	old := w.state[name]
	var changes []desired.Change
	var h desired.Hasher
	all := maps.Clone(old)
	if all == nil {
		all = map[string]desired.Object{}
	}
	maps.Copy(all, objects)
	build := merkle.Shape{}.NewBuilder(func(int, merkle.Row) error { return nil })
	for _, key := range slices.Sorted(maps.Keys(all)) {
		o, ok := objects[key]
		if !ok {
			changes = append(changes, desired.Change{Key: []byte(key)})
			continue
		}
		o.Key = key
		env, err := desired.Encode(o)
		if err != nil {
			w.t.Fatal(err)
		}
		c := desired.Change{Key: []byte(key), Envelope: env, Digest: h.Sum([]byte(key), env)}
		changes = append(changes, c)
		if err := build.Add(c.Key, c.Digest); err != nil {
			w.t.Fatal(err)
		}
	}
	root, _, err := build.Finish()
	if err != nil {
		w.t.Fatal(err)
	}
	i := slices.IndexFunc(w.sets, func(s apply.Set) bool { return s.Name == name })
	m := w.sets[i].Mirror
	head := m.Head()
	if head.Epoch.IsZero() {
		head.Epoch = desired.NewEpoch()
	}
	head.Number++
	head.Root = root.Digest
	if err := m.Adopt(context.Background(), head, sequence(changes)); err != nil {
		w.t.Fatal(err)
	}
	w.state[name] = objects
	w.Desire(w.sets, w.orders)
}

func sequence(changes []desired.Change) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for _, c := range changes {
			if !yield(c, nil) {
				return
			}
		}
	}
}

// once applies once, and fails the test if that fails.
func (w *world) once() desired.Convergence {
	w.t.Helper()
	if err := w.Once(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	return w.Status()
}

// wanted returns what the host should hold: of several sets the later wins.
func (w *world) wanted() map[string]string {
	all := map[string]string{}
	for _, s := range w.sets {
		for key, o := range w.state[s.Name] {
			all[key] = string(o.Value)
		}
	}
	maps.DeleteFunc(all, func(key, _ string) bool { return !bytes.HasPrefix([]byte(key), []byte("run/")) })
	return all
}

// object returns one with a value that comes after keys.
func object(value string, after ...string) desired.Object {
	return desired.Object{Value: []byte(value), After: after}
}

// fake is a driver that keeps objects in a map, and in a list what it did.
type fake struct {
	mu    sync.Mutex
	holds map[string]string
	log   []string
	fails map[string]error
	batch int
	gate  chan struct{} // nil: open; else an Apply takes one
	began chan string   // nil: nobody listens
}

func newFake() *fake {
	return &fake{holds: map[string]string{}, fails: map[string]error{}, batch: 3}
}

func (f *fake) Batching() driver.Batching { return driver.Batching{Objects: f.batch, Parallel: 2} }

func (f *fake) Apply(ctx context.Context, changes []driver.Change) []driver.Result {
	if f.began != nil {
		f.began <- changes[0].Key
	}
	if f.gate != nil {
		select {
		case <-f.gate:
		case <-ctx.Done():
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	results := make([]driver.Result, len(changes))
	for i, c := range changes {
		if err := cmpErr(ctx.Err(), f.fails[c.Key]); err != nil {
			results[i].Err = err
			f.log = append(f.log, "fail "+c.Key)
			continue
		}
		if c.Deleted() {
			delete(f.holds, c.Key)
			f.log = append(f.log, "- "+c.Key)
			continue
		}
		f.holds[c.Key] = string(c.Object.Value)
		f.log = append(f.log, "+ "+c.Key)
		results[i].Note = []byte("note of " + string(c.Object.Value))
	}
	return results
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (f *fake) Scan(_ context.Context, s driver.Scan) error {
	for k, err := range s.Objects {
		if err != nil {
			return err
		}
		f.mu.Lock()
		is, ok := f.holds[k.Key]
		f.mu.Unlock()
		switch {
		case !ok:
			s.Report(k, driver.Finding{Drift: "missing"})
		case "note of "+is != string(k.Note):
			s.Report(k, driver.Finding{Drift: "it is " + is, Seen: desired.Digest{1}})
		}
	}
	return nil
}

// take returns what was done since the last call.
func (f *fake) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

// is returns a copy of what is on the host.
func (f *fake) is() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.holds)
}

func (f *fake) set(key, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if value == "" {
		delete(f.holds, key)
	} else {
		f.holds[key] = value
	}
}

func (f *fake) fail(key string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fails[key] = err
}

// same fails the test unless the host holds what it should.
func (w *world) same(what string) {
	w.t.Helper()
	if got, want := w.driver.is(), w.wanted(); !maps.Equal(got, want) {
		w.t.Fatalf("%s: the host holds %v, want %v", what, got, want)
	}
}

// converged fails the test unless the host has converged.
func (w *world) converged(what string, c desired.Convergence) {
	w.t.Helper()
	if c.State != desired.Converged || c.Desired != c.Applied || c.Applied != c.Observed || c.Pending != 0 || c.Failed != 0 {
		w.t.Fatalf("%s: the status is %s", what, statusText(c))
	}
	w.same(what)
}

func statusText(c desired.Convergence) string {
	return fmt.Sprintf("%v (%s): desired %.8s applied %.8s observed %.8s, %d objects, %d pending, %d failed %v, %d unmanaged, %d drifted, %d found, %d corrected, %d guarded",
		c.State, c.Reason, c.Desired, c.Applied, c.Observed, c.Objects, c.Pending, c.Failed, c.Failures, c.Unmanaged, c.Drifted, c.Found, c.Corrected, c.Guarded)
}

var errBroken = errors.New("broken")
