package apply

import (
	"bytes"
	"context"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"espalier/agent/driver"
	"espalier/store"
)

// lane is one route's way through a round: what its driver owns, in key order, so
// that a driver that is slow holds up nobody else. The last lane has no route.
type lane struct {
	route *Route
	driver.Batching
	spans    []span   // what is left of its keys; the first begins where it is
	ready    []string // keys that waited for others, and don't any more
	failures int      // in a row, in this round
}

// newLanes returns the lanes of a round.
func newLanes(rs routes, p Policy) []*lane {
	var lanes []*lane
	for i, spans := range rs.spans() {
		l := &lane{spans: spans}
		if i < len(rs) {
			l.route, l.Batching = &rs[i], rs[i].batching(p)
		}
		lanes = append(lanes, l)
	}
	return lanes
}

// over reports whether nothing is left to look at.
func (l *lane) over() bool {
	return l.failures >= breaker || len(l.spans) == 0 && len(l.ready) == 0
}

// batch is changes that a driver is handed together.
type batch struct {
	id      uint64
	lane    *lane
	lists   uint64 // the Applier's when it began
	items   []*item
	bytes   int
	results []driver.Result
}

// full reports whether an item has no room.
func (b *batch) full(it *item) bool {
	return len(b.items) >= b.lane.Objects || len(b.items) > 0 && b.bytes+it.bytes > b.lane.Bytes
}

func (b *batch) add(it *item) {
	b.items = append(b.items, it)
	b.bytes += it.bytes
}

// record returns what the batch is about, as the record keeps it.
func (b *batch) record() store.AppliedBatch {
	rec := store.AppliedBatch{ID: b.id}
	for _, it := range b.items {
		rec.Keys = append(rec.Keys, it.key)
	}
	slices.SortFunc(rec.Keys, bytes.Compare)
	return rec
}

// apply has the driver make the batch true.
func (b *batch) apply(ctx context.Context, limit *rate.Limiter) {
	changes := make([]driver.Change, len(b.items))
	for i, it := range b.items {
		changes[i] = it.change
	}
	if err := limit.WaitN(ctx, len(changes)); err != nil {
		b.fail(err)
		return
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.lane.Timeout, lateError{b.lane.Timeout})
	defer cancel()
	b.results = b.lane.route.Driver.Apply(ctx, changes)
	for len(b.results) < len(changes) {
		b.results = append(b.results, driver.Result{Err: errUnanswered})
	}
}

// fail makes err the result of all that was not begun.
func (b *batch) fail(err error) {
	b.results = make([]driver.Result, len(b.items))
	for i := range b.results {
		b.results[i] = driver.Result{Err: err, Untouched: true}
	}
}

// lateError is why a batch ends that takes too long.
type lateError struct{ after time.Duration }

func (e lateError) Error() string { return "it took longer than " + e.after.String() }
