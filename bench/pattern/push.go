package pattern

import "time"

// quiet is a protocol that does nothing, for others to build on.
type quiet struct{ *world }

func (quiet) begin()               {}
func (quiet) committed(int)        {}
func (quiet) connected(*agent)     {}
func (quiet) lost(*agent)          {}
func (quiet) started(*agent)       {}
func (quiet) restarted()           {}
func (quiet) suspects(*agent) bool { return false }
func (quiet) save(*agent) func()   { return func() {} }

// steady is a protocol over connections that are always there, or being made.
type steady struct{ quiet }

func (s steady) lost(a *agent)          { s.reconnect(a) }
func (s steady) started(a *agent)       { s.reconnect(a) }
func (s steady) suspects(a *agent) bool { return a.conn == nil }

// command sends the whole state with each change, and to whom connects, since it
// can't know what that one has. Of those that wait behind one that is being sent, it
// keeps the latest.
type command struct {
	steady
	sending, again []bool // by agent
}

func newCommand(w *world) protocol {
	return &command{steady{quiet{w}}, make([]bool, len(w.agents)), make([]bool, len(w.agents))}
}

func (p *command) committed(int) {
	for _, a := range p.agents {
		if a.conn != nil {
			p.push(a)
		}
	}
}

func (p *command) connected(a *agent) { p.push(a) }

func (p *command) lost(a *agent) {
	p.sending[a.index], p.again[a.index] = false, false
	p.steady.lost(a)
}

func (p *command) push(a *agent) {
	if p.sending[a.index] {
		p.again[a.index] = true
		return
	}
	p.sending[a.index] = true
	rev := p.head
	a.conn.down.send(message{
		bytes: p.sendWhole(rev), arrive: func() { a.replace(rev) },
		served: func() {
			p.sending[a.index] = false
			if p.again[a.index] {
				p.again[a.index] = false
				p.push(a)
			}
		},
	})
}

// deltas sends what changed, each change once, to those who can be reached.
type deltas struct {
	quiet
	parts [][]part // by commit
}

// part is some of a commit's changes, small enough for a datagram.
type part struct {
	changes []change
	bytes   int
}

// split returns the parts of the commits so far.
func (p *deltas) split(rev int) []part {
	for len(p.parts) < rev {
		c := &p.history.commits[len(p.parts)]
		p.work.objects += int64(len(c.changes))
		n := (c.frame + datagramBytes - 1) / datagramBytes
		parts := make([]part, 0, n)
		for i := range n {
			from, until := i*len(c.changes)/n, (i+1)*len(c.changes)/n
			parts = append(parts, part{c.changes[from:until], c.frame/n + messageBytes})
		}
		p.parts = append(p.parts, parts)
	}
	return p.parts[rev-1]
}

// datagrams sends deltas as datagrams, without numbers.
type datagrams struct{ deltas }

func newDatagrams(w *world) protocol { return &datagrams{deltas{quiet: quiet{w}}} }

func (p *datagrams) committed(rev int) {
	for _, a := range p.agents {
		for _, part := range p.split(rev) {
			a.datagram(part.bytes, func() { a.write(part.changes, rev) })
		}
	}
}

// streamed sends deltas over a connection, without numbers.
type streamed struct{ steady }

func newStreamed(w *world) protocol { return &streamed{steady{quiet{w}}} }

func (p *streamed) committed(rev int) {
	for _, a := range p.agents {
		if a.conn != nil {
			a.conn.down.send(message{bytes: p.sendCommit(rev), arrive: func() { a.write(p.history.commits[rev-1].changes, rev) }})
		}
	}
}

// numbered sends deltas as numbered datagrams, and says now and then which number was
// the last. An agent that misses one asks for what came since; it gets that from
// the orchestrator's memory, or everything.
type numbered struct {
	deltas
	at     []place // by number
	upTo   []int   // by commit: the number after its last
	states []numberedAgent
}

// place is where a number's part is.
type place struct{ rev, part int }

// numberedAgent is what an agent knows.
type numberedAgent struct {
	next    int // the number that it waits for
	ahead   map[int]bool
	highest int // the number after the highest that it has heard of
	asking  bool
	waiting bool // to see whether a gap closes
	heard   time.Duration
}

func newNumbered(w *world) protocol {
	p := &numbered{deltas: deltas{quiet: quiet{w}}, states: make([]numberedAgent, len(w.agents)), upTo: []int{0}}
	for i := range p.states {
		p.states[i].ahead = map[int]bool{}
	}
	return p
}

func (p *numbered) begin() { p.beat() }

func (p *numbered) beat() {
	p.after(heartbeatEvery, p.beat)
	if !p.up {
		return
	}
	last := len(p.at)
	for _, a := range p.agents {
		a.datagram(noticeBytes, func() { p.hear(a, last) })
	}
}

func (p *numbered) committed(rev int) {
	for i := range p.split(rev) {
		number := len(p.at)
		p.at = append(p.at, place{rev, i})
		for _, a := range p.agents {
			a.datagram(p.parts[rev-1][i].bytes+4, func() {
				if s := &p.states[a.index]; number >= s.next {
					s.ahead[number] = true
				}
				p.hear(a, number+1)
			})
		}
	}
	p.upTo = append(p.upTo, len(p.at))
}

// hear tells an agent that there are so many numbers.
func (p *numbered) hear(a *agent, numbers int) {
	s := &p.states[a.index]
	s.heard, s.highest = p.now, max(s.highest, numbers)
	for ; s.ahead[s.next] && !s.asking; s.next++ {
		delete(s.ahead, s.next)
		at := p.at[s.next]
		a.write(p.parts[at.rev-1][at.part].changes, at.rev)
	}
	if s.next < s.highest && !s.asking && !s.waiting {
		s.waiting = true
		a.later(reorderTime, func() {
			if s.waiting = false; s.next < s.highest && !s.asking {
				p.ask(a)
			}
		})
	}
}

// ask fetches what came since the number that an agent waits for.
func (p *numbered) ask(a *agent) {
	s := &p.states[a.index]
	s.asking = true
	a.call(callUp, func(k *call) {
		head, last := p.head, len(p.at)
		bytes, whole := callDown, s.next < p.upTo[p.history.compacted(head, p.now)]
		if whole {
			bytes += p.sendWhole(head)
		} else {
			for _, at := range p.at[s.next:] {
				bytes += p.parts[at.rev-1][at.part].bytes
			}
		}
		k.reply(bytes, func() {
			k.finish()
			if whole {
				a.mirror.replace(head)
			} else {
				for _, at := range p.at[s.next:last] {
					a.mirror.write(p.parts[at.rev-1][at.part].changes, at.rev)
				}
			}
			for ; s.next < last; s.next++ {
				delete(s.ahead, s.next)
			}
			s.asking, a.retries = false, 0
			a.changed()
			p.hear(a, last)
		})
	}, func() { a.retry(func() { p.ask(a) }) })
}

// started asks at once: what was sent meanwhile is lost.
func (p *numbered) started(a *agent) {
	s := &p.states[a.index]
	s.waiting, s.heard = false, p.now
	p.ask(a)
}

func (p *numbered) save(a *agent) func() {
	s := &p.states[a.index]
	next := s.next
	return func() { *s = numberedAgent{next: next, ahead: map[int]bool{}} }
}

func (p *numbered) suspects(a *agent) bool {
	s := &p.states[a.index]
	return s.asking || s.next < s.highest || p.now-s.heard > 2*heartbeatEvery+heartbeatEvery/2
}
