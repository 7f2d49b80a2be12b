//go:build linux

package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"espalier/agent/driver/file"
)

// watch runs Watch until the test ends, and returns what it is told.
func (h *host) watch() <-chan string {
	h.Helper()
	ctx, stop := context.WithCancel(h.Context())
	hints, done := make(chan string, 10_000), make(chan error, 1)
	go func() {
		done <- h.driver.Watch(ctx, func(name string) {
			select {
			case hints <- name:
			default:
				h.Error("too many hints")
			}
		})
	}()
	h.Cleanup(func() {
		stop()
		if err := <-done; !errors.Is(err, context.Canceled) {
			h.Errorf("Watch = %v, want %v", err, context.Canceled)
		}
	})
	return hints
}

// until does something again and again until a hint of that name comes.
func (h *host) until(hints <-chan string, want string, do func()) {
	h.Helper()
	deadline := time.After(time.Minute)
	for {
		do()
		select {
		case name := <-hints:
			if name == want {
				return
			}
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			h.Fatalf("no hint of %s", want)
		}
	}
}

func TestWatch(t *testing.T) {
	h := newHost(t, file.Options{})
	h.must(h.upsert("a", object("x")), h.upsert("d/b", object("x")), h.upsert("d/c", object("x")), h.upsert("e/f", object("x")))
	hints := h.watch()
	h.until(hints, "a", func() { h.write("a", "drifted") })
	h.until(hints, "d/b", func() {
		if err := os.Chmod(h.path("d/b"), 0o600); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.Remove(h.path("d/c")); err != nil {
		t.Fatal(err)
	}
	h.until(hints, "d/c", func() {})
	// A folder that somebody replaced is watched again once it was scanned.
	if err := errors.Join(os.RemoveAll(h.path("e")), os.Mkdir(h.path("e"), 0o755)); err != nil {
		t.Fatal(err)
	}
	h.until(hints, "e/f", func() {
		h.scan(false)
		h.write("e/f", "drifted")
	})
	// What the driver looks at and repairs tells of itself a few times, and then no
	// more: scans change nothing.
	found := h.scan(false)
	for name := range found {
		h.must(h.upsert(name, h.want[name]))
	}
	h.until(hints, "mark 1", func() { h.write("mark 1", "") }) // what came before is through
	for range 100 {
		h.scan(false)
	}
	h.write("mark 2", "")
	for name := ""; name != "mark 2"; {
		select {
		case name = <-hints:
		case <-time.After(time.Minute):
			t.Fatal("no hint of the mark")
		}
		if !strings.HasPrefix(name, "mark") {
			t.Errorf("a hint of %s, which nobody touched", name)
		}
	}
}

// TestWatchFew watches as many folders as it may, and says once that more can't be.
func TestWatchFew(t *testing.T) {
	var log safeBuffer
	h := newHost(t, file.Options{MaxWatches: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	h.must(h.upsert("d/b", object("x")))
	h.must(h.upsert("e/f", object("x")))
	hints := h.watch()
	for n := 0; n < 3; n++ {
		h.until(hints, "d/b", func() {
			h.write("e/f", "drifted")
			h.write("d/b", "drifted")
		})
	}
	for len(hints) > 0 {
		if name := <-hints; name != "d/b" {
			t.Errorf("a hint of %s, which is beyond what may be watched", name)
		}
	}
	if log.String() != "" {
		t.Errorf("the log says %s", log.String())
	}
}

// safeBuffer takes a log from several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestWatchNoRoom has no watch to give: that is said once, and stops nothing.
func TestWatchNoRoom(t *testing.T) {
	var log safeBuffer
	h := newHost(t, file.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for i := range 5 {
		h.must(h.upsert(fmt.Sprintf("d%d/f", i), object("x")))
	}
	file.WatchFails(h.driver)
	h.watch()
	deadline := time.After(time.Minute)
	for !strings.Contains(log.String(), "raise fs.inotify.max_user_watches") {
		select {
		case <-deadline:
			t.Fatalf("the log says %q, want what to do", log.String())
		case <-time.After(50 * time.Millisecond):
		}
	}
	if n := strings.Count(log.String(), "\n"); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, log.String())
	}
}
