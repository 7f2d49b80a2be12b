package sim

import (
	"errors"
	"iter"
	"maps"
	"slices"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/sim/memory"
	"espalier/internal/wire"
	"espalier/store"
)

// oracle knows what is true, in plain maps, and holds what the machines have
// against it.
type oracle struct {
	world  *World
	sets   map[desired.Name]*history
	lists  map[desired.Name]desired.List // by host, as acknowledged
	maybe  map[desired.Name]desired.List // that were being made when the server crashed
	agents map[*agent]*witness
	roots  map[desired.Digest]objects
}

// witness is what the oracle has seen of an agent.
type witness struct {
	checked map[desired.Name]memory.Copy      // as it was when it was last looked at
	last    map[desired.Name]desired.Revision // the latest that each mirror was at
	list    desired.List
	again   map[desired.Name]*again
	image   map[string]any // a copy of its disk
}

// again counts what an agent was sent twice of a set that it had nothing of.
type again struct {
	staged  memory.Copy // the latest that it had staged
	any     bool        // there was some
	full    bool        // a full pull is under way, which has to go on from there
	before  memory.Copy // what was staged when it began
	objects int         // that were staged, and came again
	frame   int         // the most objects of a frame
}

// copied is what the oracle knows of a copy of the server's disk.
type copied struct {
	now   map[desired.Name]*truth
	known map[desired.Name]map[desired.Epoch]bool
	lists map[desired.Name]desired.List
	// flipped are the sets that have a bit flipped in it.
	flipped map[desired.Name]bool
}

func newOracle(w *World) *oracle {
	o := &oracle{
		world: w, sets: map[desired.Name]*history{}, lists: map[desired.Name]desired.List{}, maybe: map[desired.Name]desired.List{},
		agents: map[*agent]*witness{}, roots: map[desired.Digest]objects{},
	}
	for _, name := range w.names {
		o.sets[name] = newHistory(name)
	}
	for _, a := range w.agents {
		o.agents[a] = &witness{
			checked: map[desired.Name]memory.Copy{}, last: map[desired.Name]desired.Revision{}, again: map[desired.Name]*again{},
		}
	}
	return o
}

// copy returns what is true of the server, for replace.
func (o *oracle) copy() *copied {
	c := &copied{now: map[desired.Name]*truth{}, known: map[desired.Name]map[desired.Epoch]bool{}, lists: maps.Clone(o.lists), flipped: map[desired.Name]bool{}}
	for name, h := range o.sets {
		c.now[name], c.known[name], c.flipped[name] = h.now, h.known, h.flipped
	}
	return c
}

func (o *oracle) replace(c *copied) {
	for name, h := range o.sets {
		h.now, h.known, h.flipped, h.maybe = c.now[name], c.known[name], c.flipped[name], nil
	}
	o.lists, o.maybe = maps.Clone(c.lists), map[desired.Name]desired.List{}
}

// list returns a host's list as it was acknowledged.
func (o *oracle) list(host desired.Name) desired.List {
	if l, ok := o.lists[host]; ok {
		return l
	}
	return desired.OwnList(host)
}

// publish notes a head and holds it against what it has to be.
func (o *oracle) publish(h *history, head desired.Head, is objects) {
	w := o.world
	var salt uint64
	err := w.server.sets.View(h.name, func(s *memory.Snapshot) error {
		salt = s.Shape().Salt
		return nil
	})
	if err != nil {
		w.fail("set %s can't be read after it was written: %v", h.name, err)
		return
	}
	t := &truth{head: head, objects: is, keys: sortedKeys(is)}
	if want := is.root(t.keys, salt); head.Root != want || head.Objects != uint64(len(is)) {
		w.fail("invariant 6: revision %v of %s has root %v over %d objects, and not %v over %d", head.Position, h.name, head.Root, head.Objects, want, len(is))
	}
	if was, ok := o.roots[head.Root]; ok && !maps.Equal(was, is) {
		w.fail("invariant 6: root %v stands for two contents", head.Root)
	}
	o.roots[head.Root] = is
	h.publish(t)
}

// reopened holds what a server finds on its disk against what it has
// acknowledged.
func (o *oracle) reopened() {
	for _, name := range o.world.names {
		o.reopenedSet(o.sets[name])
	}
	lists, err := o.world.server.sets.Lists()
	if err != nil {
		o.world.fail("invariant 1: the lists of sets can't be read: %v", err)
		return
	}
	for _, a := range o.world.agents {
		is, ok := lists[a.name]
		if !ok {
			is = desired.OwnList(a.name)
		}
		if maybe, ok := o.maybe[a.name]; ok && is.Sum() == maybe.Sum() {
			o.lists[a.name] = is
		}
		if want := o.list(a.name); is.Sum() != want.Sum() {
			o.world.fail("invariant 1: the list of %s was acknowledged in version %d, and is %d after a crash", a.name, want.Version, is.Version)
		}
	}
	o.maybe = map[desired.Name]desired.List{}
}

func (o *oracle) reopenedSet(h *history) {
	w := o.world
	head, err := w.server.sets.Head(h.name)
	there := err == nil
	maybe := h.maybe
	h.maybe = nil
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		w.fail("invariant 1: set %s can't be opened after a crash: %v", h.name, err)
	case there && h.now != nil && head.Revision == h.now.head.Revision:
		o.compare(h, h.now.objects)
	case !there && h.now == nil:
	case maybe == nil:
		w.fail("invariant 1: %s after a crash is at %v, and %s was acknowledged", h.name, head.Position, h.position())
	case !there:
		if maybe.objects != nil {
			w.fail("invariant 1: set %s is gone after a crash", h.name)
		}
		h.now = nil
	case maybe.objects == nil:
		w.fail("invariant 1: set %s was being deleted, and is at %v", h.name, head.Position)
	default:
		o.compare(h, maybe.objects)
		if follows := h.now != nil && head.Epoch == h.now.head.Epoch; follows && (maybe.epoch || head.Number != h.now.head.Number+1) || !follows && !maybe.epoch {
			w.fail("invariant 1: set %s is at %v after a crash, and %s was acknowledged", h.name, head.Position, h.position())
		}
		o.publish(h, head, maybe.objects)
	}
}

func (h *history) position() string {
	if h.now == nil {
		return "nothing"
	}
	return h.now.head.String()
}

// compare holds what lies on the server's disk against what it has to be.
func (o *oracle) compare(h *history, want objects) {
	if key, same := want.same(o.world.server.sets.Objects(h.name)); !same {
		o.world.fail("invariant 1: set %s has something else under %q after a crash than what was acknowledged", h.name, key)
	}
}

// same reports whether those are the objects, but for flipped bits, or where they
// begin to differ.
func (o objects) same(all iter.Seq2[desired.Change, bool]) (string, bool) {
	n := 0
	for c, flipped := range all {
		n++
		if want, ok := o[string(c.Key)]; !ok || want != string(c.Envelope) && !flipped {
			return string(c.Key), false
		}
	}
	return "(the end)", n == len(o)
}

// check holds what agents have against what was published, if it has changed.
func (o *oracle) check() {
	for _, a := range o.world.agents {
		seen := o.agents[a]
		if a.disk.Crashed() { // what it wrote last may not be there when it is back
			continue
		}
		for _, set := range o.world.names {
			is, there := a.folder.Mirror(set)
			if was, ok := seen.checked[set]; ok != there || was != is {
				o.checkMirror(a, seen, set, is, there)
			}
			seen.watchStaging(a, set, there)
		}
		if l := a.folder.PeekList(); l.Version != seen.list.Version {
			if l.Version < seen.list.Version {
				o.world.fail("invariant 3: the list of %s went back from version %d to %d", a.name, seen.list.Version, l.Version)
			}
			seen.list = l
			clear(seen.again)
		}
	}
}

func (o *oracle) checkMirror(a *agent, seen *witness, set desired.Name, is memory.Copy, there bool) {
	if !there {
		delete(seen.checked, set)
		return
	}
	seen.checked[set] = is
	h, head := o.sets[set], is.Head()
	t := h.published[head.Revision]
	if t == nil {
		o.world.fail("invariant 2: %s has %s at %v with root %v, which was never published", a.name, set, head.Position, head.Root)
		return
	}
	if !is.Damaged() {
		if key, same := t.objects.same(is.Objects()); !same {
			o.world.fail("invariant 2: %s has something else under %q of %s than what was published as %v", a.name, key, set, head.Position)
		}
	}
	if last, ok := seen.last[set]; ok && !h.leads(last, head.Revision) {
		o.world.fail("invariant 3: %s went from %v of %s to %v", a.name, last.Position, set, head.Position)
	}
	if seen.last[set] != head.Revision {
		o.world.say(a.name, "has %s at %v, %d objects", set, head.Position, head.Objects)
	}
	seen.last[set] = head.Revision
}

// watchStaging remembers what an agent has staged of a set that it has nothing of.
func (seen *witness) watchStaging(a *agent, set desired.Name, mirrored bool) {
	staged, ok := a.folder.Staged(set)
	switch {
	case mirrored:
		delete(seen.again, set)
	case ok:
		if seen.again[set] == nil {
			seen.again[set] = &again{}
		}
		seen.again[set].staged, seen.again[set].any = staged, true
	}
}

// mismatched notes that what was received doesn't have its root. It never happens
// but to what was tampered with: everything that is sent is right.
func (o *oracle) mismatched(a *agent, set desired.Name) {
	if !a.damaged {
		o.world.fail("%s was sent changes of %s %w, though nothing was tampered with", a.name, set, errAstray)
	}
}

// rolledBack notes that an agent's disk was replaced by an older copy.
func (o *oracle) rolledBack(a *agent) {
	seen := o.agents[a]
	seen.list = a.folder.PeekList()
	clear(seen.last)
	clear(seen.again)
	for _, set := range o.world.names {
		if m, ok := a.folder.Mirror(set); ok {
			seen.last[set] = m.Head().Revision
		} else if floors := a.folder.Floors(set); len(floors) > 0 {
			seen.last[set] = floors[0]
		}
	}
	o.world.say(a.name, "has an older disk")
}

// broken notes that an agent can't start.
func (o *oracle) broken(a *agent, err error) {
	if errors.Is(err, store.ErrCorrupt) {
		o.world.fail("%s can't start, though of everything one copy is whole: %v", a.name, err)
	}
}

// answered looks at what the server answers a poll.
func (o *oracle) answered(a *agent, p wire.Poll, answer wire.PollAnswer) {
	for _, s := range answer.Sets {
		if s.Status != wire.StatusUnknown && s.Status != wire.StatusUnavailable {
			o.mayHave(a, p.Held[s.Index].Name)
			o.forked(a, p.Held[s.Index])
		}
	}
}

// forked: once a host has said that it holds what is not in a set's history, the
// set is closed.
func (o *oracle) forked(a *agent, held delta.Held) {
	h := o.sets[held.Name]
	if h.now == nil {
		return
	}
	head := h.now.head
	ahead := held.Epoch == head.Epoch.Prefix() && (held.Number > head.Number || held.Number == head.Number && held.Root != head.Root.Prefix())
	if ahead && !o.world.server.sets.Forked(held.Name) {
		o.world.fail("%s holds revision %d of %s, which is none of its history, and the set still takes commits", a.name, held.Number, held.Name)
	}
}

// sent looks at what the server sends in a pull. One that can be a delta is one.
func (o *oracle) sent(a *agent, open *delta.Open, resp delta.Response) {
	if resp.Begin == nil {
		return
	}
	o.mayHave(a, open.Set)
	if open.Mode != delta.Since || resp.Begin.Mode == delta.Since || open.Base.Epoch != resp.Begin.Head.Epoch {
		return
	}
	err := o.world.server.sets.View(open.Set, func(s *memory.Snapshot) error {
		if root, _, ok, err := s.Touched(open.Base.Number, delta.MaxTouched); err == nil && ok && root == open.Base.Root {
			o.world.fail("%s asks for what came after %v of %s, which the server knows, and gets a %v", a.name, open.Base.Position, open.Set, resp.Begin.Mode)
		}
		return nil
	})
	if err != nil {
		o.world.fail("set %s can't be read: %v", open.Set, err)
	}
}

func (o *oracle) mayHave(a *agent, set desired.Name) {
	if l := o.list(a.name); !slices.Contains(l.Sets, set) {
		o.world.fail("invariant 8: %s is told of %s, which is not on its list %v", a.name, set, l.Sets)
	}
}

// received looks at what arrives of a pull: what was durably staged of a full one
// isn't sent again, as long as nothing was tampered with.
func (o *oracle) received(a *agent, set desired.Name, resp delta.Response) {
	g := o.agents[a].again[set]
	if g == nil || a.damaged {
		return
	}
	if b := resp.Begin; b != nil {
		g.full = b.Mode == delta.Full && g.any && g.staged.Salt() == b.Salt
		g.before = g.staged
	}
	if resp.Batch == nil || !g.full {
		return
	}
	frame, err := o.world.codec.DecodeFrame(resp.Batch.Frame)
	if err != nil {
		return
	}
	g.frame = max(g.frame, len(frame))
	for _, c := range frame {
		if string(g.before.Get(c.Key)) == string(c.Envelope) {
			g.objects++
		}
	}
	if g.objects > g.frame {
		o.world.fail("invariant 5: %s was sent %d objects of %s again that it had staged, and a frame has %d", a.name, g.objects, set, g.frame)
	}
}
