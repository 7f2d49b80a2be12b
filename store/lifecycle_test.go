package store_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"espalier/internal/desired"
	"espalier/store"
)

func TestDeleteAndRecreate(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	var left []desired.Position
	for i := range 3 {
		commit(t, s, "set", numbered(5+i, "1"))
		r := commit(t, s, "set", numbered(5+i, "2"))
		if !slices.Equal(r.Head.Lineage, left) {
			t.Fatalf("lineage = %v, want %v", r.Head.Lineage, left)
		}
		if len(left) > 0 && r.Head.Number <= left[0].Number {
			t.Errorf("number %d after %d: it went back", r.Head.Number, left[0].Number)
		}
		left = slices.Insert(left, 0, r.Head.Position)
		if err := s.Delete(t.Context(), "set"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Head("set"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Head of a deleted set = %v", err)
		}
		if err := s.Delete(t.Context(), "set"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Delete of a deleted set = %v", err)
		}
		if i == 1 {
			s.Close()
			s = openStore(t, dir, quiet)
		}
	}
	if files, err := os.ReadDir(dir + "/sets"); err != nil || len(files) != 0 {
		t.Errorf("files left over: %v, %v", files, err)
	}
}

// TestRestore restores over a set, over a deleted one, and into a store that
// never knew it.
func TestRestore(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	old := model{"a": "1", "b": "2", "c": "3"}
	commit(t, s, "set", old.puts())
	path := filepath.Join(dir, "backup")
	backed, err := s.Backup(t.Context(), "set", path)
	if err != nil {
		t.Fatal(err)
	}
	later := commit(t, s, "set", edit{"a": nil, "b": ptr("9"), "d": ptr("4")}).Head
	f, err := store.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()

	check := func(s *store.Store, head desired.Head, follows ...desired.Revision) {
		t.Helper()
		for _, r := range follows {
			if !head.Follows(r) {
				t.Errorf("%v does not follow %v: %v", head.Position, r.Position, head.Lineage)
			}
		}
		view(t, s, "set", func(snap *store.Snapshot) {
			old.verify(t, snap)
			if snap.Head().Position != head.Position {
				t.Errorf("head = %v, want %v", snap.Head().Position, head.Position)
			}
		})
		checkClean(t, s, "set")
	}
	drill := store.Restore{Who: "operator", Why: "drill"}
	restored, err := s.RestoreFile(t.Context(), "set", f, drill)
	if err != nil {
		t.Fatal(err)
	}
	if restored.Replaced.Position != later.Position || restored.Created != 1 || restored.Updated != 1 ||
		restored.Deleted != 1 || restored.Unchanged != 1 {
		t.Errorf("restored = %+v, want one of each over %v", restored, later.Position)
	}
	one := restored.Head
	check(s, one, backed.Revision, later.Revision)
	if one.Number <= later.Number || one.Epoch == later.Epoch {
		t.Errorf("restored at %v after %v", one.Position, later.Position)
	}
	if err := s.Delete(t.Context(), "set"); err != nil {
		t.Fatal(err)
	}
	drill.Objects = old.puts().changes()
	if restored, err = s.Restore(t.Context(), "set", drill); err != nil {
		t.Fatal(err)
	}
	two := restored.Head
	check(s, two, backed.Revision, later.Revision, one.Revision)

	other := openStore(t, t.TempDir(), quiet)
	if restored, err = other.RestoreFile(t.Context(), "set", f, drill); err != nil {
		t.Fatal(err)
	}
	three := restored.Head
	check(other, three, backed.Revision, later.Revision)
	if three.Root != backed.Root {
		t.Error("a restore into an empty store gave the tree another shape")
	}
	bad := func(yield func(desired.Change, error) bool) {
		_ = yield(change("a", ptr("1")), nil) && yield(change("b", nil), nil)
	}
	if _, err := s.Restore(t.Context(), "set", store.Restore{Objects: bad}); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Restore of a deletion = %v", err)
	}
	check(s, two)
}

// TestBackupWhileWritten takes backups while the set changes, in place and by
// rewrite. Each must be exactly one revision.
func TestBackupWhileWritten(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, store.Small(quiet, 50))
	rng := rand.New(rand.NewPCG(5, 5))
	m := randomModel(rng, 2000, 700)
	models := map[uint64]model{}
	var mu sync.Mutex
	models[commit(t, s, "set", m.puts()).Head.Number] = m
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			e := m.randomEdit(rng, 2000, []int{2, 10, 100}[rng.IntN(3)])
			mu.Lock()
			m = m.apply(e)
			if r, err := s.Commit(t.Context(), "set", store.Commit{Changes: e.changes()}); err != nil {
				t.Error(err)
			} else {
				models[r.Head.Number] = m
			}
			mu.Unlock()
		}
	})
	for i := range 15 {
		path := filepath.Join(dir, fmt.Sprint("backup", i))
		head, err := s.Backup(t.Context(), "set", path)
		if err != nil {
			t.Fatal(err)
		}
		verifyBackup(t, path, head, func() model { mu.Lock(); defer mu.Unlock(); return models[head.Number] })
	}
	close(stop)
	wg.Wait()
	if _, err := s.Backup(t.Context(), "set", filepath.Join(dir, "backup0")); !errors.Is(err, store.ErrExists) {
		t.Errorf("Backup over a file = %v, want %v", err, store.ErrExists)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func verifyBackup(t *testing.T, path string, head desired.Head, want func() model) {
	t.Helper()
	f, err := store.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if r, err := f.Check(t.Context(), nil); err != nil || r.Found > 0 {
		t.Fatalf("check of a backup: %v, %v", r.Problems, err)
	}
	err = f.View(func(snap *store.Snapshot) error {
		if snap.Head().Revision != head.Revision || f.Name() != "set" {
			t.Errorf("the backup holds %v of %s, want %v", snap.Head().Position, f.Name(), head.Position)
		}
		want().verify(t, snap)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestReadersDuringRewrites reads while the file is replaced again and again:
// each snapshot is one revision.
func TestReadersDuringRewrites(t *testing.T) {
	s := openStore(t, t.TempDir(), store.Small(quiet, 10))
	commit(t, s, "set", numbered(300, "0"))
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for last := uint64(0); !done.Load(); {
				err := s.View("set", func(snap *store.Snapshot) error {
					head := snap.Head()
					if head.Number < last {
						t.Errorf("revision %d after %d", head.Number, last)
					}
					last = head.Number
					value, n := fmt.Sprint(head.Number-1), 0
					for c, err := range snap.Objects(nil, nil) {
						if err != nil || string(c.Envelope[1:]) != value {
							return fmt.Errorf("revision %d has %q = %q, %w", head.Number, c.Key, c.Envelope, err)
						}
						n++
					}
					if n != 300 {
						return fmt.Errorf("revision %d has %d objects", head.Number, n)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 40 {
		commit(t, s, "set", numbered(300, fmt.Sprint(i+1)))
	}
	done.Store(true)
	wg.Wait()
	checkClean(t, s, "set")
}

// TestManySets keeps fewer files open than there are sets, under concurrent
// use.
func TestManySets(t *testing.T) {
	o := quiet
	o.OpenFiles = 3
	dir := t.TempDir()
	s := openStore(t, dir, o)
	name := func(i int) desired.Name { return desired.Name(fmt.Sprint("set-", i)) }
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 80 {
				n := name((i*7 + g) % 12)
				e := edit{fmt.Sprint("k", g): ptr(fmt.Sprint(i))}
				if _, err := s.Commit(t.Context(), n, store.Commit{Changes: e.changes()}); err != nil {
					t.Error(err)
				}
				err := s.View(n, func(snap *store.Snapshot) error {
					c, ok, err := snap.Get(fmt.Append(nil, "k", g))
					if !ok || string(c.Envelope[1:]) != fmt.Sprint(i) {
						t.Errorf("%s: k%d = %q, want %d", n, g, c.Envelope, i)
					}
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	checkClean(t, s, name(0)) // what was borrowed before is closed now
	open, err := filepath.Glob("/proc/self/fd/*")
	if err == nil && len(open) > 0 {
		n := 0
		for _, fd := range open {
			if to, _ := os.Readlink(fd); filepath.Dir(to) == dir+"/sets" {
				n++
			}
		}
		if n > 3 {
			t.Errorf("%d files of sets are open, want 3 at most", n)
		}
	}
	for i := range 12 {
		checkClean(t, s, name(i))
	}
}

// TestStress does everything to a few sets at once. Nothing may fail but for
// sets that aren't there.
func TestStress(t *testing.T) {
	o := store.Small(quiet, 5)
	o.OpenFiles = 2
	dir := t.TempDir()
	s := openStore(t, dir, o)
	var wg sync.WaitGroup
	for g := range 6 {
		rng := rand.New(rand.NewPCG(uint64(g), 6))
		wg.Go(func() {
			for i := range 60 {
				name := desired.Name(fmt.Sprint("set-", rng.IntN(3)))
				if err := stress(t, s, name, rng, dir+fmt.Sprintf("/b-%d-%d", g, i)); err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	wg.Wait()
	for _, h := range s.Heads() {
		if h.Err != nil {
			t.Error(h.Err)
		}
		checkClean(t, s, h.Name)
	}
}

func stress(t *testing.T, s *store.Store, name desired.Name, rng *rand.Rand, path string) error {
	switch rng.IntN(8) {
	case 0:
		return s.Delete(t.Context(), name)
	case 1:
		_, err := s.Compact(t.Context(), name, store.CompactOptions{})
		return err
	case 2:
		_, err := s.Backup(t.Context(), name, path)
		return err
	case 3:
		_, err := s.Restore(t.Context(), name, store.Restore{Objects: numbered(7, "restored").changes()})
		return err
	case 4, 5:
		return s.View(name, func(snap *store.Snapshot) error {
			n := uint64(0)
			for _, err := range snap.Objects(nil, nil) {
				if err != nil {
					return err
				}
				n++
			}
			if n != snap.Head().Objects {
				return fmt.Errorf("%d objects, the head counts %d", n, snap.Head().Objects)
			}
			return nil
		})
	default:
		_, err := s.Commit(t.Context(), name, store.Commit{Changes: numbered(1+rng.IntN(9), fmt.Sprint(rng.Int())).changes()})
		return err
	}
}

func TestCompact(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	m := model{}
	for i := range 30 {
		e := numbered(900, fmt.Sprint("value", i))
		m = m.apply(e)
		commit(t, s, "set", e)
	}
	before, _ := s.Head("set")
	touched := func() (n int, ok bool) {
		view(t, s, "set", func(snap *store.Snapshot) {
			var u store.Touched
			var err error
			if u, ok, err = snap.Touched(before.Number-1, 1000); err != nil {
				t.Fatal(err)
			}
			n = len(u.Keys)
		})
		return n, ok
	}
	r, err := s.Compact(t.Context(), "set", store.CompactOptions{})
	if err != nil || r.After >= r.Before || r.After == 0 {
		t.Errorf("Compact = %+v, %v", r, err)
	}
	if n, ok := touched(); n != 900 || !ok {
		t.Errorf("after a compaction Touched = %d keys, %v", n, ok)
	}
	if _, err := s.Compact(t.Context(), "set", store.CompactOptions{DropHistory: true}); err != nil {
		t.Error(err)
	}
	if _, ok := touched(); ok {
		t.Error("the history was not dropped")
	}
	if after, _ := s.Head("set"); after.Revision != before.Revision {
		t.Errorf("head after = %v, want %v", after.Position, before.Position)
	}
	view(t, s, "set", func(snap *store.Snapshot) { m.verify(t, snap) })
	checkClean(t, s, "set")
}

func TestScrub(t *testing.T) {
	s := openStore(t, t.TempDir(), store.Small(quiet, 10))
	commit(t, s, "a", numbered(100, "1"))
	commit(t, s, "b", numbered(100, "1"))
	limit := rate.NewLimiter(100e3, 100) // bytes; less at once than a chunk has
	start := time.Now()
	if err := s.Scrub(t.Context(), limit); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < 10*time.Millisecond { // 200 objects of 7 bytes
		t.Errorf("the scrub took %v: it was not paced", took)
	}
	if err := s.Scrub(t.Context(), nil); err != nil {
		t.Error(err)
	}
}

// TestForeignFolder: a data folder is not that of a server and an agent, or of
// two agents.
func TestForeignFolder(t *testing.T) {
	if _, err := store.LockDir("", "server"); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("LockDir of no folder = %v", err)
	}
	dir := t.TempDir()
	lock, err := store.LockDir(dir, "agent of a")
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	for _, other := range []string{"agent of b", "server", "agent of", "agent of aa"} {
		if _, err := store.LockDir(dir, other); !errors.Is(err, store.ErrForeign) || !contains(err.Error(), "agent of a,") {
			t.Errorf("LockDir for the %s = %v", other, err)
		}
	}
	if _, err := store.Open(dir, quiet); !errors.Is(err, store.ErrForeign) {
		t.Errorf("Open = %v", err)
	}
	if lock, err = store.LockDir(dir, "agent of a"); err != nil {
		t.Fatal(err)
	}
	lock.Close()
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	_, err := store.Open(dir, quiet)
	if !errors.Is(err, store.ErrInUse) {
		t.Fatalf("Open of a folder in use = %v, want %v", err, store.ErrInUse)
	}
	if want := fmt.Sprint("process ", os.Getpid()); !contains(err.Error(), want) {
		t.Errorf("the error is %q, want it to name %q", err, want)
	}
	if _, err := store.LockDir(dir, "server"); !errors.Is(err, store.ErrInUse) {
		t.Errorf("LockDir = %v", err)
	}
	s.Close()
	if err := s.Close(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("second Close = %v", err)
	}
	if err := s.View("set", nil); !errors.Is(err, store.ErrClosed) {
		t.Errorf("View of a closed store = %v", err)
	}
	openStore(t, dir, quiet)
}

// TestForkIsBounded: the word of one host does not use up the numbers of a set.
func TestForkIsBounded(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	commit(t, s, "set", numbered(3, "1"))
	for range 3 {
		head, err := s.Head("set")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Fork(t.Context(), "set", desired.Position{Epoch: head.Epoch, Number: desired.MaxNumber}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Commit(t.Context(), "set", store.Commit{Changes: numbered(3, "2").changes()}); !errors.Is(err, store.ErrForked) {
			t.Errorf("Commit = %v, want %v", err, store.ErrForked)
		}
		next, err := s.Renew(t.Context(), "set", "", "")
		if err != nil || next.Number <= head.Number || next.Number > head.Number+1<<33 {
			t.Errorf("Renew = %v, %v after %v", next.Position, err, head.Position)
		}
	}
	checkClean(t, s, "set")
}

// TestCheckOfAQuarantinedSet: a set that is not served is not sound.
func TestCheckOfAQuarantinedSet(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	commit(t, s, "set", numbered(3, "1"))
	s.Close()
	if err := os.Rename(dir+"/sets/set.db", dir+"/sets/other.db"); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, quiet)
	if r, err := s.Check(t.Context(), "other", nil); err != nil || r.Found == 0 {
		t.Errorf("Check = %v, %v, want a problem", r, err)
	}
}
