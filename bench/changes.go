package bench

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"

	"espalier/internal/desired"
)

// Mix is how many changes of which kind a change set has, and where.
type Mix struct {
	Updates, Inserts, Deletes int
	// Clustered makes the changed keys one run of neighbours in key order;
	// otherwise they are scattered evenly over the set.
	Clustered bool
	// OneIn, unless it is 0, updates one in so many of all objects instead.
	OneIn int
}

// MixOf returns n changes of which a tenth are inserts and a tenth deletions,
// rounded down, and the rest updates.
func MixOf(n int) Mix { return Mix{Updates: n - n/10*2, Inserts: n / 10, Deletes: n / 10} }

// Count returns how many changes there are, of a mix that is counted.
func (m Mix) Count() int { return m.Updates + m.Inserts + m.Deletes }

// String says what the changes are, for people.
func (m Mix) String() string {
	switch m.OneIn {
	case 0:
	case 1:
		return "all objects updated"
	default:
		return fmt.Sprintf("one in %d objects updated", m.OneIn)
	}
	n, where := m.Count(), "scattered"
	if m.Clustered {
		where = "clustered"
	}
	switch {
	case n == 1 && m.Deletes == 1:
		return "1 deletion"
	case n == 1:
		return "1 change"
	}
	return fmt.Sprintf("%s changes, %s", grouped(n), where)
}

// grouped returns n with its thousands apart.
func grouped(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}

type action uint8

const (
	update action = iota
	insert
	remove
)

// entry is a change without its value.
type entry struct {
	service int
	id      uint32
	action  action
}

func (e entry) key() []byte {
	key := make([]byte, keyBytes)
	putKey(key, e.service, e.id)
	return key
}

func compareEntries(a, b entry) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.id, b.id))
}

// ChangeSet is a batch of changes to a workload; its values are computed when
// they are asked for, always the same.
type ChangeSet struct {
	entries    []entry
	seed       uint64
	valueBytes int
}

// Change returns the next change set, of what the set is after those before it.
func (w *Workload) Change(m Mix) (*ChangeSet, error) {
	actions := slices.Concat(
		slices.Repeat([]action{update}, m.Updates),
		slices.Repeat([]action{insert}, m.Inserts),
		slices.Repeat([]action{remove}, m.Deletes))
	w.rng.Shuffle(len(actions), func(i, j int) { actions[i], actions[j] = actions[j], actions[i] })
	plan := w.scatter
	switch {
	case m.OneIn > 0:
		plan = func([]action) ([]entry, error) { return w.oneIn(m.OneIn), nil }
	case m.Clustered:
		plan = w.cluster
	}
	entries, err := plan(actions)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		w.apply(e)
	}
	return &ChangeSet{entries: entries, seed: w.rng.Uint64(), valueBytes: w.size.ValueBytes}, nil
}

// Changes returns the changes, ascending by key. What is yielded is valid until
// the next.
func (c *ChangeSet) Changes() iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		key := make([]byte, keyBytes)
		env := make(desired.Envelope, 1+c.valueBytes)
		values := randomBytes(c.seed, math.MaxUint64) // no service has that number
		for _, e := range c.entries {
			putKey(key, e.service, e.id)
			change := desired.Change{Key: key}
			if e.action != remove {
				_, _ = values.Read(env[1:]) // never fails
				change.Envelope = env
			}
			if !yield(change, nil) {
				return
			}
		}
	}
}

// Len returns how many changes there are.
func (c *ChangeSet) Len() int { return len(c.entries) }

// PayloadBytes returns what the keys and the new values add up to.
func (c *ChangeSet) PayloadBytes() uint64 {
	n := 0
	for _, e := range c.entries {
		n += keyBytes
		if e.action != remove {
			n += c.valueBytes
		}
	}
	return uint64(n)
}

// scatter gives each action an object, or for an insert a new key, evenly over
// the set.
func (w *Workload) scatter(actions []action) ([]entry, error) {
	picks := map[int]int{}
	for range actions {
		picks[w.rng.IntN(w.size.Objects)/serviceObjects]++
	}
	entries := make([]entry, 0, len(actions))
	for service, late := 0, 0; service < w.services() && len(entries) < len(actions); service++ {
		n := picks[service] + late
		if n == 0 {
			continue
		}
		ids := w.ids(service)
		late = max(0, n-len(ids))
		n -= late
		part := actions[len(entries):][:n]
		entries = append(entries, scatterIn(w.rng, service, ids, part)...)
	}
	if len(entries) < len(actions) {
		return nil, errTooFew
	}
	return entries, nil
}

// scatterIn is scatter within a service, which has ids.
func scatterIn(rng *rand.Rand, service int, ids []uint32, actions []action) []entry {
	entries := make([]entry, len(actions))
	fresh := map[uint32]bool{}
	for i, at := range rng.Perm(len(ids))[:len(actions)] {
		id := ids[at]
		if actions[i] == insert {
			for taken := true; taken; {
				id = rng.Uint32()
				_, taken = slices.BinarySearch(ids, id)
				taken = taken || fresh[id]
			}
			fresh[id] = true
		}
		entries[i] = entry{service: service, id: id, action: actions[i]}
	}
	slices.SortFunc(entries, compareEntries)
	return entries
}

// oneIn updates one in n of all objects.
func (w *Workload) oneIn(n int) []entry {
	var entries []entry
	for service := range w.services() {
		for _, id := range w.ids(service) {
			if w.rng.IntN(n) == 0 {
				entries = append(entries, entry{service: service, id: id})
			}
		}
	}
	return entries
}

// cluster gives the actions one run of neighbours, from a random object on.
func (w *Workload) cluster(actions []action) ([]entry, error) {
	for first := w.rng.IntN(w.size.Objects - len(actions) + 1); ; {
		entries := w.clusterFrom(first, actions)
		missing := len(actions) - len(entries)
		switch {
		case missing == 0:
			return entries, nil
		case first == 0:
			return nil, errTooFew
		}
		first = max(0, first-missing) // the set has shrunk at its end
	}
}

func (w *Workload) clusterFrom(first int, actions []action) []entry {
	entries := make([]entry, 0, len(actions))
	at := first % serviceObjects
	for service := first / serviceObjects; service < w.services(); service++ {
		ids := w.ids(service)
		var last int64 = -1
		if at = min(at, len(ids)); at > 0 {
			last = int64(ids[at-1])
		}
		for at < len(ids) && len(entries) < len(actions) {
			e := entry{service: service, id: ids[at], action: actions[len(entries)]}
			room := int64(ids[at]) - last - 1
			switch {
			case e.action == insert && room > 0:
				e.id = uint32(last + 1 + w.rng.Int64N(room))
			case e.action == insert:
				e.action = update // between two neighbours nothing fits
				at++
			default:
				at++
			}
			entries = append(entries, e)
			last = int64(e.id)
		}
		at = 0
	}
	return entries
}
