package apply

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"time"

	"espalier/agent/driver"
	"espalier/internal/desired"
	"espalier/store"
)

var (
	errUnanswered = errors.New("its driver said nothing of it")
	errNote       = errors.New("its driver notes too much of it")
)

// round goes once through all that is pending, and hands it to the drivers in the
// order that "after" asks for. What fails, and what waits for it, is left to a
// later round. Batches may be under way for longer than the round: a driver that
// takes its time holds up neither the others nor a newer state.
type round struct {
	*Applier
	sets []Set
	// heads are the roots of the sets when deletions were counted: of others none is
	// carried out.
	heads []desired.Digest
	// hold says that nothing new is applied: what has drifted is corrected.
	hold bool
	// idle says that nothing is done: what is pending is not looked at.
	idle     bool
	lanes    []*lane
	order    *order
	looked   int  // keys looked at in one view
	moved    bool // it got somewhere
	failures int  // in it
	ended    bool
}

func (a *Applier) newRound(s *survey) *round {
	r := &round{
		Applier: a, sets: s.sets, heads: s.heads, hold: s.hold, idle: s.idle, lanes: newLanes(a.routes, a.options.Policy),
		order: newOrder(),
	}
	a.retries.round++
	if s.idle {
		for _, l := range r.lanes {
			l.spans = nil
		}
		r.ended = true
	}
	return r
}

// free reports whether another batch of the lane may begin.
func (r *round) free(l *lane) bool {
	return !l.over() && (l.route == nil || r.busy[l.route] < l.Parallel)
}

// over reports whether nothing is left to begin in this round, and nothing waits
// for what is under way.
func (r *round) over() bool {
	return !slices.ContainsFunc(r.lanes, func(l *lane) bool { return !l.over() }) && (len(r.flying) == 0 || r.order.waiting() == 0)
}

// fill looks at what is pending for lanes that have room, and returns the batches
// that are to begin.
func (r *round) fill() (begun []*batch, err error) {
	if !slices.ContainsFunc(r.lanes, r.free) {
		return nil, nil
	}
	err = view(r.record, r.routes, r.sets, func(h *host) error {
		h.disregard()
		same := slices.Equal(h.heads(), r.heads)
		for _, l := range r.lanes {
			for r.free(l) && r.looked < chunkKeys {
				b := &batch{lane: l, lists: r.lists}
				err := r.collect(h, b, same)
				if err == nil && len(b.items) == 0 {
					break
				}
				r.lastBatch++
				b.id = r.lastBatch
				r.busy[l.route]++
				if begun = append(begun, b); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return begun, err
}

// collect fills a batch with what comes next in its lane. same says that the sets
// are still those whose deletions were counted.
func (r *round) collect(h *host, b *batch, same bool) error {
	l := b.lane
	for len(l.ready) > 0 {
		if full, err := r.consider(h, b, []byte(l.ready[0]), same); full || err != nil {
			return err
		}
		l.ready = l.ready[1:]
	}
	for len(l.spans) > 0 {
		if more, err := r.collectSpan(h, b, same); more || err != nil {
			return err
		}
		l.spans = l.spans[1:]
	}
	return nil
}

// collectSpan fills a batch from its lane's first span. more says that something of
// the span is left.
func (r *round) collectSpan(h *host, b *batch, same bool) (more bool, err error) {
	s := &b.lane.spans[0]
	var last []byte // that was considered
	for key, err := range h.pending(*s) {
		if err != nil {
			return true, err
		}
		full, err := r.consider(h, b, key, same)
		if err != nil {
			return true, err
		}
		if !full {
			last = append(last[:0], key...)
			r.looked++
		}
		if full || r.looked >= chunkKeys {
			if last != nil {
				s.from = append(last, 0)
			}
			return true, nil
		}
	}
	return false, nil
}

// consider decides about one key: it goes into the batch, waits for others,
// is noted, or is left alone. full says that the batch has no room,
// and the key is to be considered again.
func (r *round) consider(h *host, b *batch, key []byte, same bool) (full bool, err error) {
	r.retries.see(key)
	if _, flies := r.flying[string(key)]; flies {
		return false, nil
	}
	if _, just := r.just[string(key)]; just { // of which h doesn't know yet; whoever landed it asks for another round
		return false, nil
	}
	o, err := h.object(bytes.Clone(key))
	if err != nil {
		return false, err
	}
	a := h.decide(&o)
	if a == note {
		r.note(h, &o)
	}
	if !a.driven() || !r.may(o.key, a) || a == remove && !same {
		return false, nil
	}
	if next := r.retries.due(string(key), time.Now()); !next.IsZero() {
		r.againAt(next)
		return false, nil
	}
	it, err := h.item(&o, a)
	if err != nil {
		return false, err
	}
	if b.full(it) {
		return true, nil
	}
	first, err := h.before(it, r.may, r.flying)
	if err != nil {
		return false, err
	}
	if len(first) > 0 {
		r.order.wait(it.change.Key, first)
		return false, nil
	}
	b.add(it)
	r.flying[it.change.Key] = struct{}{}
	return false, nil
}

// may reports whether an action is one of this round's, and not already done.
func (r *round) may(key []byte, a action) bool {
	return !r.just[string(key)] && (!r.hold || a == correct)
}

// note takes account of an object about which nothing is to be done on the host.
func (r *round) note(h *host, o *object) {
	r.moved = true
	r.ledger.rows(o.key, h.names(o), h.settled(o, o.noted))
	if o.drifted {
		r.ledger.settle(o.key)
	}
}

// land takes what became of a batch.
func (r *round) land(ctx context.Context, b *batch) {
	r.busy[b.lane.route]--
	r.ended = false // what came of it has to be told
	defer r.tell()
	r.ledger.update.Ended = append(r.ledger.update.Ended, b.id)
	now := time.Now()
	for i, it := range b.items {
		key, result := it.change.Key, b.results[i]
		delete(r.flying, key)
		if _, missed := r.missed[key]; missed {
			delete(r.missed, key)
			r.hint(b.lane.route, key)
		}
		r.just[key] = false // whatever the view says that was opened before
		if len(result.Note) > driver.MaxNoteBytes {
			result = driver.Result{Err: errNote}
		}
		if result.Err != nil && !errors.Is(result.Err, driver.ErrUnmanaged) {
			r.failed(ctx, it, result, now)
			continue
		}
		r.just[key] = true
		r.lane(key).failures = 0
		r.retries.succeed(key, it.found, now)
		if it.action == remove {
			r.retries.forget(key)
		}
		r.moved = true
		if r.ledger.done(it, result); b.lists != r.lists && it.action != remove {
			r.ledger.drift(store.Drift{Key: it.key, Doubt: true, Reason: relisted, At: now}) // the list may rank its sets otherwise
		}
		r.advance(it)
		r.ready = append(r.ready, r.order.done(key)...)
	}
}

// failed notes that an attempt failed.
func (r *round) failed(ctx context.Context, it *item, result driver.Result, now time.Time) {
	key := it.change.Key
	if ctx.Err() == nil { // else it was called off
		attempt, next := r.retries.fail(key, result.Err.Error(), now)
		r.againAt(next)
		r.lane(key).failures++
		if r.failures++; r.failures <= maxLogged {
			r.log.Warn("not applied", "key", key, "action", it.action, "attempt", attempt, "error", result.Err)
		}
	}
	if it.drifted || result.Untouched {
		return
	}
	r.ledger.drift(store.Drift{Key: it.key, Doubt: true, Reason: cutText(result.Err.Error()), At: now})
}

// release hands keys that wait no more to their lanes, once what they waited for
// is recorded.
func (r *round) release() {
	for _, key := range r.ready {
		l := r.lane(key)
		l.ready = append(l.ready, key)
	}
	r.ready = nil
}

// lane returns the lane of a key.
func (r *round) lane(key string) *lane {
	route := r.routes.find([]byte(key))
	return r.lanes[slices.IndexFunc(r.lanes, func(l *lane) bool { return l.route == route })]
}

// end closes the books.
func (r *round) end() {
	r.ended = true
	if more := r.failures - maxLogged; more > 0 {
		r.log.Warn("not applied", "more", more)
	}
	r.failures = 0
	now := time.Now()
	if r.idle {
		return
	}
	for _, cycle := range r.order.cycles() {
		for _, key := range cycle {
			if r.retries.see([]byte(key)); !r.retries.due(key, now).IsZero() {
				continue // the books were closed before
			}
			_, next := r.retries.fail(key, "objects of this host's sets come after one another: "+cycleText(cycle), now)
			r.againAt(next)
		}
	}
	if slices.ContainsFunc(r.lanes, func(l *lane) bool { return len(l.spans) > 0 }) {
		return
	}
	r.retries.calm(r.retries.round)
}
