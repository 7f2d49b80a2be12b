package sim

import (
	"math/rand/v2"
	"slices"
	"time"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/internal/sim/memory"
)

// Plan is what is done to a world: it follows from a seed, and what is left of it
// after some events were taken out still means something.
type Plan struct {
	Seed     uint64
	agents   int
	sizes    sizes
	interval time.Duration
	hold     time.Duration
	delay    time.Duration
	loss     float64
	twice    float64
	events   []event
	rekeyed  bool // descents have other keys than the seed's
}

// sizes are the bounds of a world.
type sizes struct{ adopt, stage, frame, inline, journal int }

func (s sizes) memory() memory.Options {
	return memory.Options{JournalKeys: s.journal, AdoptChanges: s.adopt}
}

func (s sizes) follow() follow.Limits {
	return follow.Limits{AdoptChanges: s.adopt, StageChanges: s.stage}
}

// event is something that an operator, a writer or fate does.
type event struct {
	at   time.Duration
	kind kind
	n    uint64 // of which everything else follows
}

func (e event) random() *rand.Rand { return rand.New(rand.NewPCG(e.n, 7)) }

// hosts are the machines that there can be, each with a set of its own, and
// shared the sets besides.
var (
	hosts  = []desired.Name{"alder", "beech", "cedar"}
	shared = []desired.Name{"base", "extra"}
)

// pick returns one of some values.
func pick[T any](r *rand.Rand, values ...T) T { return values[r.IntN(len(values))] }

// NewPlan returns the plan that follows from a seed.
func NewPlan(seed uint64) *Plan {
	r := rand.New(rand.NewPCG(seed, 1))
	p := &Plan{
		Seed:   seed,
		agents: 1 + r.IntN(len(hosts)),
		sizes: sizes{
			adopt: pick(r, 4, 16, 64), stage: pick(r, 4, 16, 64), frame: pick(r, 128, 512, 4096),
			inline: pick(r, 1, 256, 4096), journal: pick(r, 4, 32, 256),
		},
		interval: pick(r, 5*time.Second, 30*time.Second),
		hold:     pick(r, 0, 0, 20*time.Second, 5*time.Minute),
		delay:    pick(r, time.Millisecond, 50*time.Millisecond, time.Second, 5*time.Second),
		loss:     pick(r, 0, 0, 0.01),
		twice:    pick(r, 0, 0.1),
	}
	kinds := p.kinds(r)
	at := time.Duration(0)
	for range 2 + p.agents { // so that there is something to begin with
		p.events = append(p.events, event{kind: commit, n: r.Uint64()})
	}
	for range 20 + r.IntN(pick(r, 20, 60, 180)) {
		if r.IntN(2) > 0 {
			at += time.Duration(r.Int64N(int64(pick(r, 10*time.Millisecond, time.Second, 10*time.Second, time.Minute))))
		}
		p.events = append(p.events, event{at: at, kind: kinds[r.IntN(len(kinds))], n: r.Uint64()})
	}
	return p
}

// kinds returns what may happen under the plan, as often as it is likely: of the
// faults only some, since where everything goes wrong at once little is left to go
// wrong (Groce and others, "Swarm Testing", 2012).
func (p *Plan) kinds(r *rand.Rand) []kind {
	var kinds []kind
	for k := range deeds {
		d := &deeds[k]
		if d.always || r.IntN(3) == 0 {
			kinds = append(kinds, slices.Repeat([]kind{kind(k)}, d.weight)...)
		}
	}
	return kinds
}

// without returns the plan without its events [i, j).
func (p *Plan) without(i, j int) *Plan {
	less := *p
	less.events = slices.Delete(slices.Clone(p.events), i, j)
	return &less
}
