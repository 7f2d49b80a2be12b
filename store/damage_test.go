package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/store"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

// withFile changes a set's file behind the store's back, which must be closed.
func withFile(t *testing.T, path string, fn func(tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.Update(fn); err != nil {
		t.Fatal(err)
	}
}

// poke changes one byte of the row in the bucket.
func poke(tx *bolt.Tx, bucket, key string, at int) error {
	b := tx.Bucket([]byte(bucket))
	v := bytes.Clone(b.Get([]byte(key)))
	if v == nil {
		return fmt.Errorf("no row %q in %s", key, bucket)
	}
	if at < 0 {
		at += len(v)
	}
	v[at] ^= 0x40
	return b.Put([]byte(key), v)
}

func firstNode(tx *bolt.Tx) string {
	k, _ := tx.Bucket([]byte("tree")).Cursor().Seek([]byte{1, 1})
	return string(k)
}

// TestCheckFindsDamage plants damage of each kind and demands that the check
// names the row, and that the set is out of service then, and others are not.
func TestCheckFindsDamage(t *testing.T) {
	damages := map[string]struct {
		plant func(tx *bolt.Tx) error
		where string
	}{
		"value":          {func(tx *bolt.Tx) error { return poke(tx, "objects", "k/007", -1) }, `object "k/007"`},
		"digest":         {func(tx *bolt.Tx) error { return poke(tx, "objects", "k/007", 3) }, `object "k/007"`},
		"short object":   {func(tx *bolt.Tx) error { return tx.Bucket([]byte("objects")).Put([]byte("k/007"), []byte("x")) }, `object "k/007"`},
		"lost object":    {func(tx *bolt.Tx) error { return tx.Bucket([]byte("objects")).Delete([]byte("k/007")) }, `tree level 1`},
		"bad key":        {func(tx *bolt.Tx) error { return tx.Bucket([]byte("objects")).Put([]byte("k//7"), make([]byte, 40)) }, `object "k//7"`},
		"node":           {func(tx *bolt.Tx) error { return poke(tx, "tree", firstNode(tx), 5) }, `tree level 1 at "k/`},
		"count":          {func(tx *bolt.Tx) error { return poke(tx, "tree", firstNode(tx), 32) }, `tree level 1 at "k/`},
		"lost node":      {func(tx *bolt.Tx) error { return tx.Bucket([]byte("tree")).Delete([]byte(firstNode(tx))) }, `tree level 1 at "k/`},
		"extra node":     {func(tx *bolt.Tx) error { return tx.Bucket([]byte("tree")).Put([]byte("\x01k/x"), make([]byte, 33)) }, `tree level 1 at "k/x"`},
		"level too high": {func(tx *bolt.Tx) error { return tx.Bucket([]byte("tree")).Put([]byte("\x09"), make([]byte, 33)) }, `tree level 9 at ""`},
		"root":           {func(tx *bolt.Tx) error { return errors.Join(poke(tx, "meta", "head", 24), store.SealHead(tx)) }, `head`},
		"objects":        {func(tx *bolt.Tx) error { return errors.Join(poke(tx, "meta", "head", 24+32+7), store.SealHead(tx)) }, `head`},
		"bytes":          {func(tx *bolt.Tx) error { return errors.Join(poke(tx, "meta", "head", 24+32+15), store.SealHead(tx)) }, `head`},
		"journal count":  {func(tx *bolt.Tx) error { return errors.Join(poke(tx, "meta", "head", 24+32+23), store.SealHead(tx)) }, `journal`},
		"number":         {func(tx *bolt.Tx) error { return errors.Join(poke(tx, "meta", "head", 23), store.SealHead(tx)) }, `journal`},
		"epoch":          {func(tx *bolt.Tx) error { return poke(tx, "meta", "head", 3) }, `head`},
		"lineage":        {func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("lineage"), make([]byte, 24)) }, `head`},
		"salt":           {func(tx *bolt.Tx) error { return poke(tx, "meta", "salt", 3) }, `head`},
		"journal keys":   {func(tx *bolt.Tx) error { return poke(tx, "journal", string(binary.BigEndian.AppendUint64(nil, 2)), 45) }, `journal`},
		"journal row":    {func(tx *bolt.Tx) error { return tx.Bucket([]byte("journal")).Put([]byte("x"), []byte("y")) }, `journal row`},
		"request":        {func(tx *bolt.Tx) error { return tx.Bucket([]byte("requests")).Put([]byte("12345"), []byte("y")) }, `request "12345"`},
	}
	for name, d := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := openStore(t, dir, quiet)
			for _, set := range []desired.Name{"bad", "good"} {
				commit(t, s, set, numbered(800, "1"))
				commit(t, s, set, numbered(3, "2"))
			}
			s.Close()
			withFile(t, dir+"/sets/bad.db", d.plant)
			s = openStore(t, dir, quiet)
			seen := !contains(d.where, "journal") && !contains(d.where, "request") && name != "bytes"
			if err := s.Scrub(t.Context(), nil); errors.Is(err, store.ErrCorrupt) != seen {
				t.Errorf("Scrub = %v, want it to see the damage: %v", err, seen)
			}
			r, err := s.Check(t.Context(), "bad", nil)
			if err != nil || r.Found == 0 || !contains(fmt.Sprint(r.Problems), d.where) {
				t.Errorf("Check = %d problems %v, %v, want one at %s", r.Found, r.Problems, err, d.where)
			}
			if _, err := s.Head("bad"); !errors.Is(err, store.ErrQuarantined) || !contains(err.Error(), "bad") {
				t.Errorf("Head after a bad check = %v, want %v", err, store.ErrQuarantined)
			}
			checkClean(t, s, "good")
			commit(t, s, "good", numbered(3, "3"))
		})
	}
}

// TestFlippedValue reads an object whose value has a bit flipped: by key, by
// scan, in a scrub and in a backup.
func TestFlippedValue(t *testing.T) {
	reads := map[string]func(s *store.Store, dir string) error{
		"get": func(s *store.Store, _ string) error {
			return s.View("bad", func(snap *store.Snapshot) error { _, _, err := snap.Get([]byte("k/007")); return err })
		},
		"scan": func(s *store.Store, _ string) error {
			return s.View("bad", func(snap *store.Snapshot) error {
				for _, err := range snap.Objects(nil, nil) {
					if err != nil {
						return err
					}
				}
				return nil
			})
		},
		"ignored": func(s *store.Store, _ string) error {
			return s.View("bad", func(snap *store.Snapshot) error { _, _, _ = snap.Get([]byte("k/007")); return nil })
		},
		"scrub":  func(s *store.Store, _ string) error { return s.Scrub(t.Context(), nil) },
		"backup": func(s *store.Store, dir string) error { _, err := s.Backup(t.Context(), "bad", dir+"/b"); return err },
		"compact": func(s *store.Store, dir string) error {
			_, err := s.Compact(t.Context(), "bad", store.CompactOptions{})
			return err
		},
	}
	for name, read := range reads {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := openStore(t, dir, quiet)
			commit(t, s, "bad", numbered(20, "1"))
			commit(t, s, "good", numbered(20, "1"))
			s.Close()
			withFile(t, dir+"/sets/bad.db", func(tx *bolt.Tx) error { return poke(tx, "objects", "k/007", -1) })
			s = openStore(t, dir, quiet)
			if err := read(s, dir); !errors.Is(err, store.ErrCorrupt) || !contains(err.Error(), "bad") || !contains(err.Error(), "k/007") {
				t.Errorf("read = %v, want %v, naming the set and the key", err, store.ErrCorrupt)
			}
			for what, err := range map[string]error{
				"View":   s.View("bad", func(*store.Snapshot) error { return nil }),
				"Delete": func() error { _, err := s.Compact(t.Context(), "bad", store.CompactOptions{}); return err }(),
				"Commit": func() error {
					_, err := s.Commit(t.Context(), "bad", store.Commit{Changes: numbered(1, "2").changes()})
					return err
				}(),
			} {
				if !errors.Is(err, store.ErrQuarantined) {
					t.Errorf("%s after = %v, want %v", what, err, store.ErrQuarantined)
				}
			}
			if left, _ := filepath.Glob(dir + "/*.new"); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			checkClean(t, s, "good")
			r, err := s.Restore(t.Context(), "bad", store.Restore{Objects: numbered(20, "1").changes()})
			if err != nil || r.Head.Number != 2 || len(r.Head.Lineage) != 1 {
				t.Errorf("Restore = %+v, %v", r, err)
			}
			checkClean(t, s, "bad")
		})
	}
}

// TestBadFiles opens a folder with files that can't be used.
func TestBadFiles(t *testing.T) {
	spoil := map[string]struct {
		fn   func(t *testing.T, path string) error
		want error
	}{
		"empty":     {func(_ *testing.T, path string) error { return os.Truncate(path, 0) }, store.ErrCorrupt},
		"truncated": {func(_ *testing.T, path string) error { return os.Truncate(path, 12000) }, store.ErrCorrupt},
		"garbage": {func(_ *testing.T, path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte("garbage\n"), 9000), 0o600)
		}, store.ErrCorrupt},
		"a directory": {func(_ *testing.T, path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Mkdir(path, 0o700)
		}, store.ErrQuarantined},
		"unknown format": {func(t *testing.T, path string) error {
			withFile(t, path, func(tx *bolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte{99}) })
			return nil
		}, store.ErrFormat},
		"another program's": {func(t *testing.T, path string) error {
			withFile(t, path, func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("meta")) })
			return nil
		}, store.ErrFormat},
		"renamed": {func(_ *testing.T, path string) error {
			return os.Rename(filepath.Dir(path)+"/third.db", path)
		}, store.ErrCorrupt},
	}
	for name, s := range spoil {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			st := openStore(t, dir, quiet)
			for _, set := range []desired.Name{"bad", "good", "third"} {
				commit(t, st, set, numbered(500, "1"))
			}
			st.Close()
			if err := s.fn(t, dir+"/sets/bad.db"); err != nil {
				t.Fatal(err)
			}
			st = openStore(t, dir, quiet)
			_, err := st.Head("bad")
			if !errors.Is(err, store.ErrQuarantined) || !errors.Is(err, s.want) || !contains(err.Error(), "bad.db") {
				t.Errorf("Head = %v, want %v and %v, naming the file", err, store.ErrQuarantined, s.want)
			}
			checkClean(t, st, "good")
			if name == "a directory" {
				return
			}
			if err := st.Delete(t.Context(), "bad"); err != nil {
				t.Fatal(err)
			}
			r := commit(t, st, "bad", numbered(3, "1"))
			if len(r.Head.Lineage) == 0 {
				t.Error("the epoch of a file that could not be read was forgotten")
			}
		})
	}
}

// TestDamagedPages overwrites every page of a set's file in turn, while the
// store is closed, and reads all: the store never crashes, and what it hands
// out is right.
func TestDamagedPages(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/sets/set.db"
	s := openStore(t, dir, quiet)
	m := model{}
	for k, v := range numbered(300, "some value that takes room") {
		m[k] = *v
	}
	commit(t, s, "set", m.puts())
	commit(t, s, "other", m.puts())
	s.Close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pageSize := os.Getpagesize()
	noticed := 0
	for page := range len(whole) / pageSize {
		for _, fill := range []byte{0x00, 0xA5, 0xFF} {
			spoiled := bytes.Clone(whole)
			for i := range pageSize {
				spoiled[page*pageSize+i] = fill
			}
			if err := os.WriteFile(path, spoiled, 0o600); err != nil {
				t.Fatal(err)
			}
			s := openStore(t, dir, quiet)
			err := s.View("set", func(snap *store.Snapshot) error {
				for c, err := range snap.Objects(nil, nil) {
					if err != nil {
						return err
					}
					if m[string(c.Key)] != string(c.Envelope[1:]) {
						t.Errorf("page %d, %x: %q = %q", page, fill, c.Key, c.Envelope)
					}
				}
				return nil
			})
			if err == nil {
				_, err = s.Commit(t.Context(), "set", store.Commit{Changes: edit{"k/000": ptr("2"), "k/299": nil}.changes()})
			}
			if err != nil {
				noticed++
			}
			checkClean(t, s, "other")
			s.Close()
		}
	}
	if noticed < len(whole)/pageSize {
		t.Errorf("of %d pages spoiled in 3 ways each %d were noticed", len(whole)/pageSize, noticed)
	}
}

// TestFleetDamaged: sets go on without fleet.db, but none can begin or end.
func TestFleetDamaged(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	commit(t, s, "set", numbered(5, "1"))
	s.Close()
	if err := os.WriteFile(dir+"/fleet.db", []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, dir, quiet)
	commit(t, s, "set", numbered(5, "2"))
	checkClean(t, s, "set")
	for what, err := range map[string]error{
		"Commit": func() error {
			_, err := s.Commit(t.Context(), "new", store.Commit{Changes: numbered(1, "").changes()})
			return err
		}(),
		"Delete": s.Delete(t.Context(), "set"),
	} {
		if !errors.Is(err, store.ErrCorrupt) || !contains(err.Error(), "fleet.db") {
			t.Errorf("%s = %v, want %v, naming the file", what, err, store.ErrCorrupt)
		}
	}
}
