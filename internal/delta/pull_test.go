package delta_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// follower is the shell of a Receiver in memory: the copy that it brings up to
// date, and what is staged beside it.
type follower struct {
	t        *testing.T
	copy     *memory
	unstaged map[string]desired.Envelope
	staged   *memory // nil: nothing is staged
	mark     *delta.Mark
	stageAt  int // changes unstaged at which they are staged
	received int
	bytes    int
}

func (f *follower) have() delta.Have {
	h := delta.Have{Set: "s", Verified: f.copy.head.Revision, Salt: f.copy.salt, Mark: f.mark}
	if f.staged != nil {
		h.Salt = f.staged.salt
	}
	return h
}

func (f *follower) view() *memory {
	if f.staged != nil {
		return f.staged
	}
	return f.copy
}

func (f *follower) stage(mark delta.Mark) {
	if f.staged == nil {
		f.staged = f.copy.clone()
	}
	maps.Copy(f.staged.objects, f.unstaged)
	maps.DeleteFunc(f.staged.objects, func(_ string, e desired.Envelope) bool { return e == nil })
	f.staged.rebuild()
	f.unstaged = map[string]desired.Envelope{}
	f.mark = &mark
}

// carryOut does what e says and reports whether the stream ends.
func (f *follower) carryOut(r *delta.Receiver, e delta.Effects) bool {
	if e.Forget {
		f.unstaged = map[string]desired.Envelope{}
	}
	if e.Restage {
		f.staged = newMemory(e.Salt)
	}
	for _, c := range e.Changes {
		f.unstaged[string(c.Key)] = c.Envelope
		f.received++
	}
	if len(f.unstaged) >= f.stageAt {
		f.stage(r.Mark())
	}
	if e.Verify == nil {
		return e.Reopen
	}
	f.stage(r.Mark())
	ok := f.staged.head.Root == e.Verify.Root
	if err := r.Verified(ok); err != nil {
		f.t.Fatal(err)
	}
	if ok {
		f.staged.head = *e.Verify
		f.copy, f.staged, f.mark = f.staged, nil, nil
	}
	return true
}

// pull runs a whole pull. between is called before each response is made, and
// breaks the stream by returning false.
func pull(t *testing.T, f *follower, source *memory, between func() bool) delta.Stats {
	t.Helper()
	r := delta.NewReceiver(codec, f.have(), rand.Uint64)
	for !r.Done() {
		open, err := r.Open()
		if err != nil {
			t.Fatal(err)
		}
		if round(t, f, r, source, open, between) {
			continue
		}
		if len(f.unstaged) > 0 {
			f.stage(r.Mark())
		}
		r = delta.NewReceiver(codec, f.have(), rand.Uint64)
	}
	return r.Stats()
}

func round(t *testing.T, f *follower, r *delta.Receiver, source *memory, open delta.Request, between func() bool) bool {
	t.Helper()
	s := delta.NewSender(codec)
	requests := []delta.Request{open}
	for {
		for _, req := range requests {
			f.bytes += len(req.Narrow) + len(req.Leaves)
			if err := s.Receive(req); err != nil {
				t.Fatal(err)
			}
		}
		requests = nil
		if !s.Pending() {
			t.Fatal("both sides wait")
		}
		for s.Pending() {
			if !between() {
				return false
			}
			resp, err := s.Next(source)
			if err != nil {
				t.Fatal(err)
			}
			f.count(resp)
			e, err := r.Handle(f.view(), resp)
			for {
				if err != nil {
					t.Fatal(err)
				}
				requests = append(requests, e.Requests...)
				if f.carryOut(r, e) {
					return true
				}
				if !e.More {
					break
				}
				e, err = r.Continue(f.view())
			}
			if r.Done() {
				return true
			}
		}
	}
}

func (f *follower) count(resp delta.Response) {
	switch {
	case resp.Digests != nil:
		f.bytes += len(resp.Digests.Data)
	case resp.Batch != nil:
		f.bytes += len(resp.Batch.Frame) + len(resp.Batch.Parts)
	}
}

func newFollower(t *testing.T, copy *memory) *follower {
	return &follower{t: t, copy: copy, unstaged: map[string]desired.Envelope{}, stageAt: 1 << 30}
}

func (f *follower) check(source *memory) {
	f.t.Helper()
	if f.copy.head.Revision != source.head.Revision {
		f.t.Fatalf("copy is at %v, source at %v", f.copy.head, source.head)
	}
	if !maps.EqualFunc(f.copy.objects, source.objects, func(a, b desired.Envelope) bool { return string(a) == string(b) }) {
		f.t.Fatal("equal roots over unequal objects")
	}
}

// TestPull runs pulls between random sets: with and without history, with
// commits and cuts in between, with staging early and late.
func TestPull(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			source := newMemory(r.Uint64N(2) + 1)
			size := []int{0, 1, 3, 50, 1000, 6000}[r.IntN(6)]
			source.commit(scatter(r, source, size))
			f := newFollower(t, source.clone())
			f.stageAt = 1 + r.IntN(200)
			switch r.IntN(5) {
			case 0:
				f.copy = newMemory(source.salt)
				f.copy.head = desired.Head{}
			case 1: // other objects, no common history
				f.copy = newMemory(r.Uint64N(2) + 1)
				f.copy.commit(scatter(r, f.copy, r.IntN(2000)))
				f.copy.head.Epoch = desired.Epoch{2}
			case 2: // a corrupted copy: another content under the same revision
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
			pull(t, f, source, func() bool {
				if moves > 0 && r.IntN(5) == 0 {
					moves--
					source.commit(scatter(r, source, 1+r.IntN(50)))
				}
				if cuts > 0 && r.IntN(8) == 0 {
					cuts--
					return false
				}
				return true
			})
			f.check(source)
		})
	}
}
