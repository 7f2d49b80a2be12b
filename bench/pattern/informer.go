package pattern

import "time"

// informer lists everything, and then watches what changes from that version on, as
// Kubernetes' does. The server remembers what changed for a while; who comes back
// later lists everything again. What it holds is in memory: a process that starts
// lists.
type informer struct {
	steady
	relist   time.Duration // how often it lists everything; 0: only when it must
	watchers []watcher     // by agent
}

type watcher struct {
	rev      int // that it holds; negative: none
	watching bool
	watch    int // counts watches, so that what one planned is void in the next
	sent     int // the server's: the last revision sent in this watch
}

func newInformer(w *world) protocol { return newWatcher(w, 0) }

func newRelisting(w *world) protocol { return newWatcher(w, relistEvery) }

func newWatcher(w *world, relist time.Duration) protocol {
	return &informer{steady{quiet{w}}, relist, make([]watcher, len(w.agents))}
}

func (p *informer) begin() {
	for _, a := range p.agents {
		p.watch(a)
		p.planRelist(a)
	}
}

func (p *informer) planRelist(a *agent) {
	if p.relist == 0 {
		return
	}
	a.later(a.wait(p.relist, pollJitter), func() {
		p.planRelist(a)
		if s := &p.watchers[a.index]; s.watching {
			p.end(s)
			p.list(a)
		}
	})
}

// end ends a watch.
func (p *informer) end(s *watcher) {
	s.watching = false
	s.watch++
}

// watch watches from what the agent holds on.
func (p *informer) watch(a *agent) {
	s := &p.watchers[a.index]
	s.watch++
	watch := s.watch
	a.call(callUp+noticeBytes, func(k *call) {
		if s.watch != watch {
			return
		}
		if s.rev < p.history.compacted(p.head, p.now) { // gone: the version is too old
			k.reply(callDown, func() {
				k.finish()
				p.list(a)
			})
			return
		}
		k.reply(callDown/2, k.finish) // headers; what follows belongs to the connection
		s.watching, s.sent = true, s.rev
		a.retries = 0
		for s.sent < p.head {
			p.event(a)
		}
		p.plan(a, watch)
	}, func() {})
}

// plan plans the watch's bookmarks, and its end.
func (p *informer) plan(a *agent, watch int) {
	s := &p.watchers[a.index]
	var mark func()
	mark = func() {
		if s.watch == watch && s.watching && a.conn != nil {
			rev := s.sent
			a.conn.down.send(message{bytes: noticeBytes, arrive: func() { s.rev = max(s.rev, rev) }})
			p.after(bookmarkEvery, mark)
		}
	}
	p.after(bookmarkEvery, mark)
	p.after(watchTime+time.Duration(a.random.Float64()*float64(watchTime)), func() {
		if s.watch == watch && s.watching && a.conn != nil {
			p.end(s)
			again := s.watch
			a.conn.down.send(message{bytes: callDown / 2, arrive: func() {
				if s.watch == again {
					p.watch(a)
				}
			}})
		}
	})
}

// event sends the next revision's changes.
func (p *informer) event(a *agent) {
	s := &p.watchers[a.index]
	s.sent++
	rev := s.sent
	a.conn.down.send(message{bytes: p.sendCommit(rev), arrive: func() {
		s.rev = rev
		a.write(p.history.commits[rev-1].changes, rev)
	}})
}

func (p *informer) committed(int) {
	for _, a := range p.agents {
		if s := &p.watchers[a.index]; s.watching && a.conn != nil {
			p.event(a)
		}
	}
}

// list fetches everything, and watches from there.
func (p *informer) list(a *agent) {
	s := &p.watchers[a.index]
	p.end(s)
	a.call(callUp, func(k *call) {
		rev := p.head
		k.reply(callDown+p.sendWhole(rev), func() {
			k.finish()
			s.rev = rev
			a.replace(rev)
			p.watch(a)
		})
	}, func() {})
}

func (p *informer) connected(a *agent) {
	if p.watchers[a.index].rev < 0 {
		p.list(a)
	} else {
		p.watch(a)
	}
}

func (p *informer) lost(a *agent) {
	p.end(&p.watchers[a.index])
	p.steady.lost(a)
}

func (p *informer) started(a *agent) {
	p.watchers[a.index].rev = -1
	p.planRelist(a)
	p.steady.started(a)
}

func (p *informer) suspects(a *agent) bool { return !p.watchers[a.index].watching }
