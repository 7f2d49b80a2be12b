package sim

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"espalier/internal/desired"
	"espalier/merkle"
)

// objects is the content of a set, in plain words: envelopes by key. It is never
// changed.
type objects map[string]string

// truth is a revision as it was published.
type truth struct {
	head    desired.Head
	objects objects
	keys    []string // ascending
}

// history is what the oracle knows of a set.
type history struct {
	name  desired.Name
	now   *truth   // what was acknowledged last; nil: there is no set
	maybe *attempt // what was under way when the server crashed
	past  []*truth // all that were published
	// published finds those by revision: after the server was rolled back there
	// can be several of one position.
	published map[desired.Revision]*truth
	// known are the epochs that the server knows of; follows says which an epoch
	// follows.
	known   map[desired.Epoch]bool
	follows map[desired.Epoch]map[desired.Epoch]bool
	flipped bool // a bit of what the server has
}

// attempt is a change whose outcome isn't known.
type attempt struct {
	objects objects // that the set has if it was made; nil: there is no set
	epoch   bool    // it begins one
}

func newHistory(name desired.Name) *history {
	return &history{
		name: name, published: map[desired.Revision]*truth{},
		known: map[desired.Epoch]bool{}, follows: map[desired.Epoch]map[desired.Epoch]bool{},
	}
}

func (h *history) content() objects {
	if h.now == nil {
		return nil
	}
	return h.now.objects
}

// changes are envelopes by key; an empty one deletes.
type changes map[string]string

func (o objects) with(c changes) objects {
	next := maps.Clone(o)
	if next == nil {
		next = objects{}
	}
	for k, e := range c {
		if e == "" {
			delete(next, k)
		} else {
			next[k] = e
		}
	}
	return next
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// draw returns changes to what the set has: a few, a burst, or next to all of it.
func (h *history) draw(r *rand.Rand) changes {
	c := changes{}
	var have []string
	if h.now != nil {
		have = h.now.keys
	}
	n := 1 + r.IntN(pick(r, 2, 4, 20, 60, 200))
	value := func() string { return "\x00" + fmt.Sprintf("%x", r.Uint64()>>r.IntN(60)) }
	switch mode := r.IntN(8); {
	case mode == 0 && len(have) > 0: // some of it goes, or all
		from := r.IntN(len(have))
		if r.IntN(3) == 0 {
			from = 0
		}
		for _, k := range have[from:min(len(have), from+4*n)] {
			c[k] = ""
		}
	case mode == 1: // neighbours
		at := r.IntN(keys)
		for i := range n {
			c[key(at+i)] = value()
		}
	default:
		for range n {
			c[key(r.IntN(keys))] = value()
			if len(have) > 0 && r.IntN(3) == 0 {
				c[have[r.IntN(len(have))]] = pick(r, "", value())
			}
		}
	}
	return c
}

// keys is how many there are, about.
const keys = 300

func key(i int) string { return fmt.Sprintf("k/%02d/%d", i/20, i%20) }

// stream returns changes as a store reads them.
func (c changes) stream() func(func(desired.Change, error) bool) {
	return func(yield func(desired.Change, error) bool) {
		for _, k := range sortedKeys(c) {
			change := desired.Change{Key: []byte(k)}
			if c[k] != "" {
				change.Envelope = desired.Envelope(c[k])
			}
			if !yield(change, nil) {
				return
			}
		}
	}
}

// root returns the root that those of the keys have, by building the tree anew.
func (o objects) root(keys []string, salt uint64) desired.Digest {
	b := merkle.Shape{Salt: salt}.NewBuilder(func(int, merkle.Row) error { return nil })
	var h desired.Hasher
	for _, k := range keys {
		if err := b.Add([]byte(k), h.Sum([]byte(k), desired.Envelope(o[k]))); err != nil {
			panic(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return root.Digest
}

// publish notes what the server has now.
func (h *history) publish(t *truth) {
	head := t.head
	if !h.known[head.Epoch] {
		h.follows[head.Epoch] = maps.Clone(h.known)
		h.known = maps.Clone(h.known)
		h.known[head.Epoch] = true
	}
	h.now, h.maybe = t, nil
	h.published[head.Revision] = t
	h.past = append(h.past, t)
}

// leads reports whether a host may go from one revision to another.
func (h *history) leads(from, to desired.Revision) bool {
	if from.Epoch == to.Epoch {
		return from == to || to.Number > from.Number
	}
	return h.follows[to.Epoch][from.Epoch]
}
