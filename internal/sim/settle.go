package sim

import (
	"slices"
	"time"

	"espalier/internal/desired"
	"espalier/internal/fleet"
)

// settleIn is how long hosts may take, once nothing goes wrong any more: two
// polls or backoffs, a connection that is noticed to be lost, a poll that is
// given up, and the transfer.
func (w *World) settleIn() time.Duration {
	return 2*(w.plan.interval*13/10+time.Second) + noticeAfter + w.plan.hold + 2*silenceTimeout + 100*w.plan.delay
}

// settle ends all faults, and then the operator steps in where hosts have to
// wait for that. In between and in the end they have to have what the server has.
func (w *World) settle() {
	w.heal()
	w.runUntil(w.now + w.settleIn())
	for try := range 3 { // a host that has moved on may be told of something else to refuse
		if !w.operate(try == 0) {
			break
		}
		w.runUntil(w.now + w.settleIn())
	}
	w.converged()
	for _, set := range w.names { // and what changes now comes in time
		if w.oracle.sets[set].now != nil { // or hosts may hold one that it wouldn't follow
			w.commit(draft{set: set, changes: changes{"k": "\x00the end"}})
		}
	}
	w.runUntil(w.now + w.toldIn())
	w.converged()
}

// toldIn is how long it may take until hosts have a change, where nothing goes
// wrong: a poll, be it that one waits at the server, and the transfer.
func (w *World) toldIn() time.Duration {
	return w.plan.interval*13/10 + 5*time.Second + 100*w.plan.delay
}

// heal ends all faults.
func (w *World) heal() {
	w.say("plan", "no more faults")
	w.healed = true
	w.server.disk.Fail(0)
	w.server.disk.CrashAfter(0)
	w.restartServer()
	for _, a := range w.agents {
		l := a.link
		l.up, l.down, l.loss, l.slow, l.sluggish, l.corrupt, l.twice = false, false, 0, 0, 0, 0, 0
		a.disk.Fail(0)
		a.disk.CrashAfter(0)
		a.disk.Fill(false)
		a.start()
	}
	for _, set := range w.names {
		if h := w.oracle.sets[set]; h.now != nil && h.flipped {
			w.restore(set, h.now.objects, nil)
		}
	}
}

// operate does what an operator has to, and reports whether there was anything.
// A new list has to do the first time, once hosts have said what they have.
func (w *World) operate(lists bool) (acted bool) {
	for _, set := range w.names {
		if w.rescue(set) {
			acted = true
		}
	}
	if !lists {
		return acted
	}
	for _, a := range w.agents {
		host, _ := w.server.fleet.Get(a.name)
		list := w.oracle.list(a.name)
		holds := union(w.oracle.agents[a].list.Sets, a.mirrored())
		lost := slices.ContainsFunc(holds, func(set desired.Name) bool {
			return !slices.Contains(list.Sets, set) && !slices.Contains(list.Left, set)
		})
		if lost || host.ListState == fleet.ListAhead || host.ListState == fleet.ListForked {
			w.relist(a, union(list.Sets, holds))
			acted = true
		}
	}
	return acted
}

// rescue begins an epoch of a set that a host refuses.
func (w *World) rescue(set desired.Name) bool {
	h := w.oracle.sets[set]
	if h.now == nil {
		return false
	}
	refused := w.server.sets.Forked(set)
	var unknown []desired.Position
	for _, a := range w.agents {
		last, ok := w.oracle.agents[a].last[set]
		if !ok || !slices.Contains(w.oracle.list(a.name).Sets, set) {
			continue
		}
		if !h.known[last.Epoch] {
			unknown = append(unknown, last.Position)
		}
		refused = refused || !h.leads(last, h.now.head.Revision)
	}
	if !refused {
		return false
	}
	if len(unknown) > 0 {
		w.restore(set, h.now.objects, unknown)
	} else {
		w.renew(set)
	}
	return true
}

// converged holds what agents have against what they are to have.
func (w *World) converged() {
	for _, a := range w.agents {
		w.convergedAgent(a)
	}
}

func (w *World) convergedAgent(a *agent) {
	list, has := w.oracle.list(a.name), w.oracle.agents[a].list
	if list.Version != has.Version {
		w.fail("invariant 4: %s has version %d of its list, and the server %d", a.name, has.Version, list.Version)
	}
	if list.Orders != has.Orders {
		w.fail("invariant 4: %s was told %+v, and the server told %+v", a.name, has.Orders, list.Orders)
	}
	for _, set := range a.mirrored() {
		if !slices.Contains(list.Sets, set) {
			w.fail("invariant 4: %s still mirrors %s, which has left its list", a.name, set)
		}
	}
	for _, set := range list.Sets {
		h := w.oracle.sets[set]
		if h.now == nil {
			continue
		}
		m, ok := a.folder.Mirror(set)
		switch {
		case !ok:
			w.fail("invariant 4: %s has nothing of %s, which is at %v", a.name, set, h.now.head.Position)
		case m.Head().Revision != h.now.head.Revision || m.Damaged():
			w.fail("invariant 4: %s has %s at %v, and the server at %v", a.name, set, m.Head().Position, h.now.head.Position)
		default:
			w.unflipped(a, set)
		}
	}
}

// unflipped: what was damaged was found and fetched again.
func (w *World) unflipped(a *agent, set desired.Name) {
	m, _ := a.folder.Mirror(set)
	for c, flipped := range m.Objects() {
		if flipped {
			w.fail("invariant 4: %s still has a bit flipped in %q of %s", a.name, c.Key, set)
		}
	}
}
