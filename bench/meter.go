package bench

import (
	"context"
	"net"
	"runtime"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// traffic is what crossed connections, in bytes of TCP payload, as the server
// sees it.
type traffic struct{ received, sent uint64 }

func (t traffic) since(earlier traffic) traffic {
	return traffic{received: t.received - earlier.received, sent: t.sent - earlier.sent}
}

// meteredListener counts what crosses the connections that it accepts.
type meteredListener struct {
	net.Listener
	received, sent atomic.Uint64
}

// listen listens on a port of loopback.
func listen() (*meteredListener, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	return &meteredListener{Listener: l}, err
}

// Accept implements net.Listener.
func (l *meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return meteredConn{Conn: c, listener: l}, nil
}

type meteredConn struct {
	net.Conn
	listener *meteredListener
}

func (c meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.listener.received.Add(uint64(n))
	return n, err
}

func (c meteredConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.listener.sent.Add(uint64(n))
	return n, err
}

func (l *meteredListener) traffic() traffic {
	return traffic{received: l.received.Load(), sent: l.sent.Load()}
}

// settled returns the traffic once the connections are quiet, so that what HTTP/2
// has to say after a call counts as the call's.
func (l *meteredListener) settled(ctx context.Context) traffic {
	const quiet, most = 15 * time.Millisecond, time.Second
	for now, begun := l.traffic(), time.Now(); ; {
		select {
		case <-ctx.Done():
			return now
		case <-time.After(quiet):
		}
		before := now
		if now = l.traffic(); now == before || time.Since(begun) > most {
			return now
		}
	}
}

// cpuTime returns the time that all CPUs have worked for this process, in it and
// in the system.
func cpuTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot happen: the arguments are valid
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// spent is time that has passed, and time that all CPUs have worked in it.
type spent struct{ wall, cpu time.Duration }

// watch measures what is spent until stop is called.
func watch() (stop func() spent) {
	start, cpu := time.Now(), cpuTime()
	return func() spent { return spent{wall: time.Since(start), cpu: cpuTime() - cpu} }
}

func (s spent) minus(t spent) spent { return spent{wall: s.wall - t.wall, cpu: s.cpu - t.cpu} }

// heapPeriod is how often the heap is looked at: a garbage collection takes
// longer.
const heapPeriod = 2 * time.Millisecond

// watchHeap samples this process's Go heap, live objects and dead ones that are
// not swept yet, until stop is called, which returns the peak in bytes.
func watchHeap() (stop func() uint64) {
	runtime.GC()
	var peak uint64
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(heapPeriod)
		defer tick.Stop()
		sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
		for {
			metrics.Read(sample)
			peak = max(peak, sample[0].Value.Uint64())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	return func() uint64 {
		close(done)
		<-ended
		return peak
	}
}
