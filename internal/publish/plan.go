package publish

import (
	"fmt"
	"iter"

	"espalier/internal/desired"
	"espalier/internal/spool"
)

// plan is what has to be done to a set, in key order. It may be as long as the
// input, so it lies in a spool of its own: the envelope of a change there is its
// action.
type plan struct {
	in                        *spool.Sorted
	actions                   *spool.Sorted // nil: all of the input is created
	created, updated, deleted uint64
}

// everything plans to create all of the input.
func (a *applier) everything() *plan {
	return &plan{in: a.in.objects, created: uint64(a.in.Len())}
}

// len returns the number of changes.
func (p *plan) len() uint64 { return p.created + p.updated + p.deleted }

// Close gives the plan up.
func (p *plan) Close() error {
	if p.actions == nil {
		return nil
	}
	return p.actions.Close()
}

// each calls fn for each change.
func (p *plan) each(fn func(Action, []byte) error) error {
	if fn == nil {
		return nil
	}
	list := p.actions
	if list == nil {
		list = p.in
	}
	for c, err := range list.All() {
		if err != nil {
			return err
		}
		action := Create
		if p.actions != nil {
			action = actionOf(c)
		}
		if err := fn(action, c.Key); err != nil {
			return err
		}
	}
	return nil
}

// changes returns what to commit. The memory of a change is valid until the next
// iteration.
func (p *plan) changes() iter.Seq2[desired.Change, error] {
	if p.actions == nil {
		return p.in.All()
	}
	return func(yield func(desired.Change, error) bool) {
		for c, err := range p.actions.All() {
			if err == nil && actionOf(c) != Delete {
				c, err = p.object(c.Key)
			}
			if !yield(desired.Change{Key: c.Key, Envelope: c.Envelope}, err) || err != nil {
				return
			}
		}
	}
}

func (p *plan) object(key []byte) (desired.Change, error) {
	c, ok, err := p.in.Get(key)
	if err == nil && !ok {
		err = fmt.Errorf("object %q is not in the input any more", key)
	}
	return c, err
}

func actionOf(c desired.Change) Action {
	if c.Deleted() {
		return Delete
	}
	return Action(c.Envelope[0])
}

// planner gathers a plan, in any order.
type planner struct {
	plan plan
	to   *spool.Writer
}

func (a *applier) newPlanner() *planner {
	return &planner{plan: plan{in: a.in.objects}, to: spool.New(a.in.tempDir, spool.Options{})}
}

func (p *planner) add(key []byte, action Action) error {
	c := desired.Change{Key: key}
	switch action {
	case Create:
		p.plan.created++
	case Update:
		p.plan.updated++
	case Delete:
		p.plan.deleted++
		return p.to.Add(c, 0)
	}
	c.Envelope = desired.Envelope{byte(action)}
	return p.to.Add(c, 0)
}

func (p *planner) finish() (*plan, error) {
	var err error
	p.plan.actions, err = p.to.Finish()
	return &p.plan, err
}
