package delta_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// follower is the shell of a Receiver in memory: the copy that it brings up to
// date, and what is staged beside it.
type follower struct {
	t           *testing.T
	copy        *memory
	unstaged    map[string]desired.Envelope
	staged      *memory // nil: nothing is staged
	mark        *delta.Mark
	stageAt     int // changes unstaged at which they are staged
	seed        func() uint64
	received    int
	doubts      int // what was received and did not verify
	differences map[string]delta.DifferenceKind
}

func newFollower(t *testing.T, copy *memory) *follower {
	return &follower{t: t, copy: copy, unstaged: map[string]desired.Envelope{}, stageAt: 1 << 30, seed: rand.Uint64}
}

func (f *follower) have() delta.Have {
	h := delta.Have{Set: "s", Verified: f.copy.head.Revision, Salt: f.copy.salt}
	if f.mark != nil {
		m, err := delta.DecodeMark(f.mark.Encode())
		if err != nil {
			f.t.Fatal(err)
		}
		h.Mark = &m
	}
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
func (f *follower) carryOut(r *delta.Receiver, e delta.Effects) (over bool, err error) {
	if e.Forget {
		f.unstaged, f.differences = map[string]desired.Envelope{}, map[string]delta.DifferenceKind{}
	}
	if e.Restage {
		f.staged = newMemory(e.Salt)
	}
	for _, c := range e.Changes {
		f.unstaged[string(c.Key)] = c.Envelope
		f.received++
	}
	for _, d := range e.Differences {
		if _, twice := f.differences[string(d.Key)]; twice {
			f.t.Errorf("difference %q is reported twice", d.Key)
		}
		f.differences[string(d.Key)] = d.Kind
	}
	if len(f.unstaged) >= f.stageAt {
		f.stage(r.Mark())
	}
	if e.Verify == nil {
		return e.Reopen, nil
	}
	f.stage(r.Mark())
	ok := f.staged.head.Root == e.Verify.Root
	if ok {
		f.staged.head = *e.Verify
		f.copy, f.staged, f.mark = f.staged, nil, nil
	} else {
		f.doubts++
	}
	return true, r.Verified(ok)
}

// link is a connection to a source, with what goes wrong on it, and counts what
// crosses.
type link struct {
	source delta.Source
	// between is called before each response is made, and breaks the stream by
	// returning false.
	between func() bool
	// twist returns what arrives in the place of a response.
	twist func(delta.Response) []delta.Response
	// eager delivers requests at once where it returns true, not when the sender
	// has nothing more to say.
	eager func() bool

	opens                                  []delta.Open
	widths                                 []int // of the digests asked for, by request
	narrow, leaves, digests, frames, parts int
}

func (l *link) bytes() int { return l.narrow + l.leaves + l.digests + l.frames + l.parts }

func (l *link) send(s *delta.Sender, req delta.Request) error {
	if req.Open != nil {
		l.opens = append(l.opens, *req.Open)
	}
	if len(req.Narrow) > 0 {
		l.widths = append(l.widths, int(req.Narrow[0]))
	}
	if len(req.Leaves) > 0 {
		l.widths = append(l.widths, int(req.Leaves[0]>>1))
	}
	l.narrow += len(req.Narrow)
	l.leaves += len(req.Leaves)
	return s.Receive(req)
}

// next returns what arrives next from s.
func (l *link) next(s *delta.Sender) ([]delta.Response, error) {
	resp, err := s.Next(l.source)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.Digests != nil:
		l.digests += len(resp.Digests.Data)
	case resp.Batch != nil:
		l.frames += len(resp.Batch.Frame)
		l.parts += len(resp.Batch.Parts)
	}
	if l.twist != nil {
		return l.twist(resp), nil
	}
	return []delta.Response{resp}, nil
}

// run runs a whole pull, over as many streams as it takes.
func (l *link) run(f *follower, r *delta.Receiver) (delta.Stats, error) {
	for !r.Done() {
		open, err := r.Open()
		if err != nil {
			return r.Stats(), err
		}
		switch err := l.round(f, r, open); {
		case errors.Is(err, errBroken):
			if len(f.unstaged) > 0 {
				f.stage(r.Mark())
			}
			r = delta.NewReceiver(codec, f.have(), f.seed)
		case errors.Is(err, delta.ErrTooDifferent):
			r.TooDifferent()
		case err != nil:
			return r.Stats(), err
		}
	}
	return r.Stats(), nil
}

var (
	errBroken = errors.New("stream broken")
	errStuck  = errors.New("both sides wait")
)

// round runs one stream.
func (l *link) round(f *follower, r *delta.Receiver, open delta.Request) error {
	s := delta.NewSender(codec)
	requests := []delta.Request{open}
	for {
		for _, req := range requests {
			if err := l.send(s, req); err != nil {
				return err
			}
		}
		requests = nil
		if !s.Pending() {
			return errStuck
		}
		for s.Pending() && (len(requests) == 0 || l.eager == nil || !l.eager()) {
			if l.between != nil && !l.between() {
				return errBroken
			}
			responses, err := l.next(s)
			if err != nil {
				return err
			}
			for _, resp := range responses {
				more, over, err := deliver(f, r, resp)
				if err != nil || over {
					return err
				}
				requests = append(requests, more...)
			}
		}
	}
}

// deliver hands a response to r and does what it says.
func deliver(f *follower, r *delta.Receiver, resp delta.Response) (requests []delta.Request, over bool, err error) {
	e, err := r.Handle(f.view(), resp)
	for {
		if err != nil {
			return nil, false, err
		}
		requests = append(requests, e.Requests...)
		if over, err := f.carryOut(r, e); over || err != nil || r.Done() {
			return nil, true, err
		}
		if !e.More {
			return requests, false, nil
		}
		e, err = r.Continue(f.view())
	}
}

// pull runs a whole pull that has to succeed.
func pull(t *testing.T, f *follower, l *link) delta.Stats {
	t.Helper()
	stats, err := l.run(f, delta.NewReceiver(codec, f.have(), f.seed))
	if err != nil {
		t.Fatal(err)
	}
	return stats
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
