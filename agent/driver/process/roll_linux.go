package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// roll makes the copies of one object what its spec says:
//
//  1. copies that there shall be no more of are stopped, the last first;
//  2. what is missing is started, all of it at once;
//  3. copies of another version are replaced one by one, the first first.
//
// Each step waits until what it has started stayed up, and ends the roll if it
// didn't. So a version that doesn't run costs one copy, and the next attempt
// begins with that one.
type roll struct {
	d       *Driver
	name    string
	spec    Spec
	version string
	before  note

	live []copyState // what runs, for Watch
}

func (r *roll) run(ctx context.Context) error {
	copies, err := r.d.settled(ctx, r.name, r.spec.Replicas)
	if err != nil {
		return err
	}
	r.keep(copies...)
	if err := r.shrink(ctx, copies); err != nil {
		return err
	}
	copies = copies[:r.spec.Replicas]
	if err := r.fill(ctx, copies); err != nil {
		return err
	}
	for i, c := range copies {
		if c.Version == r.version {
			continue
		}
		if err := r.replace(ctx, &copies[i]); err != nil {
			return fmt.Errorf("%w; %d of %d copies are still of another version", err, r.others(copies), len(copies))
		}
	}
	return nil
}

// others returns how many run that are of another version.
func (r *roll) others(copies []copyState) int {
	n := 0
	for _, c := range copies {
		if c.phase == phaseLive && c.Version != r.version {
			n++
		}
	}
	return n
}

// keep remembers copies that Watch shall know.
func (r *roll) keep(copies ...copyState) {
	for _, c := range copies {
		if c.phase != phaseNone {
			r.live = append(r.live, c)
		}
	}
}

// watch hands what runs to Watch, which finds out by itself what was stopped.
func (r *roll) watch() { r.d.tell(r.live) }

// stopping returns how a copy is to be stopped.
func (r *roll) stopping(st *state) Stopping {
	switch {
	case st == nil:
		return r.spec.Stop
	case st.Version == r.version:
		return r.spec.Stop
	default:
		return r.before.stopping(st)
	}
}

// shrink stops the copies that are too many.
func (r *roll) shrink(ctx context.Context, copies []copyState) error {
	for i := len(copies) - 1; i >= 0 && copies[i].replica >= r.spec.Replicas; i-- {
		c := copies[i]
		if err := c.stop(ctx, c, r.stopping(c.state)); err != nil {
			return err
		}
		if err := c.forget(); err != nil {
			return err
		}
	}
	return nil
}

// fill starts what is missing, and waits until it is ready, and what an earlier
// attempt has started.
func (r *roll) fill(ctx context.Context, copies []copyState) error {
	errs := make([]error, len(copies))
	started := make([]bool, len(copies))
	places := make(chan struct{}, startParallel)
	var all sync.WaitGroup
	for i := range copies {
		c := &copies[i]
		if c.phase == phaseLive && c.Version != r.version {
			continue
		}
		all.Go(func() {
			if c.phase != phaseLive {
				places <- struct{}{}
				started[i], errs[i] = r.restart(ctx, c)
				<-places
			}
			if errs[i] == nil {
				errs[i] = r.ready(ctx, *c)
			}
		})
	}
	all.Wait()
	for i, c := range copies {
		if started[i] && !errors.As(errs[i], new(deathError)) {
			r.keep(c)
		}
	}
	return firstOf(errs)
}

// firstOf returns the first error, and how many more there are.
func firstOf(errs []error) error {
	var first error
	more := 0
	for _, err := range errs {
		switch {
		case err == nil:
		case first == nil:
			first = err
		default:
			more++
		}
	}
	if more > 0 {
		return fmt.Errorf("%w; and %d more of its copies", first, more)
	}
	return first
}

// replace puts a copy of the new version in the place of an older one.
func (r *roll) replace(ctx context.Context, c *copyState) error {
	if _, err := r.restart(ctx, c); err != nil {
		return err
	}
	err := r.ready(ctx, *c)
	if !errors.As(err, new(deathError)) {
		r.keep(*c)
	}
	return err
}

// restart stops what is in the slot, if anything is, and starts it anew.
func (r *roll) restart(ctx context.Context, c *copyState) (started bool, err error) {
	if c.phase != phaseNone {
		if err := c.stop(ctx, *c, r.stopping(c.state)); err != nil {
			return false, err
		}
		*c = copyState{slot: c.slot}
	}
	fresh, err := c.start(ctx, r.spec)
	if err != nil {
		return false, err
	}
	*c = fresh
	return true, nil
}

// ready waits until a copy has stayed up for as long as it has to.
func (r *roll) ready(ctx context.Context, c copyState) error {
	h, err := c.openShim()
	if errors.Is(err, errGone) {
		return c.died()
	}
	if err != nil {
		return fmt.Errorf("copy %d: %w", c.replica, err)
	}
	defer h.close()
	enough, cancel := context.WithTimeout(ctx, max(0, r.spec.ReadyAfter-c.Program.age()))
	defer cancel()
	err = h.wait(enough)
	switch {
	case err == nil:
		return c.died()
	case ctx.Err() != nil:
		return fmt.Errorf("copy %d runs, but was not waited for: %w", c.replica, context.Cause(ctx))
	case errors.Is(err, context.DeadlineExceeded):
		return nil
	default:
		return fmt.Errorf("copy %d: %w", c.replica, err)
	}
}

// died returns what became of a copy whose shim has ended.
func (c copyState) died() error {
	st, err := readState(c.statePath())
	if err != nil {
		return fmt.Errorf("copy %d ended: state: %w", c.replica, err)
	}
	return deathError(fmt.Sprintf("copy %d %s", c.replica, fate(st, c.d.boot)))
}

// deathError says what became of a copy that didn't stay up. Watch need not tell
// of it: Apply does.
type deathError string

func (e deathError) Error() string { return string(e) }

// fate says how a copy that doesn't run ended, its last line included.
func fate(st *state, boot string) string {
	switch {
	case st == nil:
		return "is not there"
	case st.Boot != boot:
		return "ended with the host's last boot"
	case st.End == nil:
		return fmt.Sprintf("ended unseen: its shim, process %d, was killed", st.Shim.PID)
	case st.End.Tail != "":
		return st.End.String() + ": " + st.End.Tail
	default:
		return st.End.String()
	}
}
