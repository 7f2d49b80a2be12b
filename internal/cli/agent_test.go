package cli_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/internal/desired"
	"espalier/server"
	"espalier/store"
)

// serveFolder serves a data folder on loopback until stop is called.
func serveFolder(t *testing.T, dir string) (s *store.Store, addr string, stop func()) {
	t.Helper()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- server.New(s, server.Options{}).Run(ctx, l) }()
	return s, l.Addr().String(), func() {
		t.Helper()
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestOnceRefusesToGoBack: a server that went back is refused by exit status,
// and both outputs say so; the document tells what is still held.
func TestOnceRefusesToGoBack(t *testing.T) {
	dir, home := t.TempDir(), t.TempDir()
	publish := func(s *store.Store, value string) desired.Head {
		t.Helper()
		r, err := s.Commit(t.Context(), "web-01", store.Commit{Changes: func(yield func(desired.Change, error) bool) {
			yield(desired.Change{Key: []byte("a"), Envelope: append(desired.Envelope{0}, value...)}, nil)
		}})
		if err != nil {
			t.Fatal(err)
		}
		return r.Head
	}
	once := func(addr string) (status int, out, errs string) {
		t.Helper()
		return run(t, "", "agent", "--once", "--insecure", "--host", "web-01", "--data", home, "--server", addr, "-o", "json")
	}
	s, _, stop := serveFolder(t, dir)
	publish(s, "1")
	stop()
	older := t.TempDir()
	if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s, addr, stop := serveFolder(t, dir)
	held := publish(s, "2")
	if status, out, errs := once(addr); status != 0 {
		t.Fatalf("agent: %d, %s, %s", status, out, errs)
	}
	stop()

	_, addr, stop = serveFolder(t, older)
	defer stop()
	const words = "refused to follow the server: it is at revision 1, this host was at 2 already"
	for _, mirrored := range []bool{true, false} {
		if !mirrored { // and the floor is left
			if err := os.Remove(filepath.Join(home, "sets", "web-01.db")); err != nil {
				t.Fatal(err)
			}
			held = desired.Head{}
		}
		status, out, errs := once(addr)
		var doc struct {
			Sets []struct {
				Mode, Error string
				Revision    uint64
			}
		}
		if err := json.Unmarshal([]byte(out), &doc); err != nil || len(doc.Sets) != 1 {
			t.Fatalf("agent: %d, %q, %q, %v", status, out, errs, err)
		}
		if got := doc.Sets[0]; got.Mode != "failed" || got.Revision != held.Number || !strings.Contains(got.Error, words) {
			t.Errorf("mirrored %v: %+v, want revision %d, failed, and %q", mirrored, got, held.Number, words)
		}
		if status != 3 || !strings.Contains(errs, words) {
			t.Errorf("mirrored %v: status %d and %q, want 3 and %q", mirrored, status, errs, words)
		}
	}
}
