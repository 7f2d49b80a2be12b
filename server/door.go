package server

import (
	"errors"
	"fmt"
	"net"
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
// shown no certificate, and those of one host, which uses its latest alone.
type door struct {
	net.Listener

	mu        sync.Mutex
	all       int
	waiting   []*doorConn            // for the end of their handshake; each of these in the order of their coming
	strangers []*doorConn            // without a certificate
	live      map[string][]*doorConn // by who bears it
}

func newDoor(l net.Listener) *door { return &door{Listener: l, live: map[string][]*doorConn{}} }

// doorConn is a connection that has come in.
type doorConn struct {
	net.Conn
	door *door
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
	oldest := surplus(d.waiting, MaxHalfOpen)
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
	if theirs := without(d.live[c.who], c); len(theirs) > 0 {
		d.live[c.who] = theirs
	} else {
		delete(d.live, c.who)
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
