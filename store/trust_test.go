package store_test

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/desired"
	"espalier/store"
)

// TestTokens: a token works once, for one, until it expires, and survives a
// restart.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := openStore(t, dir, quiet)
		put := func(i byte, life time.Duration) {
			t.Helper()
			if err := s.PutToken(desired.Digest{i}, []byte{i}, time.Now().Add(life)); err != nil {
				t.Fatal(err)
			}
		}
		put(1, time.Hour)
		put(2, time.Hour)
		put(3, time.Minute)
		s.Close()
		s = openStore(t, dir, quiet)
		take := func(i byte) (grant string, err error) {
			err = s.TakeToken(desired.Digest{i}, func(b []byte) error { grant = string(b); return nil })
			return grant, err
		}
		refused := errors.New("not this one")
		if err := s.TakeToken(desired.Digest{1}, func([]byte) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("TakeToken = %v, want %v", err, refused)
		}
		if grant, err := take(1); err != nil || grant != "\x01" {
			t.Errorf("TakeToken = %q, %v", grant, err)
		}
		time.Sleep(2 * time.Minute)
		for _, gone := range []byte{1, 3, 9} {
			if _, err := take(gone); !errors.Is(err, store.ErrNoToken) {
				t.Errorf("TakeToken of token %d = %v", gone, err)
			}
		}
		var took atomic.Int32
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if _, err := take(2); err == nil {
					took.Add(1)
				}
			})
		}
		all.Wait()
		if took.Load() != 1 {
			t.Errorf("a token was taken %d times", took.Load())
		}
		if err := s.PutToken(desired.Digest{}, make([]byte, store.MaxGrantBytes+1), time.Now()); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("PutToken of too much = %v", err)
		}
		s.Close()
	})
}

func TestRevoked(t *testing.T) {
	dir := t.TempDir()
	s := openStore(t, dir, quiet)
	at := time.UnixMilli(time.Now().UnixMilli())
	for _, time := range []time.Time{at, at.Add(-time.Hour)} {
		if err := s.Revoke("host/web-01", time); err != nil {
			t.Fatal(err)
		}
	}
	for _, wrong := range []time.Time{at.Add(time.Hour), at} { // the first by a clock that was ahead
		if err := s.Revoke("admin/root", wrong); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Revoke("", at); !errors.Is(err, desired.ErrInvalid) {
		t.Errorf("Revoke of nobody = %v", err)
	}
	s.Close()
	s = openStore(t, dir, quiet)
	if got, err := s.Revoked(); err != nil || fmt.Sprint(got) != fmt.Sprint(map[string]time.Time{"admin/root": at, "host/web-01": at}) {
		t.Errorf("Revoked = %v, %v, want %v", got, err, at)
	}
}
