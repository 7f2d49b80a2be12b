package apply

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"time"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// survey is what there is to do, before anything is done.
type survey struct {
	sets  []Set
	heads []desired.Digest
	// desired, applied and observed are the host's roots.
	desired, applied, observed desired.Digest
	objects                    uint64 // that shall be
	made                       uint64 // that were made true
	unmanaged                  uint64
	pending                    uint64 // differences of desired and applied
	removals                   uint64 // objects that are to go, or will be once they are made
	halfway                    uint64 // of them those that may be on the host, and weren't made true
	drifts, doubts             uint64
	allowed                    uint64            // removals
	unknown                    bool              // it isn't known of a set what it holds
	release                    map[string][]byte // what the record is to say of releases
	state                      desired.State
	reason                     string
	look                       time.Time // when that may change by itself; zero: it doesn't
	hold                       bool      // nothing new is applied, but drift corrected
	idle                       bool      // nothing is
}

// The names of what the record keeps for this package.
const (
	stateRoutes   = "routes"   // routes.print of the routes that it was made by
	stateSets     = "sets"     // printOf the list that it was made for
	statePaused   = "paused"   // why, by somebody on the host; absent: it isn't
	stateScanned  = "scanned " // and a prefix: when its contents were last scanned, in seconds since 1970
	stateReleased = "released" // the host root whose deletions are let through
	stateTaken    = "taken"    // the version of the last order to release one that was taken up
)

// begin looks at what there is to do and begins a round of it.
func (a *Applier) begin(ctx context.Context) (r *round, look time.Time, err error) {
	sets := a.current()
	if err := a.prepare(ctx, sets); err != nil {
		return nil, look, err
	}
	s, err := a.survey(sets)
	if err != nil {
		return nil, look, err
	}
	a.ledger.update.State = s.release
	if err := a.write(); err != nil {
		return nil, look, recordError{err}
	}
	a.publish(s)
	return a.newRound(s), s.look, nil
}

// prepare brings the record to the shape of the sets, takes the findings of scans,
// and compares everything where the record was made for another list or by other
// routes.
func (a *Applier) prepare(ctx context.Context, sets []Set) error {
	shapes := map[desired.Name]uint64{}
	err := view(a.record, a.routes, sets, func(h *host) error {
		for _, s := range h.sets {
			if s.snap != nil && !h.prepared(s) {
				shapes[s.name] = s.snap.Shape().Salt
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for set, salt := range shapes {
		if err := a.record.Reshape(ctx, set, salt); err != nil {
			return recordError{err}
		}
	}
	if err := a.absorb(sets); err != nil {
		return err
	}
	a.ready = nil // the round that follows finds them by itself
	if err := a.write(); err != nil {
		return recordError{err}
	}
	return a.compare(ctx, sets)
}

// relisted is why an object is in doubt of which the trees can't tell.
const relisted = "the host's list of sets, or its drivers, have changed"

// compare looks at all objects if the order of the sets, or the routes, are not
// those by which the record was made. What differs then doesn't show in the trees,
// and becomes a drift in doubt.
func (a *Applier) compare(ctx context.Context, sets []Set) error {
	state := map[string][]byte{stateSets: printOf(sets), stateRoutes: a.routes.print()}
	from, same := []byte{}, false
	for from != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := view(a.record, a.routes, sets, func(h *host) (err error) {
			same = bytes.Equal(h.record.State(stateSets), state[stateSets]) && bytes.Equal(h.record.State(stateRoutes), state[stateRoutes])
			empty := h.record.DriftCount() == 0
			for _, set := range h.record.Sets() {
				n, e := h.record.Objects(set)
				empty, err = empty && n == 0, errors.Join(err, e)
			}
			if len(from) == 0 && !same {
				a.lists++
			}
			if same || empty || err != nil {
				from = nil
				return err
			}
			from, err = a.compareSome(h, from)
			return err
		})
		if err != nil || same {
			return err
		}
		if from == nil {
			a.ledger.update.State = state
		}
		if err := a.write(); err != nil {
			return recordError{err}
		}
	}
	return nil
}

// printOf returns what says whether a list of sets is still the same.
func printOf(sets []Set) []byte {
	h := sha256.New()
	for _, s := range sets {
		fmt.Fprintf(h, "%s\n", s.Name)
	}
	return hex.AppendEncode(nil, h.Sum(nil))
}

// compareSome looks at some objects from a key on, and returns where to go on;
// nil: that was all.
func (a *Applier) compareSome(h *host, from []byte) (next []byte, err error) {
	looked, now := 0, time.Now()
	for key, err := range h.everything(span{from: from}) {
		if err != nil {
			return nil, err
		}
		if looked++; looked > noteRows {
			return bytes.Clone(key), nil
		}
		o, err := h.object(bytes.Clone(key))
		if err != nil {
			return nil, err
		}
		if !o.drifted && hidden(&o) {
			a.ledger.drift(store.Drift{Key: o.key, Doubt: true, Reason: relisted, At: now})
		}
	}
	return nil, nil
}

// hidden reports whether the record of an object is not what this list and these
// routes would have made of it, which no tree shows once the sets say what it says:
// the last set that has a row has to be the one whose object was made true.
func hidden(o *object) bool {
	last := -1
	for i, row := range o.rows {
		if row.Key != nil {
			last = i
		}
	}
	switch {
	case last < 0:
		return false
	case o.rows[last].State == store.AppliedTrue:
		return o.rows[last].Driver != o.route.name()
	case o.rows[last].State == store.AppliedUnmanaged:
		return o.route != nil
	}
	return true
}

// survey counts what there is to do, and decides what of it may be done.
func (a *Applier) survey(sets []Set) (*survey, error) {
	s := &survey{sets: sets}
	err := view(a.record, a.routes, sets, func(h *host) error {
		s.heads = h.heads()
		if err := s.roots(h); err != nil {
			return err
		}
		if err := s.count(h); err != nil {
			return err
		}
		if err := s.countFlying(h, a.flying); err != nil {
			return err
		}
		a.judge(s, h.record, time.Now())
		return nil
	})
	return s, err
}

// roots computes the roots of the host and what the record counts.
func (s *survey) roots(h *host) error {
	var want, applied, observed []desired.SetRoot
	for i, set := range h.sets {
		made, err := h.record.Root(set.name)
		if err != nil {
			return err
		}
		seen, err := h.record.Observed(set.name)
		if err != nil {
			return err
		}
		var counts [3]uint64 // by state
		for state := range counts {
			if counts[state], err = h.record.Count(set.name, store.AppliedState(state)); err != nil {
				return err
			}
		}
		objects := counts[store.AppliedTrue] + counts[store.AppliedShadowed] + counts[store.AppliedUnmanaged]
		s.made += counts[store.AppliedTrue]
		s.unmanaged += counts[store.AppliedUnmanaged]
		root := made // of what isn't known nothing else can be said
		switch {
		case set.snap != nil:
			root = set.snap.Head().Root
			s.objects += set.snap.Head().Objects - min(counts[store.AppliedShadowed], set.snap.Head().Objects)
		case i >= h.listed && objects == 0:
			continue // it left, and nothing of it is here
		case i < h.listed:
			s.objects, s.unknown = s.objects+counts[store.AppliedTrue], true
		}
		if i < h.listed {
			want = append(want, desired.SetRoot{Set: set.name, Root: root})
		}
		applied = append(applied, desired.SetRoot{Set: set.name, Root: made})
		observed = append(observed, desired.SetRoot{Set: set.name, Root: seen})
	}
	s.desired, s.applied, s.observed = desired.HostRoot(want), desired.HostRoot(applied), desired.HostRoot(observed)
	return nil
}

// count counts the differences of desired and applied.
func (s *survey) count(h *host) error {
	for d, err := range h.record.Drifts(nil) {
		if err != nil {
			return err
		}
		s.drifts++
		if !d.Doubt {
			continue
		}
		s.doubts++
		o, err := h.object(bytes.Clone(d.Key))
		if err != nil {
			return err
		}
		switch a := h.decide(&o); { // else it is among the differences, too
		case a == correct:
			s.pending++
		case a == remove && o.made < 0:
			s.pending++
			s.removals++
			s.halfway++
		}
	}
	for i, set := range h.sets {
		if h.unknown(i) {
			continue
		}
		tree := merkle.Reader(new(merkle.Memory))
		if set.snap != nil {
			tree = set.snap
		}
		for d, err := range merkle.Diff(tree, h.record.Tree(set.name)) {
			if err != nil {
				return err
			}
			s.pending++
			if d.A != (merkle.Digest{}) {
				continue
			}
			o, err := h.object(bytes.Clone(d.Key))
			if err != nil {
				return err
			}
			if h.decide(&o) == remove && o.made == i {
				s.removals++
			}
		}
	}
	return nil
}

// countFlying counts, of objects that are being made, those that are to go once
// they are.
func (s *survey) countFlying(h *host, flying map[string]struct{}) error {
	for key := range flying {
		o, err := h.object([]byte(key))
		if err != nil {
			return err
		}
		if o.winner < 0 && o.made < 0 && !o.drifted {
			s.removals++
			s.halfway++
		}
	}
	return nil
}

// judge decides what may be done.
func (a *Applier) judge(s *survey, record *store.AppliedView, now time.Time) {
	orders, p := a.ordered(), a.options.Policy
	why, paused := record.State(statePaused), record.State(statePaused) != nil
	limit := DefaultMaxDelete
	if p.MaxDelete != nil {
		limit = *p.MaxDelete
	}
	held := s.made + s.halfway
	s.allowed = max(limit.Count, uint64(math.Floor(float64(held)*limit.Percent/100)))
	released := s.released(orders, record)
	isOpen, look := open(p.Windows, now)
	s.look = look
	a.retries.sweep(now)
	nothing := s.pending == 0 && s.drifts == 0
	if nothing {
		a.retries.calm(math.MaxUint64)
	}
	switch {
	case nothing && len(a.flying) == 0 && s.desired == s.applied:
		s.state = desired.Converged
	case orders.Paused, paused:
		s.state, s.idle, s.reason = desired.Paused, true, pauseText(orders, string(why))
	case p.Detect:
		s.state, s.idle, s.reason = desired.Detecting, true, "it only reports what it would do"
	case s.removals > s.allowed && !released:
		s.state, s.hold = desired.Guarded, true
		s.reason = fmt.Sprintf("%d of %d objects would be deleted, %d may be; 'espalier host release' lets it through", s.removals, held, s.allowed)
	case !isOpen && s.pending > 0:
		s.state, s.hold, s.reason = desired.Closed, true, "it is outside of the windows in which a new state may be applied"
	default:
		s.state = desired.Applying
	}
	s.idle = s.idle || nothing
}

// released reports whether all deletions are let through. Whoever lets them through
// does so once: not again after another state, or after these have been made.
func (s *survey) released(orders desired.Orders, record *store.AppliedView) bool {
	kept, taken := record.State(stateReleased), binary.BigEndian.AppendUint64(nil, orders.Released)
	here := bytes.Equal(kept, s.desired[:])
	switch {
	case orders.Release == s.desired && !bytes.Equal(record.State(stateTaken), taken):
		s.release = map[string][]byte{stateReleased: s.desired[:], stateTaken: taken}
		return true
	case kept != nil && !s.unknown && (!here || s.removals == 0):
		s.release = map[string][]byte{stateReleased: nil}
	}
	return here
}

func pauseText(orders desired.Orders, here string) string {
	switch {
	case orders.Paused && orders.Why != "":
		return "by an operator: " + orders.Why
	case orders.Paused:
		return "by an operator"
	case here != "":
		return "on the host: " + here
	}
	return "on the host"
}

func (a *Applier) ordered() desired.Orders {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.orders
}
