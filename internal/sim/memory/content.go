package memory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// content is the objects of a set and their tree. It is never changed: apply
// returns the next one.
type content struct {
	salt    uint64
	objects []object // ascending
	tree    merkle.Memory
	root    desired.Digest
	bytes   uint64
}

type object struct {
	desired.Change
	flipped bool // what is there is not what the digest is of
}

func emptyContent(salt uint64) content {
	return content{salt: salt, root: merkle.EmptyRoot()}
}

// on returns h with what c has.
func (c *content) on(h desired.Head) desired.Head {
	h.Root, h.Objects, h.Bytes = c.root, uint64(len(c.objects)), c.bytes
	return h
}

func (c *content) find(key []byte) (int, bool) {
	return slices.BinarySearchFunc(c.objects, key, func(o object, key []byte) int { return bytes.Compare(o.Key, key) })
}

// tally counts what changes do.
type tally struct{ created, updated, deleted, unchanged, missing uint64 }

func (t *tally) result(head desired.Head) store.Result {
	return store.Result{Head: head, Created: t.created, Updated: t.updated, Deleted: t.deleted, Unchanged: t.unchanged, Missing: t.missing}
}

// compare returns those changes that change something.
func (c *content) compare(changes []desired.Change) (kept []desired.Change, t tally) {
	for _, change := range changes {
		i, there := c.find(change.Key)
		switch {
		case !there && change.Deleted():
			t.missing++
			continue
		case !there:
			t.created++
		case change.Deleted():
			t.deleted++
		case c.objects[i].Digest == change.Digest:
			t.unchanged++
			continue
		default:
			t.updated++
		}
		kept = append(kept, change)
	}
	return kept, t
}

// apply returns c with changes that change something.
func (c *content) apply(shape merkle.Shape, kept []desired.Change) (content, error) {
	changes := make([]merkle.Change, len(kept))
	for i, k := range kept {
		changes[i] = merkle.Change{Key: k.Key, Digest: k.Digest, Gone: k.Deleted()}
	}
	updated, err := shape.Update(&c.tree, changes)
	if errors.Is(err, merkle.ErrTooWide) {
		return content{}, fmt.Errorf("%w: %w", desired.ErrInvalid, err)
	}
	if err != nil {
		return content{}, fmt.Errorf("%w: %w", store.ErrCorrupt, err)
	}
	next := content{salt: c.salt, tree: c.tree, root: updated.Root.Digest, bytes: c.bytes}
	next.tree.Apply(changes, updated)
	next.objects = make([]object, 0, len(c.objects)+len(kept))
	rest := c.objects
	for _, k := range kept {
		i, there := slices.BinarySearchFunc(rest, k.Key, func(o object, key []byte) int { return bytes.Compare(o.Key, key) })
		next.objects = append(next.objects, rest[:i]...)
		if rest = rest[i:]; there {
			next.bytes -= uint64(rest[0].PayloadBytes())
			rest = rest[1:]
		}
		if !k.Deleted() {
			next.bytes += uint64(k.PayloadBytes())
			next.objects = append(next.objects, object{Change: k})
		}
	}
	next.objects = append(next.objects, rest...)
	if updated.Root.Count != uint64(len(next.objects)) {
		return content{}, fmt.Errorf("%w: the tree counts %d objects of %d", store.ErrCorrupt, updated.Root.Count, len(next.objects))
	}
	return next, nil
}

// ordered returns an error that matches store.ErrCycle if objects of c
// come after each other in a cycle.
func (c *content) ordered() error {
	return store.CheckOrder(func(yield func(desired.Change, error) bool) {
		for _, o := range c.objects {
			if !yield(o.Change, nil) {
				return
			}
		}
	})
}

// honest returns c with the digests of what is there, and how many were not.
func (c *content) honest() (content, int, error) {
	next := content{salt: c.salt, bytes: c.bytes}
	b := merkle.Shape{Salt: c.salt}.NewBuilder(next.tree.Append)
	damaged := 0
	var h desired.Hasher
	for _, o := range c.objects {
		if o.flipped {
			o.Digest, o.flipped = h.Sum(o.Key, o.Envelope), false
			damaged++
		}
		next.objects = append(next.objects, o)
		if err := next.tree.Append(0, merkle.Row{Key: o.Key, Digest: o.Digest, Count: 1}); err != nil {
			return content{}, 0, err
		}
		if err := b.Add(o.Key, o.Digest); err != nil {
			return content{}, 0, err
		}
	}
	root, _, err := b.Finish()
	next.root = root.Digest
	return next, damaged, err
}

// damage returns why c can't be relied on.
func (c *content) damage() error {
	for _, o := range c.objects {
		if o.flipped {
			return fmt.Errorf("%w: object %q does not match its digest", store.ErrCorrupt, o.Key)
		}
	}
	return nil
}

// flip returns c with a bit flipped in the value of an object; false: there is
// none.
func (c *content) flip(at uint64) (content, bool) {
	if len(c.objects) == 0 {
		return *c, false
	}
	next := *c
	next.objects = slices.Clone(c.objects)
	o := &next.objects[at%uint64(len(c.objects))]
	if o.flipped || len(o.Envelope) < 2 { // the first byte is the length of a head
		return *c, false
	}
	o.Envelope = slices.Clone(o.Envelope)
	o.Envelope[len(o.Envelope)-1] ^= 1 << (at % 8)
	o.flipped = true
	return next, true
}

// gather reads changes from outside: it checks them, computes their digests and
// copies them. more: there are more than most; 0: any number.
func gather(ctx context.Context, changes iter.Seq2[desired.Change, error], most int) (all []desired.Change, more bool, err error) {
	var h desired.Hasher
	var last []byte
	for c, err := range changes {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = check(c, last)
		}
		if err != nil {
			return nil, false, err
		}
		if most > 0 && len(all) == most {
			return all, true, nil
		}
		own := desired.Change{Key: bytes.Clone(c.Key)}
		if !c.Deleted() {
			own.Envelope = slices.Clone(c.Envelope)
			own.Digest = h.Sum(own.Key, own.Envelope)
		}
		all, last = append(all, own), own.Key
	}
	return all, false, nil
}

func check(c desired.Change, last []byte) error {
	if err := desired.CheckKey(c.Key); err != nil {
		return err
	}
	if bytes.Compare(c.Key, last) <= 0 {
		return fmt.Errorf("%w changes: key %q comes after %q; they must ascend", desired.ErrInvalid, c.Key, last)
	}
	if c.Deleted() {
		return nil
	}
	return desired.CheckEnvelope(c.Key, c.Envelope)
}

// Snapshot is a set, a mirror or a staging at one time.
type Snapshot struct {
	merkle.Reader
	content *content
	head    desired.Head
	journal []revision
	damage  error // the first that was found
}

// Head returns the revision.
func (s *Snapshot) Head() desired.Head { return s.head }

// Shape returns the shape of the tree.
func (s *Snapshot) Shape() merkle.Shape {
	return merkle.Shape{Salt: s.content.salt, MaxChildren: merkle.MaxChildren}
}

// Get returns an object; ok is false where there is none.
func (s *Snapshot) Get(key []byte) (desired.Change, bool, error) {
	i, ok := s.content.find(key)
	if !ok {
		return desired.Change{}, false, nil
	}
	c, err := s.object(&s.content.objects[i])
	return c, err == nil, err
}

func (s *Snapshot) object(o *object) (desired.Change, error) {
	if !o.flipped {
		return o.Change, nil
	}
	err := fmt.Errorf("%w: object %q does not match its digest", store.ErrCorrupt, o.Key)
	if s.damage == nil {
		s.damage = err
	}
	return desired.Change{}, err
}

// Objects returns the objects of a range.
func (s *Snapshot) Objects(from, until []byte) iter.Seq2[desired.Change, error] {
	return func(yield func(desired.Change, error) bool) {
		i, _ := s.content.find(from)
		for ; i < len(s.content.objects); i++ {
			o := &s.content.objects[i]
			if until != nil && bytes.Compare(o.Key, until) >= 0 {
				return
			}
			c, err := s.object(o)
			if !yield(c, err) || err != nil {
				return
			}
		}
	}
}

// Touched returns what happened after a revision, as delta.Source has it.
func (s *Snapshot) Touched(number uint64, limit int) (desired.Digest, [][]byte, bool, error) {
	i := slices.IndexFunc(s.journal, func(r revision) bool { return r.number == number })
	if i < 0 {
		return desired.Digest{}, nil, false, nil
	}
	var keys [][]byte
	for _, r := range s.journal[i+1:] {
		keys = append(keys, r.keys...)
	}
	slices.SortFunc(keys, bytes.Compare)
	keys = slices.CompactFunc(keys, bytes.Equal)
	if len(keys) > limit {
		return s.journal[i].root, nil, false, nil
	}
	return s.journal[i].root, keys, true, nil
}

// view calls fn with a snapshot, and returns the damage that it comes upon.
func view(c *content, head desired.Head, journal []revision, fn func(*Snapshot) error) error {
	s := &Snapshot{Reader: &c.tree, content: c, head: head, journal: journal}
	if err := fn(s); err != nil {
		return err
	}
	return s.damage
}
