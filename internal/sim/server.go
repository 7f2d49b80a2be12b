package sim

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/lead"
	"espalier/internal/pace"
	"espalier/internal/sim/memory"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// server is the orchestrator's machine, and what package server is around the
// leader.
type server struct {
	world  *World
	disk   *memory.Disk
	random *rand.Rand
	log    *slog.Logger
	skew   time.Duration // of its clock

	up    bool
	sets  *memory.Store
	fleet *fleet.Fleet
	lead  *lead.Leader
	tasks []*task
	held  []*heldPoll // in the order in which they came
}

// heldPoll is a poll that waits for something to say.
type heldPoll struct {
	waiter *lead.Waiter
	task   *task
	woken  bool
}

// leaderSets is a store as a leader sees it.
type leaderSets struct{ *memory.Store }

func (s leaderSets) View(set desired.Name, fn func(lead.Snapshot) error) error {
	return s.Store.View(set, func(snapshot *memory.Snapshot) error { return fn(undated{snapshot}) })
}

// undated is a snapshot whose journal has no times.
type undated struct{ *memory.Snapshot }

func (undated) Committed() (time.Time, error) { return time.Time{}, nil }

// start starts the server on what is on its disk.
func (s *server) start() {
	w := s.world
	s.disk.Restart()
	s.sets = memory.OpenStore(s.disk, s.random, w.plan.sizes.memory())
	w.oracle.reopened()
	lists, err := s.sets.Lists()
	if err != nil {
		w.fail("the server can't read its lists: %v", err)
		return
	}
	seen, err := s.sets.Seen()
	if err != nil {
		w.fail("the server can't read how the hosts fared: %v", err)
		return
	}
	s.fleet = fleet.New(lists, seen)
	s.lead = lead.New(lead.Options{
		Sets: leaderSets{s.sets}, Fleet: s.fleet, Codec: w.codec,
		MaxHeld: 100, InlineBytes: w.plan.sizes.inline, Logger: s.log,
		Pace: pace.Options{Objective: w.plan.interval, Hosts: len(w.agents)}, Start: s.now(), Random: s.random,
	})
	names, err := s.sets.Names()
	if err != nil {
		w.fail("the server can't read which sets there are: %v", err)
		return
	}
	for _, name := range names {
		s.lead.Knows(name)
	}
	s.sets.Watch(func(set desired.Name) { s.lead.Changed(set, s.now()) })
	s.up = true
	w.say("server", "starts")
}

// crash ends the server as a loss of power does.
func (s *server) crash() {
	if !s.up {
		return
	}
	s.disk.Crash()
	s.world.say("server", "crashes")
	s.up = false
	for _, t := range s.tasks {
		t.kill()
	}
	s.tasks, s.held = nil, nil
	for _, a := range s.world.agents {
		a.link.reset()
	}
}

// now is what the server's clock says.
func (s *server) now() time.Time { return began.Add(s.world.now + s.skew) }

// keepSeen writes down how the hosts fared.
func (s *server) keepSeen() {
	rows, _ := s.fleet.Changed(fleet.MaxHosts)
	_ = s.sets.PutSeen(rows) // it is known until the server stops
}

// begin starts a handler.
func (s *server) begin(fn func(*task)) *task {
	t := s.world.start(fn)
	live := s.tasks[:0]
	for _, t := range s.tasks {
		if !t.done {
			live = append(live, t)
		}
	}
	s.tasks = append(live, t)
	return t
}

// poll begins to answer a poll that has arrived.
func (s *server) poll(a *agent, req *espalierv1.PollRequest, c *conn, answer func(*espalierv1.PollResponse, error)) {
	if !s.up {
		c.end()
		return
	}
	s.begin(func(t *task) {
		p, err := wire.PollFromWire(transfer(req), "")
		if err != nil {
			s.world.fail("the server can't read what %s polls: %v", a.name, err)
			return
		}
		got := s.answer(t, a, c, p)
		if t.dead || s.disk.Crashed() || c.ended { // nobody hears it
			return
		}
		s.world.oracle.answered(a, p, got)
		answer(transfer(wire.PollAnswerToWire(got)), nil)
	})
}

// answer is how package server answers a poll: at once, or once there is
// something to say.
func (s *server) answer(t *task, a *agent, c *conn, p wire.Poll) wire.PollAnswer {
	who := lead.Asker{Host: true, Address: string(a.name), MayUse: func(set desired.Name) bool { return s.fleet.Mirrors(a.name, set) }}
	var waiter *lead.Waiter
	if p.Hold > 0 {
		waiter = s.lead.Hold(p.Host, p.Held)
	}
	if waiter == nil {
		p.Hold = 0
	} else {
		defer s.lead.Release(waiter)
	}
	answer, hold := s.lead.Poll(context.Background(), s.now(), who, p)
	if hold == 0 {
		return answer
	}
	c.onEnd = append(c.onEnd, t.wake)
	h := &heldPoll{waiter: waiter, task: t}
	s.held = append(s.held, h)
	defer s.release(h)
	for until := s.world.now + hold; ; {
		h.woken = false
		t.wait(until - s.world.now)
		if t.dead || c.ended {
			return answer
		}
		answer, hold = s.lead.Poll(context.Background(), s.now(), who, p)
		if hold == 0 || !h.woken {
			return answer
		}
	}
}

func (s *server) release(h *heldPoll) {
	for i := range s.held {
		if s.held[i] == h {
			s.held = append(s.held[:i:i], s.held[i+1:]...)
			return
		}
	}
}

// wakeHeld hands on what the leader has told those who wait.
func (s *server) wakeHeld() {
	for _, h := range s.held {
		select {
		case <-h.waiter.Woken:
			h.woken = true
			h.task.wake()
		default:
		}
	}
}

// pull begins to serve a stream that has arrived.
func (s *server) pull(a *agent, st *stream) {
	if !s.up {
		st.conn.end()
		return
	}
	if st.handler != nil {
		return
	}
	st.handler = s.begin(func(t *task) {
		st.handler = t
		if err := s.serve(a, st); !t.dead && !s.disk.Crashed() {
			st.finish(wire.FromStatus(wire.ToStatus(err)))
		}
	})
}

// serve is how package server serves a pull.
func (s *server) serve(a *agent, st *stream) error {
	sender := delta.NewSender(s.world.codec)
	var open *delta.Open
	for !sender.Ended() {
		m, ok := st.next()
		if !ok {
			return nil
		}
		req, err := wire.PullRequestFromWire(transfer(m))
		if err == nil && req.Open != nil && !s.fleet.Mirrors(a.name, req.Open.Set) {
			err = fmt.Errorf("%w: %s", store.ErrNotFound, req.Open.Set)
		}
		if err == nil {
			err = sender.Receive(req)
		}
		if err != nil {
			return err
		}
		if req.Open != nil {
			open = req.Open
		}
		for sender.Pending() {
			resp, err := s.lead.Respond(sender, open.Set)
			if err != nil {
				return err
			}
			s.world.oracle.sent(a, open, resp)
			if !st.send(wire.PullResponseToWire(resp)) {
				return nil
			}
		}
	}
	return nil
}
