package sim

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/sim/memory"
	"espalier/store"
)

// What operators and writers do. Each ends at once: with an answer, with an
// error, or with a crash, after which the oracle can't know yet.

// draft is a commit to be.
type draft struct {
	set     desired.Name
	changes changes
	request store.Request
}

// commit makes a commit; it returns whether it was acknowledged.
func (w *World) commit(d draft) bool {
	if !w.server.up {
		return false
	}
	h := w.oracle.sets[d.set]
	next := h.content().with(d.changes)
	replay := d.request.ID != "" && d.request.ID == w.lastRequest
	result, err := w.server.sets.Commit(context.Background(), d.set, store.Commit{Changes: d.changes.stream(), Request: d.request})
	if replay {
		if err == nil && !result.Replayed {
			w.fail("a commit to %s that was sent again was made twice", d.set)
		}
		return err == nil
	}
	if err != nil {
		w.say("writer", "can't commit to %s: %v", d.set, err)
		w.endedWith(h, err, &attempt{objects: next, epoch: h.now == nil})
		return false
	}
	w.say("writer", "commits %d changes to %s: %v", len(d.changes), d.set, result.Head.Position)
	w.lastRequest = d.request.ID
	w.committed(h, result, next)
	return true
}

// committed holds the answer to a commit against what it has to be.
func (w *World) committed(h *history, result store.Result, next objects) {
	was := h.now
	if was != nil && maps.Equal(was.objects, next) {
		if result.Head.Revision != was.head.Revision {
			w.fail("a commit to %s that changes nothing led from %v to %v", h.name, was.head.Position, result.Head.Position)
		}
		return
	}
	if was != nil && (result.Head.Epoch != was.head.Epoch || result.Head.Number != was.head.Number+1) {
		w.fail("a commit to %s led from %v to %v", h.name, was.head.Position, result.Head.Position)
	}
	w.oracle.publish(h, result.Head, next)
}

// endedWith takes an error of a change for what it is.
func (w *World) endedWith(h *history, err error, a *attempt) {
	switch {
	case errors.Is(err, memory.ErrCrashed):
		h.maybe = a
	case errors.Is(err, memory.ErrBroken), errors.Is(err, store.ErrDiskFull):
	case errors.Is(err, store.ErrForked) && w.server.sets.Forked(h.name):
	case errors.Is(err, store.ErrQuarantined) && h.flipped:
	case errors.Is(err, store.ErrNotFound) && h.now == nil:
	default:
		w.fail("a change of %s ends with what it can't end with: %v", h.name, err)
	}
}

// renew begins an epoch of what a set holds.
func (w *World) renew(set desired.Name) {
	h := w.oracle.sets[set]
	if !w.server.up || h.now == nil {
		return
	}
	head, err := w.server.sets.Renew(context.Background(), set, "", "")
	w.say("operator", "begins an epoch of %s: %v, %v", set, head.Position, err)
	if err != nil {
		w.endedWith(h, err, &attempt{objects: h.now.objects, epoch: true})
		return
	}
	w.begun(h, head, h.now.objects)
}

// begun holds the head of a new epoch against what it has to be.
func (w *World) begun(h *history, head desired.Head, is objects) {
	if h.known[head.Epoch] || h.now != nil && head.Number <= h.now.head.Number {
		w.fail("an epoch of %s that was to begin after %s begins at %v", h.name, h.position(), head.Position)
	}
	w.oracle.publish(h, head, is)
}

// restore makes a set hold those objects again, in an epoch that follows those
// besides.
func (w *World) restore(set desired.Name, is objects, known []desired.Position) {
	if !w.server.up {
		return
	}
	h := w.oracle.sets[set]
	restored, err := w.server.sets.Restore(context.Background(), set, store.Restore{
		Objects: changes(is).stream(), From: store.Origin{Known: known},
	})
	w.say("operator", "restores %d objects of %s: %v, %v", len(is), set, restored.Head.Position, err)
	for _, p := range known {
		if !h.known[p.Epoch] {
			h.known = maps.Clone(h.known)
			h.known[p.Epoch] = true
		}
	}
	if err != nil {
		w.endedWith(h, err, &attempt{objects: is.with(nil), epoch: true})
		return
	}
	h.flipped = false
	w.begun(h, restored.Head, is.with(nil))
}

// remove deletes a set.
func (w *World) remove(set desired.Name) {
	h := w.oracle.sets[set]
	if !w.server.up || h.now == nil {
		return
	}
	_, err := w.server.sets.DeleteAt(context.Background(), set, nil)
	w.say("operator", "deletes %s: %v", set, err)
	if err != nil {
		w.endedWith(h, err, &attempt{})
		return
	}
	h.now, h.flipped = nil, false
}

// relist makes a list the host's.
func (w *World) relist(a *agent, sets []desired.Name) {
	if !w.server.up {
		return
	}
	_, next, err := w.server.fleet.Next(a.name, sets)
	if err == nil && next.Orders != w.oracle.list(a.name).Orders {
		err = errors.New("it takes back what was ordered")
	}
	if err != nil {
		w.fail("the next list of %s: %v", a.name, err)
		return
	}
	w.putList(a, next)
}

// order tells a host to pause or to go on.
func (w *World) order(a *agent, what fleet.OrderKind) {
	if !w.server.up {
		return
	}
	_, next, _, err := w.server.fleet.Order(a.name, fleet.Order{Kind: what})
	if err == nil && (!slices.Equal(next.Sets, w.oracle.list(a.name).Sets) || next.Paused != (what == fleet.Pause)) {
		err = fmt.Errorf("it leads to %+v", next)
	}
	if err != nil {
		w.fail("an order to %s to %v: %v", a.name, what, err)
		return
	}
	w.putList(a, next)
}

// putList makes a list the host's that the fleet has worked out.
func (w *World) putList(a *agent, next desired.List) {
	err := w.server.sets.PutList(a.name, next)
	w.say("operator", "makes version %d of the list of %s: %v, paused %v, %v", next.Version, a.name, next.Sets, next.Paused, err)
	switch {
	case errors.Is(err, memory.ErrCrashed):
		w.oracle.maybe[a.name] = next
	case err == nil:
		w.server.fleet.SetList(a.name, next)
		w.server.lead.Relisted(a.name)
		w.oracle.lists[a.name] = next
	case !errors.Is(err, memory.ErrBroken):
		w.fail("the list of %s: %v", a.name, err)
	}
}

// mirrored returns the sets that are on an agent's disk.
func (a *agent) mirrored() (names []desired.Name) {
	for _, set := range a.world.names {
		if _, ok := a.folder.Mirror(set); ok {
			names = append(names, set)
		}
	}
	return names
}

// union returns the names of both lists, each once.
func union(a, b []desired.Name) []desired.Name {
	all := slices.Clone(a)
	for _, name := range b {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}
