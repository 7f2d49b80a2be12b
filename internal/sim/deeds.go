package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/store"
)

// kind is what an event does.
type kind int

// The kinds of events.
const (
	commit kind = iota
	relist
	crashAgent
	crashServer
	keepSeen
	cut
	reset
	slow
	lossy
	sluggish
	corrupt
	failAgent
	failServer
	fillAgent
	flipAgent
	flipServer
	rotFloor
	rotList
	loseMirror
	imageServer
	rollBackServer
	imageAgent
	rollBackAgent
	renew
	remove
	restore
	jumpClock
)

// deeds says what each kind is, how likely it is, and whether every plan has it.
var deeds = [...]struct {
	name   string
	weight int
	always bool
	do     func(w *World, r *rand.Rand)
}{
	commit:         {"a commit", 12, true, (*World).doCommit},
	relist:         {"a new list of sets, or an order", 2, false, (*World).doRelist},
	crashAgent:     {"an agent crashes", 3, false, (*World).doCrashAgent},
	crashServer:    {"the server crashes", 3, false, (*World).doCrashServer},
	keepSeen:       {"the server writes down how the hosts fared", 1, false, (*World).doKeepSeen},
	cut:            {"the network is cut", 2, false, (*World).doCut},
	reset:          {"a connection is reset", 4, false, (*World).doReset},
	slow:           {"the network is slow", 2, false, (*World).doSlow},
	lossy:          {"the network loses messages", 1, false, (*World).doLossy},
	sluggish:       {"an agent reads slowly", 1, false, (*World).doSluggish},
	corrupt:        {"messages are damaged", 3, false, (*World).doCorrupt},
	failAgent:      {"an agent's disk fails writes", 2, false, (*World).doFailAgent},
	failServer:     {"the server's disk fails writes", 1, false, (*World).doFailServer},
	fillAgent:      {"an agent's disk is full", 1, false, (*World).doFillAgent},
	flipAgent:      {"a bit flips on an agent's disk", 2, false, (*World).doFlipAgent},
	flipServer:     {"a bit flips on the server's disk", 1, false, (*World).doFlipServer},
	rotFloor:       {"a copy of a floor goes bad", 2, false, (*World).doRotFloor},
	rotList:        {"a copy of a list goes bad", 1, false, (*World).doRotList},
	loseMirror:     {"an agent loses a mirror", 2, false, (*World).doLoseMirror},
	imageServer:    {"the server's disk is copied", 1, true, (*World).doImageServer},
	rollBackServer: {"the server's disk is replaced by an older copy", 1, false, (*World).doRollBackServer},
	imageAgent:     {"an agent's disk is copied", 1, true, (*World).doImageAgent},
	rollBackAgent:  {"an agent's disk is replaced by an older copy", 1, false, (*World).doRollBackAgent},
	renew:          {"an epoch is begun", 1, false, (*World).doRenew},
	remove:         {"a set is deleted", 1, false, (*World).doRemove},
	restore:        {"a set is restored", 1, false, (*World).doRestore},
	jumpClock:      {"the server's clock is set", 1, false, (*World).doJumpClock},
}

func (w *World) anAgent(r *rand.Rand) *agent { return w.agents[r.IntN(len(w.agents))] }

// aSet returns a set that somebody may mirror.
func (w *World) aSet(r *rand.Rand) desired.Name { return w.names[r.IntN(len(w.names))] }

// aWhile returns how long something lasts: mostly not long.
func aWhile(r *rand.Rand) time.Duration {
	return time.Duration(r.Int64N(int64(pick(r, 100*time.Millisecond, 2*time.Second, 30*time.Second, 3*time.Minute))))
}

func (w *World) doRelist(r *rand.Rand) {
	a := w.anAgent(r)
	all := append([]desired.Name{a.name}, shared...)
	r.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	sets := all[:1+r.IntN(len(all))]
	if r.IntN(3) > 0 {
		w.relist(a, sets)
	} else {
		w.order(a, fleet.Pause+fleet.OrderKind(r.IntN(2)))
	}
}

func (w *World) doCrashAgent(r *rand.Rand) {
	a := w.anAgent(r)
	if r.IntN(2) == 0 { // in the middle of something
		a.disk.CrashAfter(1 + r.IntN(30))
		return
	}
	a.crash()
	w.after(aWhile(r), a.start)
}

func (w *World) doCrashServer(r *rand.Rand) {
	if r.IntN(2) == 0 {
		w.server.disk.CrashAfter(1 + r.IntN(6))
		return
	}
	w.server.crash()
	w.after(aWhile(r), w.restartServer)
}

func (w *World) doKeepSeen(*rand.Rand) {
	if w.server.up {
		w.server.keepSeen()
	}
}

func (w *World) doCut(r *rand.Rand) {
	l := w.anAgent(r).link
	both := r.IntN(2) == 0
	l.up, l.down = both, true
	if r.IntN(4) == 0 {
		l.up, l.down = true, both
	}
	w.after(aWhile(r), func() { l.up, l.down = false, false })
}

func (w *World) doReset(r *rand.Rand) { w.anAgent(r).link.reset() }

func (w *World) doSlow(r *rand.Rand) {
	l := w.anAgent(r).link
	l.slow = aWhile(r)
	w.after(aWhile(r), func() { l.slow = 0 })
}

func (w *World) doLossy(r *rand.Rand) {
	l := w.anAgent(r).link
	l.loss = 0.3
	w.after(aWhile(r), func() { l.loss = w.plan.loss })
}

func (w *World) doSluggish(r *rand.Rand) {
	l := w.anAgent(r).link
	l.sluggish = aWhile(r)
	w.after(aWhile(r), func() { l.sluggish = 0 })
}

func (w *World) doCorrupt(r *rand.Rand) { w.anAgent(r).link.corrupt += 1 + r.IntN(4) }

func (w *World) doFailAgent(r *rand.Rand) { w.anAgent(r).disk.Fail(1 + r.IntN(3)) }

func (w *World) doFailServer(r *rand.Rand) { w.server.disk.Fail(1 + r.IntN(2)) }

func (w *World) doFillAgent(r *rand.Rand) {
	a := w.anAgent(r)
	a.disk.Fill(true)
	w.after(aWhile(r), func() { a.disk.Fill(false) })
}

func (w *World) doFlipAgent(r *rand.Rand) {
	a := w.anAgent(r)
	a.damaged = a.folder.Flip(w.aSet(r), r.Uint64()) || a.damaged
}

func (w *World) doFlipServer(r *rand.Rand) {
	if set := w.aSet(r); w.server.up && w.server.sets.Flip(set, r.Uint64()) {
		w.oracle.sets[set].flipped = true
	}
}

// offline does something to an agent's disk while the agent is down.
func (w *World) offline(a *agent, do func()) {
	a.crash()
	a.disk.Restart()
	do()
	a.start()
}

func (w *World) doRotFloor(r *rand.Rand) {
	a := w.anAgent(r)
	w.offline(a, func() { a.folder.RotFloor(w.aSet(r), r.Uint64()) })
}

func (w *World) doRotList(r *rand.Rand) {
	a := w.anAgent(r)
	w.offline(a, func() { a.folder.RotList(r.Uint64()) })
}

func (w *World) doLoseMirror(r *rand.Rand) {
	a := w.anAgent(r)
	w.offline(a, func() { a.folder.LoseMirror(w.aSet(r)) })
}

func (w *World) doImageAgent(r *rand.Rand) {
	a := w.anAgent(r)
	if !a.disk.Crashed() {
		w.oracle.agents[a].image = a.disk.Image()
	}
}

func (w *World) doRollBackAgent(r *rand.Rand) {
	a := w.anAgent(r)
	if image := w.oracle.agents[a].image; image != nil {
		w.offline(a, func() { a.disk.Put(image); w.oracle.rolledBack(a) })
	}
}

func (w *World) doImageServer(*rand.Rand) {
	if w.server.up {
		w.image = &image{disk: w.server.disk.Image(), truth: w.oracle.copy()}
	}
}

func (w *World) doRollBackServer(*rand.Rand) {
	if w.image == nil || !w.server.up {
		return
	}
	w.server.crash()
	w.server.disk.Restart()
	w.server.disk.Put(w.image.disk)
	w.oracle.replace(w.image.truth)
	for _, a := range w.agents { // what it has staged may be of a history that is no more
		a.damaged = true
	}
	w.server.start()
}

// doJumpClock sets the server's clock. An agent's only drifts: what it measures is
// monotonic.
func (w *World) doJumpClock(r *rand.Rand) {
	w.server.skew = time.Duration(r.Int64N(int64(48*time.Hour))) - 24*time.Hour
}

func (w *World) doCommit(r *rand.Rand) {
	set := w.aSet(r)
	c := draft{set: set, changes: w.oracle.sets[set].draw(r)}
	if r.IntN(3) == 0 {
		c.request = store.Request{ID: fmt.Sprintf("request %d", r.Uint64()), Digest: desired.Digest{1}}
	}
	if w.commit(c) && c.request.ID != "" && r.IntN(2) == 0 {
		w.commit(c) // the answer got lost
	}
}

func (w *World) doRenew(r *rand.Rand) { w.renew(w.aSet(r)) }

func (w *World) doRemove(r *rand.Rand) { w.remove(w.aSet(r)) }

func (w *World) doRestore(r *rand.Rand) {
	set := w.aSet(r)
	h := w.oracle.sets[set]
	if len(h.past) > 0 {
		w.restore(set, h.past[r.IntN(len(h.past))].objects, nil)
	}
}
