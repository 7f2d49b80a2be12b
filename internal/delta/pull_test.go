package delta_test

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/merkle"
)

// TestPull runs pulls between random sets: with and without history, with
// commits and cuts in between, with staging early and late.
func TestPull(t *testing.T) {
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			source := newMemory(r.Uint64N(2) + 1)
			size := []int{0, 1, 3, 50, 1000, 4000}[r.IntN(6)]
			source.commit(scatter(r, source, size))
			f := newFollower(t, source.clone())
			f.seed, f.stageAt = r.Uint64, 1+r.IntN(200)
			corrupted := false
			switch r.IntN(5) {
			case 0:
				f.copy = newMemory(source.salt)
				f.copy.head = desired.Head{}
			case 1: // other objects, no common history
				f.copy = newMemory(r.Uint64N(2) + 1)
				f.copy.commit(scatter(r, f.copy, r.IntN(2000)))
				f.copy.head.Epoch = desired.Epoch{2}
			case 2: // a corrupted copy: another content under the same revision
				corrupted = true
				head := f.copy.head
				f.copy.commit(scatter(r, f.copy, 1+r.IntN(20)))
				f.copy.head.Revision = head.Revision
			case 3: // history lost
				source.commit(scatter(r, source, 1+r.IntN(300)))
				source = source.clone()
			}
			for range r.IntN(3) {
				source.commit(scatter(r, source, 1+r.IntN(300)))
			}
			moves, cuts := r.IntN(4), r.IntN(6)
			pull(t, f, &link{source: source, eager: func() bool { return r.IntN(2) == 0 }, between: func() bool {
				if moves > 0 && r.IntN(5) == 0 {
					moves--
					source.commit(scatter(r, source, 1+r.IntN(50)))
				}
				if cuts > 0 && r.IntN(8) == 0 {
					cuts--
					return false
				}
				return true
			}})
			f.check(source)
			if f.doubts > 0 && !corrupted {
				t.Errorf("what came of an honest sender did not verify, %d times", f.doubts)
			}
		})
	}
}

// amnesiac returns a copy of m that has forgotten its history, after changes.
func amnesiac(m *memory, changes map[string]desired.Envelope) *memory {
	m = m.clone()
	m.commit(changes)
	m.roots, m.journal = map[uint64]desired.Digest{m.head.Number: m.head.Root}, map[uint64][]string{}
	return m
}

// modes returns the modes of the streams opened, as words.
func (l *link) modes() (all []string) {
	for _, o := range l.opens {
		word := o.Mode.String()
		if o.Mode == delta.Descent && o.Width > delta.MaxShortWidth {
			word = "whole " + word
		}
		all = append(all, word)
	}
	return all
}

// TestDescentShapes runs descents between trees of every pair of heights.
func TestDescentShapes(t *testing.T) {
	sizes := []struct{ n, height int }{{0, 1}, {1, 1}, {1, 2}, {2, 3}, {30, 1}, {200, 2}, {200, 4}, {800, 3}}
	for _, to := range sizes {
		source := numbered(to.n, to.height)
		for _, from := range sizes {
			for _, overlap := range []bool{false, true} {
				copy := newMemory(source.salt)
				changes := map[string]desired.Envelope{}
				for i := range from.n {
					if key := numberedKey(i); overlap {
						changes[key] = envelope("value %d", i)
					} else {
						changes[key+"-other"] = envelope("value %d", i)
					}
				}
				copy.commit(changes)
				copy.head.Epoch = desired.Epoch{9}
				f, l := newFollower(t, copy), &link{source: source}
				stats := pull(t, f, l)
				f.check(source)
				if stats.Mode != delta.Descent || stats.RoundTrips > 7 {
					t.Errorf("%v to %v: %v in %d round trips, want a descent in at most 7", from, to, stats.Mode, stats.RoundTrips)
				}
			}
		}
	}
}

// TestDenseDescent changes most of a set, so that it is one stretch, which has to
// be cut into parts, and asks for more than the window holds.
func TestDenseDescent(t *testing.T) {
	tests := map[string]struct {
		n, stageAt int
		whole      bool
	}{
		"parts":            {5*delta.PartDigests + 10, 1 << 30, false},
		"parts, as staged": {5*delta.PartDigests + 10, 3000, false},
		"windows":          {70_000, 20_000, true},
	}
	for name, tt := range tests {
		source, changes := numbered(tt.n, 3), map[string]desired.Envelope{}
		for i := range tt.n {
			switch i % 4 {
			case 0:
				changes[numberedKey(i)] = envelope("changed")
			case 1:
				changes[numberedKey(i)] = nil
			case 2:
				changes[numberedKey(i)+"x"] = envelope("new")
			}
		}
		f := newFollower(t, source)
		f.stageAt = tt.stageAt
		f.copy.head.Epoch = desired.Epoch{9}
		theirs := amnesiac(source, changes)
		theirs.head.Epoch = desired.Epoch{1}
		r := delta.NewReceiver(codec, f.have(), f.seed)
		if tt.whole {
			r.WholeDigests()
		}
		stats, err := (&link{source: theirs}).run(f, r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f.check(theirs)
		if got := stats.Upserts + stats.Deletes; stats.Mode != delta.Descent || got != uint64(len(changes)) {
			t.Errorf("%s: %v of %d changes, want a descent of %d", name, stats.Mode, got, len(changes))
		}
	}
}

// TestOursAlone takes a stretch of many objects that the sender does not have.
// Where they are whole nodes nothing has to be named to delete them; where they
// are not, it costs a digest and an index each.
func TestOursAlone(t *testing.T) {
	const n = 50_000
	copy := numbered(n, 3)
	var nodes []int // the objects at which nodes of level 2 begin
	for _, key := range copy.nodes(2) {
		nodes = append(nodes, sort.SearchStrings(copy.keys, key))
	}
	last := len(nodes) - 1
	tests := []struct{ from, until, each int }{
		{nodes[1], nodes[last], 0},
		{0, n, 5},
		{nodes[1], n, 5}, // the sender's tree is lower now, its nodes match none
		{0, 40_000, 5},
		{5000, 45_000, 5},
		{1, n - 1, 5},
	}
	for _, tt := range tests {
		changes := map[string]desired.Envelope{}
		for _, key := range copy.keys[tt.from:tt.until] {
			changes[key] = nil
		}
		f := newFollower(t, copy)
		f.stageAt = 10_000
		source := amnesiac(copy, changes)
		l := &link{source: source}
		stats := pull(t, f, l)
		f.check(source)
		if stats.Deletes != uint64(len(changes)) || stats.Upserts > 0 || stats.Mode != delta.Descent {
			t.Errorf("%v: %+v, want a descent of %d deletions", tt, stats, len(changes))
		}
		if most := 2<<10 + len(changes)*tt.each; l.bytes() > most {
			t.Errorf("%v: %d bytes for %d deletions, want at most %d", tt, l.bytes(), len(changes), most)
		}
	}
}

func TestSaltChanged(t *testing.T) {
	copy := numbered(3000, 3)
	source := newMemory(copy.salt + 1)
	source.head.Epoch = desired.Epoch{7}
	source.commit(copy.objects)
	f, l := newFollower(t, copy), &link{source: source}
	stats := pull(t, f, l)
	f.check(source)
	if stats.Mode != delta.Full || !slices.Equal(l.modes(), []string{"delta", "full"}) {
		t.Errorf("%v by %v, want a delta that becomes full", stats.Mode, l.modes())
	}
}

// TestEpochChanged takes a set that was restored: its content is known, though
// its history isn't.
func TestEpochChanged(t *testing.T) {
	copy := numbered(3000, 3)
	source := copy.clone()
	source.head.Epoch, source.head.Number = desired.Epoch{7}, 1
	source.head.Lineage = []desired.Position{copy.head.Position}
	f, l := newFollower(t, copy), &link{source: source}
	stats := pull(t, f, l)
	f.check(source)
	if stats.Mode != delta.Descent || stats.Upserts+stats.Deletes > 0 || l.bytes() > 100 {
		t.Errorf("%+v in %d bytes, want a descent that finds nothing", stats, l.bytes())
	}
}

// endless is a source whose tree has a level of more nodes than may be listed:
// a node for every number, from a billion on.
type endless struct {
	*memory
	key string // what the nodes' keys begin with
}

func (e endless) Height() (int, error) { return 2, nil }

func (e endless) Before(_ int, key []byte) ([]byte, bool, error) {
	return bytes.TrimRight(key, "\x00"), true, nil
}

func (e endless) Rows(_ int, from, _ []byte) iter.Seq2[merkle.Row, error] {
	return func(yield func(merkle.Row, error) bool) {
		i := 1_000_000_000
		if len(from) > len(e.key) {
			var err error
			i, err = strconv.Atoi(string(from[len(e.key):]))
			must(err)
		}
		for key := []byte(e.key); ; i++ {
			key = strconv.AppendInt(key[:len(e.key)], int64(i), 10)
			if !yield(merkle.Row{Key: key}, nil) {
				return
			}
		}
	}
}

func TestTooDifferent(t *testing.T) {
	source := numbered(1000, 2)
	for name, key := range map[string]string{
		"nodes": "k", "bytes of keys": "k" + string(bytes.Repeat([]byte("k"), 1000)),
	} {
		f := newFollower(t, source.clone())
		f.copy.head.Epoch = desired.Epoch{9}
		l := &link{source: endless{source, key}}
		stats := pull(t, f, l)
		f.check(source)
		if stats.Mode != delta.Full || !slices.Equal(l.modes(), []string{"delta", "full"}) || l.digests > delta.MaxNodes*delta.ShortWidth+1<<10 {
			t.Errorf("%s: %v by %v, want a delta that becomes full; %d bytes of digests", name, stats.Mode, l.modes(), l.digests)
		}
		if _, _, err := compare(t, f.copy, l, nil, nil); !errors.Is(err, delta.ErrTooDifferent) {
			t.Errorf("%s: comparison: %v, want ErrTooDifferent", name, err)
		}
	}
}

// collision returns two values of the object "k" whose short digests are the
// same under seed 1.
func collision(t *testing.T) (a, b desired.Envelope) {
	t.Helper()
	var h desired.Hasher
	seen := map[[delta.ShortWidth]byte]desired.Envelope{}
	for i := range 1 << 20 {
		e := envelope("value %d", i)
		s := delta.ShortDigest(1, h.Sum([]byte("k"), e))
		if other, ok := seen[s]; ok {
			return other, e
		}
		seen[s] = e
	}
	t.Fatal("no collision in a million values")
	return nil, nil
}

// TestCollision hides a change behind a short digest: one more descent finds it,
// with another seed or, if it comes to that, with whole digests.
func TestCollision(t *testing.T) {
	old, fresh := collision(t)
	copy := newMemory(1)
	copy.commit(map[string]desired.Envelope{"k": old})
	source := amnesiac(copy, map[string]desired.Envelope{"k": fresh})
	draws := uint64(0)
	tests := map[string]struct {
		seed func() uint64
		want []string
	}{
		"another seed": {func() uint64 { draws++; return draws }, []string{"delta", "descent"}},
		"always one":   {seedOne, []string{"delta", "descent", "whole descent"}},
	}
	for name, tt := range tests {
		f, l := newFollower(t, copy), &link{source: source}
		f.seed = tt.seed
		pull(t, f, l)
		f.check(source)
		if !slices.Equal(l.modes(), tt.want) {
			t.Errorf("%s: pulled by %v, want %v", name, l.modes(), tt.want)
		}
	}
}

// liar is a source that publishes another root than its content's.
type liar struct{ *memory }

func (l liar) Head() desired.Head {
	h := l.memory.Head()
	h.Root[0]++
	return h
}

func TestUnverifiable(t *testing.T) {
	source := numbered(300, 2)
	f := newFollower(t, source.clone())
	f.copy.commit(map[string]desired.Envelope{"a": envelope("mine")})
	f.copy.head.Epoch = desired.Epoch{9}
	verified := f.copy
	l := &link{source: liar{source}}
	_, err := l.run(f, delta.NewReceiver(codec, f.have(), f.seed))
	if !errors.Is(err, delta.ErrUnverifiable) || !slices.Equal(l.modes(), []string{"delta", "descent", "whole descent", "full"}) {
		t.Errorf("%v by %v, want ErrUnverifiable after all has been tried", err, l.modes())
	}
	if f.copy != verified {
		t.Error("what was verified was given up")
	}
}

// TestNeverStill moves the set in each round: there comes an end to that.
func TestNeverStill(t *testing.T) {
	source := numbered(300, 2)
	f, i := newFollower(t, source.clone()), 0
	l := &link{source: source, between: func() bool {
		i++
		source.commit(map[string]desired.Envelope{numberedKey(i % 300): envelope("at %d", i)})
		return true
	}}
	if _, err := l.run(f, delta.NewReceiver(codec, f.have(), f.seed)); err == nil || len(l.opens) > 20 {
		t.Errorf("%v after %d rounds, want an error soon", err, len(l.opens))
	}
}

// TestResume breaks each kind of pull again and again: what is staged does not
// come twice.
func TestResume(t *testing.T) {
	const n = 20_000
	source := numbered(n, 3)
	empty := newMemory(source.salt)
	empty.head = desired.Head{}
	changed := map[string]desired.Envelope{}
	for i := 0; i < n; i += 2 {
		changed[numberedKey(i)] = envelope("changed %0100d", i)
	}
	later := source.clone()
	later.commit(changed)
	tests := map[string]struct {
		copy, source *memory
		objects      int
		want         delta.Mode
	}{
		"full":    {empty, later, n, delta.Full},
		"delta":   {source, later, len(changed), delta.Since},
		"descent": {source, later.clone(), len(changed), delta.Descent},
	}
	for name, tt := range tests {
		f, i := newFollower(t, tt.copy.clone()), 0
		f.copy.head = tt.copy.head
		f.stageAt = 1
		l := &link{source: tt.source, between: func() bool { i++; return i%6 != 0 }}
		r := delta.NewReceiver(codec, f.have(), f.seed)
		stats, err := l.run(f, r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		f.check(tt.source)
		if f.received != tt.objects || stats.Mode != tt.want || len(l.opens) < 2 {
			t.Errorf("%s: %d changes received in %d streams by %v, want %d in several by %v",
				name, f.received, len(l.opens), stats.Mode, tt.objects, tt.want)
		}
	}
}

// TestListingMoves deletes the key that the second segment of a listing starts
// with, before it is listed: what else was in that node is not gone.
func TestListingMoves(t *testing.T) {
	copy, changes := newMemory(1), map[string]desired.Envelope{}
	for i := 0; len(changes) < 12_000; i++ { // of boundaries, most of them
		if key := fmt.Sprintf("%08d", i); copy.Shape().Level([]byte(key)) > 0 {
			changes[key], changes[key+"/a"] = envelope("%d", i), envelope("%d", i)
		}
	}
	copy.commit(changes)
	copy.head.Epoch = desired.Epoch{9}

	// All nodes of level 2 differ, so that all of level 1 is listed; few of those do.
	changed := map[string]desired.Envelope{copy.keys[0]: envelope("changed")}
	for _, key := range copy.nodes(2)[1:] {
		changed[key] = envelope("changed")
	}
	source := amnesiac(copy, changed)
	cut := source.nodes(1)[delta.FrameBytes/len(desired.Digest{})]
	if changed[cut] != nil || source.objects[cut+"/a"] == nil {
		t.Fatalf("the second segment starts with %q, which this test is not about", cut)
	}

	f, l, moved := newFollower(t, copy), &link{source: source}, false
	l.twist = func(resp delta.Response) []delta.Response {
		if resp.Digests != nil && !resp.Digests.Last && !moved {
			source.commit(map[string]desired.Envelope{cut: nil})
			moved = true
		}
		return []delta.Response{resp}
	}
	r := delta.NewReceiver(codec, f.have(), f.seed)
	r.WholeDigests() // so that a listing is cut
	if _, err := l.run(f, r); err != nil {
		t.Fatal(err)
	}
	f.check(source)
	if want := []string{"delta", "delta"}; !moved || !slices.Equal(l.modes(), want) {
		t.Errorf("pulled by %v, want %v; moved: %v", l.modes(), want, moved)
	}
}
