package meter_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"sync"
	"testing"
	"time"

	"espalier/bench/peers/internal/meter"
)

// serve answers each connection: it reads so many bytes, writes as many as the
// factor says, and closes.
func serve(t *testing.T, sizes []int, factor int) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for _, size := range sizes {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				n, _ := io.Copy(io.Discard, conn) // until the client has said all
				if int(n) != size {
					t.Errorf("the server received %d bytes, want %d", n, size)
				}
				_, _ = conn.Write(make([]byte, size*factor))
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); all.Wait() })
	return listener.Addr().String()
}

// TestProxyCountsExactly sends random amounts, one connection after another.
func TestProxyCountsExactly(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	sizes := []int{0, 1, 1 << 20}
	for range 20 {
		sizes = append(sizes, rng.IntN(100_000))
	}
	const factor = 3
	proxy, err := meter.NewProxy(serve(t, sizes, factor))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	var want meter.Traffic
	for _, size := range sizes {
		before := proxy.Traffic()
		conn, err := net.Dial("tcp", proxy.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, conn)
		if err != nil || int(n) != size*factor {
			t.Fatalf("received %d bytes, %v, want %d (seed %d)", n, err, size*factor, seed)
		}
		_ = conn.Close()
		one := meter.Traffic{Up: uint64(size), Down: uint64(size * factor), Conns: 1}
		if got := proxy.Traffic().Minus(before); got != one {
			t.Errorf("Traffic = %+v, want %+v (seed %d)", got, one, seed)
		}
		want.Up, want.Down, want.Conns = want.Up+one.Up, want.Down+one.Down, want.Conns+1
	}
	if got := proxy.Traffic(); got != want || got.Bytes() != want.Up+want.Down {
		t.Errorf("Traffic = %+v, want %+v (seed %d)", got, want, seed)
	}
	if err := proxy.AwaitQuiet(t.Context(), time.Millisecond); err != nil {
		t.Error(err)
	}
}

func TestCloseCuts(t *testing.T) {
	proxy, err := meter.NewProxy(serve(t, []int{0}, 0))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", proxy.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := proxy.Close(); err != nil {
		t.Error(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("a connection lives on after Close")
	}
}

func TestProcess(t *testing.T) {
	p, err := meter.Start(exec.Command("cat")) // until its input ends
	if err != nil {
		t.Fatal(err)
	}
	if peak := p.WatchPeak()(); peak.Own == 0 || peak.Resident <= peak.Own {
		t.Errorf("WatchPeak = %+v, want some, and its program's pages as well", peak)
	}
	if _, err := p.CPU(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	p, err = meter.Start(exec.Command("sh", "-c", "echo a reason >&2; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err == nil {
		t.Error("Wait of a process that failed = nil")
	}
	p, err = meter.Start(exec.Command("cat"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Wait(ctx); err == nil {
		t.Error("Wait under a context that is done = nil")
	}
}
