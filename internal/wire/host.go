package wire

import (
	"fmt"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// ListToWire returns l as a message.
func ListToWire(l desired.List) *espalierv1.HostList {
	m := &espalierv1.HostList{Version: l.Version, Sets: texts(l.Sets), Left: texts(l.Left), Paused: l.Paused, Why: l.Why, Released: l.Released}
	if !l.Release.IsZero() {
		m.Release = l.Release[:]
	}
	return m
}

// ListFromWire reads a list of sets, as a server sends it.
func ListFromWire(m *espalierv1.HostList) (desired.List, error) {
	l := desired.List{
		Version: m.GetVersion(), Sets: names(m.GetSets()), Left: names(m.GetLeft()),
		Orders: desired.Orders{Paused: m.GetPaused(), Why: m.GetWhy(), Released: m.GetReleased()},
	}
	var err error
	if l.Release, err = DigestFromWire(m.GetRelease()); err == nil {
		err = l.Check()
	}
	if err != nil {
		return desired.List{}, answered(err)
	}
	return l, nil
}

func texts(names []desired.Name) []string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = string(n)
	}
	return all
}

// names returns texts as names, unchecked.
func names(texts []string) []desired.Name {
	all := make([]desired.Name, len(texts))
	for i, t := range texts {
		all[i] = desired.Name(t)
	}
	return all
}

func reportToWire(r *desired.Report) *espalierv1.HostReport {
	if r == nil {
		return nil
	}
	m := &espalierv1.HostReport{Agent: r.Agent, More: r.More, Applying: convergenceToWire(r.Applying)}
	for _, p := range r.Problems {
		m.Problems = append(m.Problems, &espalierv1.Problem{Set: string(p.Set), Text: p.Text, Refused: p.Refused})
	}
	return m
}

// reportFromWire reads a report, within its bounds; nil: there is none.
func reportFromWire(m *espalierv1.HostReport) (*desired.Report, error) {
	if m == nil {
		return nil, nil
	}
	r := desired.Report{Agent: m.GetAgent(), More: m.GetMore()}
	for i, p := range m.GetProblems() {
		if i == desired.MaxProblems {
			return nil, fmt.Errorf("%w report: %d problems, at most %d are allowed", desired.ErrInvalid, len(m.Problems), desired.MaxProblems)
		}
		if p.GetSet() != "" {
			if _, err := desired.ParseName(p.GetSet()); err != nil {
				return nil, err
			}
		}
		r.Problems = append(r.Problems, desired.Problem{Set: desired.Name(p.GetSet()), Text: p.GetText(), Refused: p.GetRefused()})
	}
	var err error
	if r.Applying, err = convergenceFromWire(m.GetApplying()); err != nil {
		return nil, err
	}
	r = r.Bounded()
	return &r, nil
}

// HostToWire returns what is known of a host as a message, at now. head returns
// what the server has of a set.
func HostToWire(h fleet.Host, now time.Time, head func(desired.Name) (desired.Head, error)) *espalierv1.HostInfo {
	m := &espalierv1.HostInfo{
		Name: string(h.Name), List: ListToWire(h.List), Address: h.Address, ListVersion: h.ListVersion,
		ListState: espalierv1.HostInfo_ListState(h.ListState), Report: reportToWire(&h.Report), NextPollMs: millis(h.Next), Pace: h.Pace,
	}
	if !h.At.IsZero() {
		m.SeenMs, m.AgeMs = uint64(h.At.UnixMilli()), uint64(max(now.Sub(h.At).Milliseconds(), 0))
	}
	for _, held := range h.Held {
		set := &espalierv1.HostSet{Name: string(held.Name), Number: held.Number, Epoch: held.Epoch, Root: held.Root, Gone: held.Gone}
		if now, err := head(held.Name); err == nil {
			set.Current, set.Head = held.Current(now), now.Number
		}
		m.Sets = append(m.Sets, set)
	}
	m.State = espalierv1.HostInfo_State(h.State(now, h.Behind(head)))
	return m
}

// SetList is a request to make a host's list.
type SetList struct {
	Host      desired.Name
	Sets      []desired.Name
	MaxDelete *store.DeleteLimit // nil: no limit
	Why       string
}

// SetListFromWire reads one. The sets are as yet unchecked.
func SetListFromWire(m *espalierv1.SetListRequest) (r SetList, err error) {
	if r.Host, err = desired.ParseName(m.GetHost()); err != nil {
		return r, err
	}
	if len(m.GetWhy()) > store.MaxWhyBytes {
		return r, fmt.Errorf("%w reason: %d bytes, at most %d are allowed", desired.ErrInvalid, len(m.Why), store.MaxWhyBytes)
	}
	r.Sets, r.Why = names(m.GetSets()), m.GetWhy()
	r.MaxDelete, err = limitFromWire(m.GetMaxDelete())
	return r, err
}

// Orders is a request to tell a host something.
type Orders struct {
	Host  desired.Name
	Order fleet.Order
}

// OrdersFromWire reads one.
func OrdersFromWire(m *espalierv1.SetOrdersRequest) (r Orders, err error) {
	if r.Host, err = desired.ParseName(m.GetHost()); err != nil {
		return r, err
	}
	r.Order = fleet.Order{Kind: fleet.OrderKind(m.GetOrder()), Why: m.GetWhy()}
	if r.Order.Root, err = DigestFromWire(m.GetRoot()); err != nil {
		return r, err
	}
	return r, r.Order.Check()
}

// LimitToWire returns l as a message.
func LimitToWire(l *store.DeleteLimit) *espalierv1.DeleteLimit {
	if l == nil {
		return nil
	}
	return &espalierv1.DeleteLimit{Count: l.Count, Percent: l.Percent, Prefix: l.Prefix}
}

// HostSet is a set as a host holds it, and as the server has it.
type HostSet struct {
	delta.Held
	Current bool   // it is what the server has
	Head    uint64 // the number that the server is at; 0: it has no such set
}

// HostInfo is what a server tells of a host.
type HostInfo struct {
	fleet.Host
	Sets  []HostSet
	State fleet.State
	Age   time.Duration // of its last poll
}

// HostFromWire reads what a server tells of a host.
func HostFromWire(m *espalierv1.HostInfo) (h HostInfo, err error) {
	if h.Name, err = desired.ParseName(m.GetName()); err != nil {
		return h, answered(err)
	}
	if h.List, err = ListFromWire(m.GetList()); err != nil {
		return h, err
	}
	report, err := reportFromWire(m.GetReport())
	if err != nil {
		return h, answered(err)
	}
	if report != nil {
		h.Report = *report
	}
	h.Address, h.ListVersion, h.ListState = m.GetAddress(), m.GetListVersion(), fleet.ListState(m.GetListState())
	h.Next, h.Pace = time.Duration(m.GetNextPollMs())*time.Millisecond, m.GetPace()
	h.State, h.Age = fleet.State(m.GetState()), time.Duration(m.GetAgeMs())*time.Millisecond
	if m.GetSeenMs() > 0 {
		h.At = time.UnixMilli(int64(m.GetSeenMs()))
	}
	for _, s := range m.GetSets() {
		name, err := desired.ParseName(s.GetName())
		if err != nil {
			return h, answered(err)
		}
		held := delta.Held{Name: name, Epoch: s.GetEpoch(), Number: s.GetNumber(), Root: s.GetRoot(), Gone: s.GetGone()}
		h.Held = append(h.Held, held)
		h.Sets = append(h.Sets, HostSet{Held: held, Current: s.GetCurrent(), Head: s.GetHead()})
	}
	return h, nil
}
