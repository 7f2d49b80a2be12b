package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// Options configures a Store or a Mirror; the zero value works.
type Options struct {
	// Logger receives what an operator should know; nil: slog.Default().
	Logger *slog.Logger
	// OpenFiles is how many sets' files are kept open; 0: DefaultOpenFiles.
	OpenFiles int
	// Probe checks the file at path before it is first opened after an unclean
	// stop; an error that matches ErrCorrupt means that it is damaged. It may run the function Probe in
	// a child process, so that not even bbolt's own checks, which can crash, are
	// left out. nil: the file's structure is verified in this process.
	Probe func(ctx context.Context, path string) error

	small int // in tests: the rows of every bound
}

// Store holds the sets of an orchestrator in a data folder of its own. It is
// safe for concurrent use.
type Store struct {
	dir     string
	log     *slog.Logger
	opener  opener
	folder  io.Closer // the lock on dir
	pool    *pool
	fleet   *fleet
	watcher watcher

	mu     sync.RWMutex
	sets   map[desired.Name]*set // those that are there or held
	closed bool
	active sync.WaitGroup // sets that are held; added to only while !closed
}

// Open opens the store in dir, which it creates if need be. It returns an error
// that matches ErrInUse if another process has it open, and one that matches
// ErrForeign if it is an agent's folder. A set whose file can't be read is
// quarantined by name; the others go on.
func Open(dir string, o Options) (*Store, error) {
	folder, err := LockDir(dir, "server")
	if err != nil {
		return nil, err
	}
	size := o.OpenFiles
	if size <= 0 {
		size = DefaultOpenFiles
	}
	opener := newOpener(o)
	s := &Store{dir: dir, log: opener.log, opener: opener, folder: folder, pool: newPool(size), sets: map[desired.Name]*set{}}
	if err := s.index(); err != nil {
		return nil, errors.Join(err, folder.Close())
	}
	s.fleet = openFleet(dir, opener)
	if s.fleet.err != nil {
		s.log.Error("sets can be neither created nor deleted nor restored", "error", s.fleet.err)
	}
	return s, nil
}

// index reads the heads of all sets, and removes what a crash left over.
func (s *Store) index() error {
	folder := filepath.Join(s.dir, setsFolder)
	files, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("read data folder: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(folder, f.Name())
		base, isSet := strings.CutSuffix(f.Name(), setSuffix)
		switch {
		case isSet:
			s.admit(path, base)
		case strings.HasSuffix(f.Name(), newSuffix):
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("remove temporary file: %w", err)
			}
		}
	}
	return nil
}

// admit adds the set whose file is at path.
func (s *Store) admit(path, base string) {
	found, err := readFileMeta(path)
	if err == nil && setPath(s.dir, found.name, setSuffix) != path {
		err = fmt.Errorf("%w: file %s holds the set %q: it was renamed or copied", ErrCorrupt, path, found.name)
	}
	if err != nil {
		found.name = desired.Name(base)
	}
	set := newSet(s.dir, found.name, &s.watcher)
	set.path = path
	set.state.Store(&setState{head: found.head, forked: found.forked})
	if err != nil {
		set.quarantine(s.log, err)
	}
	s.sets[set.name] = set
}

// readFileMeta reads what the file at path says of its set, with as little
// effort as possible: nothing is known of its other pages.
func readFileMeta(path string) (m meta, err error) {
	h, err := openReadOnly(path)
	if err != nil {
		return meta{}, err
	}
	defer h.retire()
	err = h.view(func(tx *bolt.Tx) (err error) {
		m, err = readMeta(tx)
		return err
	})
	if err != nil {
		return meta{}, fmt.Errorf("file %s: %w", path, err)
	}
	return m, nil
}

// Close closes the store, once the calls that are running have returned.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return ErrClosed
	}
	s.active.Wait()
	for _, set := range s.sets {
		set.slot.swap(nil)
	}
	s.fleet.close()
	return s.folder.Close()
}

// hold returns the set of that name, there or not. Until it is let go it stays
// the one of its name, and the store stays open.
func (s *Store) hold(name desired.Name) (*set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	found := s.sets[name]
	if found == nil {
		found = newSet(s.dir, name, &s.watcher)
		s.sets[name] = found
	}
	found.held++
	s.active.Add(1)
	return found, nil
}

// letGo ends what hold began. A set that isn't there takes no room.
func (s *Store) letGo(set *set) {
	s.mu.Lock()
	if set.held--; set.held == 0 && set.state.Load() == nil {
		delete(s.sets, set.name)
	}
	s.mu.Unlock()
	s.active.Done()
}

// use is hold of a set that must be in service.
func (s *Store) use(name desired.Name) (*set, error) {
	set, err := s.hold(name)
	if err != nil {
		return nil, err
	}
	if _, err := set.head(); err != nil {
		s.letGo(set)
		return nil, err
	}
	return set, nil
}

// NamedHead is a set and its head.
type NamedHead struct {
	Name desired.Name
	Head desired.Head
	// Forked says that commits are refused; see Store.Fork.
	Forked bool
	// Err says why the set is quarantined; nil: it isn't.
	Err error
}

// Heads returns all sets by name, from memory.
func (s *Store) Heads() []NamedHead {
	s.mu.RLock()
	heads := make([]NamedHead, 0, len(s.sets))
	for _, set := range s.sets {
		if st := set.state.Load(); st != nil {
			heads = append(heads, NamedHead{Name: set.name, Head: st.head, Forked: st.forked != 0, Err: st.err})
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(heads, func(a, b NamedHead) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return heads
}

// Head returns the set's head, from memory. It returns an error that matches
// ErrNotFound or ErrQuarantined if it can't be served.
func (s *Store) Head(name desired.Name) (desired.Head, error) {
	s.mu.RLock()
	set := s.sets[name]
	s.mu.RUnlock()
	if set == nil {
		return desired.Head{}, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	return set.head()
}

// View calls fn with a snapshot of the set, which is valid until fn returns. If
// the snapshot comes upon damage, the set is quarantined.
//
// What is slow does not belong in fn: an open snapshot keeps the file from
// reusing space. fn must not write to the set, and must leave the snapshot to
// its own goroutine.
func (s *Store) View(name desired.Name, fn func(*Snapshot) error) error {
	set, err := s.use(name)
	if err != nil {
		return err
	}
	defer s.letGo(set)
	return s.read(set, fn)
}
