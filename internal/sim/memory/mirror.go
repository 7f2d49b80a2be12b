package memory

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/merkle"
	"espalier/store"
)

// Agent is a host's data folder on a disk: a follow.Disk.
type Agent struct {
	Disk    *Disk
	Options Options
	// Mismatch is told of each set for which what was received doesn't have the
	// root that it must have; nil: nobody is.
	Mismatch func(set desired.Name)
}

// The names on an agent's disk. What is written twice is at both.
const (
	mirrorPrefix  = "mirror/"
	stagingPrefix = "staging/"
)

var (
	listNames     = [...]string{"list", "list2"}
	floorPrefixes = [...]string{"floor/", "floor2/"}
)

// rotten stands for a small value that does not match its checksum.
type rotten struct{}

// copyFile is what lies on the disk of a mirror, whose head was verified and whose
// content may be another since it was repaired, or of a staging.
type copyFile struct {
	content
	head desired.Head
	mark []byte // stagings only
}

// List implements follow.Disk.
func (a Agent) List() (desired.List, error) {
	var copies [len(listNames)]desired.List
	var latest desired.List
	damaged := false
	for i, name := range listNames {
		v, err := a.Disk.get(name)
		if err != nil {
			return desired.List{}, err
		}
		if _, bad := v.(rotten); bad {
			damaged = true
		}
		if copies[i], _ = v.(desired.List); copies[i].Version > latest.Version {
			latest = copies[i]
		}
	}
	if latest.Version == 0 && damaged {
		return latest, fmt.Errorf("%w: list of sets", store.ErrCorrupt)
	}
	for i := range copies {
		if copies[i].Version != latest.Version {
			return latest, crashOnly(a.WriteList(latest))
		}
	}
	return latest, nil
}

// crashOnly returns err if it is of a crash: else what could not be written anew is
// with the next.
func crashOnly(err error) error {
	if errors.Is(err, ErrCrashed) {
		return err
	}
	return nil
}

// PeekList returns the list as List does, and writes nothing.
func (a Agent) PeekList() (latest desired.List) {
	for _, name := range listNames {
		if l, ok := a.Disk.seen[name].(desired.List); ok && l.Version > latest.Version {
			latest = l
		}
	}
	return latest
}

// WriteList implements follow.Disk.
func (a Agent) WriteList(l desired.List) error {
	for _, name := range listNames {
		if err := a.Disk.replace(name, l); err != nil {
			return err
		}
	}
	return nil
}

// Mirrored implements follow.Disk.
func (a Agent) Mirrored() ([]desired.Name, error) {
	found, err := a.Disk.names(mirrorPrefix)
	names := make([]desired.Name, len(found))
	for i, name := range found {
		names[i] = desired.Name(name)
	}
	return names, err
}

// RotList makes a copy of the list unreadable, if the other is as good.
func (a Agent) RotList(copy uint64) {
	if is, ok := a.Disk.seen[listNames[copy%2]].(desired.List); ok {
		other, _ := a.Disk.seen[listNames[1-copy%2]].(desired.List)
		a.rot(listNames[copy%2], is.Version == other.Version)
	}
}

// RotFloor makes a copy of a mirror's floor unreadable, if the other is as good.
func (a Agent) RotFloor(set desired.Name, copy uint64) {
	name := floorPrefixes[copy%2] + string(set)
	if is, ok := a.Disk.seen[name].(desired.Revision); ok {
		other, _ := a.Disk.seen[floorPrefixes[1-copy%2]+string(set)].(desired.Revision)
		a.rot(name, is == other)
	}
}

func (a Agent) rot(name string, redundant bool) {
	if redundant {
		a.Disk.rot(name, rotten{})
	}
}

// LoseMirror makes a mirror vanish.
func (a Agent) LoseMirror(set desired.Name) { a.Disk.Lose(mirrorPrefix + string(set)) }

// Flip flips a bit in a value of a mirror, or now and then of what is staged
// beside it.
func (a Agent) Flip(set desired.Name, at uint64) bool {
	name := mirrorPrefix + string(set)
	if staged := stagingPrefix + string(set); at%4 == 0 && a.Disk.seen[staged] != nil {
		name = staged
	}
	f, ok := a.Disk.seen[name].(*copyFile)
	if !ok {
		return false
	}
	next := *f
	if next.content, ok = f.flip(at); ok {
		a.Disk.rot(name, &next)
	}
	return ok
}

// Mirror is a follow.Mirror. What it returns, and its errors, are as store.Mirror
// has them.
type Mirror struct {
	disk     *Disk
	options  Options
	tell     func(desired.Name)
	name     string
	head     desired.Head
	tree     desired.Digest // the root of what is there
	floor    desired.Revision
	floorDue bool // the floor's copies are not all at it
	staging  *Staging
}

// Open implements follow.Disk.
func (a Agent) Open(set desired.Name) (follow.Mirror, error) { return a.open(set) }

func (a Agent) open(set desired.Name) (*Mirror, error) {
	m := &Mirror{disk: a.Disk, options: a.Options, tell: a.Mismatch, name: string(set)}
	f, err := m.load()
	if err != nil {
		return nil, err
	}
	if f != nil {
		m.head, m.tree = f.head, f.root
	}
	return m, m.settle()
}

// load returns what lies on the disk; nil: there is no mirror.
func (m *Mirror) load() (*copyFile, error) {
	v, err := m.disk.get(mirrorPrefix + m.name)
	f, _ := v.(*copyFile)
	return f, err
}

// settle holds the copies of the floor against each other and the mirror.
func (m *Mirror) settle() error {
	damaged := false
	var copies [len(floorPrefixes)]desired.Revision
	for i, prefix := range floorPrefixes {
		v, err := m.disk.get(prefix + m.name)
		if err != nil {
			return err
		}
		if _, bad := v.(rotten); bad {
			damaged = true
			continue
		}
		copies[i], _ = v.(desired.Revision)
		is := &copies[i]
		// Of two in different epochs it is the first: a crash came before the second
		// was written.
		if m.floor.Epoch.IsZero() || is.Epoch == m.floor.Epoch && is.Number > m.floor.Number {
			m.floor = *is
		}
	}
	if m.head.Epoch.IsZero() && m.floor.Epoch.IsZero() {
		if damaged {
			return fmt.Errorf("%w: floor of %s", store.ErrCorrupt, m.name)
		}
		return nil
	}
	for _, c := range copies {
		m.floorDue = m.floorDue || c != m.floor
	}
	return crashOnly(m.raise())
}

// raise makes the floor the later of it and the head.
func (m *Mirror) raise() error {
	if !m.head.Epoch.IsZero() && (m.floor.Epoch.IsZero() || m.head.Follows(m.floor)) {
		m.floor, m.floorDue = m.head.Revision, true
	}
	if !m.floorDue {
		return nil
	}
	for _, prefix := range floorPrefixes {
		if err := m.disk.replace(prefix+m.name, m.floor); err != nil {
			return err
		}
	}
	m.floorDue = false
	return nil
}

// Head implements follow.Mirror.
func (m *Mirror) Head() desired.Head { return m.head }

// Floor implements follow.Mirror.
func (m *Mirror) Floor() desired.Revision { return m.floor }

// Damaged implements follow.Mirror.
func (m *Mirror) Damaged() bool { return m.tree != m.head.Root }

// View implements follow.Mirror.
func (m *Mirror) View(fn func(follow.Snapshot) error) error {
	return m.Look(func(s *Snapshot) error { return fn(s) })
}

// Look is View of all that a Snapshot tells.
func (m *Mirror) Look(fn func(*Snapshot) error) error {
	f, err := m.load()
	if err != nil {
		return err
	}
	if f == nil {
		return fmt.Errorf("mirror of %s: %w", m.name, store.ErrNotFound)
	}
	return view(&f.content, f.head, nil, fn)
}

// Adopt implements follow.Mirror.
func (m *Mirror) Adopt(ctx context.Context, head desired.Head, changes iter.Seq2[desired.Change, error]) error {
	if head.Epoch.IsZero() || head.Number == 0 {
		return fmt.Errorf("%w head: it is at %v", desired.ErrInvalid, head.Position)
	}
	all, more, err := gather(ctx, changes, m.options.AdoptChanges)
	if err == nil && more {
		err = store.ErrTooLarge
	}
	if err != nil {
		return err
	}
	f, err := m.load()
	if err != nil {
		return err
	}
	if f == nil { // a tree without a salt is good for an empty head
		f = &copyFile{content: emptyContent(0)}
	}
	kept, _ := f.compare(all)
	next, err := f.apply(merkle.Shape{Salt: f.salt}, kept)
	if err != nil {
		return err
	}
	if next.root != head.Root {
		return m.mismatch(next.root, head.Root)
	}
	head = next.on(head)
	if err := m.disk.replace(mirrorPrefix+m.name, &copyFile{content: next, head: head}); err != nil {
		return err
	}
	m.head, m.tree = head, head.Root
	return m.raise()
}

func (m *Mirror) mismatch(is, want desired.Digest) error {
	if m.tell != nil {
		m.tell(desired.Name(m.name))
	}
	return fmt.Errorf("mirror of %s: %w: %v, not %v", m.name, store.ErrRootMismatch, is, want)
}

// NeedRoom implements follow.Mirror.
func (m *Mirror) NeedRoom(desired.Head) error {
	if m.disk.full {
		return store.ErrDiskFull
	}
	return nil
}

// Repair implements follow.Mirror.
func (m *Mirror) Repair(context.Context) (damaged int, err error) {
	f, err := m.load()
	if err != nil || f == nil {
		return 0, err
	}
	next, damaged, err := f.honest()
	if err != nil || damaged == 0 {
		return 0, err
	}
	if err := m.disk.replace(mirrorPrefix+m.name, &copyFile{content: next, head: f.head}); err != nil {
		return damaged, err
	}
	m.tree = next.root
	return damaged, nil
}

// Scrub returns an error that matches store.ErrCorrupt if it is time for Repair.
func (m *Mirror) Scrub() error {
	f, err := m.load()
	if err != nil || f == nil {
		return err
	}
	return f.damage()
}

// Remove implements follow.Mirror.
func (m *Mirror) Remove() error {
	if err := m.DiscardStaging(); err != nil {
		return err
	}
	if err := m.disk.erase(mirrorPrefix + m.name); err != nil {
		return err
	}
	m.head, m.tree = desired.Head{}, desired.Digest{}
	return nil
}

// Close implements follow.Mirror.
func (m *Mirror) Close() error {
	m.staging = nil
	return nil
}
