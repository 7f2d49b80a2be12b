package pattern

import "time"

// fetching has agents fetch the whole state, unless they hold its latest revision:
// what polls and interrupts have in common.
type fetching struct {
	quiet
	states []fetchingAgent
}

type fetchingAgent struct {
	rev             int // that it holds
	fetching, again bool
	failing         bool
	planned         bool // a fetch is, after an interrupt
}

func newFetching(w *world) fetching {
	return fetching{quiet{w}, make([]fetchingAgent, len(w.agents))}
}

// fetch fetches; then is called once that is over, whether it went well or not.
func (p *fetching) fetch(a *agent, then func()) {
	s := &p.states[a.index]
	if s.fetching {
		s.again = true
		return
	}
	s.fetching, s.again = true, false
	over := func(failing bool) {
		s.fetching, s.failing = false, failing
		then()
	}
	a.call(callUp, func(k *call) {
		rev, bytes := p.head, callDown
		if rev != s.rev {
			bytes += p.sendWhole(rev)
		}
		k.reply(bytes, func() {
			k.finish()
			s.rev, a.retries = rev, 0
			a.replace(rev)
			over(false)
		})
	}, func() { over(true) })
}

func (p *fetching) forget(a *agent) {
	s := &p.states[a.index]
	s.fetching, s.again, s.planned = false, false, false
}

func (p *fetching) save(a *agent) func() {
	rev := p.states[a.index].rev
	return func() { p.states[a.index].rev = rev }
}

func (p *fetching) suspects(a *agent) bool {
	s := &p.states[a.index]
	return s.fetching || s.failing || s.planned
}

// poll fetches at an interval.
type poll struct {
	fetching
	interval time.Duration
}

func newPoll(w *world) protocol { return &poll{newFetching(w), pollInterval} }

func (p *poll) begin() {
	for _, a := range p.agents {
		a.later(time.Duration(a.random.Float64()*float64(p.interval)), func() { p.poll(a) })
	}
}

func (p *poll) poll(a *agent) {
	p.fetch(a, func() {
		if p.states[a.index].failing {
			a.retry(func() { p.poll(a) })
			return
		}
		a.later(a.wait(p.interval, pollJitter), func() { p.poll(a) })
	})
}

func (p *poll) started(a *agent) {
	p.forget(a)
	p.poll(a)
}

// interrupt fetches after a datagram said that there is something new; it waits for
// others first. With a safety interval it fetches now and then without one, too.
type interrupt struct {
	fetching
	safety time.Duration // 0: none
}

func newInterrupt(w *world) protocol { return &interrupt{newFetching(w), 0} }

func newInterruptPoll(w *world) protocol { return &interrupt{newFetching(w), safetyInterval} }

func (p *interrupt) begin() {
	for _, a := range p.agents {
		p.planSafety(a, time.Duration(a.random.Float64()*float64(p.safety)))
	}
}

func (p *interrupt) planSafety(a *agent, wait time.Duration) {
	if p.safety == 0 {
		return
	}
	a.later(wait, func() {
		p.planSafety(a, a.wait(p.safety, pollJitter))
		p.get(a)
	})
}

func (p *interrupt) committed(int) {
	for _, a := range p.agents {
		a.datagram(noticeBytes, func() { p.plan(a) })
	}
}

// plan plans a fetch, unless one is planned.
func (p *interrupt) plan(a *agent) {
	s := &p.states[a.index]
	if s.planned {
		return
	}
	s.planned = true
	a.later(debounce, func() {
		s.planned = false
		p.get(a)
	})
}

// get fetches until it worked, and again if there was an interrupt meanwhile.
func (p *interrupt) get(a *agent) {
	s := &p.states[a.index]
	p.fetch(a, func() {
		switch {
		case s.failing:
			a.retry(func() { p.get(a) })
		case s.again:
			p.plan(a)
		}
	})
}

func (p *interrupt) started(a *agent) {
	p.forget(a)
	p.planSafety(a, a.wait(p.safety, pollJitter))
	p.get(a)
}
