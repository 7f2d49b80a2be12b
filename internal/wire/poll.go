package wire

import (
	"fmt"
	"math"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
)

// MaxPolledSets bounds the sets of one poll.
const MaxPolledSets = 1024

// PollRequestToWire returns a poll for what is held.
func PollRequestToWire(held []delta.Held) *espalierv1.PollRequest {
	m := &espalierv1.PollRequest{Sets: make([]*espalierv1.HeldSet, len(held))}
	for i, h := range held {
		m.Sets[i] = &espalierv1.HeldSet{Name: string(h.Name), Epoch: h.Epoch, Number: h.Number, Root: h.Root, Gone: h.Gone}
	}
	return m
}

// PollRequestFromWire reads a poll.
func PollRequestFromWire(m *espalierv1.PollRequest) ([]delta.Held, error) {
	if len(m.GetSets()) > MaxPolledSets {
		return nil, fmt.Errorf("%w poll: %d sets, at most %d are allowed", desired.ErrInvalid, len(m.Sets), MaxPolledSets)
	}
	held := make([]delta.Held, len(m.GetSets()))
	for i, s := range m.GetSets() {
		name, err := desired.ParseName(s.GetName())
		if err != nil {
			return nil, err
		}
		if s.GetNumber() > desired.MaxNumber {
			return nil, fmt.Errorf("%w poll: set %s is held at number %d", desired.ErrInvalid, name, s.GetNumber())
		}
		held[i] = delta.Held{Name: name, Epoch: s.GetEpoch(), Number: s.GetNumber(), Root: s.GetRoot(), Gone: s.GetGone()}
	}
	return held, nil
}

// Status is what a poll says of a set that is not current.
type Status int

// The statuses; their numbers are those of the wire.
const (
	StatusDelta       Status = 0 // Frame leads to Number and Root
	StatusPull        Status = 1 // the set has moved to Head
	StatusUnknown     Status = 2 // there is no such set
	StatusUnavailable Status = 3 // the server cannot serve it now
	StatusForked      Status = 4 // what is held is not in the history that led to Head
)

// Answer is what a poll says of one set.
type Answer struct {
	Index  int // in the request
	Status Status
	// Number, Root and Frame: the delta to it, in the epoch that is held.
	Number uint64
	Root   desired.Digest
	Frame  []byte
	// Head: with StatusPull and StatusForked.
	Head desired.Head
}

// PollResponseToWire returns the answer to a poll.
func PollResponseToWire(next time.Duration, answers []Answer) *espalierv1.PollResponse {
	m := &espalierv1.PollResponse{NextPollMs: uint32(min(max(next.Milliseconds(), 0), math.MaxUint32))}
	for i := range answers {
		a := &answers[i]
		set := &espalierv1.SetAnswer{
			Index: uint32(a.Index), Status: espalierv1.SetAnswer_Status(a.Status), Number: a.Number, Frame: a.Frame,
		}
		if a.Status == StatusDelta {
			set.Root = a.Root[:]
		}
		if a.Status == StatusPull || a.Status == StatusForked {
			set.Head = HeadToWire(a.Head)
		}
		m.Sets = append(m.Sets, set)
	}
	return m
}

// PollResponseFromWire reads the answer to a poll of sets sets, each of which
// is answered once at most.
func PollResponseFromWire(m *espalierv1.PollResponse, sets int) (next time.Duration, answers []Answer, err error) {
	seen := make([]bool, sets)
	for _, s := range m.GetSets() {
		a, err := answerFromWire(s)
		if err != nil {
			return 0, nil, answered(err)
		}
		if s.GetIndex() >= uint32(sets) || seen[a.Index] {
			return 0, nil, fmt.Errorf("%w: an answer for set %d of %d, or two", delta.ErrProtocol, a.Index, sets)
		}
		seen[a.Index] = true
		answers = append(answers, a)
	}
	return time.Duration(m.GetNextPollMs()) * time.Millisecond, answers, nil
}

func answerFromWire(m *espalierv1.SetAnswer) (a Answer, err error) {
	a = Answer{Index: int(m.GetIndex()), Status: Status(m.GetStatus()), Number: m.GetNumber(), Frame: m.GetFrame()}
	switch a.Status {
	case StatusDelta:
		if a.Root, err = DigestFromWire(m.GetRoot()); err == nil && (a.Number == 0 || a.Root.IsZero()) {
			err = fmt.Errorf("%w delta: number or root is missing", desired.ErrInvalid)
		}
	case StatusPull, StatusForked:
		a.Head, err = headFromWire(m.GetHead())
	}
	return a, err
}
