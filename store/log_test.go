package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/store"
)

// entries returns what the set's journal tells of, below a number.
func entries(t *testing.T, s *store.Store, below uint64) (all []store.LogEntry) {
	t.Helper()
	view(t, s, "set", func(snap *store.Snapshot) {
		for e, err := range snap.Log(below) {
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, e)
		}
	})
	return all
}

func TestLog(t *testing.T) {
	both(t, func(t *testing.T, o store.Options) {
		dir := t.TempDir()
		s := openStore(t, dir, o)
		start := time.Now().Add(-time.Millisecond)
		var want []store.LogEntry
		for i := range 20 {
			changes := numbered(1+i*100, fmt.Sprint(i))
			for j := range 400 * (i % 2) { // which take more than one row
				changes[strings.Repeat(fmt.Sprintf("%03d", j), 60)] = ptr(fmt.Sprint(i))
			}
			r, err := s.Commit(t.Context(), "set", store.Commit{
				Changes: changes.changes(), Who: fmt.Sprint("who", i), Why: fmt.Sprint("why", i),
			})
			if err != nil {
				t.Fatal(err)
			}
			e := store.LogEntry{Revision: r.Head.Revision, Who: fmt.Sprint("who", i), Why: fmt.Sprint("why", i), Keys: uint64(len(changes))}
			want = slices.Insert(want, 0, e)
		}
		got := entries(t, s, 0)
		if len(got) < 2 || !got[len(got)-1].Base {
			t.Fatalf("Log = %v, want some that end with the base", got)
		}
		for i, e := range got {
			if e.Time.Before(start) || e.Time.After(time.Now()) {
				t.Errorf("revision %d was made at %v", e.Number, e.Time)
			}
			w := want[i]
			if w.Time, w.Base = e.Time, i == len(got)-1; w.Base {
				w.Keys = 0
			}
			if e != w {
				t.Errorf("Log has %+v, want %+v", e, w)
			}
		}
		view(t, s, "set", func(snap *store.Snapshot) {
			if at, err := snap.Committed(); err != nil || !at.Equal(got[0].Time) {
				t.Errorf("Committed = %v, %v, want %v", at, err, got[0].Time)
			}
		})
		if below := entries(t, s, got[0].Number); !slices.Equal(below, got[1:]) {
			t.Errorf("Log(%d) = %v, want %v", got[0].Number, below, got[1:])
		}
		if none := entries(t, s, got[len(got)-1].Number); len(none) != 0 {
			t.Errorf("Log below the base = %v", none)
		}
		restored, err := s.Restore(t.Context(), "set", store.Restore{Objects: numbered(3, "").changes(), Who: "me", Why: "drill"})
		if err != nil {
			t.Fatal(err)
		}
		view(t, s, "set", func(snap *store.Snapshot) {
			if at, err := snap.Committed(); err != nil || at.Before(got[0].Time) || at.After(time.Now()) {
				t.Errorf("Committed after a restore = %v, %v", at, err)
			}
		})
		if got := entries(t, s, 0); len(got) != 1 || got[0].Revision != restored.Head.Revision || got[0].Why != "drill" || !got[0].Base {
			t.Errorf("Log after a restore = %+v", got)
		}

		s.Close()
		withFile(t, dir+"/sets/set.db", func(tx *bolt.Tx) error {
			return tx.Bucket([]byte("journal")).Put([]byte("12345678\x00\x00\x00\x01"), nil)
		})
		s = openStore(t, dir, o)
		err = s.View("set", func(snap *store.Snapshot) error {
			for _, err := range snap.Log(0) {
				return err
			}
			return nil
		})
		if !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("Log of a part that belongs to no revision = %v, want %v", err, store.ErrCorrupt)
		}
	})
}
