package pattern

// broker is a message queue for each agent, which brings it each commit's changes
// as a message. It outlives connections and restarts.
type broker struct {
	steady
	// lasting keeps a message until it is acknowledged, and most bounds how many: the
	// oldest gives way; 0: no bound.
	lasting bool
	most    int
	queues  []queue // by agent
}

// queue is one agent's.
type queue struct {
	revs     []int // that are kept, in order
	unacked  int   // of them were delivered
	received int   // the agent's: the last that it has applied
}

func newAtMostOnce(w *world) protocol { return newBroker(w, false, 0) }

func newAtLeastOnce(w *world) protocol { return newBroker(w, true, 0) }

func newBounded(w *world) protocol { return newBroker(w, true, queueMost) }

func newBroker(w *world, lasting bool, most int) protocol {
	return &broker{steady{quiet{w}}, lasting, most, make([]queue, len(w.agents))}
}

func (p *broker) committed(rev int) {
	for _, a := range p.agents {
		switch q := &p.queues[a.index]; {
		case !p.lasting && a.conn != nil:
			p.deliver(a, rev)
		case p.lasting:
			q.revs = append(q.revs, rev)
			p.pump(a)
			if p.most > 0 && len(q.revs) > p.most {
				// One that is under way is left alone.
				q.revs = append(q.revs[:q.unacked:q.unacked], q.revs[q.unacked+1:]...)
			}
			a.queued(len(q.revs), 0)
		}
	}
}

// pump delivers what may be.
func (p *broker) pump(a *agent) {
	q := &p.queues[a.index]
	for a.conn != nil && q.unacked < min(len(q.revs), unackedMost) {
		q.unacked++
		p.deliver(a, q.revs[q.unacked-1])
	}
}

func (p *broker) deliver(a *agent, rev int) {
	c, q := a.conn, &p.queues[a.index]
	c.down.send(message{bytes: p.sendCommit(rev), arrive: func() {
		if rev > q.received || !p.lasting { // else it comes again
			q.received = rev
			a.write(p.history.commits[rev-1].changes, rev)
		}
		if !p.lasting {
			return
		}
		c.up.send(message{bytes: noticeBytes, arrive: func() {
			q.revs = q.revs[1:]
			q.unacked--
			p.pump(a)
		}})
	}})
}

func (p *broker) connected(a *agent) {
	if p.lasting {
		p.pump(a)
	}
}

func (p *broker) save(a *agent) func() {
	received := p.queues[a.index].received
	return func() { p.queues[a.index].received = received }
}

func (p *broker) lost(a *agent) {
	p.queues[a.index].unacked = 0
	p.steady.lost(a)
}
