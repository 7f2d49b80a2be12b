package sim

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/internal/sim/memory"
)

// began is when the clocks of all worlds begin.
var began = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// restartAfter is how long it takes until an agent that could not start is
// started again.
const restartAfter = 10 * time.Second

// agent is a host's machine, and what package agent is around the follower.
type agent struct {
	world  *World
	name   desired.Name
	disk   *memory.Disk
	folder memory.Agent
	link   *link
	random *rand.Rand
	log    *slog.Logger
	hold   time.Duration
	rate   float64 // of its clock

	task    *task // nil: it is down
	cancel  context.CancelFunc
	damaged bool // a message to it or a disk was tampered with: roots may not match
}

// gone reports whether the incarnation whose task that is has ended.
func (a *agent) gone(t *task) bool { return t.dead || a.task != t || a.disk.Crashed() }

// clock is what a machine's clock makes of time, for one incarnation.
type clock struct {
	agent *agent
	task  *task
}

func (c clock) Now() time.Time {
	return began.Add(time.Duration(float64(c.agent.world.now) * c.agent.rate))
}

func (c clock) Sleep(ctx context.Context, d time.Duration) {
	w := c.agent.world
	for until := w.now + time.Duration(float64(d)/c.agent.rate) + 1; w.now < until && ctx.Err() == nil && !c.agent.gone(c.task); {
		c.task.wait(until - w.now)
	}
	if c.agent.task == c.task && c.agent.gone(c.task) { // its disk has ended it
		c.agent.cancel()
	}
}

func (c clock) AfterFunc(d time.Duration, fn func()) (stop func()) {
	stopped := false
	c.agent.world.after(time.Duration(float64(d)/c.agent.rate)+1, func() {
		if !stopped && !c.agent.gone(c.task) {
			fn()
		}
	})
	return func() { stopped = true }
}

// start starts the agent on what is on its disk.
func (a *agent) start() {
	if a.task != nil {
		return
	}
	a.disk.Restart()
	ctx, cancel := context.WithCancel(context.Background())
	a.cancel = cancel
	a.world.say(a.name, "starts")
	a.task = a.world.start(func(t *task) { a.run(ctx, t) })
}

// run is one incarnation. One that can't open its disk is started again later.
func (a *agent) run(ctx context.Context, t *task) {
	w := a.world
	var f *follow.Follower
	f, err := follow.Open(follow.Options{
		Host: a.name, Server: network{agent: a, task: t}, Disk: a.folder, Hold: a.hold, Version: "sim",
		Clock: clock{agent: a, task: t}, Random: a.random, Go: func(fn func()) { fn() },
		Codec: w.codec, Limits: w.plan.sizes.follow(), Logger: a.log,
		Hooks: follow.Hooks{After: func(ctx context.Context) { a.scrub(ctx, f) }},
	})
	if err == nil {
		f.Run(ctx)
	} else if !a.gone(t) {
		w.say(a.name, "can't start: %v", err)
		w.oracle.broken(a, err)
		clock{agent: a, task: t}.Sleep(ctx, restartAfter)
		w.after(0, func() {
			if a.task == t {
				a.crash()
				a.start()
			}
		})
	}
	_ = f.Close()
}

// scrub looks for damage in the mirrors, and owns up to it.
func (a *agent) scrub(ctx context.Context, f *follow.Follower) {
	for _, s := range f.Sets() {
		m, ok := s.Mirror.(*memory.Mirror)
		if !ok || m.Scrub() == nil {
			continue
		}
		n, err := m.Repair(ctx)
		a.world.say(a.name, "finds %d damaged objects in %s: %v", n, s.Name, err)
	}
}

// crash ends the agent as a loss of power does.
func (a *agent) crash() {
	if a.task == nil {
		return
	}
	a.disk.Crash()
	a.world.say(a.name, "crashes")
	a.cancel()
	a.task.kill()
	a.task = nil
	a.link.reset()
}
