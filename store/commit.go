package store

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"espalier/internal/desired"
)

// Commit is what a commit asks for.
type Commit struct {
	// Changes are read once, ascending by key; their digests are recomputed.
	// The memory of a change is only read until the next is asked for.
	Changes iter.Seq2[desired.Change, error]
	// Expect is the revision that must be the head, or the commit is refused
	// with ErrConflict; nil: any. A zero epoch stands for the current one; the
	// zero Position demands that the set doesn't exist.
	Expect *desired.Position
	// MaxDelete guards against deleting too much; nil: no limit.
	MaxDelete *DeleteLimit
	Request   Request
	// Who commits and Why are kept in the set's journal.
	Who, Why string
}

// DeleteLimit allows a commit to delete the larger of Count and Percent of the
// objects that are under Prefix before it.
type DeleteLimit struct {
	Count   uint64
	Percent float64
	Prefix  []byte
}

// Request lets a commit be retried: the same ID with the same Digest within 24
// hours gets the first answer again; with another it is refused with
// ErrRequestReused. The zero Request is never remembered.
type Request struct {
	ID     string
	Digest desired.Digest
}

// Result is what a commit did.
type Result struct {
	// Head is the set's after the commit.
	Head                                 desired.Head
	Created, Updated, Deleted, Unchanged uint64
	// Missing counts deletions of keys that weren't there.
	Missing uint64
	// Replayed is whether this is the answer to an earlier request of that id.
	Replayed bool
	// Pages and BytesWritten are what bbolt wrote, its meta page included.
	Pages, BytesWritten uint64
}

// errUnchanged ends a transaction that has nothing to write.
var errUnchanged = errors.New("unchanged")

// Commit applies a commit to the set, which a first commit that has objects
// creates, and returns once that is durable. Changes that change nothing are
// dropped, and a commit of such makes no revision. One after which objects would
// come after each other in a cycle is refused with ErrCycle.
//
// Up to MaxAdoptChanges are applied in place, in one transaction; more, and the
// first, by rewriting the set's file, with the set's other commits waiting
// until Changes has ended.
func (s *Store) Commit(ctx context.Context, name desired.Name, c Commit) (Result, error) {
	if err := c.check(name); err != nil {
		return Result{}, err
	}
	set, err := s.hold(name)
	if err != nil {
		return Result{}, err
	}
	defer s.letGo(set)
	next, stop := iter.Pull2(c.Changes)
	defer stop()
	r := &changeReader{next: next}
	b, more, err := r.batch(ctx, s.opener.inPlace)
	if err != nil {
		return Result{}, err
	}
	if err := set.lock(ctx); err != nil {
		return Result{}, err
	}
	defer set.unlock()
	st := set.state.Load()
	switch {
	case st != nil && st.err != nil:
		return Result{}, st.err
	case st != nil && !more:
		return s.commitInPlace(set, &c, b)
	default:
		return s.commitByRewrite(ctx, set, &c, b, r)
	}
}

// check returns nil if c can be a commit to a set of that name.
func (c *Commit) check(name desired.Name) error {
	if err := checkWords(name, c.Who, c.Why); err != nil {
		return err
	}
	return c.Request.check()
}

// checkWords returns nil if a revision of a set of that name can say so of
// itself.
func checkWords(name desired.Name, who, why string) error {
	if _, err := desired.ParseName(string(name)); err != nil {
		return err
	}
	if len(who) > MaxWhoBytes || len(why) > MaxWhyBytes {
		return fmt.Errorf("%w revision: who has %d bytes and why %d, at most %d and %d are allowed",
			desired.ErrInvalid, len(who), len(why), MaxWhoBytes, MaxWhyBytes)
	}
	return nil
}

// commitInPlace applies b in one transaction.
func (s *Store) commitInPlace(set *set, c *Commit, b *batch) (Result, error) {
	var result Result
	w, err := s.update(set, func(e *edit) error {
		var err error
		result, err = e.commit(c, b)
		return err
	})
	if err != nil && !errors.Is(err, errUnchanged) {
		return Result{}, err
	}
	result.Pages, result.BytesWritten = w.pages, w.bytes
	if !result.Replayed {
		set.setHead(result.Head)
	}
	return result, nil
}

// commit applies b as c demands. It returns errUnchanged along with the result
// if there is nothing to write.
func (e *edit) commit(c *Commit, b *batch) (Result, error) {
	if a, ok, err := replay(e.tx, e.head, c.Request); ok || err != nil {
		if err == nil {
			err = errUnchanged
		}
		return a, err
	}
	if err := c.follows(&e.meta); err != nil {
		return Result{}, err
	}
	p, err := e.compare(b)
	if err != nil {
		return Result{}, err
	}
	if err := e.guard(c, p.deleted); err != nil {
		return Result{}, err
	}
	if len(p.kept) == 0 {
		return e.commitNothing(c, p)
	}
	if err := e.order(p); err != nil {
		return Result{}, err
	}
	if err := e.grow(p, e.shape()); err != nil {
		return Result{}, err
	}
	head := p.held.on(e.head)
	head.Number++
	if err := e.write(p); err != nil {
		return Result{}, err
	}
	if err := e.record(p, head, c.Who, c.Why); err != nil {
		return Result{}, err
	}
	result := p.result(head)
	return result, remember(e.tx, c.Request, result)
}

// commitNothing is commit of a plan that changes nothing: a request for it is
// remembered all the same.
func (e *edit) commitNothing(c *Commit, p *plan) (Result, error) {
	result := p.result(e.head)
	if c.Request.ID == "" {
		return result, errUnchanged
	}
	return result, remember(e.tx, c.Request, result)
}

// result returns the counts as those of a commit that led to head.
func (t *tally) result(head desired.Head) Result {
	return Result{
		Head: head, Created: t.created, Updated: t.updated, Deleted: t.deleted,
		Unchanged: t.unchanged, Missing: t.missing,
	}
}

// follows returns nil if the commit can be the next of the set that m is of.
func (c *Commit) follows(m *meta) error {
	if m.forked != 0 {
		return m.forkError()
	}
	return expect(c.Expect, m.head)
}

// expect returns nil if head is what is wanted, nil being anything; a zero head
// stands for a set that doesn't exist.
func expect(want *desired.Position, head desired.Head) error {
	if want == nil || want.Number == head.Number && (want.Epoch.IsZero() || want.Epoch == head.Epoch) {
		return nil
	}
	if head.Epoch.IsZero() {
		return fmt.Errorf("%w: it doesn't exist, expected was %v", ErrConflict, *want)
	}
	return fmt.Errorf("%w: it is at %v, expected was %v", ErrConflict, head.Position, *want)
}

// guard returns nil if the commit may delete that many objects.
func (e *edit) guard(c *Commit, deletes uint64) error {
	if c.MaxDelete == nil || deletes == 0 {
		return nil
	}
	g, err := c.MaxDelete.on(e.rows, e.held)
	if err != nil {
		return err
	}
	return g.check(deletes)
}

// deleteGuard is a DeleteLimit on a certain revision.
type deleteGuard struct{ limit, of uint64 }

// on counts what the limit is a part of.
func (l *DeleteLimit) on(r rows, held content) (*deleteGuard, error) {
	of, err := r.count(held, l.Prefix, desired.PrefixEnd(l.Prefix))
	return l.of(of), err
}

// Check returns nil if so many objects may be deleted of those that there are,
// or an error that matches ErrTooManyDeletes; nil allows any number.
func (l *DeleteLimit) Check(deletes, of uint64) error {
	if l == nil {
		return nil
	}
	return l.of(of).check(deletes)
}

// of is the limit on so many objects.
func (l *DeleteLimit) of(objects uint64) *deleteGuard {
	g := &deleteGuard{limit: l.Count, of: objects}
	if l.Percent > 0 {
		g.limit = max(g.limit, uint64(float64(objects)*min(l.Percent, 100)/100))
	}
	return g
}

func (g *deleteGuard) check(deletes uint64) error {
	if g == nil || deletes <= g.limit {
		return nil
	}
	return &DeleteGuardError{Deletes: deletes, Limit: g.limit, Of: g.of}
}
