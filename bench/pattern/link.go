package pattern

import (
	"math"
	"time"
)

// conn is a connection of an agent: two ordered streams, over which a lost
// segment is late. When it ends, what is under way in it is lost, and both ends
// know at once.
type conn struct {
	agent    *agent
	up, down pipe
	ended    bool
	calls    []*call // that wait for an answer
}

// pipe is one direction of a connection.
type pipe struct {
	conn   *conn
	card   *resource
	bytes  *int64 // that it carried, in all
	queue  []message
	queued int64 // bytes
	busy   bool
	begun  time.Duration // of the message that is being sent
	flow   *flow         // nil: none, or one that takes no share of the card
	quiet  time.Duration // since when nothing was sent
	window window
	last   time.Duration // when the message before arrives
}

type message struct {
	bytes          int
	served, arrive func()
}

// dial calls done with the agent's connection, which it makes if there is none;
// with nil if that can't be done.
func (a *agent) dial(done func(*conn)) {
	if a.conn != nil {
		done(a.conn)
		return
	}
	if a.dialing = append(a.dialing, done); len(a.dialing) > 1 {
		return
	}
	w, life, takes := a.world, a.life, 2*a.world.trip()
	if a.cut {
		takes = dialTimeout
	}
	w.after(takes+a.late(2), func() {
		if life != a.life {
			return
		}
		if !a.cut && w.up {
			a.conn = a.newConn()
			a.traffic.up += handshakeUp
			a.traffic.down += handshakeDown
		}
		waiting := a.dialing
		a.dialing = nil
		for _, done := range waiting {
			done(a.conn)
		}
	})
}

func (a *agent) newConn() *conn {
	c := &conn{agent: a}
	now := a.world.now
	c.up = pipe{conn: c, card: &a.world.in, bytes: &a.traffic.up, quiet: now - idleTime}
	c.down = pipe{conn: c, card: &a.world.out, bytes: &a.traffic.down, quiet: now - idleTime}
	return c
}

// end ends the connection, if there is one.
func (c *conn) end() {
	if c == nil || c.ended {
		return
	}
	c.ended = true
	c.agent.conn = nil
	c.up.close()
	c.down.close()
	calls := c.calls
	c.calls = nil
	for _, k := range calls {
		k.fail()
	}
	c.agent.world.protocol.lost(c.agent)
}

func (p *pipe) close() {
	if p.flow != nil {
		*p.bytes += int64(p.card.stop(p.flow))
	}
	p.queue, p.flow = nil, nil
}

// send sends a message after those before it. served is called once it is sent,
// arrive once it is there; either may be nil.
func (p *pipe) send(m message) {
	if p.conn.ended {
		return
	}
	p.queue = append(p.queue, m)
	p.queued += int64(m.bytes)
	if p.card == &p.conn.agent.world.out {
		p.conn.agent.queued(len(p.queue), p.queued)
	}
	if !p.busy {
		p.next()
	}
}

// next begins to send the first message.
func (p *pipe) next() {
	w, m := p.conn.agent.world, p.queue[0]
	p.busy, p.begun = true, w.now
	if m.bytes <= segment {
		w.after(seconds(float64(m.bytes)/p.card.most), p.sent)
		return
	}
	p.flow = p.card.start(m.bytes, p.sent)
}

// sent goes on after a message was sent.
func (p *pipe) sent() {
	if p.conn.ended {
		return
	}
	a := p.conn.agent
	w, m := a.world, p.queue[0]
	p.queue[0] = message{}
	p.queue, p.flow, p.busy = p.queue[1:], nil, false
	p.queued -= int64(m.bytes)
	*p.bytes += int64(m.bytes)
	a.traffic.messages++
	p.last = max(p.last, w.now+w.point.delay()+a.late(segments(m.bytes)), p.slowStart(m.bytes)+w.point.delay())
	p.quiet = w.now
	w.after(p.last-w.now, func() {
		if !p.conn.ended && m.arrive != nil {
			m.arrive()
		}
	})
	if m.served != nil {
		m.served()
	}
	if len(p.queue) > 0 && !p.busy {
		p.next()
	}
}

// window is how much TCP may send of what isn't acknowledged.
type window struct {
	size, left float64       // bytes, and how many of them may be sent until opens
	opens      time.Duration // when those sent first are acknowledged
	sent       time.Duration // when what there was had been sent
}

// slowStart is when TCP's window lets the end of a message go at the earliest: it
// starts at ten segments on a connection that was idle, and doubles with each round
// trip that has used it up, until it fills the line (RFC 5681, RFC 6928).
func (p *pipe) slowStart(bytes int) time.Duration {
	w, trip, rate := &p.window, p.conn.agent.world.trip(), p.card.most
	if w.sent = max(w.sent, p.begun); p.begun-p.quiet >= idleTime {
		*w = window{size: firstWindow * segment, left: firstWindow * segment, opens: p.begun + trip, sent: p.begun}
	}
	rest := float64(bytes)
	for rest > 0 && w.size < rate*trip.Seconds() {
		if w.left == 0 {
			w.sent = max(w.sent, w.opens)
		}
		if w.sent >= w.opens {
			if w.left == 0 {
				w.size *= 2
			}
			w.left, w.opens = w.size, w.sent+trip
			continue
		}
		part := min(rest, w.left)
		w.left, rest = w.left-part, rest-part
		w.sent += seconds(part / rate)
	}
	w.sent += seconds(rest / rate)
	return w.sent
}

// late is how much later a message arrives since its last segments were lost: each
// time after a timeout, which doubles (RFC 6298). Others that are lost only slow
// it down: see lineRate.
func (a *agent) late(segments int) time.Duration {
	late, timeout := time.Duration(0), max(minTimeout, 2*a.world.trip())
	for range min(segments, tailSegments) {
		for t := timeout; !a.world.healed && a.random.Float64() < a.world.point.Loss && t < maxTimeout; t *= 2 {
			late += t
		}
	}
	return late
}

// lineRate is how many bytes a second one connection carries: what the agent's
// line does, or what loss leaves to TCP (Mathis and others, "The macroscopic
// behavior of the TCP congestion avoidance algorithm", 1997).
func (p *Point) lineRate() float64 {
	line := p.AgentMbit * 1e6 / 8
	if p.Loss == 0 || p.DelayMillis == 0 {
		return line
	}
	return min(line, math.Sqrt(1.5/p.Loss)*segment/(2*p.delay().Seconds()))
}

func segments(bytes int) int { return (bytes + segment - 1) / segment }

// call is a question that an agent waits to be answered.
type call struct {
	conn *conn
	life int
	over bool
	lost func() // the connection ended
}

// call asks the server, over a connection that is made if need be. serve runs at
// the server, and answers with call.reply; lost is called if the connection ends
// before the answer is over, or can't be made.
func (a *agent) call(bytes int, serve func(*call), lost func()) {
	life := a.life
	a.dial(func(c *conn) {
		if life != a.life {
			return
		}
		if c == nil {
			lost()
			return
		}
		k := &call{conn: c, life: life, lost: lost}
		c.calls = append(c.calls, k)
		c.up.send(message{bytes: bytes, arrive: func() { serve(k) }})
	})
}

// reply answers with a message, after others perhaps; arrive runs at the agent.
func (k *call) reply(bytes int, arrive func()) {
	k.conn.down.send(message{bytes: bytes, arrive: func() {
		if !k.over {
			arrive()
		}
	}})
}

// ask sends another message from the agent to the server in the same call.
func (k *call) ask(bytes int, arrive func()) {
	k.conn.up.send(message{bytes: bytes, arrive: func() {
		if !k.over {
			arrive()
		}
	}})
}

// finish ends the call at the agent: it was answered.
func (k *call) finish() {
	k.over = true
	for i, other := range k.conn.calls {
		if other == k {
			k.conn.calls = append(k.conn.calls[:i:i], k.conn.calls[i+1:]...)
			return
		}
	}
}

func (k *call) fail() {
	if k.over = true; k.life == k.conn.agent.life {
		k.lost()
	}
}

// datagram sends a message to an agent that nobody waits for: it arrives at most once,
// and may be overtaken.
func (a *agent) datagram(bytes int, arrive func()) {
	w := a.world
	a.traffic.down += int64(bytes)
	a.traffic.messages++
	if a.cut || !a.up {
		return
	}
	for range segments(bytes) {
		if a.random.Float64() < w.point.Loss && !w.healed {
			return
		}
	}
	w.clear = max(w.now, w.clear) + seconds(float64(bytes)/w.out.all)
	a.clear = max(w.clear, a.clear) + seconds(float64(bytes)*8/(w.point.AgentMbit*1e6))
	delay := w.point.delay()
	delay += time.Duration(a.random.Float64() * datagramJitter * float64(delay))
	life := a.life
	w.after(a.clear+delay-w.now, func() {
		if life == a.life && !a.cut {
			arrive()
		}
	})
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
