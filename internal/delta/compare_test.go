package delta_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// compare runs a comparison of ours with theirs.
func compare(t *testing.T, ours *memory, l *link, from, until []byte) (map[string]delta.DifferenceKind, delta.Stats, error) {
	t.Helper()
	f := newFollower(t, ours)
	have := f.have()
	have.From, have.Until = from, until
	stats, err := l.run(f, delta.NewComparer(codec, have, f.seed))
	if f.received > 0 || stats.Upserts+stats.Deletes > 0 {
		t.Errorf("a comparison received changes: %+v", stats)
	}
	return f.differences, stats, err
}

// differences is the oracle: two maps, held against each other.
func differences(ours, theirs map[string]desired.Envelope, prefix string) map[string]delta.DifferenceKind {
	all := map[string]delta.DifferenceKind{}
	for k, e := range theirs {
		if o, ok := ours[k]; !ok {
			all[k] = delta.OnlyTheirs
		} else if string(o) != string(e) {
			all[k] = delta.Differs
		}
	}
	for k := range ours {
		if _, ok := theirs[k]; !ok {
			all[k] = delta.OnlyOurs
		}
	}
	maps.DeleteFunc(all, func(k string, _ delta.DifferenceKind) bool { return !strings.HasPrefix(k, prefix) })
	return all
}

// sprinkle returns n changes to m by r: in one place, or all over; updates,
// deletions and new keys.
func sprinkle(r *rand.Rand, m *memory, n int) map[string]desired.Envelope {
	changes, clustered := map[string]desired.Envelope{}, r.IntN(2) == 0
	at := r.IntN(len(m.keys) + 1)
	for i := range n {
		key := fmt.Sprintf("svc/%03d/new/%06d", r.IntN(60), r.IntN(1<<20))
		if len(m.keys) > 0 && r.IntN(4) > 0 {
			key = m.keys[r.IntN(len(m.keys))]
			if clustered {
				key = m.keys[(at+i)%len(m.keys)]
			}
		}
		changes[key] = envelope("changed %d", r.Uint64())
		if r.IntN(3) == 0 && m.objects[key] != nil {
			changes[key] = nil
		}
	}
	return changes
}

// TestCompare holds comparisons against the oracle: of trees of all heights, of
// whole sets and of the keys under a prefix.
func TestCompare(t *testing.T) {
	sizes := []struct{ n, height int }{{0, 1}, {1, 1}, {1, 2}, {20, 1}, {300, 2}, {300, 3}, {300, 4}, {1500, 3}, {1500, 4}}
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 2))
		size := sizes[r.IntN(len(sizes))]
		t.Run(fmt.Sprintf("%d/%d of height %d", seed, size.n, size.height), func(t *testing.T) {
			theirs := numbered(size.n, size.height)
			ours := theirs.clone()
			switch r.IntN(4) {
			case 0: // nothing differs
			case 1:
				ours = newMemory(theirs.salt)
			case 2: // nothing is the same
				ours = newMemory(theirs.salt)
				ours.commit(scatter(r, ours, r.IntN(3000)))
			default:
				ours.commit(sprinkle(r, ours, 1+r.IntN(30)))
			}
			if r.IntN(2) == 0 {
				ours, theirs = theirs, ours
			}
			prefix, from, until := "", []byte(nil), []byte(nil)
			if r.IntN(2) == 0 {
				prefix = []string{"s", "svc/00", "svc/003/", "svc/014/obj/0014", "svc/003/obj/000321", "a", "t"}[r.IntN(7)]
				from, until = []byte(prefix), desired.PrefixEnd([]byte(prefix))
				ours = ours.clone()
				maps.DeleteFunc(ours.objects, func(k string, _ desired.Envelope) bool { return !strings.HasPrefix(k, prefix) })
				ours.rebuild()
			}
			got, stats, err := compare(t, ours, &link{source: theirs}, from, until)
			if err != nil {
				t.Fatal(err)
			}
			if want := differences(ours.objects, theirs.objects, prefix); !maps.Equal(got, want) {
				t.Errorf("under %q: %d differences, want %d", prefix, len(got), len(want))
			}
			if stats.Head.Revision != theirs.head.Revision || stats.Mode != delta.Compare {
				t.Errorf("stats %+v, want head %v and mode compare", stats, theirs.head)
			}
		})
	}
}

// TestCompareMoved moves the set during a comparison: its head stays that of the
// first read, so that whoever commits on the strength of it is refused.
func TestCompareMoved(t *testing.T) {
	theirs := numbered(5000, 3)
	ours, before := newMemory(theirs.salt), theirs.head
	moves := 0
	l := &link{source: theirs, between: func() bool {
		if moves++; moves == 4 {
			theirs.commit(map[string]desired.Envelope{numberedKey(17): nil})
		}
		return true
	}}
	_, stats, err := compare(t, ours, l, nil, nil)
	if err != nil || stats.Head.Revision != before.Revision || theirs.head.Revision == before.Revision {
		t.Errorf("head %v, %v, want %v; the set moved to %v", stats.Head, err, before, theirs.head)
	}
}

// TestCompareAnotherSalt can't be done: the trees have nothing in common.
func TestCompareAnotherSalt(t *testing.T) {
	theirs := numbered(100, 2)
	if _, _, err := compare(t, newMemory(theirs.salt+1), &link{source: theirs}, nil, nil); !errors.Is(err, delta.ErrProtocol) {
		t.Errorf("error %v, want ErrProtocol", err)
	}
}

// TestCompareWhole asks for whole digests: no root would tell of a collision.
func TestCompareWhole(t *testing.T) {
	old, fresh := collision(t)
	ours, theirs := newMemory(1), newMemory(1)
	ours.commit(map[string]desired.Envelope{"k": old})
	theirs.commit(map[string]desired.Envelope{"k": fresh})
	f := newFollower(t, ours)
	f.seed = seedOne
	_, err := (&link{source: theirs}).run(f, delta.NewComparer(codec, f.have(), f.seed))
	if kind, ok := f.differences["k"]; err != nil || !ok || kind != delta.Differs {
		t.Errorf("differences %v, %v, want k, in spite of short digests that collide", f.differences, err)
	}
}
