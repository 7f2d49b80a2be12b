// Package fleet answers what the orchestrator knows of its hosts: which sets
// each is to mirror, how it fared when it last polled, and when it will again. It
// does no I/O and has no clock; what has to survive a restart it hands out as
// rows.
package fleet

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
)

// ListState is how a host's list of sets stands to the server's.
type ListState int

// The states; their numbers are those of the wire.
const (
	ListCurrent ListState = 0
	ListBehind  ListState = 1 // the host will be told
	ListAhead   ListState = 2 // the host has a later one, and keeps it
	ListForked  ListState = 3 // the host has another one of that version, and keeps it
)

// State is how a host fares.
type State int

// The states; their numbers are those of the wire.
const (
	NeverSeen State = 0
	InStep    State = 1 // it has what the server has
	Behind    State = 2 // it had not, when it last polled
	Troubled  State = 3 // it reports problems, or objects that it could not make true, or may not
	Refusing  State = 4 // it keeps what it has until an operator steps in
	Silent    State = 5 // it has not polled when it should have
	Revoked   State = 6 // it was shut out
)

var stateNames = [...]string{"never seen", "in step", "behind", "troubled", "refusing", "silent", "revoked"}

// States returns all states, in order.
func States() iter.Seq[State] {
	return func(yield func(State) bool) {
		for i := range stateNames {
			if !yield(State(i)) {
				return
			}
		}
	}
}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return "unknown"
	}
	return stateNames[s]
}

// State returns how h fares at now; behind says that a set is not what the server
// has.
func (h Host) State(now time.Time, behind bool) State {
	switch {
	case h.Revoked:
		return Revoked
	case h.At.IsZero():
		return NeverSeen
	case now.Sub(h.At) > silentAfter*h.Next+silentMargin:
		return Silent
	case h.ListState == ListAhead, h.ListState == ListForked,
		slices.ContainsFunc(h.Report.Problems, func(p desired.Problem) bool { return p.Refused }):
		return Refusing
	case len(h.Report.Problems) > 0, h.troubled():
		return Troubled
	case behind, h.ListState == ListBehind:
		return Behind
	}
	return InStep
}

// Host is what is known of a host.
type Host struct {
	Name desired.Name `json:"-"`
	List desired.List `json:"-"`
	// At is when it last polled, from Address; zero: it never has.
	At      time.Time `json:"at,omitzero"`
	Address string    `json:"address,omitempty"`
	// Held, ListVersion and ListSum are what it said it has.
	Held        []delta.Held `json:"held,omitempty"`
	ListVersion uint64       `json:"list_version,omitempty"`
	ListSum     uint64       `json:"list_sum,omitempty"`
	// Report is the latest that it sent.
	Report desired.Report `json:"report,omitzero"`
	// Next is when it was told to poll next, from At on, and Pace why then.
	Next time.Duration `json:"next,omitempty"`
	Pace string        `json:"pace,omitempty"`
	// Revoked says that it was shut out, and has not been let in again.
	Revoked bool `json:"-"`
	// ListState follows from the lists.
	ListState ListState `json:"-"`
}

// Only returns h with what concerns those sets alone that are visible.
func (h Host) Only(visible func(desired.Name) bool) Host {
	hidden := func(name desired.Name) bool { return name != "" && !visible(name) }
	whole := !slices.ContainsFunc(slices.Concat(h.List.Sets, h.List.Left), hidden)
	h.List.Sets = slices.DeleteFunc(slices.Clone(h.List.Sets), hidden)
	h.List.Left = slices.DeleteFunc(slices.Clone(h.List.Left), hidden)
	h.Held = slices.DeleteFunc(slices.Clone(h.Held), func(s delta.Held) bool { return hidden(s.Name) })
	h.Report.Problems = slices.DeleteFunc(slices.Clone(h.Report.Problems), func(p desired.Problem) bool { return hidden(p.Set) })
	for i, p := range h.Report.Problems {
		if p.Set == "" && !whole { // it may name any of them
			h.Report.Problems[i].Text = "it does not follow its list of sets"
		}
	}
	if c := h.Report.Applying; c != nil && !whole { // nor is it known whose the objects are
		counts := *c
		counts.Reason, counts.Failures = "", nil
		h.Report.Applying = &counts
	}
	return h
}

// Fleet knows the hosts. It is safe for concurrent use.
type Fleet struct {
	mu    sync.Mutex
	hosts map[desired.Name]*entry
}

// entry is a host, and what the fleet has to remember besides.
type entry struct {
	Host
	reported bool // since the server started
	changed  bool // since Changed was last called
}

// New returns a fleet of the lists that were made, and of the rows that Changed
// once returned. A row that can't be read is left out: the host tells it again
// with its next poll.
func New(lists map[desired.Name]desired.List, rows map[desired.Name][]byte) *Fleet {
	f := &Fleet{hosts: map[desired.Name]*entry{}}
	for name, list := range lists {
		f.host(name).List = list
	}
	for name, row := range rows {
		var h Host
		if json.Unmarshal(row, &h) != nil {
			continue
		}
		e := f.host(name)
		h.Name, h.List, h.Report = name, e.List, h.Report.Bounded()
		e.Host = h
	}
	return f
}

// host returns a host, which it adds if need be. f.mu is held, or f nobody
// else's.
func (f *Fleet) host(name desired.Name) *entry {
	e := f.hosts[name]
	if e == nil {
		e = &entry{Host: Host{Name: name, List: desired.OwnList(name)}}
		f.hosts[name] = e
	}
	return e
}

// Enrolled adds a host that has been let in, and has not polled yet.
func (f *Fleet) Enrolled(name desired.Name) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hosts[name] == nil && len(f.hosts) < MaxHosts {
		f.host(name).changed = true
	}
}

// States counts the hosts by their state at now. head returns what the server
// has of a set.
func (f *Fleet) States(now time.Time, head func(desired.Name) (desired.Head, error)) map[State]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	states := map[State]int{}
	for _, e := range f.hosts {
		states[e.show().State(now, e.Behind(head))]++
	}
	return states
}

// Behind reports whether a set that h holds is not what the server has.
func (h *Host) Behind(head func(desired.Name) (desired.Head, error)) bool {
	return slices.ContainsFunc(h.Held, func(s delta.Held) bool {
		now, err := head(s.Name)
		return err != nil || !s.Current(now)
	})
}

// Len returns how many hosts are known.
func (f *Fleet) Len() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.hosts)
}

// Poll is what a host says of itself.
type Poll struct {
	Host                 desired.Name
	Address              string
	Held                 []delta.Held
	ListVersion, ListSum uint64
	Report               *desired.Report // nil: nothing new
}

// Advice is what to tell it.
type Advice struct {
	List *desired.List // nil: it has the one there is
	Tell bool          // a report is wanted
}

// Poll notes a poll at now and returns what to answer. A host that nobody has
// heard of is added, unless there are MaxHosts.
func (f *Fleet) Poll(now time.Time, p Poll) Advice {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hosts[p.Host] == nil && len(f.hosts) >= MaxHosts {
		return Advice{}
	}
	e := f.host(p.Host)
	e.At, e.Address, e.changed = now, p.Address, true
	e.Held, e.ListVersion, e.ListSum = p.Held[:min(len(p.Held), desired.MaxListSets)], p.ListVersion, p.ListSum
	if p.Report != nil {
		e.Report, e.reported = *p.Report, true
	}
	a := Advice{Tell: !e.reported}
	if e.listState() != ListCurrent {
		list := e.List
		a.List = &list
	}
	return a
}

// Paced notes when a host was told to poll next, and why then.
func (f *Fleet) Paced(host desired.Name, next time.Duration, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.hosts[host]; e != nil {
		e.Next, e.Pace = next, why
	}
}

func (e *entry) listState() ListState {
	if e.At.IsZero() {
		return ListCurrent
	}
	switch cmp.Compare(e.ListVersion, e.List.Version) {
	case -1:
		return ListBehind
	case 1:
		return ListAhead
	}
	if e.List.Version > 0 && e.ListSum != e.List.Sum() {
		return ListForked
	}
	return ListCurrent
}

// Mirrors reports whether the set is on the host's list.
func (f *Fleet) Mirrors(host, set desired.Name) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.hosts[host]; e != nil {
		return slices.Contains(e.List.Sets, set)
	}
	return host == set
}

// Next returns the list that a host has at the server, and the one of those sets
// to follow it: the same one, if it has those sets already and nothing else is
// known to be on the host. It returns an error that matches desired.ErrInvalid if there are too many
// hosts, or the list can't be one.
func (f *Fleet) Next(host desired.Name, sets []desired.Name) (old, next desired.List, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old, seen, odd, err := f.latest(host)
	if err != nil || slices.Equal(old.Sets, sets) && !odd {
		return old, old, err
	}
	next = old.Next(seen, sets)
	return old, next, next.Check()
}

// latest returns the list that a host has at the server, and which version it was
// seen with; odd says that it has another list, which only a later version
// replaces. f.mu is held.
func (f *Fleet) latest(host desired.Name) (list desired.List, seen uint64, odd bool, err error) {
	e := f.hosts[host]
	if e == nil {
		if len(f.hosts) >= MaxHosts {
			err = fmt.Errorf("%w host %s: there are %d already, which is the most there may be", desired.ErrInvalid, host, len(f.hosts))
		}
		return desired.OwnList(host), 0, false, err
	}
	odd = e.ListVersion > e.List.Version || e.listState() == ListForked
	return e.List, min(e.ListVersion, e.List.Version+maxLead), odd, nil
}

// SetList makes a list the host's.
func (f *Fleet) SetList(host desired.Name, list desired.List) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.host(host).List = list
}

// Get returns what is known of a host; false: nothing.
func (f *Fleet) Get(name desired.Name) (Host, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.hosts[name]
	if e == nil {
		return Host{}, false
	}
	return e.show(), true
}

func (e *entry) show() Host {
	h := e.Host
	h.ListState = e.listState()
	return h
}

// After returns up to limit hosts by name, those after a name that want, and
// whether there are more.
func (f *Fleet) After(name desired.Name, limit int, want func(Host) bool) (hosts []Host, more bool) {
	f.mu.Lock()
	var names []desired.Name
	for n := range f.hosts {
		if n > name {
			names = append(names, n)
		}
	}
	f.mu.Unlock()
	slices.Sort(names)
	for _, n := range names {
		h, ok := f.Get(n)
		if !ok || !want(h) {
			continue
		}
		if len(hosts) == limit {
			return hosts, true
		}
		hosts = append(hosts, h)
	}
	return hosts, false
}

// Changed returns rows for up to limit of the hosts that polled since they were
// last returned, and whether there are more.
func (f *Fleet) Changed(limit int) (rows map[desired.Name][]byte, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rows = map[desired.Name][]byte{}
	for name, e := range f.hosts {
		if !e.changed {
			continue
		}
		if len(rows) == limit {
			return rows, true
		}
		if row, err := json.Marshal(e.Host); err == nil { // plain fields: it can't fail
			rows[name] = row
		}
		e.changed = false
	}
	return rows, false
}
