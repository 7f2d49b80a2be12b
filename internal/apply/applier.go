package apply

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"espalier/agent/driver"
	"espalier/internal/desired"
	"espalier/store"
)

// Options configures an Applier.
type Options struct {
	// Record is what was made true so far. Required; the caller closes it after Run
	// has returned.
	Record *store.Applied
	// Routes say which driver owns which keys; what none owns is unmanaged.
	Routes []Route
	Policy Policy
	// Changed is called, from any goroutine and without delay, when what Status
	// returns has changed; nil: nobody is told.
	Changed func()
	// Logger receives what an operator should know; nil: slog.Default().
	Logger *slog.Logger
}

// Applier makes a host match its sets, and keeps it matching. What is to be done
// is what differs between the trees of what is desired and of what was applied,
// and what has drifted.
type Applier struct {
	options Options
	log     *slog.Logger
	record  *store.Applied
	routes  routes
	limiter *rate.Limiter
	wake    chan struct{} // holds one: there is something new
	hints   map[*Route]*hints

	mu       sync.Mutex
	sets     []Set
	orders   desired.Orders
	findings []finding
	room     chan struct{} // closed, and made anew, when findings were taken
	status   desired.Convergence
	applied  uint64            // objects, since the first of these appliers began
	failures []desired.Failure // all of them
	root     desired.Digest    // that is being made true
	since    time.Time         // when that was begun

	// What follows is the loop's alone.
	retries   *retries
	ledger    ledger
	flying    map[string]struct{} // keys of batches under way
	missed    map[string]struct{} // of them, those of which a scan found something meanwhile
	just      map[string]bool     // keys that have landed, which is not yet recorded; true: they are done with
	ready     []string            // keys that wait no more once that is recorded
	busy      map[*Route]int      // batches under way
	landed    chan *batch
	under     int // batches that will land
	lastBatch uint64
	lists     uint64    // that were in force so far
	again     time.Time // when something may be tried that could not be in this round; zero: nothing has to wait
}

// New returns an Applier. It returns an error that matches desired.ErrInvalid for
// routes or a policy that can't be followed.
func New(o Options) (*Applier, error) {
	rs, err := newRoutes(o.Routes)
	if err != nil {
		return nil, err
	}
	for _, w := range o.Policy.Windows {
		if err := w.Check(); err != nil {
			return nil, fmt.Errorf("%w %w", desired.ErrInvalid, err)
		}
	}
	limit, burst := rate.Inf, maxBatch
	if r := o.Policy.Rate; r > 0 {
		limit, burst = rate.Limit(r), max(1, min(int(r), maxBatch))
	}
	a := &Applier{
		options: o, log: cmp.Or(o.Logger, slog.Default()), record: o.Record, routes: rs, limiter: rate.NewLimiter(limit, burst),
		wake: make(chan struct{}, 1), room: make(chan struct{}),
		retries: newRetries(rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))),
		hints:   map[*Route]*hints{},
		flying:  map[string]struct{}{}, missed: map[string]struct{}{}, just: map[string]bool{}, busy: map[*Route]int{}, landed: make(chan *batch),
	}
	for i := range rs {
		if _, ok := rs[i].Driver.(driver.Scanner); ok {
			a.hints[&rs[i]] = &hints{keys: map[string]struct{}{}, ready: make(chan struct{}, 1)}
		}
	}
	return a, nil
}

// Desire says what the host's sets are, in the order of its list, and what it is
// ordered, or that their mirrors have moved. It may be called from any goroutine.
func (a *Applier) Desire(sets []Set, orders desired.Orders) {
	a.mu.Lock()
	a.sets, a.orders = slices.Clone(sets), orders
	a.mu.Unlock()
	a.nudge()
}

// Inherit takes over what is known, and was counted, by an Applier whose place a
// takes: until a has looked by itself, that is its Status.
func (a *Applier) Inherit(from *Applier) {
	from.mu.Lock()
	status, failures, applied, root, since := from.status, from.failures, from.applied, from.root, from.since
	from.mu.Unlock()
	a.mu.Lock()
	a.status, a.failures, a.applied, a.root, a.since = status, failures, applied, root, since
	a.mu.Unlock()
}

// nudge has the loop look for something new.
func (a *Applier) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Run keeps the host matching its sets until ctx is done, and then returns nil,
// once no driver is at work any more. An error is one of the record's: what is
// made true can't be recorded any more.
func (a *Applier) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.loop(ctx, func() bool { return false }) })
	a.look(ctx, group)
	if err := group.Wait(); err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	return nil
}

// Once looks once for drift, then makes the host match its sets, and returns when
// it does, when what is left has failed several times or waits for an operator, or
// when ctx is done. What came of it is in Status.
func (a *Applier) Once(ctx context.Context) error {
	a.retries = newRetries(a.retries.rng) // whoever asks wants it tried
	err := a.lookOnce(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	if e := a.loop(ctx, a.exhausted); e != nil {
		err = errors.Join(err, fmt.Errorf("apply: %w", e))
	}
	return err
}

// loop works until ctx is done, or nothing is under way and stop says so. An error
// is one of the record's.
func (a *Applier) loop(ctx context.Context, stop func() bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	idle := &survey{idle: true}
	r, dirty := a.newRound(idle), true
	var surveyed, due time.Time
	var fatal error
	for {
		if fatal != nil {
			cancel() // what is under way can't be recorded any more
		}
		stopping, began := ctx.Err() != nil, time.Now()
		if dirty && !stopping && (r.over() || !began.Before(surveyed)) {
			next, look, err := a.begin(ctx)
			dirty, due, surveyed, a.again = false, look, rested(began), time.Time{}
			if r = next; err != nil {
				r, fatal = a.newRound(idle), a.trouble(ctx, err)
			}
			continue
		}
		progress, err := a.step(ctx, r, stopping)
		switch {
		case err != nil:
		case progress:
			continue
		case a.under == 0 && stopping:
			return fatal
		case r.over() && !r.ended:
			began = time.Now()
			if due, err = a.finish(r); err == nil {
				dirty = dirty || r.moved && a.unfinished() // what waited for others, or began to differ meanwhile
				surveyed = rested(began)
				continue
			}
		case a.under == 0 && !dirty && stop():
			return nil
		}
		if err != nil {
			r, fatal = a.newRound(idle), a.trouble(ctx, err)
			continue
		}
		if a.await(ctx, r, a.wakeAt(due, dirty, surveyed)) {
			dirty = true
		}
	}
}

// rested returns until when a survey that began then and ends now need not be
// followed by another: a state that moves, and failures that are due again, must
// not keep anything from being applied.
func rested(began time.Time) time.Time {
	now := time.Now()
	return now.Add(surveyShare * now.Sub(began))
}

// againAt has a round begin at that time at the latest.
func (a *Applier) againAt(t time.Time) { a.again = earliest(a.again, t) }

// wakeAt returns when to look at what there is to do; zero: when there is something
// new.
func (a *Applier) wakeAt(due time.Time, dirty bool, surveyed time.Time) time.Time {
	due = earliest(due, a.again)
	if dirty || !due.IsZero() && due.Before(surveyed) {
		return surveyed
	}
	return due
}

// earliest returns the earlier of two times, of which zero is none.
func earliest(t, u time.Time) time.Time {
	if t.IsZero() || !u.IsZero() && u.Before(t) {
		return u
	}
	return t
}

// await waits for something to happen, until a time unless that is zero, and
// reports whether that asks for a new round.
func (a *Applier) await(ctx context.Context, r *round, until time.Time) bool {
	var timer <-chan time.Time
	if !until.IsZero() {
		t := time.NewTimer(max(0, time.Until(until)))
		defer t.Stop()
		timer = t.C
	}
	done := ctx.Done()
	if ctx.Err() != nil {
		done = nil // what is under way ends soon
	}
	select {
	case b := <-a.landed:
		a.under--
		r.land(ctx, b)
		return false
	case <-a.wake:
		return true
	case <-timer:
		return true
	case <-done:
		return false
	}
}

// step takes what has landed, begins what may begin, and records both in one
// transaction. It reports whether it did anything. When it stops nothing begins.
func (a *Applier) step(ctx context.Context, r *round, stopping bool) (progress bool, err error) {
	for landed := true; landed && a.under > 0; {
		select {
		case b := <-a.landed:
			a.under--
			r.land(ctx, b)
		default:
			landed = false
		}
	}
	var begun []*batch
	if r.looked = 0; !stopping {
		if begun, err = r.fill(); err != nil {
			a.abandon(begun)
			begun = nil
		}
	}
	for _, b := range begun {
		a.ledger.update.Begun = append(a.ledger.update.Begun, b.record())
	}
	progress = err == nil && (!a.ledger.empty() || r.looked > 0 || len(a.ready) > 0)
	if e := a.write(); e != nil {
		a.abandon(begun)
		return false, errors.Join(err, recordError{e})
	}
	for _, b := range begun {
		a.under++
		go func() { // loop waits for it to land
			b.apply(ctx, a.limiter)
			a.landed <- b
		}()
	}
	r.release()
	return progress, err
}

// abandon forgets batches that never began.
func (a *Applier) abandon(batches []*batch) {
	for _, b := range batches {
		a.busy[b.lane.route]--
		for _, it := range b.items {
			delete(a.flying, it.change.Key)
		}
	}
}

// write records what there is to record.
func (a *Applier) write() error {
	err := a.ledger.write(a.record)
	a.ledger = ledger{}
	clear(a.just)
	return err
}

// recordError is an error of the record: nothing can be done any more, since it
// could not be recorded.
type recordError struct{ err error }

func (e recordError) Error() string { return e.err.Error() }

func (e recordError) Unwrap() error { return e.err }

// trouble deals with an error, and has the loop try again in a while, unless it is
// fatal. A mirror that is damaged owns up to it, and is fetched again.
func (a *Applier) trouble(ctx context.Context, err error) (fatal error) {
	var ofRecord recordError
	if errors.As(err, &ofRecord) {
		return err
	}
	a.ready = nil // a round that begins anew finds them by itself
	a.againAt(time.Now().Add(troublePause))
	if broken := a.record.View(func(*store.AppliedView) error { return nil }); broken != nil {
		return errors.Join(err, broken)
	}
	damaged := 0
	if errors.Is(err, store.ErrCorrupt) {
		for _, s := range a.current() {
			n, e := s.Mirror.Repair(ctx)
			damaged += n
			err = errors.Join(err, e)
		}
	}
	if ctx.Err() == nil {
		a.log.Error("apply", "error", err, "damaged", damaged)
	}
	return nil
}

// current returns the host's sets.
func (a *Applier) current() []Set {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.sets
}

// cutText returns a text that can be kept of a drift.
func cutText(s string) string { return desired.Cut(s, store.MaxReasonBytes) }
