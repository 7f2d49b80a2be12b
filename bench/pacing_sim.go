package bench

import (
	"fmt"
	"math/rand/v2"
	"time"

	"espalier/internal/pace"
)

// pacingRun is one policy under one load, in virtual time: events happen one after
// the other, in the order of their times. Answers take no time.
type pacingRun struct {
	load   *load
	policy policy
	hosts  []simHost
	queue  pollQueue
	// behind counts the hosts that have something to fetch.
	behind           int
	stopped, started bool
	// counting from, until: what happens before is to learn from.
	from, until time.Duration

	delays []float64 // seconds, of each commit
	stale  float64   // seconds, of all hosts
	calls  int
	second []int32 // polls that reached the server, by the second
}

// simHost is one host of a run.
type simHost struct {
	schedule *pace.Schedule
	// unseen is when what it hasn't fetched was committed.
	unseen []time.Duration
	// planned counts its plans: an event of an earlier one is void.
	planned uint32
	held    bool
}

// pollEvent is when a host polls, or its held poll ends.
type pollEvent struct {
	at      time.Duration
	host    int32
	planned uint32
}

// epochOfRuns is when runs start; any time would do.
var epochOfRuns = time.Unix(1_000_000_000, 0)

// runFleet plays a load to a policy.
func runFleet(o *PacingOptions, l *load, t tuned, parameter float64) *pacingRun {
	rng := rand.New(rand.NewPCG(o.Seed, 2))
	r := &pacingRun{
		load: l, policy: t.make(o, parameter, epochOfRuns, rng),
		hosts: make([]simHost, o.Hosts), from: o.warmUp(), until: o.whole(),
		second: make([]int32, int(o.Duration/time.Second)+1),
	}
	for i := range r.hosts {
		r.hosts[i].schedule = pace.NewSchedule(0, rng)
		r.hosts[i].schedule.First(fmt.Sprintf("host-%05d", i), epochOfRuns)
		r.plan(int32(i))
	}
	r.play()
	return r
}

// play runs until all commits of the load are known to their hosts.
func (r *pacingRun) play() {
	commits := r.load.commits
	for len(commits) > 0 || r.queue[0].at < r.until || r.behind > 0 {
		poll := r.queue[0]
		if len(commits) > 0 && commits[0].at <= poll.at {
			r.outage(commits[0].at)
			r.commit(commits[0])
			commits = commits[1:]
			continue
		}
		r.queue.pop()
		if h := &r.hosts[poll.host]; h.planned == poll.planned {
			r.outage(poll.at)
			r.poll(h, poll)
		}
	}
}

// outage lets the server stop and start once it is time.
func (r *pacingRun) outage(now time.Duration) {
	if r.load.up == 0 || now < r.load.down {
		return
	}
	if !r.stopped {
		r.stopped = true
		for i := range r.hosts {
			if h := &r.hosts[i]; h.held {
				r.release(h)
				h.schedule.Failed(epochOfRuns.Add(r.load.down))
				r.plan(int32(i))
			}
		}
	}
	if !r.started && now >= r.load.up {
		r.started = true
		r.policy.restarted(epochOfRuns.Add(r.load.up))
	}
}

// commit changes a host's set. A poll that is held is answered at once, and made
// again.
func (r *pacingRun) commit(c commit) {
	h := &r.hosts[c.host]
	r.policy.changed(c.host, epochOfRuns.Add(c.at))
	if len(h.unseen) == 0 {
		r.behind++
	}
	h.unseen = append(h.unseen, c.at)
	if h.held {
		r.release(h)
		r.fetch(h, c.at)
		h.schedule.Succeeded(pace.MinInterval, epochOfRuns.Add(c.at))
		r.plan(c.host)
	}
}

// poll lets a host poll, or ends the poll that is held.
func (r *pacingRun) poll(h *simHost, e pollEvent) {
	now := epochOfRuns.Add(e.at)
	if h.held {
		r.release(h)
	}
	if e.at >= r.load.down && e.at < r.load.up {
		h.schedule.Failed(now)
		r.plan(e.host)
		return
	}
	if e.at >= r.from && e.at < r.until {
		r.calls++
		r.second[(e.at-r.from)/time.Second]++
	}
	fresh := len(h.unseen) > 0
	if fresh {
		r.fetch(h, e.at)
	}
	wait, hold := r.policy.polled(e.host, fresh, now)
	h.held = hold
	h.schedule.Succeeded(wait, now)
	r.plan(e.host)
}

func (r *pacingRun) release(h *simHost) {
	h.held = false
	r.policy.released()
}

// fetch lets a host learn of all commits to its set.
func (r *pacingRun) fetch(h *simHost, now time.Duration) {
	for _, at := range h.unseen {
		if at >= r.from && at < r.until {
			r.delays = append(r.delays, (now - at).Seconds())
		}
	}
	if since := max(h.unseen[0], r.from); since < min(now, r.until) {
		r.stale += (min(now, r.until) - since).Seconds()
	}
	h.unseen = h.unseen[:0]
	r.behind--
}

// plan queues what a host's schedule says.
func (r *pacingRun) plan(host int32) {
	h := &r.hosts[host]
	h.planned++
	r.queue.push(pollEvent{h.schedule.Due().Sub(epochOfRuns), host, h.planned})
}

// pollQueue is a heap of what is to come.
type pollQueue []pollEvent

func (e pollEvent) before(other pollEvent) bool {
	return e.at < other.at || e.at == other.at && e.host < other.host
}

func (q *pollQueue) push(e pollEvent) {
	*q = append(*q, e)
	events := *q
	i := len(events) - 1
	for i > 0 && e.before(events[(i-1)/2]) {
		events[i] = events[(i-1)/2]
		i = (i - 1) / 2
	}
	events[i] = e
}

func (q *pollQueue) pop() {
	events := *q
	last := events[len(events)-1]
	events = events[:len(events)-1]
	*q = events
	if len(events) == 0 {
		return
	}
	i := 0
	for {
		child := 2*i + 1
		if child+1 < len(events) && events[child+1].before(events[child]) {
			child++
		}
		if child >= len(events) || !events[child].before(last) {
			break
		}
		events[i] = events[child]
		i = child
	}
	events[i] = last
}
