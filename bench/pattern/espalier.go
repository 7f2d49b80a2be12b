package pattern

import (
	"fmt"
	"math/rand/v2"
	"time"

	"espalier/internal/delta"
	"espalier/internal/pace"
)

// espalier is Espalier: agents poll with the root that they hold, and are answered
// with what changed since, as far as the set's journal reaches; beyond, the trees
// are compared. When an agent polls is up to package pace, as it is, or to the
// next change, where polls are held.
type espalier struct {
	quiet
	hold    time.Duration // 0: polls aren't held
	journal bool          // there is one
	random  *rand.Rand
	fleet   *pace.Fleet
	set     pace.Set
	hosts   []pace.Host
	states  []espalierAgent
	held    []heldPoll
	tree    *tree // nil until it is needed
	touched []int // by revision: the keys that commits up to it name
	deltas  map[[2]int]*rendered
	reached map[[2]int]comparison
}

// espalierAgent is an agent of it.
type espalierAgent struct {
	schedule *pace.Schedule
	rev      int // that it holds, verified
	inStep   bool
	pulling  bool
	// What is staged of a pull that broke: so many frames of what leads from rev to
	// through; or all of it.
	through, frames int
	whole           bool
}

// heldPoll is a poll that waits for a change.
type heldPoll struct {
	agent *agent
	call  *call
	began time.Duration
}

// rendered is what leads from one revision to another.
type rendered struct {
	changes []change
	inline  int   // bytes as one frame
	frames  []int // bytes of the frames of a pull
}

func newPolled(w *world) protocol { return newEspalier(w, 0, true) }

func newHeld(w *world) protocol { return newEspalier(w, hold, true) }

func newDescending(w *world) protocol { return newEspalier(w, 0, false) }

func newEspalier(w *world, hold time.Duration, journal bool) *espalier {
	p := &espalier{
		quiet: quiet{w}, hold: hold, journal: journal, random: rand.New(rand.NewPCG(w.history.seed, 50)),
		states: make([]espalierAgent, len(w.agents)), touched: []int{0},
		deltas: map[[2]int]*rendered{}, reached: map[[2]int]comparison{},
	}
	for _, c := range w.history.commits {
		p.touched = append(p.touched, p.touched[len(p.touched)-1]+len(c.changes))
	}
	return p
}

// epoch is when worlds begin; any time would do.
var epoch = time.Unix(1_000_000_000, 0)

func (p *espalier) time() time.Time { return epoch.Add(p.now) }

func (p *espalier) begin() {
	p.restarted()
	for _, a := range p.agents {
		p.first(a)
		p.states[a.index].inStep = true
		if p.hold > 0 { // its poll is held already
			p.poll(a)
		} else {
			p.plan(a)
		}
	}
}

// restarted begins a server's life: of the one before it knows how often the set
// changed.
func (p *espalier) restarted() {
	agents := float64(len(p.agents))
	p.fleet = pace.NewFleet(pace.Options{Budget: agents * pollShare, Hosts: len(p.agents)}, p.time(), p.random)
	p.hosts = make([]pace.Host, len(p.agents))
	p.set = pace.Set{}
	p.fleet.Recall(&p.set, p.head, p.now, p.time())
}

// first plans an agent's first poll.
func (p *espalier) first(a *agent) {
	s := &p.states[a.index]
	s.schedule = pace.NewSchedule(0, rand.New(rand.NewPCG(p.history.seed, uint64(1_000_000*(a.life+1)+a.index))))
	s.schedule.First(fmt.Sprintf("host-%05d", a.index), p.time())
}

func (p *espalier) started(a *agent) {
	s := &p.states[a.index]
	s.inStep, s.pulling = false, false
	p.first(a)
	p.plan(a)
}

// plan plans what the schedule says.
func (p *espalier) plan(a *agent) {
	a.later(p.states[a.index].schedule.Due().Sub(p.time()), func() { p.poll(a) })
}

func (p *espalier) poll(a *agent) {
	s := &p.states[a.index]
	began := p.now
	held := p.hold > 0 && s.inStep
	a.call(pollUp, func(k *call) {
		if !held || s.rev != p.head {
			p.answer(a, k, began)
			return
		}
		p.held = append(p.held, heldPoll{a, k, began})
		p.after(p.hold, func() { p.release(k) })
	}, func() { p.failed(a) })
}

// release answers a held poll that nothing has answered yet.
func (p *espalier) release(k *call) {
	for i, h := range p.held {
		if h.call == k {
			p.held = append(p.held[:i:i], p.held[i+1:]...)
			if !k.over {
				p.answer(h.agent, k, h.began)
			}
			return
		}
	}
}

func (p *espalier) committed(int) {
	p.fleet.Changed(&p.set, p.time())
	held := p.held
	p.held = nil
	for _, h := range held {
		if !h.call.over {
			p.answer(h.agent, h.call, h.began)
		}
	}
}

func (p *espalier) failed(a *agent) {
	s := &p.states[a.index]
	s.inStep, s.pulling = false, false
	s.schedule.Failed(p.time())
	p.plan(a)
}

// answer answers a poll: with nothing, with a delta, or with the advice to pull.
func (p *espalier) answer(a *agent, k *call, began time.Duration) {
	s, rev := &p.states[a.index], p.head
	next := p.fleet.Polled(&p.hosts[a.index], []*pace.Set{&p.set}, p.time()).After
	polled := func() {
		if s.inStep = true; p.hold > 0 {
			s.schedule.Held(epoch.Add(began), p.time())
		} else {
			s.schedule.Succeeded(next, p.time())
		}
		p.plan(a)
	}
	d := p.since(s.rev, rev)
	switch {
	case s.rev == rev:
		k.reply(pollDown, func() {
			k.finish()
			polled()
		})
	case d != nil && d.inline <= delta.InlineBytes:
		p.readObjects(len(d.changes))
		k.reply(pollDown+inlineDown+d.inline, func() {
			k.finish()
			p.verify(a, rev)
			polled()
		})
	default:
		k.reply(pollDown+pullDown, func() {
			k.finish()
			s.pulling = true
			p.pull(a, polled)
		})
	}
}

// verify makes a revision what an agent holds.
func (p *espalier) verify(a *agent, rev int) {
	s := &p.states[a.index]
	s.rev, s.through, s.frames, s.whole, s.pulling = rev, 0, 0, false, false
	a.replace(rev)
}

// since returns what leads from one revision to another, or nil if the journal
// doesn't reach.
func (p *espalier) since(from, to int) *rendered {
	if !p.journal || p.touched[to]-p.touched[from] > max(journalLeast, p.history.objects[to]/journalShare) {
		return nil
	}
	at := [2]int{from, to}
	d := p.deltas[at]
	if d == nil {
		d = &rendered{changes: p.history.union(from, to)}
		if d.inline = p.history.frame(d.changes); d.inline > delta.InlineBytes {
			d.frames = p.history.frames(d.changes)
		}
		p.deltas[at] = d
	}
	return d
}

// pull runs a round of a pull: what changed since what the agent holds, or since
// what it has staged of that. then is called once nothing is left.
func (p *espalier) pull(a *agent, then func()) {
	s := &p.states[a.index]
	from := s.rev
	if s.whole {
		from = s.through
	}
	a.call(openUp, func(k *call) {
		to := p.head
		if s.frames > 0 && !s.whole {
			to = s.through
		}
		if d := p.since(from, to); d != nil {
			p.stream(a, k, d, to, then)
		} else {
			p.descend(a, k, from, to, then)
		}
	}, func() { p.failed(a) })
}

// stream sends the frames that an agent hasn't staged.
func (p *espalier) stream(a *agent, k *call, d *rendered, to int, then func()) {
	s := &p.states[a.index]
	if s.through = to; s.whole { // a further round: little, and not staged
		s.frames, s.whole = 0, false
	}
	frames := d.frames
	if frames == nil && len(d.changes) > 0 {
		frames = []int{d.inline}
	}
	p.readObjects(len(d.changes) * (len(frames) - s.frames) / max(len(frames), 1))
	k.reply(beginDown, func() {})
	for _, bytes := range frames[s.frames:] {
		k.reply(bytes+messageBytes, func() { s.frames++ })
	}
	k.reply(endDown, func() { p.ended(a, k, to, then) })
}

// ended ends a round: the last, unless the set has moved.
func (p *espalier) ended(a *agent, k *call, to int, then func()) {
	k.finish()
	if to == p.head {
		p.verify(a, to)
		then()
		return
	}
	s := &p.states[a.index]
	s.through, s.frames, s.whole = to, 0, true
	p.pull(a, then)
}

// descend compares trees, a level a round trip.
func (p *espalier) descend(a *agent, k *call, from, to int, then func()) {
	p.work.descents++
	d := p.compare(from, to)
	p.readObjects(d.objects)
	p.work.rows += int64(d.rows)
	p.work.read += int64(d.rows * rowBytes)
	step := 0
	var next func()
	next = func() {
		down, first, last := d.down[step], 0, step == len(d.down)-1
		if step == 0 {
			first = beginDown
		}
		step++
		k.reply(first+down+messageBytes, func() {
			if !last {
				k.ask(d.up[step]+messageBytes, next)
			}
		})
		if last {
			for _, bytes := range d.frames {
				k.reply(bytes+messageBytes, func() {})
			}
			k.reply(endDown, func() { p.ended(a, k, to, then) })
		}
	}
	if len(d.up) > 0 && d.up[0] > 0 { // a tree of one level: the leaves are asked for at once
		k.reply(beginDown, func() { k.ask(d.up[0]+messageBytes, next) })
		return
	}
	next()
}

// comparison is a descent from one revision to another, with the objects that it
// brings and the bytes of their frames.
type comparison struct {
	descent
	objects int
	frames  []int
}

func (p *espalier) compare(from, to int) comparison {
	at := [2]int{from, to}
	if c, ok := p.reached[at]; ok {
		return c
	}
	if p.tree == nil {
		p.tree = newTree(p.point.Objects, drawnLevel(p.history.seed))
	}
	changes := p.history.union(from, to)
	places, gone, sent := p.history.places(changes, from, to)
	c := comparison{p.tree.descend(places, gone, keyBytes+p.point.ValueBytes), len(sent), p.history.frames(sent)}
	p.reached[at] = c
	return c
}

// places returns where changes from one revision to another are in a tree, which of
// them leave a digest without an object, and which bring an object.
func (h *history) places(changes []change, from, to int) (places []int32, gone []bool, sent []change) {
	for _, c := range changes {
		s := &h.slots[c.slot]
		was, is := s.existed(from), s.existed(to)
		if !was && !is {
			continue
		}
		places, gone = append(places, s.place), append(gone, was)
		if is {
			sent = append(sent, c)
		}
	}
	return places, gone, sent
}

func (p *espalier) save(a *agent) func() {
	rev := p.states[a.index].rev
	return func() { p.states[a.index] = espalierAgent{rev: rev} }
}

func (p *espalier) suspects(a *agent) bool {
	s := &p.states[a.index]
	return !s.inStep || s.pulling
}
