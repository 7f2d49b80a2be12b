// Package sim answers whether hosts and their orchestrator keep their promises
// whatever happens: it runs the cores of both, package lead's and package
// follow's, in worlds of virtual time, over a network and disks on which
// everything goes wrong that a seed can think of, and holds what they have
// against plain maps after every step.
//
// A world is single-threaded, and its seed replays it bit for bit.
package sim

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/sim/memory"
)

// World is a server, hosts and what is between them.
type World struct {
	schedule
	plan   *Plan
	codec  *delta.Codec
	names  []desired.Name // of all sets
	server *server
	agents []*agent
	oracle *oracle
	story  *story // nil: nobody listens
	image  *image // a copy of the server's disk; nil: there is none
	healed bool   // nothing goes wrong any more
	failed error

	lastRequest string
}

type image struct {
	disk  map[string]any
	truth *copied
}

// errAstray: a pull went wrong. By chance a descent may, when two of its short
// digests are equal: once in some thousand where most has changed. With another
// key it wouldn't.
var errAstray = errors.New("that don't give its root")

// Run runs the world of a plan, and returns which promise was broken.
func (p *Plan) Run(codec *delta.Codec) error {
	_, err := p.tell(codec, nil)
	return err
}

// Tell is Run that also returns the story.
func (p *Plan) Tell(codec *delta.Codec) ([]string, error) { return p.tell(codec, &story{}) }

func (p *Plan) tell(codec *delta.Codec, s *story) (lines []string, err error) {
	err = p.world(codec, s).run()
	if errors.Is(err, errAstray) { // by chance, or every time?
		again := *p
		again.rekeyed = true
		if s != nil {
			s = &story{}
		}
		err = again.world(codec, s).run()
	}
	if s != nil {
		lines = s.lines
	}
	return lines, err
}

// rekeyed draws other numbers, of which fractions are made as before: descents have
// other keys, and all else stays as it was.
type rekeyed struct{ rand.Source }

func (r rekeyed) Uint64() uint64 { return r.Source.Uint64() ^ 1<<63 }

func (p *Plan) world(codec *delta.Codec, s *story) *World {
	w := &World{plan: p, codec: codec.WithFrames(p.sizes.frame), story: s}
	random := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(p.Seed, 100+n)) }
	for i := range p.agents {
		a := &agent{
			world: w, name: hosts[i], disk: memory.NewDisk(random(uint64(10 * i))), random: random(uint64(10*i) + 1),
			log: w.logger(string(hosts[i])), hold: p.hold, rate: 0.9 + 0.2*random(uint64(10*i)+2).Float64(),
		}
		a.folder = memory.Agent{
			Disk: a.disk, Options: p.sizes.memory(),
			Mismatch: func(set desired.Name) { w.oracle.mismatched(a, set) },
		}
		if p.rekeyed {
			a.random = rand.New(rekeyed{rand.NewPCG(p.Seed, 100+uint64(10*i)+1)})
		}
		a.link = &link{world: w, agent: a, random: random(uint64(10*i) + 3), delay: p.delay, loss: p.loss, twice: p.twice}
		w.agents = append(w.agents, a)
		w.names = append(w.names, a.name)
	}
	w.names = append(w.names, shared...)
	w.server = &server{world: w, disk: memory.NewDisk(random(100)), random: random(101), log: w.logger("server")}
	w.oracle = newOracle(w)
	return w
}

// fail notes the first promise that was broken.
func (w *World) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf(format, args...)
		w.say("oracle", "%v", w.failed)
	}
}

var errDry = errors.New("nothing is due any more, while hosts run: somebody waits forever")

// run runs the plan, then lets everything be well again.
func (w *World) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	w.server.start()
	for _, a := range w.agents {
		a.start()
	}
	for _, e := range w.plan.events {
		w.after(e.at, func() {
			w.say("plan", "%s", deeds[e.kind].name)
			deeds[e.kind].do(w, e.random())
		})
	}
	var last time.Duration
	if n := len(w.plan.events); n > 0 {
		last = w.plan.events[n-1].at
	}
	w.runUntil(last)
	w.settle()
	w.stop()
	return w.failed
}

// runUntil lets happen what is due until then, and checks after each step.
func (w *World) runUntil(until time.Duration) {
	w.server.wakeHeld() // of what was done since the last step
	for w.failed == nil && w.step(until) {
		w.mindCrashes()
		w.server.wakeHeld()
		w.oracle.check()
	}
	if len(w.due) == 0 && w.failed == nil {
		w.failed = errDry
	}
	w.now = max(w.now, until)
}

// mindCrashes brings machines back that crashed in the middle of something.
func (w *World) mindCrashes() {
	if w.server.up && w.server.disk.Crashed() {
		w.server.crash()
		w.after(time.Second, w.restartServer)
	}
	for _, a := range w.agents {
		if a.task != nil && a.disk.Crashed() {
			a.crash()
			w.after(time.Second, a.start)
		}
	}
}

func (w *World) restartServer() {
	if !w.server.up {
		w.server.start()
	}
}

// stop ends all tasks.
func (w *World) stop() {
	w.server.crash()
	for _, a := range w.agents {
		a.crash()
	}
}
