package store

import (
	"context"
	"fmt"

	"espalier/internal/desired"
)

// Fork notes that a host holds a revision at p, which is in the set's epoch, that
// is not in the set's history: somebody put an older copy of the set's file
// back, and both sides went on from there. Which of the two is right is for an
// operator to say. Until Restore, Renew or Delete ends the epoch, commits are
// refused with ErrForked; reads go on. A position in another epoch is ignored. It
// reports whether nobody had said so before.
func (s *Store) Fork(ctx context.Context, name desired.Name, p desired.Position) (news bool, err error) {
	set, err := s.use(name)
	if err != nil {
		return false, err
	}
	defer s.letGo(set)
	known := func() bool { // hosts say it with each poll
		st := set.state.Load()
		p.Number = min(p.Number, st.head.Number+maxLead)
		return st.head.Epoch != p.Epoch || st.forked >= p.Number
	}
	if known() {
		return false, nil
	}
	if err := set.lock(ctx); err != nil {
		return false, err
	}
	defer set.unlock()
	if known() { // by now
		return false, nil
	}
	news = set.state.Load().forked == 0
	_, err = s.update(set, func(e *edit) error {
		e.forked = p.Number
		return e.meta.write(e.tx)
	})
	if err != nil {
		return false, err
	}
	s.log.Error("a host holds another history of a set; commits to it are refused until an operator starts an epoch",
		"set", name, "revision", set.state.Load().head.Number, "held", p.Number)
	set.change(func(st setState) setState { st.forked = p.Number; return st })
	return news, nil
}

func (m *meta) forkError() error {
	return fmt.Errorf("its %w: a host holds a revision %d that is none of its history, which is at %d; "+
		"nothing is committed until 'espalier epoch %s' lets all hosts follow what the server has, or 'espalier restore %s FILE' a backup",
		ErrForked, m.forked, m.head.Number, m.name, m.name)
}

// Renew starts a new epoch of the set from what it holds. Hosts follow it,
// whichever revision they hold. The history is dropped.
func (s *Store) Renew(ctx context.Context, name desired.Name, who, why string) (desired.Head, error) {
	c := Commit{Who: who, Why: why}
	if err := c.check(name); err != nil {
		return desired.Head{}, err
	}
	set, done, err := s.own(ctx, name)
	if err != nil {
		return desired.Head{}, err
	}
	defer done()
	head, err := s.fleet.begin(name, set.state.Load().epochs())
	if err != nil {
		return desired.Head{}, err
	}
	_, err = s.update(set, func(e *edit) error {
		head = contentOf(e.head).on(head)
		e.forked = 0
		return e.rebase(head, who, why)
	})
	if err != nil {
		return desired.Head{}, err
	}
	set.change(func(st setState) setState { return setState{head: head, err: st.err} })
	return head, nil
}
