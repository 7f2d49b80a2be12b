package apply

import (
	"bytes"
	"errors"
	"fmt"
	"iter"
	"slices"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// Set is one of the host's sets, as its list has them.
type Set struct {
	Name   desired.Name
	Mirror *store.Mirror
}

// host is what is desired of a host, and what was made true on it, at one moment.
// It is valid until the view that it was handed to returns.
type host struct {
	routes routes
	record *store.AppliedView
	sets   []setView // the list's in its order, then those that left it and of which something is recorded
	listed int       // how many are the list's
}

// setView is a set at that moment.
type setView struct {
	name desired.Name
	// snap is what is desired; nil: nothing is of a set that left, and of one that is
	// on the list it is not known, be it lost, damaged or not yet there. Nothing is
	// inferred from that.
	snap *store.Snapshot
}

// view calls fn with the host as it stands. What fn is handed must not outlive it,
// and fn has to return soon: a snapshot that is held open makes files grow.
func view(record *store.Applied, rs routes, sets []Set, fn func(*host) error) error {
	h := &host{routes: rs, listed: len(sets)}
	var open func(rest []Set) error
	open = func(rest []Set) error {
		if len(rest) == 0 {
			return record.View(func(v *store.AppliedView) error {
				h.record = v
				for _, name := range v.Sets() {
					if !slices.ContainsFunc(h.sets, func(s setView) bool { return s.name == name }) {
						h.sets = append(h.sets, setView{name: name})
					}
				}
				return fn(h)
			})
		}
		s := rest[0]
		if s.Mirror.Head().Number == 0 || s.Mirror.Damaged() {
			h.sets = append(h.sets, setView{name: s.Name})
			return open(rest[1:])
		}
		err := s.Mirror.View(func(snap *store.Snapshot) error {
			h.sets = append(h.sets, setView{s.Name, snap})
			return open(rest[1:])
		})
		if err != nil && errors.Is(err, store.ErrCorrupt) {
			return fmt.Errorf("set %q: %w", s.Name, err)
		}
		return err
	}
	return open(sets)
}

// unknown reports whether it isn't known what set i holds.
func (h *host) unknown(i int) bool { return i < h.listed && h.sets[i].snap == nil }

// disregard makes those sets unknown that the record is not prepared for yet: they
// came, or came anew, in the midst of a round.
func (h *host) disregard() {
	for i := range h.sets {
		if s := &h.sets[i]; s.snap != nil && !h.prepared(*s) {
			s.snap = nil
		}
	}
}

// prepared reports whether the record's tree of a set that is known has its shape.
func (h *host) prepared(s setView) bool {
	shape, ok := h.record.Shape(s.name)
	return ok && shape.Salt == s.snap.Shape().Salt
}

// object is what the sets and the record say of a key.
type object struct {
	key     []byte
	route   *Route             // nil: no driver owns it
	wanted  []desired.Digest   // by set; zero: it doesn't have the key
	rows    []store.AppliedRow // by set; no Key: there is none
	winner  int                // the set that has the key last; -1: none has
	content desired.Envelope   // what the winner has, unless o is blind
	made    int                // the set whose object was made true; -1: none was
	blind   bool               // it isn't known what shall be
	drifted bool
	drift   store.Drift
	// noted is the state of the winner's object where decide says note.
	noted store.AppliedState
}

// object looks a key up.
func (h *host) object(key []byte) (object, error) {
	o := object{key: key, route: h.routes.find(key), wanted: make([]desired.Digest, len(h.sets)), rows: make([]store.AppliedRow, len(h.sets))}
	for i, s := range h.sets {
		if s.snap != nil {
			c, ok, err := s.snap.Get(key)
			if err != nil {
				return o, fmt.Errorf("set %q: %w", s.name, err)
			}
			if ok {
				o.wanted[i], o.content = c.Digest, c.Envelope
			}
		}
		row, _, err := h.record.Row(s.name, key)
		if err != nil {
			return o, err
		}
		o.rows[i] = row
	}
	h.rank(&o)
	var err error
	o.drift, o.drifted, err = h.record.Drift(key)
	return o, err
}

// rank finds out which set has the last word on o, and which had it when the object
// was made true.
func (h *host) rank(o *object) {
	o.winner, o.made, o.blind = -1, -1, false
	for i, row := range o.rows {
		switch {
		case !o.wanted[i].IsZero():
			o.winner, o.blind = i, false
		case row.Key != nil && h.unknown(i): // it had the key, and nothing is done about it unless a later set has it, too
			o.winner, o.blind = i, true
		}
		if row.Key != nil && row.State == store.AppliedTrue {
			o.made = i
		}
	}
}

// heads returns the roots of what is desired, zero where it isn't known.
func (h *host) heads() []desired.Digest {
	heads := make([]desired.Digest, len(h.sets))
	for i, s := range h.sets {
		if s.snap != nil {
			heads[i] = s.snap.Head().Root
		}
	}
	return heads
}

// action is what has to be done about an object.
type action int

const (
	nothing action = iota
	note           // to the record alone
	create
	update
	remove
	correct // what was made true has drifted, or is in doubt
)

var actionTexts = [...]string{"nothing", "note", "create", "update", "delete", "correct"}

func (a action) String() string { return actionTexts[a] }

// driven reports whether it takes a driver.
func (a action) driven() bool { return a > note }

// decide returns what has to be done about o.
func (h *host) decide(o *object) action {
	o.noted = store.AppliedUnmanaged
	switch {
	case o.blind:
		return nothing
	case o.route == nil, o.winner < 0 && o.made < 0 && !o.drifted:
		return h.noting(o)
	case o.winner < 0:
		return remove
	}
	row, want, name := &o.rows[o.winner], o.wanted[o.winner], o.route.Name
	if row.Key != nil && row.State == store.AppliedUnmanaged && row.Digest == want && row.Driver == name && !o.drifted {
		return h.noting(o)
	}
	switch {
	case o.made < 0:
		return create
	case o.rows[o.made].Digest != want, o.rows[o.made].Driver != name:
		return update
	case o.drifted:
		return correct
	}
	o.noted = store.AppliedTrue
	return h.noting(o)
}

// noting returns note if the record isn't what it is to be, else nothing.
func (h *host) noting(o *object) action {
	if o.drifted { // of what no driver owns
		return note
	}
	for i := range h.sets {
		have, want := &o.rows[i], h.row(o, i, o.noted)
		if (have.Key == nil) != (want.Key == nil) || have.Digest != want.Digest || have.State != want.State || have.Driver != want.Driver {
			return note
		}
	}
	return nothing
}

// row returns what the record is to say of set i once its object was taken account
// of, the winner's with the state; no Key: nothing. It shares o's memory. What was
// made true keeps its note.
func (h *host) row(o *object, i int, state store.AppliedState) store.AppliedRow {
	want := o.wanted[i]
	if h.unknown(i) { // it stays as it was, but for that a later set has the key
		want = o.rows[i].Digest
	}
	switch {
	case want.IsZero():
		return store.AppliedRow{}
	case i == o.winner:
		r := store.AppliedRow{Key: o.key, Digest: want, State: state, Driver: o.route.name()}
		if o.made >= 0 && state == store.AppliedTrue {
			r.Note, r.After = o.rows[o.made].Note, o.rows[o.made].After
		}
		return r
	}
	return store.AppliedRow{Key: o.key, Digest: want, State: store.AppliedShadowed}
}

// settled returns, for each set, a copy of row's.
func (h *host) settled(o *object, state store.AppliedState) []store.AppliedRow {
	rows := make([]store.AppliedRow, len(h.sets))
	for i := range rows {
		rows[i] = cloneRow(h.row(o, i, state))
	}
	return rows
}

// pending returns, ascending, the keys of a span about which something may have to
// be done: those about which desired and applied differ, and those that drifted.
// A key is valid until the next.
func (h *host) pending(s span) iter.Seq2[[]byte, error] {
	sources := h.drifted(s)
	for i, set := range h.sets {
		switch {
		case h.unknown(i):
		case set.snap == nil:
			sources = append(sources, h.recorded(set.name, s))
		default:
			sources = append(sources, h.differences(set, s))
		}
	}
	return merged(sources)
}

// everything is pending for all keys that there are.
func (h *host) everything(s span) iter.Seq2[[]byte, error] {
	sources := h.drifted(s)
	for _, set := range h.sets {
		sources = append(sources, h.recorded(set.name, s))
		if set.snap != nil {
			sources = append(sources, leaves(set.snap, s))
		}
	}
	return merged(sources)
}

// drifted returns the keys that drifted, in no sequence if none did.
func (h *host) drifted(s span) []iter.Seq2[[]byte, error] {
	if h.record.DriftCount() == 0 {
		return nil
	}
	return []iter.Seq2[[]byte, error]{func(yield func([]byte, error) bool) {
		for d, err := range h.record.Drifts(s.from) {
			if err == nil && s.until != nil && bytes.Compare(d.Key, s.until) >= 0 || !yield(d.Key, err) {
				return
			}
		}
	}}
}

func (h *host) recorded(set desired.Name, s span) iter.Seq2[[]byte, error] {
	return leaves(h.record.Tree(set), s)
}

func leaves(tree merkle.Reader, s span) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for row, err := range tree.Rows(0, s.from, s.until) {
			if !yield(row.Key, err) {
				return
			}
		}
	}
}

func (h *host) differences(set setView, s span) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for d, err := range merkle.DiffRange(set.snap, h.record.Tree(set.name), s.from, s.until) {
			if !yield(d.Key, err) {
				return
			}
		}
	}
}

// merged unites ascending sequences, each key once. It ends with the first error.
func merged(sources []iter.Seq2[[]byte, error]) iter.Seq2[[]byte, error] {
	if len(sources) == 1 {
		return sources[0]
	}
	return func(yield func([]byte, error) bool) {
		heads := make([][]byte, len(sources)) // copies; nil: the source is at its end
		nexts := make([]func() ([]byte, error, bool), len(sources))
		advance := func(i int) error {
			key, err, ok := nexts[i]()
			if err != nil || !ok {
				heads[i] = nil
				return err
			}
			heads[i] = append(heads[i][:0:cap(heads[i])], key...)
			return nil
		}
		for i, s := range sources {
			next, stop := iter.Pull2(s)
			defer stop()
			nexts[i] = next
			if err := advance(i); err != nil {
				yield(nil, err)
				return
			}
		}
		var key []byte
		for {
			least := -1
			for i, head := range heads {
				if head != nil && (least < 0 || bytes.Compare(head, heads[least]) < 0) {
					least = i
				}
			}
			if least < 0 {
				return
			}
			key = append(key[:0], heads[least]...)
			for i, head := range heads {
				if head == nil || !bytes.Equal(head, key) {
					continue
				}
				if err := advance(i); err != nil {
					yield(nil, err)
					return
				}
			}
			if !yield(key, nil) {
				return
			}
		}
	}
}
