// Package memory answers how sets and mirrors lie on a disk that can lose power at
// any moment. It is package store over again, in a few hundred lines of plain
// values, for simulations: both pass store/storetest.
//
// What is written is seen at once, and is durable once it is synced. A crash
// keeps of what was not synced whatever chance keeps of it, each value whole:
// bbolt's own pages are beneath what is modelled here, and have package store's
// kill tests.
package memory

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"espalier/store"
)

// ErrCrashed is what every use of a disk returns from a crash to the Restart.
var ErrCrashed = errors.New("the machine has crashed")

// ErrBroken is what a write returns that fails for no reason of ours.
var ErrBroken = errors.New("input/output error")

// Disk is a machine's disk: values by name. Values are never changed once they
// are written.
type Disk struct {
	seen    map[string]any // as the machine reads it
	durable map[string]any // as it is after a crash
	pending []write        // what isn't durable yet, in order
	random  *rand.Rand
	down    bool
	fuse    int // operations until the crash; 0: none is due
	failing int // writes that fail from now on
	full    bool
}

// write is a change of a name, or two, that isn't durable yet.
type write struct {
	name  string
	value any    // nil: the name goes
	moved string // the name that the value comes from; empty: none
}

// NewDisk returns an empty disk, which takes from random what a crash keeps.
func NewDisk(random *rand.Rand) *Disk {
	return &Disk{seen: map[string]any{}, durable: map[string]any{}, random: random}
}

// CrashAfter lets the machine crash in the middle of what it does: at the n-th
// operation on its disk from now on.
func (d *Disk) CrashAfter(n int) { d.fuse = n }

// Crash takes the machine down.
func (d *Disk) Crash() { d.down = true }

// Crashed reports whether the machine is down.
func (d *Disk) Crashed() bool { return d.down }

// Fail lets the next n writes fail.
func (d *Disk) Fail(n int) { d.failing = n }

// Fill makes the disk full, or not any more.
func (d *Disk) Fill(full bool) { d.full = full }

// Restart brings the machine back with what the crash left.
func (d *Disk) Restart() {
	for _, w := range d.pending {
		if d.random.IntN(2) == 0 {
			w.apply(d.durable)
		}
	}
	d.pending, d.down, d.fuse, d.failing = nil, false, 0, 0
	d.seen = maps.Clone(d.durable)
}

// Image returns what is on the disk, as a copy of it would have it.
func (d *Disk) Image() map[string]any { return maps.Clone(d.seen) }

// Put makes an image what is on the disk, as one does with a backup of it.
func (d *Disk) Put(image map[string]any) {
	d.seen, d.durable, d.pending = maps.Clone(image), maps.Clone(image), nil
}

// Lose makes a value vanish behind the back of who wrote it.
func (d *Disk) Lose(name string) {
	delete(d.seen, name)
	delete(d.durable, name)
}

func (w *write) apply(values map[string]any) {
	value := w.value
	if w.moved != "" {
		value = values[w.moved]
		delete(values, w.moved)
	}
	if value == nil {
		delete(values, w.name)
		return
	}
	values[w.name] = value
}

// use counts an operation.
func (d *Disk) use() error {
	if d.fuse > 0 {
		d.fuse--
		d.down = d.down || d.fuse == 0
	}
	if d.down {
		return ErrCrashed
	}
	return nil
}

func (d *Disk) get(name string) (any, error) {
	if d.down {
		return nil, ErrCrashed
	}
	return d.seen[name], nil
}

// names returns the names that begin with prefix, without it, ascending.
func (d *Disk) names(prefix string) ([]string, error) {
	if d.down {
		return nil, ErrCrashed
	}
	var names []string
	for name := range d.seen {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			names = append(names, rest)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (d *Disk) write(w write) error {
	if err := d.use(); err != nil {
		return err
	}
	if d.failing > 0 {
		d.failing--
		return ErrBroken
	}
	w.apply(d.seen)
	d.pending = append(d.pending, w)
	return nil
}

// put writes a value.
func (d *Disk) put(name string, value any) error {
	if d.full && !d.down {
		return store.ErrDiskFull
	}
	return d.write(write{name: name, value: value})
}

func (d *Disk) remove(name string) error { return d.write(write{name: name}) }

// move puts a value in the place of another.
func (d *Disk) move(from, to string) error { return d.write(write{name: to, moved: from}) }

// sync makes durable what was written to a name, and what that came from.
func (d *Disk) sync(name string) error {
	if err := d.use(); err != nil {
		return err
	}
	names := []string{name}
	for _, w := range slices.Backward(d.pending) {
		if w.moved != "" && slices.Contains(names, w.name) {
			names = append(names, w.moved)
		}
	}
	d.pending = slices.DeleteFunc(d.pending, func(w write) bool {
		ours := slices.Contains(names, w.name)
		if ours {
			w.apply(d.durable)
		}
		return ours
	})
	return nil
}

// replace writes a value and makes it durable.
func (d *Disk) replace(name string, value any) error {
	if err := d.put(name, value); err != nil {
		return err
	}
	return d.sync(name)
}

// erase removes a value, durably.
func (d *Disk) erase(name string) error {
	if d.seen[name] == nil && !d.down {
		return nil
	}
	if err := d.remove(name); err != nil {
		return err
	}
	return d.sync(name)
}
