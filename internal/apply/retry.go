package apply

import (
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
}

// retries says when what failed is tried again. Each object backs off alone. One
// that drifts again soon after it was corrected backs off like one that fails: it
// dies at once, or somebody else wants it otherwise, and neither gets better by
// haste.
type retries struct {
	all    map[string]*attempt
	failed int // entries whose last attempt failed
	rng    *rand.Rand
}

func newRetries(rng *rand.Rand) *retries {
	return &retries{all: map[string]*attempt{}, rng: rng}
}

// due returns when an object may be tried, unless that is now: then zero.
func (r *retries) due(key string, now time.Time) (next time.Time) {
	if a := r.all[key]; a != nil && now.Before(a.next) {
		next = a.next
	}
	return next
}

// fail notes that an attempt failed, and returns when to make the next.
func (r *retries) fail(key, why string, now time.Time) (next time.Time) {
	a := r.all[key]
	if a == nil {
		a = &attempt{since: now}
		r.all[key] = a
	}
	if a.text == "" {
		r.failed++
		a.since = now
	}
	a.failures++
	a.text, a.well = why, time.Time{}
	a.next = now.Add(pace.Backoff(a.failures, r.rng))
	return a.next
}

// succeed notes that an attempt succeeded, corrected that it made up for a drift.
func (r *retries) succeed(key string, corrected bool, now time.Time) {
	a := r.all[key]
	if a == nil && !corrected {
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
}

// calm forgets all failures: nothing of what failed is wanted any more.
func (r *retries) calm() {
	if r.failed == 0 {
		return
	}
	for key, a := range r.all {
		if a.text != "" {
			r.forget(key)
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
