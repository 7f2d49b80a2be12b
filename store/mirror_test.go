package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
	"espalier/store/internal/boltfile"
)

func openMirror(t testing.TB, dir string, o store.Options) *store.Mirror {
	t.Helper()
	m, err := store.OpenMirror(dir, "set", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// source is a set at a server, for mirrors to follow.
type source struct {
	t     testing.TB
	s     *store.Store
	model model
}

func newSource(t testing.TB, m model) *source {
	t.Helper()
	src := &source{t: t, s: openStore(t, t.TempDir(), quiet)}
	src.commit(m.puts())
	return src
}

func (src *source) commit(e edit) desired.Head {
	src.t.Helper()
	if src.model == nil {
		src.model = model{}
	}
	r := commit(src.t, src.s, "set", e)
	src.model = src.model.apply(e)
	return r.Head
}

func (src *source) head() desired.Head {
	src.t.Helper()
	head, err := src.s.Head("set")
	if err != nil {
		src.t.Fatal(err)
	}
	return head
}

func (src *source) salt() (salt uint64) {
	src.t.Helper()
	view(src.t, src.s, "set", func(snap *store.Snapshot) { salt = snap.Shape().Salt })
	return salt
}

// sync brings m to the source's head by a full copy.
func (src *source) sync(m *store.Mirror) {
	src.t.Helper()
	st, err := m.Stage(src.t.Context(), store.StageEmpty, src.salt())
	if err != nil {
		src.t.Fatal(err)
	}
	for part := range slices.Chunk(src.model.puts().list(), 50) {
		if err := st.Write(src.t.Context(), part, part[len(part)-1].Key); err != nil {
			src.t.Fatal(err)
		}
	}
	if err := st.Promote(src.t.Context(), src.head()); err != nil {
		src.t.Fatal(err)
	}
}

// mirrors demands that m is what the source is.
func (src *source) mirrors(m *store.Mirror) {
	src.t.Helper()
	want := src.head()
	if m.Head().Revision != want.Revision || m.Head().Objects != want.Objects || m.Head().Bytes != want.Bytes ||
		m.Floor() != want.Revision || m.Damaged() || m.TreeRoot() != want.Root {
		src.t.Fatalf("mirror is at %+v with floor %v, want %+v", m.Head(), m.Floor(), want)
	}
	viewMirror(src.t, m, func(snap *store.Snapshot) { src.model.verify(src.t, snap) })
}

func viewMirror(t testing.TB, m *store.Mirror, fn func(*store.Snapshot)) {
	t.Helper()
	if err := m.View(func(snap *store.Snapshot) error { fn(snap); return nil }); err != nil {
		t.Fatal(err)
	}
}

func touchedSince(t testing.TB, m *store.Mirror, number uint64) (keys []string, ok bool) {
	t.Helper()
	viewMirror(t, m, func(snap *store.Snapshot) {
		var u store.Touched
		var err error
		if u, ok, err = snap.Touched(number, 1<<20); err != nil {
			t.Fatal(err)
		}
		for _, k := range u.Keys {
			keys = append(keys, string(k))
		}
	})
	return keys, ok
}

func TestMirrorEmpty(t *testing.T) {
	m := openMirror(t, t.TempDir(), quiet)
	if !m.Head().Epoch.IsZero() || !m.Floor().Epoch.IsZero() || m.Damaged() {
		t.Errorf("a new mirror is at %v with floor %v", m.Head(), m.Floor())
	}
	if err := m.View(func(*store.Snapshot) error { return nil }); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("View = %v, want %v", err, store.ErrNotFound)
	}
	if st, err := m.Staging(); st != nil || err != nil {
		t.Errorf("Staging = %v, %v, want none", st, err)
	}
	if n, err := m.Repair(t.Context()); n != 0 || err != nil {
		t.Errorf("Repair = %v, %v", n, err)
	}
	head := desired.Head{Revision: desired.Revision{Position: desired.Position{Epoch: desired.NewEpoch(), Number: 3}, Root: merkle.EmptyRoot()}}
	if err := m.Adopt(t.Context(), head, edit{"a": ptr("")}.changes()); !errors.Is(err, store.ErrRootMismatch) {
		t.Errorf("Adopt of the wrong root = %v", err)
	}
	if err := m.Adopt(t.Context(), head, edit{}.changes()); err != nil {
		t.Fatal(err)
	}
	if m.Head().Revision != head.Revision {
		t.Errorf("head = %v", m.Head())
	}
	// A mirror without objects knows no salt; it takes the one it is told.
	src := newSource(t, model{"a": "1", "b": "2"})
	st, err := m.Stage(t.Context(), store.StageCopy, src.salt())
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Write(t.Context(), src.model.puts().list(), nil); err != nil {
		t.Fatal(err)
	}
	if err := st.Promote(t.Context(), src.head()); err != nil {
		t.Fatal(err)
	}
	viewMirror(t, m, func(snap *store.Snapshot) { src.model.verify(t, snap) })
}

// TestAdopt follows random commits, with wrong deltas in between, reopening at
// random.
func TestAdopt(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 1))
	src := newSource(t, randomModel(rng, 400, 200))
	dir := t.TempDir()
	m := openMirror(t, dir, quiet)
	src.sync(m)
	src.mirrors(m)
	for range 40 {
		before, held := m.Head(), src.model
		e := src.model.randomEdit(rng, 400, 30)
		src.commit(e)
		wrong := edit{"wrong": ptr("")}
		for k, v := range e {
			wrong[k] = v
		}
		if err := m.Adopt(t.Context(), src.head(), wrong.changes()); !errors.Is(err, store.ErrRootMismatch) {
			t.Fatalf("Adopt of a wrong delta = %v", err)
		}
		if m.Head().Revision != before.Revision {
			t.Fatalf("head after = %v, want %v", m.Head().Position, before.Position)
		}
		viewMirror(t, m, func(snap *store.Snapshot) { held.verify(t, snap) })
		if err := m.Adopt(t.Context(), src.head(), e.changes()); err != nil {
			t.Fatal(err)
		}
		src.mirrors(m)
		if rng.IntN(5) == 0 {
			m.Close()
			m = openMirror(t, dir, quiet)
			src.mirrors(m)
		}
	}
	var want []string
	viewMirror(t, m, func(snap *store.Snapshot) {
		view(t, src.s, "set", func(theirs *store.Snapshot) {
			u, _, _ := theirs.Touched(1, 1<<20)
			for _, k := range u.Keys {
				want = append(want, string(k))
			}
		})
	})
	if keys, ok := touchedSince(t, m, 1); !ok || !slices.Equal(keys, want) {
		t.Errorf("Touched(1) = %q, %v, want what the source says, %q", keys, ok, want)
	}
	if err := m.Adopt(t.Context(), src.head(), edit{}.changes()); err != nil {
		t.Errorf("Adopt of nothing = %v", err)
	}
	big := openMirror(t, t.TempDir(), store.Small(quiet, 5))
	if err := big.Adopt(t.Context(), src.head(), src.model.puts().changes()); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("Adopt of too much = %v, want %v", err, store.ErrTooLarge)
	}
}

// TestStaging writes stagings in every way, with restarts at random, and
// promotes them.
func TestStaging(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { t.Parallel(); staging(t, seed) })
	}
}

func staging(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 9))
	src := newSource(t, randomModel(rng, 1500, 700))
	dir := t.TempDir()
	m := openMirror(t, dir, quiet)
	if rng.IntN(2) == 0 {
		src.sync(m)
		for range 5 {
			src.commit(src.model.randomEdit(rng, 1500, 300))
		}
	}
	before := m.Head()
	st, err := m.Stage(t.Context(), store.StageEmpty, src.salt())
	if err != nil {
		t.Fatal(err)
	}
	if rng.IntN(3) == 0 {
		if st, err = m.Stage(t.Context(), store.StageCopy, src.salt()); err != nil {
			t.Fatal(err)
		}
	}
	staged := model{}
	if st.Objects() > 0 {
		viewStaging(t, st, func(snap *store.Snapshot) {
			for c := range snap.Objects(nil, nil) {
				staged[string(c.Key)] = string(c.Envelope[1:])
			}
		})
	}
	reopen := func() {
		m.Close()
		if err := st.Write(t.Context(), nil, nil); err == nil {
			t.Error("Write to a closed staging succeeded")
		}
		m = openMirror(t, dir, quiet)
		if st, err = m.Staging(); err != nil || st == nil {
			t.Fatalf("Staging after reopening = %v, %v", st, err)
		}
	}
	write := func(part []desired.Change, mark string) {
		t.Helper()
		if err := st.Write(t.Context(), part, []byte(mark)); err != nil {
			t.Fatal(err)
		}
		for _, c := range part {
			if c.Deleted() {
				delete(staged, string(c.Key))
			} else {
				staged[string(c.Key)] = string(c.Envelope[1:])
			}
		}
		if rng.IntN(4) == 0 {
			reopen()
		}
		if string(st.Mark()) != mark || st.Objects() != uint64(len(staged)) || st.Bytes() != staged.bytes() || st.Salt() != src.salt() {
			t.Fatalf("staged: mark %q, %d objects of %d bytes, want %q, %d, %d", st.Mark(), st.Objects(), st.Bytes(), mark, len(staged), staged.bytes())
		}
		if rng.IntN(6) == 0 {
			viewStaging(t, st, func(snap *store.Snapshot) { staged.verify(t, snap) })
		}
	}
	for part := range slices.Chunk(src.model.puts().list(), 60) {
		write(part, string(part[0].Key))
		if rng.IntN(6) == 0 { // something behind
			write(staged.randomEdit(rng, 1500, 5).list(), "behind")
		}
	}
	if m.Head().Revision != before.Revision {
		t.Fatalf("the mirror moved to %v before it was promoted", m.Head().Position)
	}
	wrong := src.head()
	wrong.Root = desired.Digest{1}
	if err := st.Promote(t.Context(), wrong); !errors.Is(err, store.ErrRootMismatch) {
		t.Fatalf("Promote to the wrong root = %v", err)
	}
	fix := edit{}
	for k := range staged {
		if _, ok := src.model[k]; !ok {
			fix[k] = nil
		}
	}
	for k, v := range src.model {
		if staged[k] != v {
			fix[k] = &v
		}
	}
	write(fix.list(), "fixed")
	if root, err := st.Root(); err != nil || root != src.head().Root {
		t.Fatalf("Root = %v, %v, want %v", root, err, src.head().Root)
	}
	if err := st.Promote(t.Context(), src.head()); err != nil {
		t.Fatal(err)
	}
	src.mirrors(m)
	if again, err := m.Staging(); again != nil || err != nil {
		t.Errorf("Staging after Promote = %v, %v", again, err)
	}
	m.Close()
	m = openMirror(t, dir, quiet)
	src.mirrors(m)
	if !before.Epoch.IsZero() {
		checkInherited(t, src, m, before)
	}
	if n, err := m.Repair(t.Context()); n != 0 || err != nil {
		t.Errorf("Repair = %d, %v", n, err)
	}
}

// checkInherited demands that the mirror tells what changed since before, and
// nothing that didn't.
func checkInherited(t *testing.T, src *source, m *store.Mirror, before desired.Head) {
	t.Helper()
	keys, ok := touchedSince(t, m, before.Number)
	if !ok {
		t.Fatalf("Touched(%d) after Promote = false", before.Number)
	}
	var since []string
	view(t, src.s, "set", func(snap *store.Snapshot) {
		u, ok, err := snap.Touched(before.Number, 1<<20)
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		for _, k := range u.Keys {
			since = append(since, string(k))
		}
	})
	for _, k := range keys {
		if !slices.Contains(since, k) {
			t.Errorf("Touched tells of %q, which did not change", k)
		}
	}
}

func viewStaging(t testing.TB, st *store.Staging, fn func(*store.Snapshot)) {
	t.Helper()
	if err := st.View(func(snap *store.Snapshot) error { fn(snap); return nil }); err != nil {
		t.Fatal(err)
	}
}

// TestMirrorReaders reads a mirror while it is replaced, adopts and is repaired:
// each snapshot is one revision.
func TestMirrorReaders(t *testing.T) {
	src := newSource(t, model{}.apply(numbered(100, "1")))
	m := openMirror(t, t.TempDir(), quiet)
	src.sync(m)
	var done atomic.Bool
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for !done.Load() {
				err := m.View(func(snap *store.Snapshot) error {
					want := fmt.Sprint(snap.Head().Number)
					for c, err := range snap.Objects(nil, nil) {
						if err != nil || string(c.Envelope[1:]) != want {
							return fmt.Errorf("revision %s has %q = %q, %w", want, c.Key, c.Envelope, err)
						}
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = m.Head(), m.Floor()
			}
		})
	}
	for i := range 30 {
		e := numbered(100, fmt.Sprint(i+2))
		src.commit(e)
		if i%2 == 0 {
			src.sync(m)
		} else if err := m.Adopt(t.Context(), src.head(), e.changes()); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	done.Store(true)
	wg.Wait()
}

// TestPromoteJournal: the journal of what replaces a mirror tells exactly what
// differs, and goes on with what the mirror knew.
func TestPromoteJournal(t *testing.T) {
	src := newSource(t, model{"a": "1", "b": "1", "c": "1", "d": "1"})
	m := openMirror(t, t.TempDir(), quiet)
	src.sync(m)
	e := edit{"a": ptr("2")}
	src.commit(e)
	if err := m.Adopt(t.Context(), src.head(), e.changes()); err != nil {
		t.Fatal(err)
	}
	if err := m.MarkDelivered(m.Head().Position); err != nil {
		t.Fatal(err)
	}
	delivered := m.Head().Position
	src.commit(edit{"b": nil})
	src.commit(edit{"c": ptr("2"), "e": ptr("1")})
	src.sync(m)
	src.mirrors(m)
	if keys, ok := touchedSince(t, m, delivered.Number); !ok || !slices.Equal(keys, []string{"b", "c", "e"}) {
		t.Errorf("Touched(%d) = %q, %v, want b, c, e", delivered.Number, keys, ok)
	}
	if keys, ok := touchedSince(t, m, 1); !ok || !slices.Equal(keys, []string{"a", "b", "c", "e"}) {
		t.Errorf("Touched(1) = %q, %v, want a, b, c, e", keys, ok)
	}
	if m.Delivered() != delivered {
		t.Errorf("Delivered = %v, want %v", m.Delivered(), delivered)
	}
	st, err := m.Stage(t.Context(), store.StageCopy, src.salt())
	if err != nil {
		t.Fatal(err)
	}
	if st.Mark() != nil {
		t.Errorf("a new staging has the mark %q", st.Mark())
	}
	if err := m.DiscardStaging(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Stage(t.Context(), store.StageCopy, src.salt()+1); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("StageCopy with another salt = %v", err)
	}
}

// TestLongNames: the files of a mirror have names that a file system takes,
// however long the set's is.
func TestLongNames(t *testing.T) {
	dir := t.TempDir()
	head := desired.Head{Revision: desired.Revision{
		Position: desired.Position{Epoch: desired.Epoch{1}, Number: 1}, Root: merkle.EmptyRoot(),
	}}
	for n := 236; n <= 253; n++ {
		m, err := store.OpenMirror(dir, desired.Name(strings.Repeat("n", n)), quiet)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Stage(t.Context(), store.StageEmpty, 1); err != nil {
			t.Error(err)
		}
		if err := m.Adopt(t.Context(), head, edit{}.changes()); err != nil {
			t.Errorf("%d characters: Adopt = %v", n, err)
		}
		m.Close()
	}
}

// TestBadHead: nothing is at no revision.
func TestBadHead(t *testing.T) {
	m := openMirror(t, t.TempDir(), quiet)
	head := desired.Head{Revision: desired.Revision{Root: merkle.EmptyRoot()}}
	st, err := m.Stage(t.Context(), store.StageEmpty, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Promote(t.Context(), head); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Promote to no revision = %v", err)
	}
	if err := m.Adopt(t.Context(), head, edit{}.changes()); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Adopt of no revision = %v", err)
	}
}

// TestRepair damages mirrors in every way that leaves their file readable, and
// in ways that don't. After the repair the tree is honest: what a comparison
// with the source says is exactly what is wrong, and adopting that heals it.
func TestRepair(t *testing.T) {
	damages := map[string]struct {
		plant func(tx *bolt.Tx) error
		wrong []string // keys; nil: none but rows of the tree
	}{
		"flipped value":   {func(tx *bolt.Tx) error { return poke(tx, "objects", "k/007", -1) }, []string{"k/007"}},
		"flipped digest":  {func(tx *bolt.Tx) error { return poke(tx, "objects", "k/007", 0) }, nil},
		"short object":    {func(tx *bolt.Tx) error { return tx.Bucket([]byte("objects")).Put([]byte("k/007"), []byte("x")) }, []string{"k/007"}},
		"lost object":     {func(tx *bolt.Tx) error { return tx.Bucket([]byte("objects")).Delete([]byte("k/007")) }, []string{"k/007"}},
		"bad key":         {func(tx *bolt.Tx) error { return tx.Bucket([]byte("objects")).Put([]byte("k//7"), make([]byte, 40)) }, nil},
		"another object":  {func(tx *bolt.Tx) error { return tx.Bucket([]byte("objects")).Put([]byte("k/x"), make([]byte, 40)) }, []string{"k/x"}},
		"node":            {func(tx *bolt.Tx) error { return poke(tx, "tree", firstNode(tx), 5) }, nil},
		"lost node":       {func(tx *bolt.Tx) error { return tx.Bucket([]byte("tree")).Delete([]byte(firstNode(tx))) }, nil},
		"malformed node":  {func(tx *bolt.Tx) error { return tx.Bucket([]byte("tree")).Put([]byte(firstNode(tx)), []byte("x")) }, nil},
		"envelope's head": {func(tx *bolt.Tx) error { return poke(tx, "objects", "k/007", 32) }, []string{"k/007"}},
	}
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := model{}
			for k, v := range numbered(800, "value") {
				m[k] = *v
			}
			src := newSource(t, m)
			dir := t.TempDir()
			mirror := openMirror(t, dir, quiet)
			src.sync(mirror)
			if err := mirror.MarkDelivered(src.head().Position); err != nil {
				t.Fatal(err)
			}
			mirror.Close()
			withFile(t, dir+"/sets/set.db", d.plant)
			mirror = openMirror(t, dir, quiet)
			n, err := mirror.Repair(t.Context())
			if err != nil || n == 0 {
				t.Fatalf("Repair = %d, %v", n, err)
			}
			if mirror.Head().Revision != src.head().Revision || mirror.Floor() != src.head().Revision || mirror.Damaged() != (d.wrong != nil) {
				t.Fatalf("after the repair: head %v, floor %v, damaged %v", mirror.Head().Position, mirror.Floor(), mirror.Damaged())
			}
			if again, err := mirror.Repair(t.Context()); err != nil || again != 0 {
				t.Errorf("Repair again = %d, %v", again, err)
			}
			mirror.Close()
			mirror = openMirror(t, dir, quiet)
			heal(t, src, mirror, d.wrong)
			src.mirrors(mirror)
			if mirror.Delivered() != src.head().Position {
				t.Errorf("Delivered = %v", mirror.Delivered())
			}
			if n, err := mirror.Repair(t.Context()); n != 0 || err != nil {
				t.Errorf("Repair when all is well = %d, %v", n, err)
			}
		})
	}
}

// heal compares the mirror's tree with the source's, demands that wrong is what
// differs, and adopts it.
func heal(t *testing.T, src *source, m *store.Mirror, wrong []string) {
	t.Helper()
	var found []string
	fix := edit{}
	viewMirror(t, m, func(ours *store.Snapshot) {
		if ours.Head().Root == m.TreeRoot() == m.Damaged() {
			t.Errorf("TreeRoot = %v and Damaged = %v for the head %v", m.TreeRoot(), m.Damaged(), ours.Head().Root)
		}
		view(t, src.s, "set", func(theirs *store.Snapshot) {
			for d, err := range merkle.Diff(ours, theirs) {
				if err != nil {
					t.Fatal(err)
				}
				key := string(d.Key)
				found = append(found, key)
				if fix[key] = nil; d.B != (merkle.Digest{}) {
					fix[key] = ptr(src.model[key])
				}
			}
		})
	})
	if !slices.Equal(found, wrong) {
		t.Fatalf("the trees differ at %q, want %q", found, wrong)
	}
	if err := m.Adopt(t.Context(), src.head(), fix.changes()); err != nil {
		t.Fatal(err)
	}
}

// TestRepairPages overwrites every page of a mirror's file in turn: whatever
// can't be read is fetched again.
func TestRepairPages(t *testing.T) {
	m := model{}
	for k, v := range numbered(300, "some value that takes room") {
		m[k] = *v
	}
	src := newSource(t, m)
	dir := t.TempDir()
	path := dir + "/sets/set.db"
	mirror := openMirror(t, dir, quiet)
	src.sync(mirror)
	mirror.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for page := range len(whole) / os.Getpagesize() {
		spoiled := slices.Clone(whole)
		for i := range os.Getpagesize() {
			spoiled[page*os.Getpagesize()+i] = 0xA5
		}
		if err := os.WriteFile(path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		mirror := openMirror(t, dir, quiet)
		if _, err := mirror.Repair(t.Context()); err != nil {
			t.Fatalf("page %d: Repair = %v", page, err)
		}
		if mirror.Floor() != src.head().Revision {
			t.Errorf("page %d: floor = %v", page, mirror.Floor())
		}
		if mirror.Head().Epoch.IsZero() {
			src.sync(mirror)
		} else {
			kept++
			healAny(t, src, mirror)
		}
		src.mirrors(mirror)
		mirror.Close()
	}
	if kept == 0 {
		t.Error("no damage left anything of a mirror")
	}
	if left, _ := filepath.Glob(dir + "/sets/*.new"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func scrubAll(m *store.Mirror) error {
	for from, err := m.Scrub(nil, 1000); ; from, err = m.Scrub(from, 1000) {
		if from == nil || err != nil {
			return err
		}
	}
}

func healAny(t *testing.T, src *source, m *store.Mirror) {
	t.Helper()
	fix := edit{}
	viewMirror(t, m, func(ours *store.Snapshot) {
		view(t, src.s, "set", func(theirs *store.Snapshot) {
			for d, err := range merkle.Diff(ours, theirs) {
				if err != nil {
					t.Fatal(err)
				}
				if fix[string(d.Key)] = nil; d.B != (merkle.Digest{}) {
					fix[string(d.Key)] = ptr(src.model[string(d.Key)])
				}
			}
		})
	})
	if err := m.Adopt(t.Context(), src.head(), fix.changes()); err != nil {
		t.Fatal(err)
	}
}

// TestRescue opens mirrors that were not closed cleanly and have a page that
// can't be read: bbolt would crash on some.
func TestRescue(t *testing.T) {
	m := model{}
	for k, v := range numbered(300, "some value that takes room") {
		m[k] = *v
	}
	src := newSource(t, m)
	dir := t.TempDir()
	mirror := openMirror(t, dir, quiet)
	src.sync(mirror)
	e := edit{"k/000": ptr("2")}
	src.commit(e)
	if err := mirror.Adopt(t.Context(), src.head(), e.changes()); err != nil {
		t.Fatal(err)
	}
	later := desired.Revision{Position: desired.Position{Epoch: src.head().Epoch, Number: 99}}
	whole, err := os.ReadFile(dir + "/sets/set.db") // as a crash would leave it
	if err != nil {
		t.Fatal(err)
	}
	kept := 0
	for page := 2; page < len(whole)/os.Getpagesize(); page++ {
		crashed := t.TempDir()
		if err := os.Mkdir(crashed+"/sets", 0o700); err != nil {
			t.Fatal(err)
		}
		spoiled := slices.Clone(whole)
		clear(spoiled[page*os.Getpagesize():][:os.Getpagesize()])
		if err := os.WriteFile(crashed+"/sets/set.db", spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		store.WriteFloor(t, crashed+"/sets/set.db.floor", later)
		mirror := openMirror(t, crashed, quiet)
		if mirror.Floor() != later {
			t.Fatalf("page %d: floor = %v, want %v", page, mirror.Floor(), later.Position)
		}
		if !mirror.Head().Epoch.IsZero() {
			kept++
			healAny(t, src, mirror)
		}
		mirror.Close()
	}
	if kept == 0 {
		t.Error("no damage left anything of a mirror")
	}
}

// TestStagingFlips flips bits of a staging that an interrupted pull left, while
// its tree is in the making and when it is complete: it is given up, or does no
// harm to what is promoted.
func TestStagingFlips(t *testing.T) {
	m := model{}
	for k, v := range numbered(1000, "some value that takes room") {
		m[k] = *v
	}
	src := newSource(t, m)
	all := m.puts().list()
	for _, complete := range []bool{false, true} {
		dir := t.TempDir()
		path := dir + "/sets/set.db.staging"
		mirror := openMirror(t, dir, quiet)
		st, err := mirror.Stage(t.Context(), store.StageEmpty, src.salt())
		if err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(all[:800], 100) {
			if err := st.Write(t.Context(), part, part[len(part)-1].Key); err != nil {
				t.Fatal(err)
			}
		}
		if complete {
			if _, err := st.Root(); err != nil {
				t.Fatal(err)
			}
		}
		mirror.Close()
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(2, 2))
		kept, given := 0, 0
		for range 200 {
			spoiled := slices.Clone(whole)
			at := rng.IntN(len(spoiled))
			spoiled[at] ^= 1 << rng.IntN(8)
			if err := os.WriteFile(path, spoiled, 0o600); err != nil {
				t.Fatal(err)
			}
			dir := dir + fmt.Sprint(kept+given)
			if err := errors.Join(os.MkdirAll(dir+"/sets", 0o700), os.Rename(path, dir+"/sets/set.db.staging")); err != nil {
				t.Fatal(err)
			}
			mirror := openMirror(t, dir, quiet)
			switch st, err := mirror.Staging(); {
			case err != nil:
				t.Fatalf("complete %v, byte %d: Staging = %v", complete, at, err)
			case st == nil:
				given++
			default:
				kept++
				i, _ := slices.BinarySearchFunc(all, st.Mark(), func(c desired.Change, key []byte) int { return bytes.Compare(c.Key, key) })
				if err := st.Write(t.Context(), all[i:], nil); err != nil {
					t.Fatalf("complete %v, byte %d: Write = %v", complete, at, err)
				}
				if err := st.Promote(t.Context(), src.head()); err != nil {
					t.Fatalf("complete %v, byte %d: Promote = %v", complete, at, err)
				}
				src.mirrors(mirror)
			}
			mirror.Close()
		}
		if kept == 0 || given == 0 {
			t.Errorf("complete %v: %d stagings kept, %d given up", complete, kept, given)
		}
	}
}

// TestBadStaging: a staging that can't be read is no reason to fail.
func TestBadStaging(t *testing.T) {
	dir := t.TempDir()
	m := openMirror(t, dir, quiet)
	if _, err := m.Stage(t.Context(), store.StageEmpty, 1); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if err := os.WriteFile(dir+"/sets/set.db.staging", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	m = openMirror(t, dir, quiet)
	if st, err := m.Staging(); st != nil || err != nil {
		t.Errorf("Staging = %v, %v, want none", st, err)
	}
	st, err := m.Stage(t.Context(), store.StageEmpty, 1)
	if err != nil {
		t.Fatal(err)
	}
	bad := []desired.Change{change("b", ptr("")), change("a", ptr(""))}
	if err := st.Write(t.Context(), bad, nil); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Write out of order = %v", err)
	}
	if err := st.Write(t.Context(), nil, make([]byte, store.MaxMarkBytes+1)); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Write of a mark too long = %v", err)
	}
	if st.Objects() != 0 {
		t.Errorf("staged %d objects", st.Objects())
	}
}

// TestRepairFlips flips bits of a mirror's pages while it is closed, where
// their headers and elements are: a repair finds whatever matters, and a sync
// makes the mirror whole again.
func TestRepairFlips(t *testing.T) {
	m := model{}
	for k, v := range numbered(2000, "some value that takes room") {
		m[k] = *v
	}
	src := newSource(t, m)
	dir := t.TempDir()
	path := dir + "/sets/set.db"
	mirror := openMirror(t, dir, quiet)
	src.sync(mirror)
	mirror.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	kept := 0
	for range 300 {
		spoiled := slices.Clone(whole)
		page := rng.IntN(len(spoiled) / os.Getpagesize())
		at := page*os.Getpagesize() + rng.IntN(64)
		spoiled[at] ^= 1 << rng.IntN(8)
		if err := os.WriteFile(path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		mirror, err := store.OpenMirror(dir, "set", quiet)
		if errors.Is(err, store.ErrFormat) { // the number of a version that there may be one day
			continue
		}
		if err != nil {
			t.Fatalf("byte %d of page %d: OpenMirror = %v", at, page, err)
		}
		scrubbed := scrubAll(mirror)
		if n, err := mirror.Repair(t.Context()); err != nil || n > 0 && scrubbed == nil {
			t.Fatalf("byte %d of page %d: Repair = %d, %v after Scrub = %v", at, page, n, err, scrubbed)
		}
		if mirror.Head().Epoch.IsZero() {
			src.sync(mirror)
		} else {
			kept++
			healAny(t, src, mirror)
		}
		src.mirrors(mirror)
		if n, err := mirror.Repair(t.Context()); n > 0 || err != nil {
			t.Errorf("byte %d of page %d: a second Repair = %d, %v", at, page, n, err)
		}
		mirror.Close()
		if err := boltfile.Verify(path); err != nil {
			t.Errorf("Verify = %v", err)
		}
		if t.Failed() {
			t.Fatalf("byte %d of page %d", at, page)
		}
	}
	if kept == 0 {
		t.Error("no damage left anything of a mirror")
	}
}

// TestDamagedMeta flips each bit of what a mirror says of itself: nothing of it
// is believed, nothing wedges, and the floor stays.
func TestDamagedMeta(t *testing.T) {
	src := newSource(t, model{"a": "1", "b": "2"})
	dir := t.TempDir()
	path := dir + "/sets/set.db"
	mirror := openMirror(t, dir, quiet)
	src.sync(mirror)
	mirror.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range []string{"format", "name", "salt", "head"} {
		for at := 0; ; at++ {
			if err := os.WriteFile(path, whole, 0o600); err != nil {
				t.Fatal(err)
			}
			more := false
			withFile(t, path, func(tx *bolt.Tx) error {
				if more = at < len(tx.Bucket([]byte("meta")).Get([]byte(row))); !more {
					return nil
				}
				return poke(tx, "meta", row, at)
			})
			if !more {
				break
			}
			mirror := openMirror(t, dir, quiet)
			if mirror.Head().Number != 0 || mirror.Floor() != src.head().Revision {
				t.Fatalf("%s, byte %d: mirror at %v, floor %v", row, at, mirror.Head().Position, mirror.Floor().Position)
			}
			src.sync(mirror)
			src.mirrors(mirror)
			mirror.Close()
		}
	}
}
