package pattern

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"espalier/bench"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/merkle"
)

// within reports whether two counts of bytes are 3% and 50 bytes apart at most.
func within(model, real int) bool { return math.Abs(float64(model-real)) <= 0.03*float64(real)+50 }

// oneCommit returns a history of a single commit.
func oneCommit(t *testing.T, p Point) *history {
	t.Helper()
	for seed := range uint64(1000) {
		if h := makeHistory(t, p, seed, seconds(p.EverySeconds)); len(h.commits) == 1 {
			return h
		}
	}
	t.Fatal("no seed makes a single commit")
	return nil
}

// modelPoint is a state and one change to it.
func modelPoint(objects, changes int, clustered bool) Point {
	p := BasePoint()
	p.Objects, p.Changes, p.Clustered = objects, changes, clustered
	return p
}

// revision is a delta.Source of a history's revision 0 or 1, with its real keys and
// digests, and without a journal.
type revision struct {
	merkle.Memory
	all  []desired.Change
	head desired.Head
	salt uint64
}

func newRevision(t *testing.T, h *history, rev int, salt uint64) *revision {
	t.Helper()
	r := &revision{salt: salt}
	r.head.Position = desired.Position{Epoch: desired.Epoch{1}, Number: uint64(rev + 1)}
	touched := map[int32]bool{}
	var all []slot
	for _, s := range h.slots {
		if touched[s.place] = touched[s.place] || s.born == 0; s.existed(rev) {
			all = append(all, s)
		}
	}
	written := len(all)
	for place := range h.point.Objects {
		if !touched[int32(place)] {
			all = append(all, h.original(place))
		}
	}
	var hasher desired.Hasher
	b := r.Shape().NewBuilder(r.Append)
	for i, s := range all {
		var seed [32]byte
		version := 0
		if i < written {
			version = rev
		}
		binary.LittleEndian.PutUint64(seed[:], uint64(s.service)<<32|uint64(s.id))
		binary.LittleEndian.PutUint64(seed[8:], uint64(version))
		envelope := make(desired.Envelope, 1+h.point.ValueBytes)
		_, _ = rand.NewChaCha8(seed).Read(envelope[1:])
		r.all = append(r.all, desired.Change{Key: s.appendKey(nil), Envelope: envelope})
	}
	slices.SortFunc(r.all, func(a, b desired.Change) int { return slices.Compare(a.Key, b.Key) })
	for i := range r.all {
		c := &r.all[i]
		c.Digest = hasher.Sum(c.Key, c.Envelope)
		r.head.Bytes += uint64(c.PayloadBytes())
		if err := r.Append(0, merkle.Row{Key: c.Key, Digest: c.Digest, Count: 1}); err != nil {
			t.Fatal(err)
		}
		if err := b.Add(c.Key, c.Digest); err != nil {
			t.Fatal(err)
		}
	}
	root, _, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	r.head.Root, r.head.Objects = root.Digest, root.Count
	return r
}

func (r *revision) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(r.all, key, func(c desired.Change, key []byte) int { return slices.Compare(c.Key, key) })
}

func (r *revision) Head() desired.Head  { return r.head }
func (r *revision) Shape() merkle.Shape { return merkle.Shape{Salt: r.salt} }

func (r *revision) Get(key []byte) (desired.Change, bool, error) {
	if i, ok := r.find(key); ok {
		return r.all[i], true, nil
	}
	return desired.Change{}, false, nil
}

func (r *revision) Objects(from, until []byte) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for i, _ := r.find(from); i < len(r.all); i++ {
			if until != nil && slices.Compare(r.all[i].Key, until) >= 0 || !yield(r.all[i], nil) {
				return
			}
		}
	}
}

func (r *revision) Touched(uint64, int) (desired.Digest, [][]byte, bool, error) {
	return desired.Digest{}, nil, false, nil
}

// realDescent lets the real halves of the conversation bring one revision to the
// other, and returns the bytes of their messages and the round trips.
func realDescent(t *testing.T, from, to *revision, codec *delta.Codec) (sent, trips int) {
	t.Helper()
	const framing = 14 // HTTP/2's and gRPC's of a message
	s := delta.NewSender(codec)
	r := delta.NewReceiver(codec, delta.Have{Set: "web-frontend", Verified: from.head.Revision, Salt: from.salt}, func() uint64 { return 42 })
	open, err := r.Open()
	if err != nil {
		t.Fatal(err)
	}
	received := map[string]bool{}
	for requests := []delta.Request{open}; !r.Done(); {
		for _, req := range requests {
			sent += framing + proto.Size(wire.PullRequestToWire(req))
			if err := s.Receive(req); err != nil {
				t.Fatal(err)
			}
		}
		requests = nil
		for s.Pending() {
			resp, err := s.Next(to)
			if err != nil {
				t.Fatal(err)
			}
			sent += framing + proto.Size(wire.PullResponseToWire(resp))
			e, err := r.Handle(from, resp)
			for ; err == nil; e, err = r.Continue(from) {
				for _, c := range e.Changes {
					received[string(c.Key)] = true
				}
				requests = append(requests, e.Requests...)
				if e.Verify != nil || !e.More {
					break
				}
			}
			if err == nil && e.Verify != nil {
				err = r.Verified(true)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(received) == 0 {
		t.Error("the real descent brings nothing")
	}
	return sent, r.Stats().RoundTrips
}

// TestDescentModel holds the model of a descent against the real one, over the
// same keys.
func TestDescentModel(t *testing.T) {
	for _, objects := range []int{200, 1000, 20_000, 100_000} {
		for _, c := range []struct {
			changes   int
			clustered bool
		}{{1, false}, {10, false}, {100, false}, {1000, false}, {10_000, false}, {100, true}, {10_000, true}} {
			if racing && objects > 1000 || c.changes > objects/changeShare || objects == 100_000 && c.changes != 1 && c.changes != 10_000 {
				continue
			}
			h := oneCommit(t, modelPoint(objects, c.changes, c.clustered))
			from, to := newRevision(t, h, 0, 7), newRevision(t, h, 1, 7)
			shape := merkle.Shape{Salt: 7}
			p := newDescending(newWorld(h, time.Hour, Pattern{make: newDescending})).(*espalier)
			p.tree = newTree(objects, func(place int) int {
				s := h.original(place)
				return shape.Level(s.appendKey(nil))
			})
			d := p.compare(0, 1)
			model := openUp + beginDown + endDown + d.bytes() + (2*len(d.up)-1)*messageBytes
			for _, bytes := range d.frames {
				model += bytes + messageBytes
			}
			real, trips := realDescent(t, from, to, codec)
			real += streamHeaders
			name := fmt.Sprintf("%d of %d, clustered %t", c.changes, objects, c.clustered)
			t.Logf("%s: model %d bytes, real %d: %+.1f%%", name, model, real, 100*(float64(model)/float64(real)-1))
			if !within(model, real) {
				t.Errorf("%s: the model has %d bytes, the real descent %d", name, model, real)
			}
			if want := len(d.up); objects > 1000 && trips != want {
				t.Errorf("%s: the real descent took %d round trips, the model %d", name, trips, want)
			}
		}
	}
}

// streamHeaders is what HTTP/2's headers and trailers of a stream take, besides its
// messages.
const streamHeaders = 70

// TestTransferModel holds the model against bytes of real TCP connections.
func TestTransferModel(t *testing.T) {
	const objects = 20_000
	report, err := bench.RunTransfer(t.Context(), bench.TransferOptions{
		Size:   bench.Size{Objects: objects, ValueBytes: 100, Seed: 1},
		Rounds: 1,
		Cases:  []string{"warm-1", "warm-100", "warm-100-clustered", "warm-10000", "descent-10000", "full", "idle"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		changes := map[string]int{"warm-1": 1, "warm-100": 100, "warm-100-clustered": 100, "warm-10000": 2000, "descent-10000": 2000}[row.Case]
		h := oneCommit(t, modelPoint(objects, max(changes, 1), row.Case == "warm-100-clustered"))
		model := pollUp + pollDown
		switch row.Case {
		case "idle":
		case "full":
			model += pullDown + openUp + beginDown + h.whole(0) + endDown
		case "descent-10000":
			p := newEspalier(newWorld(h, time.Hour, Pattern{make: newDescending}), 0, false)
			d := p.compare(0, 1)
			model += pullDown + openUp + beginDown + d.bytes() + (2*len(d.up)-1)*messageBytes + endDown
			for _, bytes := range d.frames {
				model += bytes + messageBytes
			}
		case "warm-10000":
			p := newEspalier(newWorld(h, time.Hour, Pattern{make: newPolled}), 0, true)
			model += pullDown + openUp + beginDown + endDown
			for _, bytes := range p.since(0, 1).frames {
				model += bytes + messageBytes
			}
		default:
			model += inlineDown + newEspalier(newWorld(h, time.Hour, Pattern{make: newPolled}), 0, true).since(0, 1).inline
		}
		real := int(row.Sent + row.Received)
		t.Logf("%s: model %d bytes, real %d: %+.1f%%", row.Case, model, real, 100*(float64(model)/float64(real)-1))
		if !within(model, real) {
			t.Errorf("%s: the model has %d bytes, the real transfer %d", row.Case, model, real)
		}
	}
}
