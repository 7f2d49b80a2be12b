package storetest

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/store"
)

// RunMirrors runs the suite of a host's data folder. open returns an empty one, in
// which a mirror adopts no more than most changes at once, and a function that
// returns it as a loss of power leaves it, if that can be had; mirrors that were
// opened before are closed.
func RunMirrors(t *testing.T, most int, open func(*testing.T) (d follow.Disk, again func() follow.Disk)) {
	for name, test := range map[string]func(*testing.T, *folder){
		"adoption": adoption, "staging": staging, "copies": copies, "floors": floors, "host lists": hostLists,
	} {
		t.Run(name, func(t *testing.T) {
			d, again := open(t)
			f := &folder{t: t, disk: d, again: again, most: most}
			defer f.close()
			test(t, f)
		})
	}
}

// folder is a data folder with one mirror, which may be opened again.
type folder struct {
	t     *testing.T
	disk  follow.Disk
	again func() follow.Disk
	open  follow.Mirror
	most  int
}

func (f *folder) mirror() follow.Mirror {
	f.t.Helper()
	if f.open == nil {
		var err error
		if f.open, err = f.disk.Open("set"); err != nil {
			f.t.Fatal(err)
		}
	}
	return f.open
}

func (f *folder) close() {
	if f.open != nil {
		if err := f.open.Close(); err != nil {
			f.t.Error(err)
		}
		f.open = nil
	}
}

func (f *folder) reopen() {
	f.close()
	f.disk = f.again()
}

// is holds the mirror against what it should be, then opens it again and does so
// once more.
func (f *folder) is(head desired.Head, c content) {
	f.t.Helper()
	for range 2 {
		m := f.mirror()
		if m.Head().Revision != head.Revision || m.Damaged() || m.Floor() != head.Revision {
			f.t.Errorf("the mirror is at %v, its floor %v, damaged %v, want %v", m.Head().Position, m.Floor().Position, m.Damaged(), head.Position)
		}
		if m.Head().Objects != uint64(len(c)) {
			f.t.Errorf("the mirror counts %d objects, want %d", m.Head().Objects, len(c))
		}
		if err := m.View(func(s follow.Snapshot) error { c.verify(f.t, s); return nil }); err != nil {
			f.t.Error(err)
		}
		if n, err := m.Repair(f.t.Context()); n != 0 || err != nil {
			f.t.Errorf("Repair = %d, %v", n, err)
		}
		f.reopen()
	}
}

// head returns the head of a set of salt 5 that has that content as revision n.
func (f *folder) head(c content, n uint64) (h desired.Head) {
	h.Epoch, h.Number, h.Root = desired.Epoch{1}, n, c.root(f.t, 5)
	return h
}

// begin has the mirror hold c, by a staging.
func (f *folder) begin(c content, head desired.Head) {
	f.t.Helper()
	st, err := f.mirror().Stage(f.t.Context(), store.StageEmpty, 5)
	if err == nil {
		err = st.Write(f.t.Context(), edit(c).list(), []byte("mark"))
	}
	if err == nil {
		err = st.Promote(f.t.Context(), head)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

func adoption(t *testing.T, f *folder) {
	if err := f.mirror().View(func(follow.Snapshot) error { return nil }); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("View of no mirror = %v", err)
	}
	empty := desired.Head{Revision: desired.Revision{Position: desired.Position{Epoch: desired.Epoch{1}, Number: 1}, Root: content{}.root(t, 0)}}
	if err := f.mirror().Adopt(t.Context(), empty, edit{}.stream()); err != nil {
		t.Fatal(err)
	}
	f.is(empty, content{})
	c := content{"a": "\x001", "b": "\x002", "c": "\x003"}
	at := f.head(c, 2)
	f.begin(c, at)
	f.is(at, c)
	r := rand.New(rand.NewPCG(5, 6))
	for n := uint64(3); n < 12; n++ {
		e := c.draw(r)
		keys := slices.Sorted(maps.Keys(e))
		for _, k := range keys[min(len(keys), f.most):] {
			delete(e, k)
		}
		next := c.with(e)
		wrong := f.head(c, n)
		if next.root(t, 5) != wrong.Root {
			if err := f.mirror().Adopt(t.Context(), wrong, e.stream()); !errors.Is(err, store.ErrRootMismatch) {
				t.Errorf("changes that lead elsewhere = %v", err)
			}
		}
		f.is(at, c)
		c, at = next, f.head(next, n)
		if err := f.mirror().Adopt(t.Context(), at, e.stream()); err != nil {
			t.Fatal(err)
		}
		f.is(at, c)
	}
	many := edit{}
	for i := range f.most + 1 {
		many["many/"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/676))] = "\x00"
	}
	if err := f.mirror().Adopt(t.Context(), f.head(c.with(many), 20), many.stream()); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("too many changes = %v", err)
	}
	if err := f.mirror().Adopt(t.Context(), f.head(c, 21), edit{"a//b": "\x00"}.stream()); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("a key that can't be = %v", err)
	}
	if err := f.mirror().Adopt(t.Context(), desired.Head{}, edit{}.stream()); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("a head that can't be = %v", err)
	}
	f.is(at, c)
}

// staging is begun, goes on after a crash, and takes the mirror's place once it
// verifies.
func staging(t *testing.T, f *folder) {
	c := content{}
	if st, err := f.mirror().Staging(); st != nil || err != nil {
		t.Fatalf("Staging of none = %v, %v", st, err)
	}
	if _, err := f.mirror().Stage(t.Context(), store.StageEmpty, 5); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(7, 8))
	for i := range 6 {
		f.reopen()
		st, err := f.mirror().Staging()
		if err != nil || st == nil || st.Salt() != 5 {
			t.Fatalf("what was staged is %v, %v", st, err)
		}
		if want := string(rune('a' + i - 1)); i == 0 && st.Mark() != nil || i > 0 && string(st.Mark()) != want {
			t.Errorf("the mark is %q, want %q", st.Mark(), want)
		}
		e := c.draw(r)
		if err := st.Write(t.Context(), e.list(), []byte{byte('a' + i)}); err != nil {
			t.Fatal(err)
		}
		c = c.with(e)
		if err := st.View(func(s follow.Snapshot) error { c.verify(t, s); return nil }); err != nil {
			t.Error(err)
		}
		if err := st.Promote(t.Context(), f.head(content{"x": "\x00"}, 4)); !errors.Is(err, store.ErrRootMismatch) {
			t.Errorf("Promote to what it isn't = %v", err)
		}
		if err := st.Write(t.Context(), edit{"a//b": "\x00"}.list(), nil); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("a key that can't be = %v", err)
		}
	}
	st, err := f.mirror().Staging()
	if err != nil {
		t.Fatal(err)
	}
	at := f.head(c, 4)
	if err := st.Promote(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if err := st.Write(t.Context(), nil, nil); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a write to what was promoted = %v", err)
	}
	if st, err := f.mirror().Staging(); st != nil || err != nil {
		t.Errorf("what was promoted is still staged: %v", err)
	}
	f.is(at, c)
}

// copies of a mirror are staged, discarded and promoted.
func copies(t *testing.T, f *folder) {
	c := content{"a": "\x001", "b": "\x002"}
	at := f.head(c, 2)
	f.begin(c, at)
	if _, err := f.mirror().Stage(t.Context(), store.StageCopy, 6); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("a copy with another salt = %v", err)
	}
	for _, keep := range []bool{false, true} {
		st, err := f.mirror().Stage(t.Context(), store.StageCopy, 5)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mark() != nil {
			t.Errorf("a new copy has the mark %q", st.Mark())
		}
		e := edit{"a": "", "c": "\x003"}
		if err := st.Write(t.Context(), e.list(), []byte("mark")); err != nil {
			t.Fatal(err)
		}
		if !keep {
			if err := f.mirror().DiscardStaging(); err != nil {
				t.Fatal(err)
			}
			if err := st.View(func(follow.Snapshot) error { return nil }); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("View of what was discarded = %v", err)
			}
			f.is(at, c)
			continue
		}
		c = c.with(e)
		at = f.head(c, 3)
		if err := st.Promote(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		f.is(at, c)
	}
}

// floors outlive the mirror, and rise alone.
func floors(t *testing.T, f *folder) {
	c := content{"a": "\x001"}
	at := f.head(c, 5)
	f.begin(c, at)
	if err := f.mirror().Remove(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if m := f.mirror(); m.Head().Number != 0 || m.Floor() != at.Revision {
			t.Errorf("without its mirror the floor is %v, want %v", m.Floor().Position, at.Position)
		}
		f.reopen()
	}
	lower := f.head(c, 4)
	f.begin(c, lower)
	if m := f.mirror(); m.Head().Revision != lower.Revision || m.Floor() != at.Revision {
		t.Errorf("the mirror is at %v, its floor at %v, want 4 and 5", m.Head().Position, m.Floor().Position)
	}
	next := f.head(c, 1)
	next.Epoch, next.Lineage = desired.Epoch{2}, []desired.Position{at.Position}
	f.begin(c, next)
	f.is(next, c)
}

// hostLists are kept; so is what there is a mirror of.
func hostLists(t *testing.T, f *folder) {
	if l, err := f.disk.List(); err != nil || l.Version != 0 {
		t.Errorf("List of none = %v, %v", l, err)
	}
	want := desired.List{Version: 3, Sets: []desired.Name{"a", "set"}, Left: []desired.Name{"b"}}.Pause(0, "why").ReleaseRoot(0, desired.Digest{1})
	if err := f.disk.WriteList(want); err != nil {
		t.Fatal(err)
	}
	f.begin(content{"a": "\x001"}, f.head(content{"a": "\x001"}, 5))
	f.reopen()
	if l, err := f.disk.List(); err != nil || l.Sum() != want.Sum() {
		t.Errorf("List = %v, %v, want %v", l, err, want)
	}
	if names, err := f.disk.Mirrored(); err != nil || !slices.Equal(names, []desired.Name{"set"}) {
		t.Errorf("Mirrored = %q, %v", names, err)
	}
}
