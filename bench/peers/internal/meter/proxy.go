// Package meter measures others' programs from outside: a proxy counts the bytes
// of their connections, and the kernel tells what their processes use.
package meter

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// copyBytes is how much a direction of a connection reads at a time.
const copyBytes = 256 << 10

// quietPoll is how often AwaitQuiet looks.
const quietPoll = 5 * time.Millisecond

// Traffic is what crossed a proxy.
type Traffic struct {
	Up    uint64 // to the server, in bytes
	Down  uint64 // to the client, in bytes
	Conns uint64 // connections that clients made
}

// Minus returns what came since an earlier look.
func (t Traffic) Minus(earlier Traffic) Traffic {
	return Traffic{Up: t.Up - earlier.Up, Down: t.Down - earlier.Down, Conns: t.Conns - earlier.Conns}
}

// Bytes returns those of both ways.
func (t Traffic) Bytes() uint64 { return t.Up + t.Down }

// Proxy passes TCP connections on to a server, and counts what they carry. It is
// safe for concurrent use.
type Proxy struct {
	target   string
	listener net.Listener
	up, down atomic.Uint64
	made     atomic.Uint64
	all      sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// NewProxy returns a proxy on a free port of the loopback, in front of target,
// host:port.
func NewProxy(target string) (*Proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{target: target, listener: listener, conns: map[net.Conn]bool{}}
	p.all.Go(p.accept)
	return p, nil
}

// Addr returns the address to connect to, host:port.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Traffic returns what crossed it since it was made.
func (p *Proxy) Traffic() Traffic {
	return Traffic{Up: p.up.Load(), Down: p.down.Load(), Conns: p.made.Load()}
}

// AwaitQuiet waits until nothing has crossed for so long.
func (p *Proxy) AwaitQuiet(ctx context.Context, span time.Duration) error {
	last, since := p.Traffic(), time.Now()
	tick := time.NewTicker(quietPoll)
	defer tick.Stop()
	for time.Since(since) < span {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		if now := p.Traffic(); now != last {
			last, since = now, time.Now()
		}
	}
	return nil
}

// Close cuts all connections, and waits until they are gone.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.mu.Lock()
	p.closed = true
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.mu.Unlock()
	p.all.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // of one connection
		}
		p.made.Add(1)
		p.all.Go(func() { p.serve(conn) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	if !p.hold(client, server) {
		return
	}
	defer p.drop(client, server)
	var both sync.WaitGroup
	both.Go(func() { pass(server, client, &p.up) })
	both.Go(func() { pass(client, server, &p.down) })
	both.Wait()
}

// hold keeps connections for Close, unless that was called.
func (p *Proxy) hold(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = true
	}
	return !p.closed
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
	}
}

// pass copies one direction, counting before it passes on, so that who has
// received something finds it counted. At its end it ends the other side's
// direction, too.
func pass(to, from net.Conn, count *atomic.Uint64) {
	buf := make([]byte, copyBytes)
	for {
		n, err := from.Read(buf)
		count.Add(uint64(n))
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				_ = from.Close()
				return
			}
		}
		if err != nil {
			if tcp, ok := to.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			return
		}
	}
}
