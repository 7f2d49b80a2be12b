package store_test

import (
	"errors"
	"fmt"
	"os"
	"testing"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/store"
)

// TestRestoreGuards restores 60 of 100 objects under guards: what they refuse
// leaves the set as it was, and a dry run tells the same.
func TestRestoreGuards(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	before := commit(t, s, "set", numbered(100, "1")).Head
	commit(t, s, "empty", numbered(1, "1"))
	empty := commit(t, s, "empty", edit{"k/000": nil}).Head
	at := func(number uint64) *desired.Position { return &desired.Position{Number: number} }
	for _, c := range []struct {
		name   string
		set    desired.Name
		expect *desired.Position
		limit  *store.DeleteLimit
		want   error
	}{
		{"no limit", "set", nil, nil, nil},
		{"a limit that holds", "set", at(1), &store.DeleteLimit{Count: 10, Percent: 40}, nil},
		{"all of it", "set", nil, &store.DeleteLimit{Percent: 100}, nil},
		{"a limit", "set", nil, &store.DeleteLimit{Count: 39, Percent: 10}, store.ErrTooManyDeletes},
		{"none", "set", nil, &store.DeleteLimit{}, store.ErrTooManyDeletes},
		{"another revision", "set", at(2), nil, store.ErrConflict},
		{"another epoch", "set", &desired.Position{Epoch: desired.NewEpoch(), Number: 1}, nil, store.ErrConflict},
		{"a set that must not be", "set", at(0), nil, store.ErrConflict},
		{"a limit under a prefix", "set", nil, &store.DeleteLimit{Percent: 100, Prefix: []byte("k")}, desired.ErrInvalid},
		{"nothing to lose in an empty set", "empty", at(empty.Number), &store.DeleteLimit{}, nil},
		{"nothing to lose in no set", "none", at(0), &store.DeleteLimit{}, nil},
		{"a set that must be", "none", at(1), nil, store.ErrConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			objects := numbered(60, "1")
			objects["k/000"] = ptr("2")
			objects["new"] = ptr("")
			r := store.Restore{Objects: objects.changes(), Expect: c.expect, MaxDelete: c.limit, DryRun: true}
			heads := s.Heads()
			dry, err := s.Restore(t.Context(), c.set, r)
			if err == nil {
				err = dry.Refused
			}
			if !errors.Is(err, c.want) {
				t.Errorf("dry run = %+v, %v, want %v", dry, err, c.want)
			}
			if now := s.Heads(); len(now) != len(heads) || dry.Head.Number != 0 {
				t.Errorf("after a dry run to %v: %v, want %v", dry.Head, now, heads)
			}
			if c.set == "set" && (c.want == nil || errors.Is(c.want, store.ErrTooManyDeletes)) &&
				(dry.Created != 1 || dry.Updated != 1 || dry.Deleted != 40 || dry.Unchanged != 59 || dry.Replaced.Position != before.Position) {
				t.Errorf("dry run = %+v, want 1 created, 1 updated, 40 deleted, 59 unchanged over %v", dry, before.Position)
			}
			if c.want == nil {
				return
			}
			r.Objects, r.DryRun = objects.changes(), false
			if _, err := s.Restore(t.Context(), c.set, r); !errors.Is(err, c.want) {
				t.Errorf("Restore = %v, want %v", err, c.want)
			}
			if head, err := s.Head("set"); err != nil || head.Position != before.Position {
				t.Errorf("after a refused restore: %v, %v", head.Position, err)
			}
		})
	}
	if files, err := os.ReadDir(dir + "/sets"); err != nil || len(files) != 2 {
		t.Errorf("files left over: %v, %v", files, err)
	}
	checkClean(t, s, "set")
}

// TestRestoreDamaged restores over sets that are damaged. Where the keys can be
// read the guard counts; where they can't, only an operator who lets all of it
// go restores.
func TestRestoreDamaged(t *testing.T) {
	row := func(change func(b *bolt.Bucket) error) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			withFile(t, path, func(tx *bolt.Tx) error { return change(tx.Bucket([]byte("objects"))) })
		}
	}
	for name, d := range map[string]struct {
		damage  func(t *testing.T, path string)
		counted bool
	}{
		"a flipped value": {func(t *testing.T, path string) {
			withFile(t, path, func(tx *bolt.Tx) error { return poke(tx, "objects", "k/007", -1) })
		}, true},
		"a lost object": {row(func(b *bolt.Bucket) error { return b.Delete([]byte("k/007")) }), false},
		"objects that came from nowhere": {row(func(b *bolt.Bucket) error {
			for i := range 600 {
				if err := b.Put(fmt.Appendf(nil, "j/%03d", i), append(make([]byte, 32), "\x00value"...)); err != nil {
					return err
				}
			}
			return nil
		}), false},
		"a malformed row": {row(func(b *bolt.Bucket) error { return b.Put([]byte("k/007"), []byte{1}) }), false},
		"a truncated file": {func(t *testing.T, path string) {
			if err := os.Truncate(path, 3*4096+17); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir, quiet)
			commit(t, s, "bad", numbered(500, "1"))
			s.Close()
			d.damage(t, dir+"/sets/bad.db")
			s = openStore(t, dir, quiet)
			if _, err := s.Check(t.Context(), "bad", nil); err == nil {
				if _, err := s.Head("bad"); !errors.Is(err, store.ErrQuarantined) {
					t.Fatalf("Head = %v, want %v", err, store.ErrQuarantined)
				}
			}
			restore := func(objects int, limit store.DeleteLimit, dry bool) (store.Restored, error) {
				return s.Restore(t.Context(), "bad", store.Restore{
					Objects: numbered(objects, "1").changes(), MaxDelete: &limit, DryRun: dry,
				})
			}
			usual := store.DeleteLimit{Count: 10, Percent: 10}
			dry, err := restore(400, usual, true)
			if err != nil || !errors.Is(dry.Refused, store.ErrTooManyDeletes) || (dry.Damage == nil) != d.counted ||
				(dry.Deleted == 100) != d.counted {
				t.Errorf("dry run = %+v, %v", dry, err)
			}
			if _, err := restore(400, usual, false); !errors.Is(err, store.ErrTooManyDeletes) {
				t.Errorf("Restore = %v, want %v", err, store.ErrTooManyDeletes)
			}
			limit := store.DeleteLimit{Percent: 100}
			if d.counted {
				limit = store.DeleteLimit{Percent: 20}
			}
			r, err := restore(400, limit, false)
			if err != nil || (r.Damage == nil) != d.counted || r.Head.Objects != 400 {
				t.Errorf("Restore = %+v, %v", r, err)
			}
			checkClean(t, s, "bad")
		})
	}
}

func TestDeleteAt(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	head := commit(t, s, "set", numbered(3, "1")).Head
	for _, at := range []desired.Position{{}, {Number: 2}, {Epoch: desired.NewEpoch(), Number: 1}} {
		if _, err := s.DeleteAt(t.Context(), "set", &at); !errors.Is(err, store.ErrConflict) {
			t.Errorf("DeleteAt(%v) = %v, want %v", at, err, store.ErrConflict)
		}
	}
	if left, err := s.DeleteAt(t.Context(), "set", &head.Position); err != nil || left.Position != head.Position {
		t.Errorf("DeleteAt = %v, %v, want %v", left.Position, err, head.Position)
	}
	if _, err := s.DeleteAt(t.Context(), "set", &head.Position); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("DeleteAt of what is gone = %v, want %v", err, store.ErrNotFound)
	}
}

// TestRestoreForked restores a set of which a host holds a later revision of
// another history: the new epoch is above that, and ends the fork.
func TestRestoreForked(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	held := commit(t, s, "set", numbered(3, "1")).Head.Position
	held.Number = 9
	for _, want := range []bool{true, false} {
		if news, err := s.Fork(t.Context(), "set", held); err != nil || news != want {
			t.Fatalf("Fork = %v, %v, want %v", news, err, want)
		}
	}
	c := store.Commit{Changes: numbered(3, "2").changes()}
	if _, err := s.Commit(t.Context(), "set", c); !errors.Is(err, store.ErrForked) {
		t.Fatalf("Commit to a forked set = %v, want %v", err, store.ErrForked)
	}
	r, err := s.Restore(t.Context(), "set", store.Restore{Objects: numbered(3, "1").changes()})
	if err != nil || r.Head.Number <= held.Number || r.Unchanged != 3 {
		t.Errorf("Restore = %+v, %v, want a number above %d", r, err, held.Number)
	}
	commit(t, s, "set", numbered(3, "2"))
}

// TestRestoreNeedsRoom: a restore that has no room is refused before it reads or
// writes anything; a dry run needs none.
func TestRestoreNeedsRoom(t *testing.T) {
	s := openStore(t, t.TempDir(), quiet)
	m := model{}.apply(numbered(3, "1"))
	commit(t, s, "set", m.puts())
	read := 0
	r := store.Restore{Count: 1 << 50, Bytes: 1 << 60, Objects: func(func(desired.Change, error) bool) { read++ }}
	if _, err := s.Restore(t.Context(), "set", r); !errors.Is(err, store.ErrDiskFull) || read > 0 {
		t.Errorf("Restore without room = %v, read %d times, want %v", err, read, store.ErrDiskFull)
	}
	view(t, s, "set", func(snap *store.Snapshot) { m.verify(t, snap) })
	r.DryRun = true
	if _, err := s.Restore(t.Context(), "set", r); err != nil || read != 1 {
		t.Errorf("a dry run without room = %v", err)
	}
}
