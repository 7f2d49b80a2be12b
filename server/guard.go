package server

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"

	"espalier/internal/pki"
)

// peerInfo is what is known of the other end of a connection.
type peerInfo struct {
	credentials.TLSInfo
	identity pki.Identity // zero: it shows no certificate
	expires  time.Time
	limit    *rate.Limiter // of its calls
}

// guard makes handshakes at a bounded rate, and knows who is at the other end of
// each connection, so that it can end those of somebody who is revoked.
type guard struct {
	credentials.TransportCredentials
	handshakes *rate.Limiter
	calls      rate.Limit // on one connection

	mu sync.Mutex
	// until is, by identity, up to when what was issued is worth nothing.
	until map[string]time.Time
	live  map[string]map[*liveConn]struct{} // by identity
}

func newGuard(config *tls.Config, until map[string]time.Time) *guard {
	return &guard{
		TransportCredentials: credentials.NewTLS(config),
		handshakes:           rate.NewLimiter(HandshakeRate, HandshakeBurst),
		until:                until, live: map[string]map[*liveConn]struct{}{},
	}
}

// ServerHandshake implements credentials.TransportCredentials.
func (g *guard) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), HandshakeTimeout)
	defer cancel()
	if err := g.handshakes.Wait(ctx); err != nil {
		return nil, nil, fmt.Errorf("too many handshakes: %w", err)
	}
	conn, auth, err := g.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	if c, ok := raw.(*doorConn); ok {
		c.door.settle(c)
	}
	info := &peerInfo{TLSInfo: auth.(credentials.TLSInfo), limit: rate.NewLimiter(g.calls, CallBurst)}
	live := &liveConn{Conn: conn, guard: g}
	if certs := info.State.PeerCertificates; len(certs) > 0 {
		if info.identity, err = pki.IdentityOf(certs[0]); err != nil {
			return nil, nil, err
		}
		info.expires = certs[0].NotAfter
	} else {
		info.limit = rate.NewLimiter(StrangerCallRate, StrangerCallBurst)
		live.timer = time.AfterFunc(StrangerTime, func() { _ = conn.Close() })
	}
	if err := g.add(live, info.identity); err != nil {
		return nil, nil, err
	}
	return live, info, nil
}

// add takes a connection in, also of somebody who is revoked: that is said to
// each of their calls, and not to a handshake, which could only fail.
func (g *guard) add(c *liveConn, id pki.Identity) error {
	c.who = id.String()
	g.mu.Lock()
	defer g.mu.Unlock()
	all := g.live[c.who]
	if all == nil {
		all = map[*liveConn]struct{}{}
		g.live[c.who] = all
	}
	if !id.IsZero() && len(all) >= MaxConnectionsEach {
		return fmt.Errorf("%v has %d connections already", id, len(all))
	}
	all[c] = struct{}{}
	return nil
}

func (g *guard) remove(c *liveConn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if delete(g.live[c.who], c); len(g.live[c.who]) == 0 {
		delete(g.live, c.who)
	}
}

// revoked reports whether what the bearer shows is worth nothing any more.
func (g *guard) revoked(id pki.Identity) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.until[id.String()]
	return ok && !id.Issued.After(until)
}

// revoke makes worthless what was issued to who, and ends their connections. It
// returns how many.
func (g *guard) revoke(who string, until time.Time) int {
	g.mu.Lock()
	g.until[who] = until
	var ended []*liveConn
	for c := range g.live[who] {
		ended = append(ended, c)
	}
	g.mu.Unlock()
	for _, c := range ended {
		_ = c.Close()
	}
	return len(ended)
}

// Clone implements credentials.TransportCredentials; a server doesn't call it.
func (g *guard) Clone() credentials.TransportCredentials { return g }

// liveConn is a connection that the guard knows of.
type liveConn struct {
	net.Conn
	guard *guard
	who   string
	timer *time.Timer // ends it, if that isn't nil
	once  sync.Once
}

// Close implements net.Conn.
func (c *liveConn) Close() error {
	c.once.Do(func() {
		if c.timer != nil {
			c.timer.Stop()
		}
		c.guard.remove(c)
	})
	return c.Conn.Close()
}

// door is a listener that keeps few connections waiting for their handshake:
// when there are too many, the one that has waited longest is closed, which is
// hardly ever an honest one.
type door struct {
	net.Listener

	mu      sync.Mutex
	all     int
	waiting []*doorConn // in the order of their coming
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &doorConn{Conn: conn, door: d}
		if d.enter(c) {
			return c, nil
		}
		_ = conn.Close()
	}
}

func (d *door) enter(c *doorConn) bool {
	d.mu.Lock()
	if d.all >= MaxConnections {
		d.mu.Unlock()
		return false
	}
	d.all++
	d.waiting = append(d.waiting, c)
	var oldest *doorConn
	if len(d.waiting) > MaxHalfOpen {
		oldest = d.waiting[0]
	}
	d.mu.Unlock()
	if oldest != nil {
		_ = oldest.Close()
	}
	return true
}

// settle ends a connection's wait.
func (d *door) settle(c *doorConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, w := range d.waiting {
		if w == c {
			d.waiting = append(d.waiting[:i], d.waiting[i+1:]...)
			return
		}
	}
}

// doorConn is a connection that has come in.
type doorConn struct {
	net.Conn
	door *door
	once sync.Once
}

// Close implements net.Conn.
func (c *doorConn) Close() error {
	c.once.Do(func() {
		c.door.settle(c)
		c.door.mu.Lock()
		c.door.all--
		c.door.mu.Unlock()
	})
	return c.Conn.Close()
}
