package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"espalier/internal/wire"
)

// link is the network between a host and the server. Both ends see connections,
// each of them ordered within a call; what is lost stalls its connection until the
// ends notice, as over TCP.
type link struct {
	world  *World
	agent  *agent
	random *rand.Rand
	conn   *conn

	delay    time.Duration // that a message takes, at most, as long as nothing is wrong
	slow     time.Duration // besides
	up, down bool          // what the agent sends, and what the server does, is lost
	loss     float64       // of messages
	twice    float64       // polls that arrive a second time
	corrupt  int           // messages whose payload is to be damaged
	sluggish time.Duration // that the agent takes to read a message
}

// conn is a connection. It ends for both sides at once, or in each side's own
// time, if messages get lost.
type conn struct {
	link    *link
	stalled [2]bool // by direction
	noticed bool    // that it is stalled: it will end
	ended   bool
	onEnd   []func() // in order
}

const (
	toServer = 0
	toAgent  = 1
)

// window is how many messages of a stream are on their way to a reader, or wait
// for it, before the writer has to.
const window = 4

// silenceTimeout is how long an agent waits for an answer, noticeAfter how long
// it takes until a connection that is lost ends, dialTimeout how long until one
// that can't be made fails; see package agent.
const (
	silenceTimeout = 60 * time.Second
	noticeAfter    = 60 * time.Second
	dialTimeout    = 20 * time.Second
)

var errReset = fmt.Errorf("%w: the connection was reset", wire.ErrUnreachable)

// reset ends the connection there is.
func (l *link) reset() {
	if l.conn != nil {
		l.conn.end()
	}
}

func (c *conn) end() {
	if c.ended {
		return
	}
	c.ended = true
	if c.link.conn == c {
		c.link.conn = nil
	}
	for _, fn := range c.onEnd {
		fn()
	}
	c.onEnd = nil
}

// dial returns the connection, making it if need be.
func (l *link) dial(t *task) (*conn, error) {
	if l.conn != nil {
		return l.conn, nil
	}
	if l.up || l.down {
		t.wait(dialTimeout)
		return nil, fmt.Errorf("%w: no answer", wire.ErrUnreachable)
	}
	t.wait(l.latency())
	if l.agent.gone(t) {
		return nil, errGone
	}
	if !l.world.server.up {
		return nil, fmt.Errorf("%w: connection refused", wire.ErrUnreachable)
	}
	if l.conn == nil {
		l.conn = &conn{link: l}
	}
	return l.conn, nil
}

func (l *link) latency() time.Duration {
	d := time.Duration(l.random.Int64N(int64(l.delay) + 1))
	if l.slow > 0 {
		d += time.Duration(l.random.Int64N(int64(l.slow) + 1))
	}
	return d
}

// lane keeps the messages of one direction of a call in order.
type lane struct {
	conn      *conn
	direction int
	last      time.Duration
}

// send carries a message; arrive is called once it is there, unless it is lost.
func (n *lane) send(arrive func()) {
	c, l := n.conn, n.conn.link
	if c.ended {
		return
	}
	lost := n.direction == toServer && l.up || n.direction == toAgent && l.down || l.random.Float64() < l.loss
	if lost && !l.world.healed {
		c.stall(n.direction)
	}
	if c.stalled[n.direction] {
		return
	}
	n.last = max(n.last, l.world.now+l.latency())
	l.world.after(n.last-l.world.now, func() {
		if !c.ended && !c.stalled[n.direction] {
			arrive()
		}
	})
}

// stall loses all that is sent from now on, and what is on its way, until the
// ends notice.
func (c *conn) stall(direction int) {
	c.stalled[direction] = true
	if !c.noticed {
		c.noticed = true
		c.link.world.after(noticeAfter, c.end)
	}
}

// damage flips a bit in one of the payloads of a message, if one is due. Payloads
// are what a root is to protect: positions and lists have TLS alone.
func (l *link) damage(what string, payloads ...[]byte) {
	total := 0
	for _, p := range payloads {
		total += len(p)
	}
	if l.corrupt == 0 || total == 0 {
		return
	}
	l.corrupt--
	at := l.random.IntN(total)
	for _, p := range payloads {
		if at < len(p) {
			p[at] ^= 1 << l.random.IntN(8)
			l.agent.damaged = true
			l.world.say(l.agent.name, "a bit of %s is flipped on the way", what)
			return
		}
		at -= len(p)
	}
}
