package delta_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"espalier/internal/desired"
)

// large returns a set of n objects with keys and values of the size that the
// design speaks of.
func large(n int) *memory {
	random := rand.New(rand.NewPCG(1, 1))
	changes := map[string]desired.Envelope{}
	for i := range n {
		changes[fmt.Sprintf("svc/%04d/obj/%08x", i/1000, random.Uint32())] = randomEnvelope(random)
	}
	m := newMemory(1)
	m.commit(changes)
	return m
}

func randomEnvelope(r *rand.Rand) desired.Envelope {
	e := make(desired.Envelope, 1+100)
	for i := range e[1:] {
		e[1+i] = byte(r.Uint32N(256))
	}
	return e
}

// TestDescentCost holds the bytes that it takes to find changes without a
// history to a budget; what the changes themselves take comes on top.
func TestDescentCost(t *testing.T) {
	set, random := large(100_000), rand.New(rand.NewPCG(2, 2))
	changed := func(pick func(i int) int, n int) map[string]desired.Envelope {
		changes := map[string]desired.Envelope{}
		for i := 0; len(changes) < n; i++ {
			changes[set.keys[pick(i)]] = randomEnvelope(random)
		}
		return changes
	}
	anywhere := func(int) int { return random.IntN(len(set.keys)) }
	tests := []struct {
		name    string
		changes map[string]desired.Envelope
		budget  int // beside frames
	}{
		{"nothing", nil, 50},
		{"1", changed(anywhere, 1), 1600},
		{"100 scattered", changed(anywhere, 100), 38_000},
		{"100 clustered", changed(func(i int) int { return 70_000 + i }, 100), 1600},
	}
	for _, tt := range tests {
		f, l := newFollower(t, set), &link{source: amnesiac(set, tt.changes)}
		f.seed = seedOne
		stats := pull(t, f, l)
		payload := 0
		for k, e := range tt.changes {
			payload += desired.Change{Key: []byte(k), Envelope: e}.PayloadBytes()
		}
		t.Logf("%s: %d bytes in %d round trips: narrow %d, leaves %d, digests %d, parts %d, frames %d for a payload of %d",
			tt.name, l.bytes(), stats.RoundTrips, l.narrow, l.leaves, l.digests, l.parts, l.frames, payload)
		if cost := l.bytes() - l.frames; cost > tt.budget || stats.RoundTrips > 7 || float64(l.frames) > 0.95*float64(payload)+64 {
			t.Errorf("%s: %d bytes and frames of %d in %d round trips, want at most %d, %.0f and 7",
				tt.name, cost, l.frames, stats.RoundTrips, tt.budget, 0.95*float64(payload)+64)
		}
	}
}
