package apply

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"testing"

	"espalier/internal/desired"
	"espalier/store"
)

// The tables of this test: what a set says of the key, what the record says of the
// set, and what is known of a drift.
const (
	lacks   = iota // the set is known, and doesn't have the key
	has            // it has
	lost           // it isn't known
	left           // it is not on the list
	saysAll        // how many there are
)

type recorded struct {
	none  bool
	stale bool // of another content
	state store.AppliedState
	other bool // made by another route
}

var allRecorded = []recorded{
	{none: true},
	{state: store.AppliedTrue},
	{state: store.AppliedTrue, stale: true},
	{state: store.AppliedTrue, other: true},
	{state: store.AppliedShadowed},
	{state: store.AppliedShadowed, stale: true},
	{state: store.AppliedUnmanaged},
	{state: store.AppliedUnmanaged, stale: true},
	{state: store.AppliedUnmanaged, other: true},
}

// scene is what there is to say of one key.
type scene struct {
	sets   []int // of each what it says
	rows   []recorded
	drift  int // 0: none, 1: found, 2: in doubt
	routed bool
}

func (s scene) String() string {
	texts := []string{"lacks", "has", "lost", "left"}
	text := ""
	for i, says := range s.sets {
		text += fmt.Sprintf("[%s %+v] ", texts[says], s.rows[i])
	}
	return text + fmt.Sprintf("drift %d, routed %v", s.drift, s.routed)
}

// possible reports whether a record can be like that: at most one set's object was
// made true, and a set that was never listed has no row.
func (s scene) possible() bool {
	made := 0
	for i, r := range s.rows {
		if !r.none && r.state == store.AppliedTrue {
			made++
		}
		if s.sets[i] == left && r.none {
			return false
		}
	}
	return made <= 1
}

// specified says what is to be done, in the words of the design and in no other
// way than decide does.
func (s scene) specified() action {
	winner, unknown, made := -1, false, -1
	for i, says := range s.sets { // the later wins
		switch {
		case says == has:
			winner, unknown = i, false
		case says == lost && !s.rows[i].none:
			winner, unknown = i, true
		}
		if !s.rows[i].none && s.rows[i].state == store.AppliedTrue {
			made = i
		}
	}
	onHost := made >= 0 || s.drift > 0 // or may be
	switch {
	case unknown:
		return nothing
	case !s.routed:
		return s.bookkeeping(winner, recorded{state: store.AppliedUnmanaged, other: true})
	case winner < 0 && onHost:
		return remove
	case winner < 0:
		return s.bookkeeping(winner, recorded{})
	case s.drift == 0 && s.rows[winner] == recorded{state: store.AppliedUnmanaged}:
		return s.bookkeeping(winner, recorded{state: store.AppliedUnmanaged})
	case made < 0:
		return create
	case made != winner || s.rows[made].stale || s.rows[made].other:
		return update
	case s.drift > 0:
		return correct
	}
	return s.bookkeeping(winner, recorded{state: store.AppliedTrue})
}

// bookkeeping returns note unless each row is what it is to be, the winner's as
// given.
func (s scene) bookkeeping(winner int, of recorded) action {
	for i, says := range s.sets {
		want := recorded{none: true}
		switch {
		case says == lost && !s.rows[i].none:
			want = recorded{state: store.AppliedShadowed, stale: s.rows[i].stale}
		case i == winner:
			want = of
		case says == has:
			want = recorded{state: store.AppliedShadowed}
		}
		if s.rows[i] != want {
			return note
		}
	}
	if s.drift > 0 {
		return note
	}
	return nothing
}

// TestDecide holds decide against what is specified, for every key of up to three
// sets that there can be, and then that what is recorded leaves nothing to do.
func TestDecide(t *testing.T) {
	var scenes []scene
	for n := 1; n <= 3; n++ {
		for sets := range combinations(n, saysAll) {
			if i := slices.Index(sets, left); i >= 0 && slices.ContainsFunc(sets[i:], func(says int) bool { return says != left }) {
				continue // those that left come last
			}
			scenes = append(scenes, scenesOf(sets)...)
		}
	}
	for _, s := range scenes {
		d := s.stage()
		if got, want := d.decide(&d.object), s.specified(); got != want {
			t.Fatalf("decide(%v) = %v, want %v", s, got, want)
		}
		if what := d.settle(); what != "" {
			t.Fatalf("%v: %s", s, what)
		}
	}
	t.Logf("%d cases", len(scenes))
}

// decided is a scene set up.
type decided struct {
	host
	object
}

func (s scene) stage() *decided {
	d := &decided{object: object{key: []byte("run/a"), drifted: s.drift > 0, drift: store.Drift{Doubt: s.drift == 2}}}
	if s.routed {
		d.routes = routes{{Prefix: "run/", Name: "run"}}
	}
	d.route = d.routes.find(d.key)
	for i, says := range s.sets {
		set, content, want := setView{name: desired.Name(fmt.Sprint(i))}, desired.Digest{byte(1 + i)}, desired.Digest{}
		if says == has {
			want = content
		}
		if says == has || says == lacks {
			set.snap = new(store.Snapshot)
		}
		if says != left {
			d.listed++
		}
		d.sets, d.wanted = append(d.sets, set), append(d.wanted, want)
		row := store.AppliedRow{}
		if r := s.rows[i]; !r.none {
			row = store.AppliedRow{Key: d.key, Digest: content, State: r.state}
			if r.stale {
				row.Digest = desired.Digest{255}
			}
			if r.state != store.AppliedShadowed && !r.other {
				row.Driver = "run"
			} else if r.state == store.AppliedTrue {
				row.Driver = "other"
			}
		}
		d.rows = append(d.rows, row)
	}
	d.rank(&d.object)
	return d
}

// settle records what decide asks for, as if a driver had made it true, and says
// what is wrong with that, if something is.
func (d *decided) settle() string {
	a := d.decide(&d.object)
	if a == nothing {
		return ""
	}
	rows, had := d.settled(&d.object, store.AppliedTrue), d.rows
	if a == note {
		rows = d.settled(&d.object, d.noted)
	}
	for i, name := range d.names(&d.object) {
		switch {
		case name == "" && rows[i].Key != nil:
			return fmt.Sprintf("set %d has a row, and none before", i)
		case name == "":
			rows[i] = had[i]
		case d.unknown(i) && (rows[i].Key == nil || rows[i].Digest != had[i].Digest):
			return fmt.Sprintf("what is recorded of set %d, of which nothing is known, becomes %+v", i, rows[i])
		}
	}
	d.rows, d.object.drifted = rows, false
	d.rank(&d.object)
	made := 0
	for _, row := range rows {
		if row.Key != nil && row.State == store.AppliedTrue {
			made++
		}
	}
	switch again := d.decide(&d.object); {
	case again != nothing:
		return fmt.Sprintf("after %v, decide = %v, want nothing", a, again)
	case made > 1:
		return fmt.Sprintf("after %v, %d objects are true, want at most one", a, made)
	}
	return ""
}

func scenesOf(sets []int) (all []scene) {
	for rows := range combinations(len(sets), len(allRecorded)) {
		s := scene{sets: slices.Clone(sets)}
		for _, i := range rows {
			s.rows = append(s.rows, allRecorded[i])
		}
		if !s.possible() {
			continue
		}
		for s.drift = range 3 {
			for _, s.routed = range []bool{true, false} {
				all = append(all, s)
			}
		}
	}
	return all
}

// combinations returns all lists of n numbers below m.
func combinations(n, m int) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		list := make([]int, n)
		for {
			if !yield(list) {
				return
			}
			i := 0
			for ; i < n; i++ {
				if list[i]++; list[i] < m {
					break
				}
				list[i] = 0
			}
			if i == n {
				return
			}
		}
	}
}

// TestOrderCycles holds what is found of cycles against what is there: none is
// where there is none, and what is found is one.
func TestOrderCycles(t *testing.T) {
	for range 300 {
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		n, o, after := 2+rng.IntN(8), newOrder(), map[string][]string{}
		for i := range n {
			var others []string
			for j := range n {
				if rng.IntN(2*n) == 0 || i == j+1 && rng.IntN(3) == 0 {
					others = append(others, fmt.Sprint(j))
				}
			}
			if len(others) > 0 {
				after[fmt.Sprint(i)] = others
				o.wait(fmt.Sprint(i), others)
			}
		}
		cycles := o.cycles()
		for _, cycle := range cycles {
			for i, key := range cycle {
				if next := cycle[(i+1)%len(cycle)]; !slices.Contains(after[key], next) {
					t.Fatalf("seed %#x: cycles of %v = %q, but %s is not after %s", seed, after, cycles, key, next)
				}
			}
		}
		for i := range n { // those that wait for nothing are done
			if key := fmt.Sprint(i); o.waits[key] == 0 {
				finish(o, key)
			}
		}
		if found := len(cycles) > 0; found != (o.waiting() > 0) {
			t.Fatalf("seed %#x: cycles of %v = %q, and %d can't be done", seed, after, cycles, o.waiting())
		}
	}
}

// finish has a key be done, and all that wait for nothing else.
func finish(o *order, key string) {
	for _, next := range o.done(key) {
		finish(o, next)
	}
}
