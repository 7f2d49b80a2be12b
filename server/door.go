package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"espalier/internal/pki"
)

// door is a listener that knows all of its connections: how many there are, and
// who is at the other end. All of them leave through it, however they end, since
// it holds what lies under TLS.
//
// Where there are too many of a kind the oldest makes room, which is hardly ever
// an honest one: those who have not finished their handshake, those who have
// shown no certificate, of both those who come from one place, and those of one
// host, which uses its latest alone.
type door struct {
	net.Listener

	mu        sync.Mutex
	all       int
	waiting   []*doorConn            // for the end of their handshake; each of these in the order of their coming
	strangers []*doorConn            // without a certificate
	unknown   map[string][]*doorConn // both, by where they come from
	live      map[string][]*doorConn // by who bears it
}

func newDoor(l net.Listener) *door {
	return &door{Listener: l, unknown: map[string][]*doorConn{}, live: map[string][]*doorConn{}}
}

// doorConn is a connection that has come in.
type doorConn struct {
	net.Conn
	door *door
	from string // as sourceOf has it
	// read counts the bytes that have come while nobody knew of whom.
	read  atomic.Int64
	known atomic.Bool

	// Under door.mu:
	who    string      // "": nobody knows, or a stranger
	timer  *time.Timer // ends it; nil: it waits for its handshake
	closed bool
}

var errTalkative = errors.New("it sends too much for who has no certificate")

// Read implements net.Conn.
func (c *doorConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.known.Load() && c.read.Add(int64(n)) > MaxStrangerBytes {
		return 0, errTalkative
	}
	return n, err
}

// Close implements net.Conn.
func (c *doorConn) Close() error {
	c.door.leave(c)
	return c.Conn.Close()
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if err := setUserTimeout(conn, keepaliveParams.Timeout); err != nil { // gRPC would, but knows no doorConn
			_ = conn.Close()
			continue
		}
		c := &doorConn{Conn: conn, door: d, from: sourceOf(conn.RemoteAddr())}
		if d.enter(c) {
			return c, nil
		}
		_ = conn.Close()
	}
}

// sourceOf returns what one attacker has one of: an address of IPv4, or a network
// of 64 bits of IPv6, in which he may have any address.
func sourceOf(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String() // no address of a network
	}
	ip := at.Addr().Unmap()
	if ip.Is6() {
		network, _ := ip.WithZone("").Prefix(64)
		return network.String()
	}
	return ip.String()
}

// count returns how many connections there are.
func (d *door) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all
}

func (d *door) enter(c *doorConn) bool {
	d.mu.Lock()
	if d.all >= MaxConnections {
		d.mu.Unlock()
		return false
	}
	d.all++
	d.waiting = append(d.waiting, c)
	d.unknown[c.from] = append(d.unknown[c.from], c)
	oldest := slices.Concat(surplus(d.waiting, MaxHalfOpen), surplus(d.unknown[c.from], MaxUnknownEach))
	d.mu.Unlock()
	closeAll(oldest)
	return true
}

// surplus returns the oldest of those that are more than most.
func surplus(all []*doorConn, most int) []*doorConn {
	return slices.Clone(all[:max(0, len(all)-most)])
}

func closeAll(conns []*doorConn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

// settle ends a connection's wait: it is that of the bearer, up to when the
// certificate expires, or of nobody. Of somebody who is revoked, too: that is
// said to each of their calls, and not to a handshake, which could only fail.
func (d *door) settle(c *doorConn, id pki.Identity, expires time.Time) error {
	c.known.Store(!id.IsZero())
	d.mu.Lock()
	var oldest []*doorConn
	defer func() {
		d.mu.Unlock()
		closeAll(oldest)
	}()
	if c.closed {
		return net.ErrClosed
	}
	d.waiting = without(d.waiting, c)
	if id.IsZero() {
		d.strangers = append(d.strangers, c)
		oldest = surplus(d.strangers, MaxStrangers)
		c.timer = time.AfterFunc(StrangerTime, func() { _ = c.Close() })
		return nil
	}
	drop(d.unknown, c.from, c)
	c.who = id.String()
	theirs := append(d.live[c.who], c)
	d.live[c.who] = theirs
	switch {
	case id.Role == pki.RoleHost:
		oldest = surplus(theirs, MaxHostConnections)
	case len(theirs) > MaxOperatorConnections:
		return fmt.Errorf("%v has %d connections already", id, len(theirs)-1) // each of which may be at work
	}
	c.timer = time.AfterFunc(time.Until(expires), func() { _ = c.Close() })
	return nil
}

// leave forgets a connection.
func (d *door) leave(c *doorConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	d.all--
	if c.timer != nil {
		c.timer.Stop()
	}
	d.waiting, d.strangers = without(d.waiting, c), without(d.strangers, c)
	drop(d.unknown, c.from, c)
	drop(d.live, c.who, c)
}

// drop takes c out of those under key, if it is there.
func drop(all map[string][]*doorConn, key string, c *doorConn) {
	if left := without(all[key], c); len(left) > 0 {
		all[key] = left
	} else {
		delete(all, key)
	}
}

func without(all []*doorConn, c *doorConn) []*doorConn {
	if i := slices.Index(all, c); i >= 0 {
		return slices.Delete(all, i, i+1)
	}
	return all
}

// end closes all connections of a bearer but last, without a word, for which it
// might have to wait, and returns how many there are.
func (d *door) end(who string, last *doorConn) int {
	d.mu.Lock()
	theirs := slices.Clone(d.live[who])
	d.mu.Unlock()
	closeAll(without(slices.Clone(theirs), last))
	return len(theirs)
}

// part ends a connection once the answer to its last call has gone out.
func (d *door) part(c *doorConn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !c.closed {
		c.timer.Reset(PartingTime)
	}
}
