package store_test

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"testing"

	"espalier/store"
)

// TestFloor: losing the mirror doesn't lose the floor, and neither does losing
// the floor's file while there is a mirror.
func TestFloor(t *testing.T) {
	src := newSource(t, model{"a": "1"})
	dir := t.TempDir()
	m := openMirror(t, dir, quiet)
	src.sync(m)
	floor := m.Floor()
	m.Close()
	mirrorFile := dir + "/sets/set.db"
	copies := []string{mirrorFile + ".floor", mirrorFile + ".floor2"}
	old, err := os.ReadFile(copies[0])
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(path string, content []byte) {
		t.Helper()
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	e := edit{"a": ptr("2")}
	src.commit(e)
	m = openMirror(t, dir, quiet)
	if err := m.Adopt(t.Context(), src.head(), e.changes()); err != nil {
		t.Fatal(err)
	}
	m.Close()
	for _, path := range copies { // as if there had been a crash between mirror and floor
		spoil(path, old)
	}
	m = openMirror(t, dir, quiet)
	src.mirrors(m)
	m.Close()

	for _, path := range copies {
		spoil(path, []byte("garbage"))
	}
	m = openMirror(t, dir, quiet)
	src.mirrors(m)
	m.Close()

	spoil(mirrorFile, []byte("garbage"))
	m = openMirror(t, dir, quiet)
	if !m.Head().Epoch.IsZero() || m.Floor().Number != floor.Number+1 {
		t.Errorf("without its mirror: head %v, floor %v", m.Head(), m.Floor())
	}
	if _, err := os.Stat(dir + "/sets/set.db.damaged"); err != nil {
		t.Errorf("the damaged mirror was not kept: %v", err)
	}
	src.sync(m)
	src.mirrors(m)
	m.Close()

	if err := os.Remove(mirrorFile); err != nil {
		t.Fatal(err)
	}
	for _, path := range copies {
		spoil(path, []byte("garbage"))
	}
	if _, err := store.OpenMirror(dir, "set", quiet); !errors.Is(err, store.ErrCorrupt) || !contains(err.Error(), "floor") {
		t.Errorf("OpenMirror without mirror and floor = %v, want %v", err, store.ErrCorrupt)
	}
}

// floorKit is a mirror that held two revisions, and is closed.
type floorKit struct {
	t          *testing.T
	src        *source
	dir        string
	log        *bytes.Buffer
	first      [2][]byte // the copies of the floor at the first revision
	mirrorFile string
}

func newFloorKit(t *testing.T) *floorKit {
	t.Helper()
	k := &floorKit{t: t, src: newSource(t, model{"a": "1"}), dir: t.TempDir(), log: &bytes.Buffer{}}
	k.mirrorFile = k.dir + "/sets/set.db"
	m := k.open()
	k.src.sync(m)
	m.Close()
	for i := range k.first {
		k.first[i] = k.read(k.copy(i))
	}
	e := edit{"a": ptr("2")}
	k.src.commit(e)
	m = k.open()
	if err := m.Adopt(t.Context(), k.src.head(), e.changes()); err != nil {
		t.Fatal(err)
	}
	m.Close()
	if k.log.Len() > 0 {
		t.Fatalf("logged while all was well: %s", k.log)
	}
	return k
}

// copy returns the path of a copy of the floor.
func (k *floorKit) copy(i int) string { return k.mirrorFile + [...]string{".floor", ".floor2"}[i] }

func (k *floorKit) open() *store.Mirror {
	k.t.Helper()
	return openMirror(k.t, k.dir, store.Options{Logger: slog.New(slog.NewTextHandler(k.log, nil))})
}

func (k *floorKit) read(path string) []byte {
	k.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		k.t.Fatal(err)
	}
	return b
}

// spoil replaces a file; nil removes it.
func (k *floorKit) spoil(path string, content []byte) {
	k.t.Helper()
	if err := os.Remove(path); err != nil {
		k.t.Fatal(err)
	}
	if content == nil {
		return
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// What becomes of a copy of the floor, which was at the first revision before
// and is at the second now; nil: it is gone.
func whole(_, now []byte) []byte     { return now }
func lost(_, _ []byte) []byte        { return nil }
func older(before, _ []byte) []byte  { return before }
func empty(_, _ []byte) []byte       { return []byte{} }
func truncated(_, now []byte) []byte { return now[:len(now)-1] }
func garbage(_, now []byte) []byte   { return bytes.Repeat([]byte{0xA5}, len(now)) }
func flipped(_, now []byte) []byte {
	now = bytes.Clone(now)
	now[len("floor.")+16] ^= 0x40 // a number that no revision will reach
	return now
}

// TestFloorCopies loses or damages either copy of the floor, or both, with the
// mirror and without. As long as a copy or the mirror is there, the mirror opens
// at the second revision, the log names each copy that was not at it, and both
// are whole afterwards.
func TestFloorCopies(t *testing.T) {
	for name, c := range map[string]struct {
		fates  [2]fate
		logged [2]bool
		fails  bool // without the mirror
	}{
		"both whole":                     {fates: [2]fate{whole, whole}},
		"the first lost":                 {fates: [2]fate{lost, whole}, logged: [2]bool{true, false}},
		"the second lost":                {fates: [2]fate{whole, lost}, logged: [2]bool{false, true}},
		"the first empty":                {fates: [2]fate{empty, whole}, logged: [2]bool{true, false}},
		"the second truncated":           {fates: [2]fate{whole, truncated}, logged: [2]bool{false, true}},
		"the first flipped":              {fates: [2]fate{flipped, whole}, logged: [2]bool{true, false}},
		"the second garbage":             {fates: [2]fate{whole, garbage}, logged: [2]bool{false, true}},
		"a crash between the two writes": {fates: [2]fate{whole, older}, logged: [2]bool{false, true}},
		"the first older":                {fates: [2]fate{older, whole}, logged: [2]bool{true, false}},
		"both damaged":                   {fates: [2]fate{flipped, garbage}, logged: [2]bool{true, true}, fails: true},
		"one lost, one damaged":          {fates: [2]fate{lost, truncated}, logged: [2]bool{true, true}, fails: true},
		"one damaged, one lost":          {fates: [2]fate{empty, lost}, logged: [2]bool{true, true}, fails: true},
	} {
		for _, mirror := range []string{"mirrored", "mirror lost"} {
			t.Run(name+", "+mirror, func(t *testing.T) {
				t.Parallel()
				k := newFloorKit(t)
				want := [2][]byte{k.read(k.copy(0)), k.read(k.copy(1))}
				for i, fate := range c.fates {
					k.spoil(k.copy(i), fate(k.first[i], want[i]))
				}
				if mirror == "mirror lost" {
					k.spoil(k.mirrorFile, nil)
					if c.fails {
						k.refused()
						return
					}
				}
				m := k.open()
				if m.Floor() != k.src.head().Revision {
					t.Errorf("floor = %v, want %v", m.Floor().Position, k.src.head().Position)
				}
				m.Close()
				for i := range want {
					if got := k.read(k.copy(i)); !bytes.Equal(got, want[i]) {
						t.Errorf("%s is %x afterwards, want %x", k.copy(i), got, want[i])
					}
					if got := k.logged(i); got != c.logged[i] {
						t.Errorf("%s in the log: %v, want %v: %s", k.copy(i), got, c.logged[i], k.log)
					}
				}
			})
		}
	}
}

type fate = func(before, now []byte) []byte

// logged reports whether the log tells of a copy.
func (k *floorKit) logged(i int) bool {
	for _, end := range []string{": ", " "} {
		if strings.Contains(k.log.String(), k.copy(i)+end) {
			return true
		}
	}
	return false
}

// refused demands that the mirror doesn't open, says which copies are damaged, and
// leaves everything as it is, however often it is asked; and that it opens anew
// once they are removed.
func (k *floorKit) refused() {
	k.t.Helper()
	for range 2 {
		_, err := store.OpenMirror(k.dir, "set", quiet)
		if !errors.Is(err, store.ErrCorrupt) || !contains(err.Error(), "floor") {
			k.t.Fatalf("OpenMirror without mirror and floor = %v, want %v", err, store.ErrCorrupt)
		}
		for i := range k.first {
			if _, gone := os.Stat(k.copy(i)); (gone == nil) != contains(err.Error(), k.copy(i)+":") {
				k.t.Errorf("OpenMirror = %v; %s: %v", err, k.copy(i), gone)
			}
		}
	}
	for i := range k.first {
		if err := os.Remove(k.copy(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			k.t.Fatal(err)
		}
	}
	if m := k.open(); !m.Floor().Epoch.IsZero() {
		k.t.Errorf("floor = %v, want none", m.Floor())
	}
}

// TestFloorOutlivesFailedWrites lets the writing of either copy fail: the revision
// is adopted, the floor is at it from then on, and the files once they can be
// written, with the next revision or start.
func TestFloorOutlivesFailedWrites(t *testing.T) {
	for i := range 2 {
		k := newFloorKit(t)
		m := k.open()
		obstacle := k.copy(i) + ".new"
		if err := errors.Join(os.Mkdir(obstacle, 0o700), os.Truncate(k.copy(i), 3)); err != nil { // so that it can't be written over
			t.Fatal(err)
		}
		adopt := func(value string) error {
			e := edit{"a": ptr(value)}
			k.src.commit(e)
			return m.Adopt(t.Context(), k.src.head(), e.changes())
		}
		if err := adopt("3"); err == nil {
			t.Errorf("copy %d: Adopt = nil, though the floor could not be written", i)
		}
		k.src.mirrors(m)
		m.Close()
		m = k.open() // which can't write it either, and goes on with what the mirror says
		k.src.mirrors(m)
		if !contains(k.log.String(), "the floor can't be written") {
			t.Errorf("copy %d: the log says nothing of it: %s", i, k.log)
		}
		if err := os.Remove(obstacle); err != nil {
			t.Fatal(err)
		}
		if err := adopt("4"); err != nil {
			t.Error(err)
		}
		k.src.mirrors(m)
		m.Close()
		if !bytes.Equal(k.read(k.copy(0)), k.read(k.copy(1))) {
			t.Errorf("copy %d: the copies differ", i)
		}
	}
}

// TestFloorNeverGoesBack adopts an older revision, which an agent wouldn't.
func TestFloorNeverGoesBack(t *testing.T) {
	src := newSource(t, model{"a": "1"})
	m := openMirror(t, t.TempDir(), quiet)
	first := src.head()
	src.commit(edit{"a": ptr("2")})
	src.sync(m)
	if err := m.Adopt(t.Context(), first, edit{"a": ptr("1")}.changes()); err != nil {
		t.Fatal(err)
	}
	if m.Floor() != src.head().Revision {
		t.Errorf("floor = %v, want %v", m.Floor(), src.head().Position)
	}
}

// TestFloorsOfDifferentEpochs puts an old copy of the floor back, of an epoch that
// was left: the mirror says which is the later, and without it nobody does.
func TestFloorsOfDifferentEpochs(t *testing.T) {
	for i := range 2 {
		k := newFloorKit(t)
		if _, err := k.src.s.Renew(t.Context(), "set", "", ""); err != nil {
			t.Fatal(err)
		}
		m := k.open()
		k.src.sync(m)
		m.Close()
		latest := k.read(k.copy(1 - i))
		k.spoil(k.copy(i), k.first[i])
		m = k.open()
		if m.Floor() != k.src.head().Revision {
			t.Errorf("copy %d is old, and the floor is %v, want %v", i, m.Floor(), k.src.head().Revision)
		}
		m.Close()
		if !bytes.Equal(k.read(k.copy(i)), latest) {
			t.Errorf("copy %d was not written anew", i)
		}
		k.spoil(k.copy(i), k.first[i])
		k.spoil(k.mirrorFile, nil)
		if _, err := store.OpenMirror(k.dir, "set", quiet); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("copy %d is old, and there is no mirror: OpenMirror = %v, want %v", i, err, store.ErrCorrupt)
		}
		k.spoil(k.copy(i), nil)
		if m = k.open(); m.Floor() != k.src.head().Revision {
			t.Errorf("once copy %d is removed the floor is %v, want %v", i, m.Floor(), k.src.head().Revision)
		}
	}
}
