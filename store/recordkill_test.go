package store_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/store"
)

// killUpdate is the n-th update of a record: rows, drifts, a batch that begins and
// the one before it that ends.
func killUpdate(n uint64) store.AppliedUpdate {
	rng := rand.New(rand.NewPCG(n, 3))
	u := store.AppliedUpdate{
		Rows:  []store.AppliedRows{randomRows(rng, "set")},
		Begun: []store.AppliedBatch{{ID: n, Keys: randomKeys(rng, 30)}},
		Ended: []uint64{n - 1},
		State: map[string][]byte{"n": fmt.Append(nil, n)},
	}
	for i, key := range randomKeys(rng, 10) {
		if i%2 == 0 {
			u.Settled = append(u.Settled, key)
		} else {
			u.Drifted = append(u.Drifted, store.Drift{Key: key, Reason: "gone", At: time.UnixMilli(int64(n))})
		}
	}
	return u
}

// killShape is the salt of the set's tree before the n-th update.
func killShape(n uint64) uint64 { return n / 17 }

func recordAt(a *store.Applied) (n uint64, err error) {
	err = a.View(func(v *store.AppliedView) error {
		if b := v.State("n"); b != nil {
			n, err = strconv.ParseUint(string(b), 10, 64)
		}
		return err
	})
	return n, err
}

func recordChild(dir string) error {
	lock, err := store.LockDir(dir, "agent of host")
	if err != nil {
		return err
	}
	defer lock.Close()
	a, err := store.OpenApplied(dir, "host", quiet)
	if err != nil {
		return err
	}
	n, err := recordAt(a)
	if err != nil {
		return err
	}
	for n++; ; n++ {
		if err := a.Reshape(context.Background(), "set", killShape(n)); err != nil {
			return err
		}
		if err := a.Update(killUpdate(n)); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// TestKilledRecord: no acknowledged update is lost, none is there by half, and what
// was under way is in doubt.
func TestKilledRecord(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 2))
	m, at := newRecordModel(), uint64(0)
	for range kills(t) {
		lines := kill(t, rng, "record:"+dir)
		acked := at
		if len(lines) > 0 {
			var err error
			if acked, err = strconv.ParseUint(lines[len(lines)-1], 10, 64); err != nil {
				t.Fatal(err)
			}
		}
		if err := store.Probe(dir + "/applied.db"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("after update %d: %v", acked, err)
		}
		a := openApplied(t, dir, quiet)
		now, err := recordAt(a)
		if err != nil || now < acked || now > acked+1 {
			t.Fatalf("the record is at update %d, %v, but %d was acknowledged", now, err, acked)
		}
		viewApplied(t, a, func(v *store.AppliedView) {
			if shape, ok := v.Shape("set"); ok {
				if shape.Salt != killShape(now) && shape.Salt != killShape(now+1) {
					t.Errorf("salt = %d after update %d", shape.Salt, now)
				}
				m.reshape("set", shape.Salt)
			}
			for ; at < now; at++ {
				m.update(killUpdate(at + 1))
			}
			m.reopen()
			m.verify(t, v)
		})
		a.Close()
		if t.Failed() {
			t.FailNow()
		}
	}
	if _, err := os.Stat(dir + "/applied.db.damaged"); err == nil {
		t.Error("a record was put aside")
	}
	t.Logf("%d updates", at)
	if at < uint64(kills(t)) {
		t.Errorf("only %d updates were made", at)
	}
}

// TestRecordDamaged overwrites every page of a record's file in turn, while it is
// closed, and cuts it short: the process goes on, what is read is right, and what
// can't be read is put aside.
func TestRecordDamaged(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/applied.db"
	a := openApplied(t, dir, quiet)
	m := newRecordModel()
	if err := a.Reshape(t.Context(), "set", 1); err != nil {
		t.Fatal(err)
	}
	m.reshape("set", 1)
	for n := range uint64(20) {
		if err := a.Update(killUpdate(n + 1)); err != nil {
			t.Fatal(err)
		}
		m.update(killUpdate(n + 1))
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	openApplied(t, dir, quiet).Close()
	m.reopen()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pageSize := os.Getpagesize()
	noticed, pages := 0, len(whole)/pageSize
	for page := range pages {
		for _, fill := range []int{0x00, 0xA5, 0xFF, -1} {
			spoiled := append([]byte{}, whole...)
			for i := range pageSize {
				spoiled[page*pageSize+i] = byte(fill)
			}
			if fill < 0 {
				spoiled = spoiled[:page*pageSize]
			}
			if err := os.WriteFile(path, spoiled, 0o600); err != nil {
				t.Fatal(err)
			}
			if m.survives(t, dir) {
				noticed++
			}
			if t.Failed() {
				t.Fatalf("page %d of %d, %x", page, pages, fill)
			}
		}
	}
	if noticed < pages {
		t.Errorf("of %d pages spoiled in 4 ways each %d were noticed", pages, noticed)
	}
}

// TestRecordFlippedBits flips bits of a record's file.
func TestRecordFlippedBits(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/applied.db"
	a := openApplied(t, dir, quiet)
	m := newRecordModel()
	if err := a.Reshape(t.Context(), "set", 1); err != nil {
		t.Fatal(err)
	}
	m.reshape("set", 1)
	for n := range uint64(20) {
		u := killUpdate(n + 1)
		u.Begun = nil
		if err := a.Update(u); err != nil {
			t.Fatal(err)
		}
		m.update(u)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	seed := uint64(time.Now().UnixNano())
	rng := rand.New(rand.NewPCG(seed, 0))
	places := branches(whole)
	for range kills(t) * 3 {
		places = append(places, rng.IntN(len(whole)))
	}
	for _, at := range places {
		bit := rng.IntN(8)
		spoiled := append([]byte{}, whole...)
		spoiled[at] ^= 1 << bit
		if err := os.WriteFile(path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		if m.survives(t, dir); t.Failed() {
			t.Fatalf("bit %d of byte %d of page %d, seed %d", bit, at%os.Getpagesize(), at/os.Getpagesize(), seed)
		}
	}
}

// branches returns the places of the first bytes of a file's branch pages, which
// refer to other pages: of what they may refer to bbolt believes everything.
func branches(whole []byte) (places []int) {
	for at := 0; at < len(whole); at += os.Getpagesize() {
		if binary.LittleEndian.Uint16(whole[at+8:]) == 1 {
			for i := range 64 {
				places = append(places, at+i)
			}
		}
	}
	return places
}

// survives opens a record that may be damaged, reads and changes it, and demands
// that what it tells is what m has, or that it is put aside. It reports whether it
// is.
func (m *recordModel) survives(t *testing.T, dir string) (noticed bool) {
	t.Helper()
	aside := dir + "/applied.db.damaged"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	a := openApplied(t, dir, quiet)
	if _, err := os.Stat(aside); err == nil {
		viewApplied(t, a, func(v *store.AppliedView) { newRecordModel().verify(t, v) })
		a.Close()
		return true
	}
	err := a.View(func(v *store.AppliedView) error { return m.read(t, v) })
	if err == nil {
		err = a.Update(killUpdate(50))
	}
	if err != nil && !errors.Is(err, store.ErrCorrupt) && !errors.Is(err, store.ErrNotFound) {
		t.Errorf("using a damaged record = %v, want %v", err, store.ErrCorrupt)
	}
	if errors.Is(err, store.ErrCorrupt) {
		if again := a.Update(store.AppliedUpdate{}); !errors.Is(again, store.ErrCorrupt) {
			t.Errorf("Update after damage = %v, want %v", again, store.ErrCorrupt)
		}
	}
	if closing := a.Close(); closing != nil {
		t.Error(closing)
	}
	_, stat := os.Stat(aside)
	if errors.Is(err, store.ErrCorrupt) != (stat == nil) {
		t.Errorf("after %v the record is put aside: %v", err, stat)
	}
	return err != nil
}

// read reads all that is in a record, and demands that it is what m has, as far as
// it is there: whole pages may be missing without a trace.
func (m *recordModel) read(t *testing.T, v *store.AppliedView) error {
	for _, name := range v.Sets() {
		for r, err := range v.Rows(name, nil, nil) {
			if err != nil {
				return err
			}
			if !sameRow(r, m.sets[name].rows[string(r.Key)]) {
				t.Errorf("row %+v, want %+v", r, m.sets[name].rows[string(r.Key)])
			}
		}
		if _, err := v.Observed(name); err != nil {
			return err
		}
	}
	for d, err := range v.Drifts(nil) {
		if err != nil {
			return err
		}
		if want := m.drifts[string(d.Key)]; d.Seen != want.Seen || d.Doubt != want.Doubt {
			t.Errorf("drift %+v, want %+v", d, want)
		}
	}
	for i := range 200 {
		for _, err := range v.Dependents(fmt.Appendf(nil, "k/%03d", i)) {
			if err != nil {
				return err
			}
		}
	}
	_ = v.State("n") // damage is noted
	_, err := v.Root(desired.Name("set"))
	return err
}

// TestRecordCheck damages what follows from the rows, and the rows.
func TestRecordCheck(t *testing.T) {
	set := func(tx *bolt.Tx, bucket string) *bolt.Bucket {
		return tx.Bucket([]byte("set:set")).Bucket([]byte(bucket))
	}
	first := func(b *bolt.Bucket, change func(k, v []byte) error) error {
		k, v := b.Cursor().First()
		return change(bytes.Clone(k), bytes.Clone(v))
	}
	tests := map[string]struct {
		plant func(tx *bolt.Tx) error
		want  int
		err   error
	}{
		"nothing": {func(*bolt.Tx) error { return nil }, 0, nil},
		"a node": {func(tx *bolt.Tx) error {
			b := set(tx, "tree")
			return first(b, func(k, v []byte) error { v[3] ^= 1; return b.Put(k, v) })
		}, 1, nil},
		"a count": {func(tx *bolt.Tx) error {
			b := set(tx, "tree")
			return first(b, func(k, v []byte) error { v[32] ^= 1; return b.Put(k, v) })
		}, 1, nil},
		"a lost node": {func(tx *bolt.Tx) error {
			b := set(tx, "tree")
			return first(b, func(k, _ []byte) error { return b.Delete(k) })
		}, 1, nil},
		"an extra node": {func(tx *bolt.Tx) error { return set(tx, "tree").Put([]byte("\x01k/x"), make([]byte, 33)) }, 1, nil},
		"a lost edge": {func(tx *bolt.Tx) error {
			b := set(tx, "after")
			return first(b, func(k, _ []byte) error { return b.Delete(k) })
		}, 1, nil},
		"an extra edge": {func(tx *bolt.Tx) error { return set(tx, "after").Put([]byte("\x00\x01ab"), []byte("1234")) }, 1, nil},
		"an edge": {func(tx *bolt.Tx) error {
			b := set(tx, "after")
			return first(b, func(k, v []byte) error { v[0] ^= 1; return b.Put(k, v) })
		}, 1, nil},
		"a lost row": {func(tx *bolt.Tx) error {
			b := set(tx, "objects")
			return first(b, func(k, _ []byte) error { return b.Delete(k) })
		}, 1, nil},
		"a row": {func(tx *bolt.Tx) error {
			b := set(tx, "objects")
			return first(b, func(k, v []byte) error { v[3] ^= 1; return b.Put(k, v) })
		}, 0, store.ErrCorrupt},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			a := openApplied(t, dir, quiet)
			m := newRecordModel()
			for _, set := range []desired.Name{"empty", "set"} {
				if err := a.Reshape(t.Context(), set, 1); err != nil {
					t.Fatal(err)
				}
				m.reshape(set, 1)
			}
			for n := range uint64(20) {
				u := killUpdate(n + 1)
				u.Begun = nil
				if err := a.Update(u); err != nil {
					t.Fatal(err)
				}
				m.update(u)
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			withFile(t, dir+"/applied.db", tt.plant)
			a = openApplied(t, dir, quiet)
			if n, err := a.Check(t.Context()); n != tt.want || !errors.Is(err, tt.err) {
				t.Fatalf("Check = %d, %v, want %d, %v", n, err, tt.want, tt.err)
			}
			if tt.err != nil {
				return
			}
			if n, err := a.Check(t.Context()); n != 0 || err != nil {
				t.Errorf("Check again = %d, %v, want 0", n, err)
			}
			if name == "a lost row" {
				return
			}
			viewApplied(t, a, func(v *store.AppliedView) { m.verify(t, v) })
		})
	}
}
