package cli

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// manager is systemd's end of the socket.
type manager struct {
	*testing.T
	socket *net.UnixConn
}

func newManager(t *testing.T) manager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return manager{t, l}
}

// next returns what is told next.
func (m manager) next() string {
	m.Helper()
	if err := m.socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		m.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := m.socket.Read(b)
	if err != nil {
		m.Fatalf("nothing is told: %v", err)
	}
	return string(b[:n])
}

// TestService shows what systemd is told, and how often.
func TestService(t *testing.T) {
	m := newManager(t)
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", "")
	synctest.Test(t, func(t *testing.T) {
		s := service{slog.New(slog.DiscardHandler)}
		var alive atomic.Bool
		alive.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		s.ready()
		go func() { ended <- s.watch(ctx, alive.Load) }()
		time.Sleep(46 * time.Second) // three times
		synctest.Wait()
		alive.Store(false)
		time.Sleep(60 * time.Second) // never
		synctest.Wait()
		alive.Store(true)
		s.reloading()
		s.ready()
		time.Sleep(15 * time.Second) // once
		synctest.Wait()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	var got []string
	for text := ""; text != "STOPPING=1"; {
		if text = m.next(); strings.HasPrefix(text, "RELOADING=1\nMONOTONIC_USEC=") {
			text = "RELOADING=1"
		}
		got = append(got, text)
	}
	want := []string{
		"READY=1", "WATCHDOG=1", "WATCHDOG=1", "WATCHDOG=1", "RELOADING=1", "READY=1", "WATCHDOG=1", "STOPPING=1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("systemd was told %q, want %q", got, want)
	}
}

// TestServiceAlone shows that nothing is told, and nothing is waited for, where
// nobody asks.
func TestServiceAlone(t *testing.T) {
	for _, usec := range []string{"", "many", "0", "1000000"} {
		t.Setenv("NOTIFY_SOCKET", "")
		t.Setenv("WATCHDOG_USEC", usec)
		t.Setenv("WATCHDOG_PID", "1") // somebody else's
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s := service{slog.New(slog.DiscardHandler)}
		if err := s.watch(ctx, func() bool { t.Error("nobody asks"); return true }); err != nil {
			t.Errorf("watch with WATCHDOG_USEC=%q: %v", usec, err)
		}
	}
}

// TestServeTellsSystemd runs a server that systemd would have started.
func TestServeTellsSystemd(t *testing.T) {
	m := newManager(t)
	t.Setenv("WATCHDOG_USEC", "")
	dir := t.TempDir()
	for _, watch := range []string{"", "127.0.0.1:0"} {
		var errs strings.Builder
		a := &app{Streams: Streams{Out: &strings.Builder{}, Err: &errs}}
		ctx, cancel := context.WithCancel(t.Context())
		root := a.root()
		root.SetArgs([]string{"serve", "--insecure", "--data", dir, "--listen", "127.0.0.1:0", "--http", watch})
		ended := make(chan error, 1)
		go func() { ended <- root.ExecuteContext(ctx) }()
		first := m.next()
		cancel()
		second := m.next()
		if err := <-ended; err != nil {
			t.Fatalf("serve: %v\n%s", err, errs.String())
		}
		if first != "READY=1" || second != "STOPPING=1" {
			t.Errorf("systemd was told %q and %q, want READY=1 and STOPPING=1", first, second)
		}
	}
}
