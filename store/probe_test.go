package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"espalier/store"
)

// TestProbeAfterUncleanStop: a file that was not closed is probed, once, before
// it is opened; others aren't.
func TestProbeAfterUncleanStop(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	s := openStore(t, dir, quiet)
	commit(t, s, "clean", numbered(3, "1"))
	commit(t, s, "dirty", numbered(3, "1"))
	commit(t, s, "dirty", numbered(3, "2"))
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil { // as a crash would leave it
		t.Fatal(err)
	}
	var probed []string
	o := quiet
	o.Probe = func(_ context.Context, path string) error {
		probed = append(probed, filepath.Base(path))
		return store.Probe(path)
	}
	s = openStore(t, crashed, o)
	for range 2 {
		checkClean(t, s, "clean")
		checkClean(t, s, "dirty")
	}
	commit(t, s, "clean", numbered(3, "2"))
	if len(probed) == 0 || probed[len(probed)-1] != "dirty.db" {
		t.Errorf("probed %q, want dirty.db last", probed)
	}
	n := len(probed)
	s.Close()
	s = openStore(t, crashed, o)
	checkClean(t, s, "clean")
	checkClean(t, s, "dirty")
	if len(probed) != n {
		t.Errorf("probed %q after a clean stop", probed[n:])
	}
}

func TestProbeFails(t *testing.T) {
	dir, crashed := t.TempDir(), t.TempDir()
	s := openStore(t, dir, quiet)
	commit(t, s, "set", numbered(3, "1"))
	commit(t, s, "set", numbered(3, "2"))
	if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	failure := errors.New("too many open files")
	o := quiet
	o.Probe = func(_ context.Context, path string) error {
		if filepath.Base(path) == "set.db" {
			return failure
		}
		return nil
	}
	s = openStore(t, crashed, o)
	err := s.View("set", func(*store.Snapshot) error { return nil })
	if !errors.Is(err, failure) {
		t.Errorf("View = %v, want %v", err, failure)
	}
	if _, err := s.Head("set"); err != nil {
		t.Errorf("Head after a probe that could not tell = %v", err)
	}
	failure = fmt.Errorf("%w: killed by SIGSEGV", store.ErrCorrupt)
	if err := s.View("set", func(*store.Snapshot) error { return nil }); !errors.Is(err, failure) {
		t.Errorf("View = %v, want %v", err, failure)
	}
	if _, err := s.Head("set"); !errors.Is(err, store.ErrQuarantined) {
		t.Errorf("Head = %v, want %v", err, store.ErrQuarantined)
	}
	if _, err := s.Restore(t.Context(), "set", store.Restore{Objects: numbered(3, "3").changes()}); err != nil {
		t.Error(err)
	}
	checkClean(t, s, "set")
}
