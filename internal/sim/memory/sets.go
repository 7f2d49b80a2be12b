package memory

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// Store is a server's sets on a disk. What it returns, and its errors, are as
// store.Store has them.
type Store struct {
	disk    *Disk
	options Options
	random  *rand.Rand
	bad     map[desired.Name]error // the sets that are quarantined, until a restart
	watch   func(desired.Name)
}

// Options are the bounds that small sets are to meet.
type Options struct {
	// JournalKeys is what a journal keeps at least.
	JournalKeys int
	// AdoptChanges bounds what a mirror adopts at once.
	AdoptChanges int
}

// The names on a server's disk.
const (
	setPrefix     = "set/"
	lineagePrefix = "lineage/"
	listsName     = "lists"
	seenName      = "seen"
)

// setFile is what lies on the disk of a set.
type setFile struct {
	content
	head     desired.Head
	forked   uint64
	journal  []revision // the first is a base
	requests []request
}

type revision struct {
	number uint64
	root   desired.Digest
	keys   [][]byte
}

type request struct {
	store.Request
	answer store.Result
}

// OpenStore opens the sets that lie on the disk. Epochs and salts are drawn from
// random.
func OpenStore(d *Disk, random *rand.Rand, o Options) *Store {
	return &Store{disk: d, options: o, random: random, bad: map[desired.Name]error{}, watch: func(desired.Name) {}}
}

// Watch makes the store call fn with each set that changes.
func (s *Store) Watch(fn func(desired.Name)) { s.watch = fn }

// load returns what lies on the disk of a set; nil: there is none.
func (s *Store) load(name desired.Name) (*setFile, error) {
	v, err := s.disk.get(setPrefix + string(name))
	f, _ := v.(*setFile)
	return f, err
}

// use is load of a set that has to be in service.
func (s *Store) use(name desired.Name) (*setFile, error) {
	f, err := s.load(name)
	switch {
	case err != nil:
		return nil, err
	case f == nil:
		return nil, fmt.Errorf("%w: %s", store.ErrNotFound, name)
	}
	return f, s.bad[name]
}

func (s *Store) save(name desired.Name, f *setFile) error {
	if err := s.disk.replace(setPrefix+string(name), f); err != nil {
		return err
	}
	s.watch(name)
	return nil
}

// Names returns all sets.
func (s *Store) Names() ([]desired.Name, error) {
	found, err := s.disk.names(setPrefix)
	names := make([]desired.Name, len(found))
	for i, name := range found {
		names[i] = desired.Name(name)
	}
	return names, err
}

// Head returns a set's head.
func (s *Store) Head(name desired.Name) (desired.Head, error) {
	f, err := s.use(name)
	if err != nil {
		return desired.Head{}, err
	}
	return f.head, nil
}

// Forked reports whether commits to a set are refused.
func (s *Store) Forked(name desired.Name) bool {
	f, err := s.load(name)
	return err == nil && f != nil && f.forked > 0
}

// View calls fn with a snapshot of a set, which is quarantined if that comes
// upon damage.
func (s *Store) View(name desired.Name, fn func(*Snapshot) error) error {
	f, err := s.use(name)
	if err != nil {
		return err
	}
	err = view(&f.content, f.head, f.journal, fn)
	if errors.Is(err, store.ErrCorrupt) {
		s.quarantine(name, err)
	}
	return err
}

func (s *Store) quarantine(name desired.Name, why error) {
	if s.bad[name] == nil {
		s.bad[name] = fmt.Errorf("set %s is %w: %w", name, store.ErrQuarantined, why)
		s.watch(name)
	}
}

// Scrub holds every object against its digest.
func (s *Store) Scrub() error {
	names, err := s.Names()
	for _, name := range names {
		if f, _ := s.use(name); f != nil && f.damage() != nil {
			s.quarantine(name, f.damage())
		}
	}
	return err
}

// Flip flips a bit in a value of a set.
func (s *Store) Flip(name desired.Name, at uint64) bool {
	f, err := s.load(name)
	if err != nil || f == nil {
		return false
	}
	next := *f
	var ok bool
	if next.content, ok = f.flip(at); ok {
		s.disk.rot(setPrefix+string(name), &next)
	}
	return ok
}

// rot changes a value behind the back of who wrote it.
func (d *Disk) rot(name string, value any) {
	d.seen[name] = value
	if d.durable[name] != nil {
		d.durable[name] = value
	}
}

// Commit applies a commit.
func (s *Store) Commit(ctx context.Context, name desired.Name, c store.Commit) (store.Result, error) {
	changes, _, err := gather(ctx, c.Changes, 0)
	if err != nil {
		return store.Result{}, err
	}
	f, err := s.use(name)
	if errors.Is(err, store.ErrNotFound) {
		return s.create(name, &c, changes)
	}
	if err != nil {
		return store.Result{}, err
	}
	if a, ok, err := f.replay(c.Request); ok || err != nil {
		return a, err
	}
	if f.forked != 0 {
		return store.Result{}, fmt.Errorf("set %s: its %w", name, store.ErrForked)
	}
	if err := expect(c.Expect, f.head); err != nil {
		return store.Result{}, err
	}
	kept, t := f.compare(changes)
	if err := c.MaxDelete.Check(t.deleted, uint64(len(f.objects))); err != nil {
		return store.Result{}, err
	}
	next := *f
	if len(kept) > 0 {
		if next.content, err = f.apply(merkle.Shape{Salt: f.salt, MaxChildren: merkle.MaxChildren}, kept); err != nil {
			return store.Result{}, err
		}
		if err := next.ordered(); err != nil {
			return store.Result{}, err
		}
		next.head = next.on(f.head)
		next.head.Number++
		next.record(kept, s.options.JournalKeys)
	}
	result := t.result(next.head)
	next.remember(c.Request, result)
	if len(kept) == 0 && c.Request.ID == "" {
		return result, nil
	}
	return result, s.save(name, &next)
}

// create is Commit of a set that isn't there.
func (s *Store) create(name desired.Name, c *store.Commit, changes []desired.Change) (store.Result, error) {
	if err := expect(c.Expect, desired.Head{}); err != nil {
		return store.Result{}, err
	}
	next := setFile{content: emptyContent(s.random.Uint64())}
	kept, t := next.compare(changes)
	if len(kept) == 0 {
		return store.Result{}, fmt.Errorf("%w: %s", store.ErrNotFound, name)
	}
	var err error
	if next.content, err = next.apply(merkle.Shape{Salt: next.salt, MaxChildren: merkle.MaxChildren}, kept); err != nil {
		return store.Result{}, err
	}
	if err := next.ordered(); err != nil {
		return store.Result{}, err
	}
	if next.head, err = s.begin(name); err != nil {
		return store.Result{}, err
	}
	next.rebase(next.on(next.head))
	result := t.result(next.head)
	next.remember(c.Request, result)
	return result, s.save(name, &next)
}

func expect(want *desired.Position, head desired.Head) error {
	if want == nil || want.Number == head.Number && (want.Epoch.IsZero() || want.Epoch == head.Epoch) {
		return nil
	}
	return fmt.Errorf("%w: it is at %v, expected was %v", store.ErrConflict, head.Position, *want)
}

// record journals what the revision at the head touched.
func (f *setFile) record(kept []desired.Change, least int) {
	r := revision{number: f.head.Number, root: f.head.Root}
	for _, k := range kept {
		r.keys = append(r.keys, k.Key)
	}
	f.journal = append(slices.Clip(f.journal), r)
	total := 0
	for _, r := range f.journal[1:] {
		total += len(r.keys)
	}
	for drop := total - max(least, len(f.objects)/8); drop > 0; {
		f.journal = f.journal[1:]
		drop -= len(f.journal[0].keys) // it is the base now
	}
}

// rebase makes head the revision, and forgets how it came about.
func (f *setFile) rebase(head desired.Head) {
	f.head, f.journal = head, []revision{{number: head.Number, root: head.Root}}
}

// replay returns the answer that was given to a request.
func (f *setFile) replay(r store.Request) (store.Result, bool, error) {
	for _, old := range f.requests {
		if r.ID == "" || old.ID != r.ID {
			continue
		}
		if old.Digest != r.Digest {
			return store.Result{}, true, fmt.Errorf("%w: %q", store.ErrRequestReused, r.ID)
		}
		a := old.answer
		a.Replayed = true
		return a, true, nil
	}
	return store.Result{}, false, nil
}

func (f *setFile) remember(r store.Request, a store.Result) {
	if r.ID != "" {
		f.requests = append(slices.Clip(f.requests), request{Request: r, answer: a})
	}
}

// epochs returns the epochs of the set, the latest first. The number of the
// first is the highest that anybody holds.
func (f *setFile) epochs() []desired.Position {
	all := epochsOf(f.head)
	all[0].Number = max(all[0].Number, f.forked)
	return all
}

func epochsOf(h desired.Head) []desired.Position {
	all := slices.Concat([]desired.Position{h.Position}, h.Lineage)
	return all[:min(len(all), desired.MaxLineage)]
}

// begin returns the first head of a new epoch, which is noted before anybody can
// see it.
func (s *Store) begin(name desired.Name, known ...[]desired.Position) (desired.Head, error) {
	v, err := s.disk.get(lineagePrefix + string(name))
	if err != nil {
		return desired.Head{}, err
	}
	retired, _ := v.([]desired.Position)
	var h desired.Head
	for _, p := range slices.Concat(slices.Concat(known...), retired) {
		h.Number = max(h.Number, p.Number)
		if !slices.ContainsFunc(h.Lineage, func(q desired.Position) bool { return q.Epoch == p.Epoch }) {
			h.Lineage = append(h.Lineage, p)
		}
	}
	h.Lineage = h.Lineage[:min(len(h.Lineage), desired.MaxLineage)]
	h.Number++
	binary.BigEndian.PutUint64(h.Epoch[:], s.random.Uint64())
	binary.BigEndian.PutUint64(h.Epoch[8:], s.random.Uint64())
	return h, s.disk.replace(lineagePrefix+string(name), epochsOf(h))
}

// Fork notes that a host holds a revision that is not in the set's history.
func (s *Store) Fork(_ context.Context, name desired.Name, p desired.Position) error {
	f, err := s.use(name)
	if err != nil {
		return err
	}
	if f.head.Epoch != p.Epoch || f.forked >= p.Number {
		return nil
	}
	next := *f
	next.forked = p.Number
	return s.save(name, &next)
}

// Renew starts a new epoch of a set from what it holds.
func (s *Store) Renew(_ context.Context, name desired.Name, _, _ string) (desired.Head, error) {
	f, err := s.use(name)
	if err != nil {
		return desired.Head{}, err
	}
	head, err := s.begin(name, f.epochs())
	if err != nil {
		return desired.Head{}, err
	}
	next := *f
	next.forked = 0
	next.rebase(next.on(head))
	return next.head, s.save(name, &next)
}

// Restore makes a set's content what r says, in a new epoch.
func (s *Store) Restore(ctx context.Context, name desired.Name, r store.Restore) (store.Restored, error) {
	objects, _, err := gather(ctx, r.Objects, 0)
	if err != nil {
		return store.Restored{}, err
	}
	f, err := s.load(name)
	if err != nil {
		return store.Restored{}, err
	}
	next := setFile{content: emptyContent(r.From.Salt)}
	var result store.Restored
	var current []desired.Position
	if f != nil {
		current, result.Replaced, next.salt = f.epochs(), f.head, f.salt
	} else if next.salt == 0 {
		next.salt = s.random.Uint64()
	}
	if err := expect(r.Expect, result.Replaced); err != nil {
		return store.Restored{}, err
	}
	kept, _ := next.compare(objects)
	if next.content, err = next.apply(merkle.Shape{Salt: next.salt}, kept); err != nil {
		return store.Restored{}, err
	}
	if err := next.ordered(); err != nil {
		return store.Restored{}, err
	}
	if next.head, err = s.begin(name, current, r.From.Known); err != nil {
		return store.Restored{}, err
	}
	next.rebase(next.on(next.head))
	result.Head = next.head
	if err := s.save(name, &next); err != nil {
		return store.Restored{}, err
	}
	delete(s.bad, name)
	return result, nil
}

// DeleteAt deletes a set that has to be at a revision, and retires its epoch.
func (s *Store) DeleteAt(_ context.Context, name desired.Name, at *desired.Position) (desired.Head, error) {
	f, err := s.load(name)
	switch {
	case err != nil:
		return desired.Head{}, err
	case f == nil:
		return desired.Head{}, fmt.Errorf("%w: %s", store.ErrNotFound, name)
	}
	if err := expect(at, f.head); err != nil {
		return desired.Head{}, err
	}
	if err := s.disk.replace(lineagePrefix+string(name), f.epochs()); err != nil {
		return desired.Head{}, err
	}
	if err := s.disk.erase(setPrefix + string(name)); err != nil {
		return desired.Head{}, err
	}
	delete(s.bad, name)
	s.watch(name)
	return f.head, nil
}

// PutList makes a list a host's.
func (s *Store) PutList(host desired.Name, l desired.List) error {
	if err := l.Check(); err != nil {
		return err
	}
	lists, err := s.Lists()
	if err != nil {
		return err
	}
	lists[host] = l
	return s.disk.replace(listsName, lists)
}

// Lists returns the lists that were put.
func (s *Store) Lists() (map[desired.Name]desired.List, error) {
	v, err := s.disk.get(listsName)
	lists, _ := v.(map[desired.Name]desired.List)
	if lists == nil {
		return map[desired.Name]desired.List{}, err
	}
	return maps.Clone(lists), err
}

// PutSeen keeps rows that say how hosts fared.
func (s *Store) PutSeen(rows map[desired.Name][]byte) error {
	seen, err := s.Seen()
	if err != nil {
		return err
	}
	maps.Copy(seen, rows)
	return s.disk.replace(seenName, seen)
}

// Seen returns the rows that were put.
func (s *Store) Seen() (map[desired.Name][]byte, error) {
	v, err := s.disk.get(seenName)
	seen, _ := v.(map[desired.Name][]byte)
	if seen == nil {
		return map[desired.Name][]byte{}, err
	}
	return maps.Clone(seen), err
}
