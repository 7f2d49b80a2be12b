package agent_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"testing"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/store"
)

// leave leaves in an agent's folder what an interrupted pull may: a staging
// with some changes, and a mark.
func leave(t *testing.T, dir string, kind store.StageKind, salt uint64, objects map[string]string, mark delta.Mark) string {
	t.Helper()
	m, err := store.OpenMirror(dir, "web-01", store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	err = m.View(func(s *store.Snapshot) error {
		salt += s.Shape().Salt
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	st, err := m.Stage(t.Context(), kind, salt)
	if err != nil {
		t.Fatal(err)
	}
	var list []desired.Change
	for c := range changes(objects) {
		list = append(list, c)
	}
	if err := st.Write(t.Context(), list, mark.Encode()); err != nil {
		t.Fatal(err)
	}
	return m.Path() + ".staging"
}

// noise returns n bytes that don't compress.
func noise(r *rand.Rand, n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

// TestStagingLeftBehind leaves a staging of every kind, and goes on from there:
// whatever it holds, and whatever its mark says, the mirror becomes what the
// server has, and nothing is left over.
func TestStagingLeftBehind(t *testing.T) {
	elsewhere := desired.Revision{Position: desired.Position{Epoch: desired.Epoch{9}, Number: 3}, Root: desired.Digest{1}}
	r := rand.New(rand.NewPCG(1, 9))
	for _, c := range []struct {
		name string
		kind store.StageKind
		salt uint64 // besides the mirror's
		mark func(first, held desired.Revision) delta.Mark
	}{
		{"since an older base", store.StageCopy, 0, func(first, held desired.Revision) delta.Mark {
			return delta.Mark{Mode: delta.Since, Base: first, Through: held, After: []byte("svc/10")}
		}},
		{"since what it is not", store.StageCopy, 0, func(_, held desired.Revision) delta.Mark {
			return delta.Mark{Mode: delta.Since, Base: held, Through: held, After: []byte("svc/99")}
		}},
		{"full that is not", store.StageCopy, 0, func(_, held desired.Revision) delta.Mark {
			return delta.Mark{Mode: delta.Full, Through: held, After: []byte("svc/99")}
		}},
		{"full of another epoch", store.StageCopy, 0, func(_, _ desired.Revision) delta.Mark {
			return delta.Mark{Mode: delta.Full, Through: elsewhere, After: []byte("svc/10")}
		}},
		{"full of another salt", store.StageEmpty, 1, func(_, held desired.Revision) delta.Mark {
			return delta.Mark{Mode: delta.Full, Through: held, After: []byte("svc/10")}
		}},
		{"since of another salt", store.StageEmpty, 1, func(_, held desired.Revision) delta.Mark {
			return delta.Mark{Mode: delta.Since, Base: held, Through: held, After: []byte("svc/10")}
		}},
		{"descent", store.StageCopy, 0, func(_, _ desired.Revision) delta.Mark { return delta.Mark{Mode: delta.Descent} }},
		{"descent of another salt", store.StageEmpty, 1, func(_, _ desired.Revision) delta.Mark { return delta.Mark{Mode: delta.Descent} }},
		{"nonsense", store.StageCopy, 0, func(_, _ desired.Revision) delta.Mark { return delta.Mark{Mode: 77} }},
	} {
		for _, moved := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, moved %v", c.name, moved), func(t *testing.T) {
				o := serve(t)
				first := o.publish(t, "web-01", random(r, 1000))
				held := o.publish(t, "web-01", random(r, 100))
				dir := t.TempDir()
				a := open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr})
				sync(t, a)
				a.Close()
				staging := leave(t, dir, c.kind, c.salt, random(r, 100), c.mark(first.Revision, held.Revision))
				want := held
				if moved { // too far for a delta that comes with a poll
					large := random(r, 100)
					for key := range large {
						large[key] = noise(r, 1000)
					}
					want = o.publish(t, "web-01", large)
				}
				a = open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr})
				if got := sync(t, a); got.Head.Revision != want.Revision || moved != (got.Mode != agent.Unchanged) {
					t.Errorf("%v to %v, want %v", got.Mode, got.Head, want)
				}
				a.Close()
				if _, err := os.Stat(staging); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("the staging is still there: %v", err)
				}
				m, err := store.OpenMirror(dir, "web-01", store.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				if n, err := m.Repair(t.Context()); n != 0 || err != nil || m.Head().Revision != want.Revision {
					t.Errorf("the mirror at %v has %d damaged rows, %v, want %v", m.Head(), n, err, want)
				}
			})
		}
	}
}

// TestStagingWithoutAMirror leaves the beginning of a first full pull, of a set
// that has become another one meanwhile.
func TestStagingWithoutAMirror(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 9))
	o := serve(t)
	gone := o.publish(t, "web-01", random(r, 1000))
	if err := o.Delete(t.Context(), "web-01"); err != nil {
		t.Fatal(err)
	}
	want := o.publish(t, "web-01", random(r, 1000))
	dir := t.TempDir()
	leave(t, dir, store.StageEmpty, 5, random(r, 100), delta.Mark{Mode: delta.Full, Through: gone.Revision, After: []byte("svc/05")})
	a := open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr})
	if got := sync(t, a); got.Head.Revision != want.Revision || got.Mode != delta.Full || got.Upserts != want.Objects {
		t.Errorf("%v of %d to %v, want a full pull of %d to %v", got.Mode, got.Upserts, got.Head, want.Objects, want)
	}
}
