package apply

import (
	"hash/maphash"
	"math/rand/v2"
	"time"

	"espalier/internal/pace"
)

// attempt is what is known of an object that failed of late, or drifted.
type attempt struct {
	failures int    // in a row
	text     string // why the last failed; empty: it didn't
	since    time.Time
	next     time.Time // no attempt before
	well     time.Time // since when it is as it was made; zero: it is not
	round    uint64    // that saw it last
}

// brief is what is known of an object that failed when maxTracked others had.
type brief struct {
	failures int
	next     time.Time
	round    uint64
}

// retries says when what failed is tried again. Each object backs off alone. One
// that drifts again soon after it was corrected backs off like one that fails: it
// dies at once, or somebody else wants it otherwise, and neither gets better by
// haste.
type retries struct {
	all    map[string]*attempt // at most maxTracked
	failed int                 // of all, those whose last attempt failed
	// more are those that failed besides, by a digest of the key: should two have the
	// same, they back off together.
	more  map[uint64]brief
	seed  maphash.Seed
	rng   *rand.Rand
	round uint64
}

func newRetries(rng *rand.Rand) *retries {
	return &retries{all: map[string]*attempt{}, more: map[uint64]brief{}, seed: maphash.MakeSeed(), rng: rng}
}

// due returns when an object may be tried, unless that is now: then zero.
func (r *retries) due(key string, now time.Time) (next time.Time) {
	if a := r.all[key]; a != nil {
		next = a.next
	} else if len(r.more) > 0 {
		next = r.more[maphash.String(r.seed, key)].next
	}
	if now.Before(next) {
		return next
	}
	return time.Time{}
}

// see notes that an object is still wanted in this round.
func (r *retries) see(key []byte) {
	if a := r.all[string(key)]; a != nil {
		a.round = r.round
		return
	}
	if len(r.more) == 0 {
		return
	}
	sum := maphash.Bytes(r.seed, key)
	if b, ok := r.more[sum]; ok {
		b.round = r.round
		r.more[sum] = b
	}
}

// fail notes that an attempt failed, the how many-th in a row it returns, and when
// to make the next.
func (r *retries) fail(key, why string, now time.Time) (failures int, next time.Time) {
	a, sum := r.all[key], maphash.String(r.seed, key)
	b := r.more[sum]
	if a == nil && len(r.all) >= maxTracked {
		failures = b.failures + 1
		next = now.Add(pace.Backoff(failures, r.rng))
		r.more[sum] = brief{failures, next, r.round}
		return failures, next
	}
	delete(r.more, sum)
	if a == nil {
		a = &attempt{failures: b.failures}
		r.all[key] = a
	}
	if a.text == "" {
		r.failed++
		a.since = now
	}
	a.failures++
	a.text, a.well, a.round = cutText(why), time.Time{}, r.round
	a.next = now.Add(pace.Backoff(a.failures, r.rng))
	return a.failures, a.next
}

// succeed notes that an attempt succeeded, corrected that it made up for a drift.
func (r *retries) succeed(key string, corrected bool, now time.Time) {
	r.lessOf(key)
	a := r.all[key]
	if a == nil && (!corrected || len(r.all) >= maxTracked) {
		return
	}
	if a == nil {
		a = &attempt{}
		r.all[key] = a
	}
	if a.text != "" {
		r.failed--
	}
	a.text, a.well, a.next = "", now, time.Time{}
}

// lessOf takes an object from more.
func (r *retries) lessOf(key string) {
	if len(r.more) > 0 {
		delete(r.more, maphash.String(r.seed, key))
	}
}

// drifted notes that an object is no longer as it was made.
func (r *retries) drifted(key string, now time.Time) {
	a := r.all[key]
	if a == nil || a.well.IsZero() {
		return
	}
	if now.Sub(a.well) >= quiet {
		a.failures = 0
		return
	}
	a.failures++
	a.next = now.Add(pace.Backoff(a.failures, r.rng))
}

// forget forgets an object that is none any more.
func (r *retries) forget(key string) {
	if a := r.all[key]; a != nil && a.text != "" {
		r.failed--
	}
	delete(r.all, key)
	r.lessOf(key)
}

// failing returns how many have failed.
func (r *retries) failing() int { return r.failed + len(r.more) }

// calm forgets the failures of all objects that no round saw from that one on: what
// failed is not wanted any more.
func (r *retries) calm(from uint64) {
	for key, a := range r.all {
		if a.text != "" && a.round < from {
			r.forget(key)
		}
	}
	for sum, b := range r.more {
		if b.round < from {
			delete(r.more, sum)
		}
	}
}

// sweep forgets what has been quiet for long enough.
func (r *retries) sweep(now time.Time) {
	for key, a := range r.all {
		if !a.well.IsZero() && now.Sub(a.well) >= quiet {
			delete(r.all, key)
		}
	}
}

// exhausted reports whether all that fails has done so several times, and nothing
// waits for its next attempt; waiting says that what is due will be tried.
func (r *retries) exhausted(now time.Time, waiting bool) bool {
	for _, a := range r.all {
		due := !a.next.After(now)
		if a.text == "" && !due || a.text != "" && a.failures < OnceAttempts && (waiting || !due) {
			return false
		}
	}
	for _, b := range r.more {
		if b.failures < OnceAttempts && (waiting || b.next.After(now)) {
			return false
		}
	}
	return true
}
