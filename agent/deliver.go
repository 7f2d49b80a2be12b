package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"

	"espalier/internal/desired"
	"espalier/internal/follow"
	"espalier/store"
)

// Handler is told of verified changes, in the order of the revisions; changes
// that came while it was busy, or while the agent was down, are folded into one
// Update. It may see the same Update again after a crash: at least once.
type Handler interface {
	// Handle returns an error if the update has to be handed over again later.
	Handle(ctx context.Context, u Update) error
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, u Update) error

// Handle implements Handler.
func (f HandlerFunc) Handle(ctx context.Context, u Update) error { return f(ctx, u) }

// Update is what changed in a set since the Handler was last told.
type Update struct {
	Set  desired.Name
	Head desired.Head
	// Full says that Changes are all objects there are, and that whatever else
	// the Handler knows of is gone.
	Full bool
	// Left says that the set has left the host's list: there are no Changes, Full
	// is set, and nothing will follow.
	Left bool
	// Changes are what changed, in key order: the latest content of each key, or
	// its deletion. A change is valid until the next. They can be read more than
	// once, while Handle runs.
	Changes iter.Seq2[desired.Change, error]
}

// deliver hands to the Handler what it was not told yet, whether or not there is
// a server. What is damaged is not what was published: it has to be mended first.
func (a *Agent) deliver(ctx context.Context, set *follow.Set) error {
	m := mirrorOf(set)
	head, told := m.Head(), m.Delivered()
	if a.options.Handler == nil || head.Number == 0 || told == head.Position || m.Damaged() || ctx.Err() != nil {
		return nil
	}
	u := Update{Set: set.Name, Head: head, Full: true, Changes: objects(m)}
	if told.Epoch == head.Epoch {
		err := m.View(func(s *store.Snapshot) error {
			t, ok, err := s.Touched(told.Number, deliverKeys)
			if ok {
				u.Full, u.Changes = false, current(m, t.Keys)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	var unread error
	u.Changes = noting(u.Changes, &unread)
	err := a.options.Handler.Handle(ctx, u)
	if err == nil {
		err = unread // whatever it made of the rest, it was not told everything
	}
	if errors.Is(unread, store.ErrCorrupt) {
		_, mended := m.Repair(ctx)
		err = errors.Join(err, mended)
	}
	if err != nil {
		return fmt.Errorf("handler for set %q at revision %s: %w", set.Name, head.Position, err)
	}
	return m.MarkDelivered(head.Position)
}

// leave tells the Handler of a set that has left the host's list.
func (a *Agent) leave(ctx context.Context, set *follow.Set) error {
	if a.options.Handler == nil || set.Head().Number == 0 {
		return nil
	}
	none := func(func(desired.Change, error) bool) {}
	return a.options.Handler.Handle(ctx, Update{Set: set.Name, Head: set.Head(), Full: true, Left: true, Changes: none})
}

// noting returns changes, and notes the error that reading them ends with.
func noting(changes iter.Seq2[desired.Change, error], failed *error) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for c, err := range changes {
			if err != nil {
				*failed = err
			}
			if !yield(c, err) {
				return
			}
		}
	}
}

// deliverKeys bounds the keys of an update that is not Full.
const deliverKeys = 256 << 10

// chunk is a piece of a mirror, copied out of its transaction.
type chunk struct {
	changes []desired.Change
	bytes   int
}

func (c *chunk) add(change desired.Change) {
	c.changes = append(c.changes, desired.Change{
		Key: bytes.Clone(change.Key), Envelope: bytes.Clone(change.Envelope), Digest: change.Digest,
	})
	c.bytes += change.PayloadBytes()
}

// current returns what the mirror has under keys, deletions included, without
// holding a transaction open while the changes are worked on.
func current(m *store.Mirror, keys [][]byte) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		for rest := keys; len(rest) > 0; {
			var c chunk
			err := m.View(func(s *store.Snapshot) error {
				for len(rest) > 0 && c.bytes < deliverBytes {
					change, ok, err := s.Get(rest[0])
					if err != nil {
						return err
					}
					if !ok {
						change = desired.Change{Key: rest[0]}
					}
					c.add(change)
					rest = rest[1:]
				}
				return nil
			})
			if !c.yield(yield, err) {
				return
			}
		}
	}
}

// errMore ends a chunk that is full.
var errMore = errors.New("more follows")

// objects returns all objects of the mirror, likewise.
func objects(m *store.Mirror) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		var from []byte
		for more := true; more; {
			var c chunk
			err := m.View(func(s *store.Snapshot) error {
				for change, err := range s.Objects(from, nil) {
					if err != nil {
						return err
					}
					if c.bytes >= deliverBytes {
						from = bytes.Clone(change.Key)
						return errMore
					}
					c.add(change)
				}
				return nil
			})
			if more = errors.Is(err, errMore); more {
				err = nil
			}
			if !c.yield(yield, err) {
				return
			}
		}
	}
}

// yield hands the chunk on and reports whether to go on.
func (c *chunk) yield(yield func(desired.Change, error) bool, err error) bool {
	for _, change := range c.changes {
		if !yield(change, nil) {
			return false
		}
	}
	return err == nil || yield(desired.Change{}, err) && false
}
