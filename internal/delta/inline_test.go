package delta_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

func heldBy(head desired.Head) delta.Held {
	return delta.Held{Name: "s", Epoch: head.Epoch.Prefix(), Number: head.Number, Root: head.Root.Prefix()}
}

// inline returns the changes that answer a poll.
func inline(t *testing.T, source delta.Source, held delta.Held) (changes []desired.Change, size int, ok bool) {
	t.Helper()
	frame, ok, err := delta.Inline(codec, source, held)
	if err != nil || !ok != (frame == nil) {
		t.Fatalf("Inline = %d bytes, %v, %v", len(frame), ok, err)
	}
	if !ok {
		return nil, 0, false
	}
	if changes, err = codec.DecodeFrame(frame); err != nil {
		t.Fatal(err)
	}
	return changes, len(frame), true
}

// TestInlineIsAPull holds inline deltas against what the same set gives by a
// pull.
func TestInlineIsAPull(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		source := numbered(1000, 2)
		copy := source.clone()
		copy.journal = map[uint64][]string{}
		for range 1 + r.IntN(5) {
			source.commit(scatter(r, source, 1+r.IntN(60)))
		}
		changes, _, ok := inline(t, source, heldBy(copy.head))
		if !ok {
			t.Fatalf("seed %d: no delta", seed)
		}
		f := newFollower(t, copy)
		if stats := pull(t, f, &link{source: source}); stats.Mode != delta.Since || f.received != len(changes) {
			t.Errorf("seed %d: a pull by %v gives %d changes, the poll %d", seed, stats.Mode, f.received, len(changes))
		}
		polled := map[string]desired.Envelope{}
		for _, c := range changes {
			polled[string(c.Key)] = c.Envelope
		}
		copy = copy.clone()
		copy.commit(polled)
		if copy.head.Root != source.head.Root || f.copy.head.Root != source.head.Root {
			t.Errorf("seed %d: roots %v by poll and %v by pull, want %v", seed, copy.head.Root, f.copy.head.Root, source.head.Root)
		}
	}
}

// TestInlineOrPull goes over each reason not to answer a poll with a delta.
func TestInlineOrPull(t *testing.T) {
	base := numbered(1000, 2)
	random := rand.New(rand.NewPCG(1, 1))
	of := func(n, size int, fill func() byte) map[string]desired.Envelope {
		changes := map[string]desired.Envelope{}
		for i := range n {
			e := make(desired.Envelope, 1+size)
			for j := range e[1:] {
				e[1+j] = fill()
			}
			changes[fmt.Sprintf("new/%04d", i)] = e
		}
		return changes
	}
	noise, same := func() byte { return byte(random.Uint32()) }, func() byte { return 'a' }
	long, heads := map[string]desired.Envelope{}, map[string]desired.Envelope{}
	for i := range delta.MaxFrameKeyBytes/1000 + 1 { // keys that share all but their end
		long[fmt.Sprintf("%s%06d", strings.Repeat("k", 994), i)] = desired.Envelope{0}
	}
	attributes := map[string]string{}
	for i := range desired.MaxAttributes {
		attributes[fmt.Sprint(i)] = strings.Repeat("a", desired.MaxAttributeBytes)
	}
	for i := range 100 {
		heads[fmt.Sprint(i)] = mustEncode(t, desired.Object{Attributes: attributes})
	}
	none := func(h *delta.Held) {}
	tests := map[string]struct {
		changes map[string]desired.Envelope
		held    func(h *delta.Held)
		want    bool
	}{
		"one":                      {of(1, 10, same), none, true},
		"just small enough":        {of(1, delta.InlineBytes-100, noise), none, true},
		"too large":                {of(1, delta.InlineBytes, noise), none, false},
		"large, but it compresses": {of(100, 2000, same), none, true},
		"too large to try":         {of(100, 3000, same), none, false},
		"many":                     {of(delta.InlineBytes/8, 1, same), none, true},
		"too many":                 {of(delta.InlineBytes/8+1, 1, same), none, false},
		"keys too large whole":     {long, none, false},
		"heads too large":          {heads, none, false},
		"nothing held":             {of(1, 10, same), func(h *delta.Held) { h.Number = 0 }, false},
		"another epoch":            {of(1, 10, same), func(h *delta.Held) { h.Epoch++ }, false},
		"another root":             {of(1, 10, same), func(h *delta.Held) { h.Root++ }, false},
		"out of the journal":       {of(1, 10, same), func(h *delta.Held) { h.Number-- }, false},
		"the head already":         {of(1, 10, same), func(h *delta.Held) { h.Number++ }, false},
		"ahead":                    {of(1, 10, same), func(h *delta.Held) { h.Number += 2 }, false},
	}
	for name, tt := range tests {
		source := base.clone()
		held := heldBy(source.head)
		source.commit(tt.changes)
		tt.held(&held)
		changes, size, ok := inline(t, source, held)
		if ok != tt.want || ok && len(changes) != len(tt.changes) || size > delta.InlineBytes {
			t.Errorf("%s: %d changes in %d bytes, %v, want %v", name, len(changes), size, ok, tt.want)
		}
	}
}

func TestHeldCurrent(t *testing.T) {
	head := numbered(10, 1).head
	if !heldBy(head).Current(head) {
		t.Error("a head is not current")
	}
	for _, change := range []func(*delta.Held){
		func(h *delta.Held) { h.Number++ }, func(h *delta.Held) { h.Epoch++ }, func(h *delta.Held) { h.Root++ },
	} {
		held := heldBy(head)
		if change(&held); held.Current(head) {
			t.Errorf("%+v is current at %v", held, head)
		}
	}
}
