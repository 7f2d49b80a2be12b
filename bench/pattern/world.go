package pattern

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

// protocol is a pattern at work: both ends of it. Its methods are told what
// happens, and send what the pattern sends. At the beginning all agents are in
// step.
type protocol interface {
	// begin starts what goes on by itself.
	begin()
	// committed tells the orchestrator of a revision.
	committed(rev int)
	// connected tells that a connection was made by world.reconnect.
	connected(a *agent)
	// lost tells that an agent's connection has ended.
	lost(a *agent)
	// started tells that an agent's process runs again, with what it keeps on its
	// disk.
	started(a *agent)
	// save returns a function that brings back what an agent keeps on its disk now,
	// beside what it mirrors.
	save(a *agent) func()
	// restarted tells that the orchestrator's does.
	restarted()
	// suspects reports whether an agent can tell that it may not be in step.
	suspects(a *agent) bool
}

// world is an orchestrator, its agents and the network between them, in virtual
// time, with one pattern.
type world struct {
	clock
	point     Point
	history   *history
	length    time.Duration // for which states change
	out, in   resource      // the orchestrator's network card
	clear     time.Duration // when it has sent its datagrams
	agents    []*agent
	protocol  protocol
	up        bool // the orchestrator runs
	healed    bool // nothing goes wrong any more
	head      int
	committed []time.Duration // by commit: when it was made
	work      work
	// encoded is the revision that was encoded whole last, encodedCommit that whose
	// changes were.
	encoded, encodedCommit int
}

// agent is one agent and its line.
type agent struct {
	*mirror
	world   *world
	index   int
	random  *rand.Rand
	up      bool
	cut     bool          // nothing passes between it and the orchestrator
	life    int           // of its process: what was asked in another is void
	clear   time.Duration // when its line has carried its datagrams
	conn    *conn
	dialing []func(*conn)
	retries int           // in a row
	since   time.Duration // since when it is connected
	meter   meter
	traffic traffic
}

// newWorld returns a world in which all agents hold revision 0, over connections
// that are there.
func newWorld(h *history, length time.Duration, p Pattern) *world {
	w := &world{point: *h.point, history: h, length: length, up: true, encoded: -1}
	rate := w.point.lineRate()
	w.out = resource{clock: &w.clock, most: rate, all: w.point.ServerMbit * 1e6 / 8}
	w.in = resource{clock: &w.clock, most: rate, all: w.point.ServerMbit * 1e6 / 8}
	for i := range w.point.Agents {
		a := &agent{
			world: w, index: i, up: true, random: rand.New(rand.NewPCG(h.seed, uint64(100+i))),
			mirror: &mirror{history: h, versions: make([]uint32, len(h.slots))},
			meter:  meter{next: 1, behind: -1, mixed: -1},
		}
		a.conn = a.newConn()
		w.agents = append(w.agents, a)
	}
	w.protocol = p.make(w)
	return w
}

// run plays the history, and the time after it. It returns the context's cause if
// that ends first.
func (w *world) run(ctx context.Context) error {
	w.protocol.begin()
	w.planFaults()
	if len(w.history.commits) > 0 {
		w.after(w.history.commits[0].at, w.commit)
	}
	w.after(w.length, w.heal)
	for steps := 0; w.step(w.length + grace); steps++ {
		if steps%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// commit makes the next revision, once the orchestrator runs.
func (w *world) commit() {
	if !w.up {
		w.after(time.Second, w.commit)
		return
	}
	for _, a := range w.agents {
		a.meter.moved(w.now)
	}
	w.head++
	w.committed = append(w.committed, w.now)
	if w.head < len(w.history.commits) {
		w.after(w.history.commits[w.head].at-w.now, w.commit)
	}
	w.protocol.committed(w.head)
}

// heal ends all faults.
func (w *world) heal() {
	w.healed = true
	w.startServer()
	for _, a := range w.agents {
		a.cut = false
		a.start()
	}
}

// trip is a round trip of the network.
func (w *world) trip() time.Duration { return 2 * w.point.delay() }

// wait draws a time, give or take a part of it.
func (a *agent) wait(d time.Duration, jitter float64) time.Duration {
	return time.Duration(float64(d) * (1 - jitter + 2*jitter*a.random.Float64()))
}

// later runs fn after a time, unless the agent's process has ended by then.
func (a *agent) later(d time.Duration, fn func()) {
	life := a.life
	a.world.after(d, func() {
		if life == a.life {
			fn()
		}
	})
}

// retry runs fn once it is time to try again after a failure.
func (a *agent) retry(fn func()) {
	a.retries++
	most := minRetry << min(a.retries-1, 10)
	a.later(a.wait(min(most, maxRetry), 0.5), fn)
}

// reconnect makes a connection, as often as it takes.
func (w *world) reconnect(a *agent) {
	if !a.up {
		return // started does, once it is
	}
	if w.now-a.since > healthyTime {
		a.retries = 0
	}
	a.retry(func() {
		a.dial(func(c *conn) {
			if c == nil {
				a.since = w.now
				w.reconnect(a)
				return
			}
			a.since = w.now
			w.protocol.connected(a)
		})
	})
}

// write takes changes of a revision over, whatever was there.
func (a *agent) write(changes []change, rev int) {
	a.mirror.write(changes, rev)
	a.changed()
}

// replace takes a whole revision over.
func (a *agent) replace(rev int) {
	a.mirror.replace(rev)
	a.changed()
}

// planFaults draws what goes wrong, and when: the same for all patterns.
func (w *world) planFaults() {
	random := rand.New(rand.NewPCG(w.history.seed, 2))
	has := func(f Faults) bool { return w.point.Faults == f || w.point.Faults == AllFaults }
	for _, a := range w.agents {
		if has(Cuts) {
			w.arrivals(random, cutsEvery, func() { a.conn.end() })
		}
		if has(Partitions) {
			for hour := time.Duration(0); hour < w.length; hour += time.Hour {
				room := min(time.Hour, w.length-hour) - partitionTime
				w.after(hour+time.Duration(random.Float64()*float64(max(room, 0))), a.partition)
			}
		}
		if has(Restarts) {
			w.arrivals(random, restartsEvery, a.restart)
		}
	}
	if w.point.Faults == Rollbacks {
		for _, a := range w.agents {
			w.after(time.Duration(random.Float64()*float64(w.length-rollbackTime-agentDownTime)), a.rollback)
		}
	}
	if has(Restarts) {
		w.arrivals(random, serverRestartsEvery, w.stopServer)
	}
}

// arrivals lets something happen so often, on average, while states change.
func (w *world) arrivals(random *rand.Rand, every time.Duration, what func()) {
	for at := time.Duration(0); ; {
		at += time.Duration(random.ExpFloat64() * float64(every))
		if at >= w.length {
			return
		}
		w.after(at, what)
	}
}

func (a *agent) partition() {
	a.cut = true
	a.conn.end()
	a.world.after(partitionTime, func() { a.cut = false })
}

// restart ends an agent's process for a while.
func (a *agent) restart() {
	if !a.up {
		return
	}
	a.up = false
	a.life++
	a.dialing = nil
	a.conn.end()
	a.world.after(agentDownTime, a.start)
}

// rollback brings an agent's disk back, later, as it is now.
func (a *agent) rollback() {
	versions, sum, others := slices.Clone(a.versions), a.sum, a.world.protocol.save(a)
	a.world.after(rollbackTime, func() {
		a.restart()
		a.versions, a.sum = versions, sum
		others()
		a.changed()
	})
}

func (a *agent) start() {
	if !a.up {
		a.up, a.retries = true, 0
		a.life++
		a.world.protocol.started(a)
	}
}

// stopServer ends the orchestrator's process for a while.
func (w *world) stopServer() {
	if !w.up {
		return
	}
	w.up = false
	for _, a := range slices.Clone(w.agents) {
		a.conn.end()
	}
	w.after(serverDownTime, w.startServer)
}

func (w *world) startServer() {
	if !w.up {
		w.up = true
		w.protocol.restarted()
	}
}
