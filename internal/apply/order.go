package apply

import (
	"maps"
	"slices"
	"strings"
)

// order knows which objects wait for which others, in one round. Keys are whole.
//
// Who comes after something that isn't done waits for it, be it that it failed: it
// is held back then, until a later round. There are as many entries as objects
// that wait, maxWaiting at most, none for all others.
type order struct {
	waits   map[string]int      // who waits → for how many
	waiters map[string][]string // for what → who
}

func newOrder() *order {
	return &order{waits: map[string]int{}, waiters: map[string][]string{}}
}

// wait notes that key waits for others, of which there are some, and none twice. If
// too many wait already, key is left to a later round.
func (o *order) wait(key string, others []string) {
	if len(o.waits) >= maxWaiting {
		return
	}
	for _, other := range others {
		o.waiters[other] = append(o.waiters[other], key)
	}
	o.waits[key] = len(others)
}

// done notes that key is done with, and returns who waits for nothing any more.
func (o *order) done(key string) (ready []string) {
	for _, waiter := range o.waiters[key] {
		if o.waits[waiter]--; o.waits[waiter] == 0 {
			delete(o.waits, waiter)
			ready = append(ready, waiter)
		}
	}
	delete(o.waiters, key)
	return ready
}

// waiting returns how many wait.
func (o *order) waiting() int { return len(o.waits) }

// cycles returns, of those that wait, some that wait for themselves, each as the
// keys along the way, beginning with the least; no key is in two. Sets are checked
// for it when they are committed to; several of them together can't be.
func (o *order) cycles() (all [][]string) {
	const (
		unseen = iota
		open
		closed
	)
	state := map[string]int{}
	type frame struct {
		key  string
		rest []string // of those that wait for it
	}
	for _, start := range sorted(o.waits) {
		if state[start] != unseen {
			continue
		}
		state[start] = open
		path := []frame{{start, o.waiters[start]}}
		for len(path) > 0 {
			top := &path[len(path)-1]
			if len(top.rest) == 0 {
				state[top.key] = closed
				path = path[:len(path)-1]
				continue
			}
			next := top.rest[0]
			top.rest = top.rest[1:]
			switch state[next] {
			case unseen:
				state[next] = open
				path = append(path, frame{next, o.waiters[next]})
			case open:
				i := slices.IndexFunc(path, func(f frame) bool { return f.key == next })
				var cycle []string
				for _, f := range slices.Backward(path[i:]) {
					cycle = append(cycle, f.key)
					state[f.key] = closed
				}
				path = path[:i]
				all = append(all, rotated(cycle))
			}
		}
	}
	return all
}

// rotated returns a cycle from its least key on.
func rotated(cycle []string) []string {
	i := slices.Index(cycle, slices.Min(cycle))
	return slices.Concat(cycle[i:], cycle[:i])
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// maxNamed bounds how many keys of a cycle an error names.
const maxNamed = 8

// cycleText tells of a cycle.
func cycleText(cycle []string) string {
	named := cycle[:min(len(cycle), maxNamed)]
	text := `"` + strings.Join(named, `" after "`) + `"`
	if len(cycle) > len(named) {
		text += " after …"
	}
	return text + ` after "` + cycle[0] + `"`
}
