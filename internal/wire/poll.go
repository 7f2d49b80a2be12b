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

// Poll is what an agent asks.
type Poll struct {
	// Host is the host's name. The agent sends it where no certificate says it.
	Host desired.Name
	// Held are the sets as the agent holds them.
	Held []delta.Held
	// ListVersion and ListSum name the host's list of sets as the agent has it;
	// version 0: it has none.
	ListVersion, ListSum uint64
	// Report is nil unless there is something new to tell.
	Report *desired.Report
	// Hold is for how long the answer may wait for something to say.
	Hold time.Duration
}

// PollToWire returns a poll of p, which names the host if it has to say itself who
// it is.
func PollToWire(p Poll, named bool) *espalierv1.PollRequest {
	m := &espalierv1.PollRequest{
		Sets: make([]*espalierv1.HeldSet, len(p.Held)), ListVersion: p.ListVersion, ListCheck: p.ListSum, Report: reportToWire(p.Report), HoldMs: millis(p.Hold),
	}
	if named {
		m.Host = string(p.Host)
	}
	for i, h := range p.Held {
		m.Sets[i] = &espalierv1.HeldSet{Epoch: h.Epoch, Number: h.Number, Root: h.Root, Gone: h.Gone}
		if h.Name != p.Host {
			m.Sets[i].Name = string(h.Name)
		}
	}
	return m
}

// PollFromWire reads a poll. host is who the caller's certificate says it is;
// empty: there is none, and the poll says it, unless an operator asks.
func PollFromWire(m *espalierv1.PollRequest, host desired.Name) (p Poll, err error) {
	if len(m.GetSets()) > MaxPolledSets {
		return Poll{}, fmt.Errorf("%w poll: %d sets, at most %d are allowed", desired.ErrInvalid, len(m.Sets), MaxPolledSets)
	}
	if p.Host = host; host == "" && m.GetHost() != "" {
		if p.Host, err = desired.ParseName(m.GetHost()); err != nil {
			return Poll{}, err
		}
	}
	p.ListVersion, p.ListSum, p.Hold = m.GetListVersion(), m.GetListCheck(), time.Duration(m.GetHoldMs())*time.Millisecond
	if p.ListVersion > desired.MaxNumber {
		return Poll{}, fmt.Errorf("%w poll: version %d of the list of sets", desired.ErrInvalid, p.ListVersion)
	}
	if p.Report, err = reportFromWire(m.GetReport()); err != nil {
		return Poll{}, err
	}
	p.Held = make([]delta.Held, len(m.GetSets()))
	for i, s := range m.GetSets() {
		if p.Held[i], err = heldFromWire(s, p.Host); err != nil {
			return Poll{}, err
		}
	}
	return p, nil
}

func heldFromWire(m *espalierv1.HeldSet, host desired.Name) (delta.Held, error) {
	name := host
	if m.GetName() != "" || host == "" {
		var err error
		if name, err = desired.ParseName(m.GetName()); err != nil {
			return delta.Held{}, err
		}
	}
	if m.GetNumber() > desired.MaxNumber {
		return delta.Held{}, fmt.Errorf("%w poll: set %s is held at number %d", desired.ErrInvalid, name, m.GetNumber())
	}
	return delta.Held{Name: name, Epoch: m.GetEpoch(), Number: m.GetNumber(), Root: m.GetRoot(), Gone: m.GetGone()}, nil
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
	// Age is how long ago that was committed, in whole milliseconds; 0: that is not
	// known.
	Age time.Duration
}

// PollAnswer is what the server answers.
type PollAnswer struct {
	// Next says when to poll next; 0: as the agent sees fit.
	Next time.Duration
	// Sets tells of those sets that are not current.
	Sets []Answer
	// List is the host's list of sets; nil: it is what the agent has.
	List *desired.List
	// Tell says that the server wants a report with the next poll.
	Tell bool
	// Held says that the server has room to hold the next poll.
	Held bool
}

// PollAnswerToWire returns the answer to a poll.
func PollAnswerToWire(a PollAnswer) *espalierv1.PollResponse {
	m := &espalierv1.PollResponse{NextPollMs: millis(a.Next), Tell: a.Tell, Held: a.Held}
	if a.List != nil {
		m.List = ListToWire(*a.List)
	}
	for i := range a.Sets {
		a := &a.Sets[i]
		set := &espalierv1.SetAnswer{
			Index: uint32(a.Index), Status: espalierv1.SetAnswer_Status(a.Status), Number: a.Number, Frame: a.Frame,
			AgeMs: uint64(max(a.Age.Milliseconds(), 0)),
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

// PollAnswerFromWire reads the answer to a poll of sets sets, each of which is
// answered once at most.
func PollAnswerFromWire(m *espalierv1.PollResponse, sets int) (PollAnswer, error) {
	p := PollAnswer{Next: time.Duration(m.GetNextPollMs()) * time.Millisecond, Tell: m.GetTell(), Held: m.GetHeld()}
	seen := make([]bool, sets)
	for _, s := range m.GetSets() {
		a, err := answerFromWire(s)
		if err != nil {
			return PollAnswer{}, answered(err)
		}
		if s.GetIndex() >= uint32(sets) || seen[a.Index] {
			return PollAnswer{}, fmt.Errorf("%w: an answer for set %d of %d, or two", delta.ErrProtocol, a.Index, sets)
		}
		seen[a.Index] = true
		p.Sets = append(p.Sets, a)
	}
	if m.GetList() != nil {
		list, err := ListFromWire(m.GetList())
		if err != nil {
			return PollAnswer{}, err
		}
		p.List = &list
	}
	return p, nil
}

// millis returns d as a message has it.
func millis(d time.Duration) uint32 { return uint32(min(max(d.Milliseconds(), 0), math.MaxUint32)) }

func answerFromWire(m *espalierv1.SetAnswer) (a Answer, err error) {
	a = Answer{Index: int(m.GetIndex()), Status: Status(m.GetStatus()), Number: m.GetNumber(), Frame: m.GetFrame()}
	a.Age = time.Duration(min(m.GetAgeMs(), math.MaxInt64/uint64(time.Millisecond))) * time.Millisecond
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
