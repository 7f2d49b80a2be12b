package delta

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"espalier/internal/desired"
	"espalier/merkle"
)

// ErrUnverifiable is returned when even everything, compared in full, does not
// give the root that the sender published.
var ErrUnverifiable = errors.New("what the server sends does not give the root that it publishes")

// Receiver is the agent's half of a pull: the rounds that it takes until
// what was received gives a published root.
//
// A round is a stream. It starts with the request of Open; each response is
// handed to Handle, whose Effects the caller carries out in their order; where
// they say More, Continue is called next. When the stream ends with Effects.Verify
// set, the caller verifies and says how it went to Verified; and as long as Done
// is false another round follows. A stream that breaks is followed by a new
// Receiver, made from what was durably kept.
//
// The tree that is compared is read through the view that each call is given:
// that of the copy, with those changes applied, of the ones handed out, that
// the caller has written to its staging; a prefix of them.
type Receiver struct {
	codec *Codec
	seed  func() uint64
	have  Have
	mode  Mode // of the round to come, or under way
	width int
	begin *Begin // of the round under way
	done  bool

	// What this pull has received is everything of the revision through, once
	// the round that began with it ends.
	through desired.Revision
	base    desired.Revision // Since: where the round starts
	after   []byte           // Since and Full: the last key received

	rounds, doubts int
	received       int   // changes of the round under way
	bound          bound // Since and Full: of the round under way
	lastSeed       uint64
	stats          Stats
	unmarked       Stats // counts of the changes handed out since the last Mark
	descent        descentReceiver
	failed         error // why there is no next round
}

// Have is what a receiver starts from.
type Have struct {
	Set desired.Name
	// Verified is the revision of the copy; its zero value: there is none.
	Verified desired.Revision
	// Damaged says that the copy's tree does not give Verified.Root.
	Damaged bool
	// Salt is that of the tree that is viewed.
	Salt uint64
	// Mark is what was kept with the staging; nil: nothing is staged.
	Mark *Mark
	// From and Until bound the keys of a comparison, from <= key < until; empty:
	// no bound. The view then holds no others.
	From, Until []byte
}

// Effects is what a Receiver wants done, in the order of the fields.
type Effects struct {
	// Forget drops the changes that are not staged: they were based on a
	// revision that no longer counts.
	Forget bool
	// Restage drops what is staged as well and starts a staging from nothing,
	// whose tree has the salt Salt.
	Restage bool
	Salt    uint64
	// Changes are to be kept, overriding those before. They are in no order.
	Changes []desired.Change
	// Differences are the findings of a comparison. They are in no order.
	Differences []Difference
	// Requests are to be sent.
	Requests []Request
	// More asks for Continue.
	More bool
	// Reopen ends this stream: the next round follows.
	Reopen bool
	// Verify says that what was kept has to give this head's root.
	Verify *desired.Head
}

// Difference is an object that a comparison found to differ.
type Difference struct {
	Key  []byte
	Kind DifferenceKind
}

// DifferenceKind tells on which side a differing object is.
type DifferenceKind int

// The kinds of differences.
const (
	OnlyOurs   DifferenceKind = iota // the sender does not have it
	OnlyTheirs                       // the receiver does not have it
	Differs                          // both have it, with different content
)

// Stats counts what a pull took.
type Stats struct {
	// Mode is the most costly mode of the rounds: 0, Since, Descent or Full.
	Mode Mode
	// RoundTrips counts the times that a request had to be answered before the
	// next could be made.
	RoundTrips int
	// Upserts and Deletes count the changes received, but for those forgotten.
	Upserts, Deletes uint64
	// Head is the latest that the sender spoke of. Of a comparison it is that of
	// the first read: what was found is exact unless the set has moved on, which
	// a commit that expects Head notices.
	Head desired.Head
}

// NewReceiver returns a Receiver that starts from have. seed draws the keys of
// short digests; the sender should not be able to guess them.
func NewReceiver(codec *Codec, have Have, seed func() uint64) *Receiver {
	r := &Receiver{codec: codec, seed: seed, have: have, width: ShortWidth}
	switch {
	case have.Mark != nil:
		r.mode, r.base, r.through, r.after = have.Mark.Mode, have.Mark.Base, have.Mark.Through, have.Mark.After
	case have.Verified.Number == 0:
		r.mode = Full
	case have.Damaged:
		r.mode = Descent
	default:
		r.mode, r.base = Since, have.Verified
	}
	return r
}

// NewComparer returns a Receiver that finds the differences between its view
// and the sender's set, and receives no values. No root proves what it finds, so
// digests travel whole.
func NewComparer(codec *Codec, have Have, seed func() uint64) *Receiver {
	return &Receiver{codec: codec, seed: seed, have: have, width: len(desired.Digest{}), mode: Compare}
}

// Stats returns the counts so far.
func (r *Receiver) Stats() Stats { return r.stats }

// Done reports whether the pull is over.
func (r *Receiver) Done() bool { return r.done }

// Mark returns what has to be kept with all changes handed out so far, to go on
// from them after a break. It is called when they are staged: those that are
// handed out after it and then forgotten do not count as received.
func (r *Receiver) Mark() Mark {
	r.unmarked = Stats{}
	return Mark{Mode: r.mode, Base: r.base, Through: r.through, After: r.after}
}

// Open starts the next round. It returns an error if there were too many, or if
// there is nothing left to try.
func (r *Receiver) Open() (Request, error) {
	if r.failed != nil {
		return Request{}, r.failed
	}
	if r.rounds++; r.rounds > maxRounds {
		return Request{}, fmt.Errorf("not up to date after %d rounds; the set changes faster than it is received", maxRounds)
	}
	r.begin, r.received, r.lastSeed = nil, 0, r.seed()
	r.stats.RoundTrips++
	return Request{Open: &Open{
		Set: r.have.Set, Mode: r.mode, Base: r.base, After: r.after,
		Seed: r.lastSeed, Width: r.width, From: r.have.From, Until: r.have.Until,
	}}, nil
}

// Handle takes a response. An error means that this round has failed; Mark is
// still that of the changes handed out.
func (r *Receiver) Handle(view merkle.Reader, resp Response) (Effects, error) {
	switch {
	case resp.Begin != nil && r.begin == nil:
		return r.handleBegin(resp.Begin)
	case r.begin == nil:
		return Effects{}, fmt.Errorf("%w: a pull that does not begin", ErrProtocol)
	case resp.Digests != nil && r.Descending():
		return r.descent.list(view, resp.Digests)
	case resp.Batch != nil && r.Descending():
		return r.settled(r.descent.batch(view, resp.Batch))
	case resp.Batch != nil:
		return r.handleBatch(resp.Batch)
	case resp.End != nil:
		return r.handleEnd(resp.End)
	default:
		return Effects{}, fmt.Errorf("%w: a response that is out of place", ErrProtocol)
	}
}

// Continue goes on where the last Effects said More.
func (r *Receiver) Continue(view merkle.Reader) (Effects, error) {
	return r.settled(r.descent.advance(view))
}

// settled counts what a descent made of a message. One that went astray is
// repeated as if its outcome hadn't verified, which it wouldn't.
func (r *Receiver) settled(e Effects, err error) (Effects, error) {
	if errors.Is(err, errMisplaced) && r.mode == Descent {
		return Effects{Reopen: true}, r.Verified(false)
	}
	r.count(e.Changes)
	return e, err
}

// Verified takes the outcome of Effects.Verify. Where what was kept does not
// give the root, the caller keeps it all the same, and the next round finds out
// where it is wrong; it returns ErrUnverifiable when nothing is left to try.
func (r *Receiver) Verified(ok bool) error {
	if r.done = ok; ok {
		return nil
	}
	r.doubts++
	r.after, r.through, r.base = nil, desired.Revision{}, desired.Revision{}
	switch r.doubts {
	case 1:
		r.mode = Descent
	case 2:
		r.mode, r.width = Descent, len(desired.Digest{})
	case 3:
		r.mode = Full
	default:
		return ErrUnverifiable
	}
	return nil
}

// TooDifferent takes the sender's word that a descent would list too much: the
// next round is a full pull. There is no such way out of a comparison: its next
// Open returns ErrTooDifferent.
func (r *Receiver) TooDifferent() {
	if r.mode == Compare {
		r.failed = ErrTooDifferent
		return
	}
	r.mode, r.after, r.through = Full, nil, desired.Revision{}
}

// Descending reports whether the round under way is a descent: only then do
// Handle and Continue read the view.
func (r *Receiver) Descending() bool {
	return r.begin != nil && (r.begin.Mode == Descent || r.begin.Mode == Compare)
}

func (r *Receiver) handleBegin(b *Begin) (Effects, error) {
	turned := r.mode == Since && b.Mode == Descent
	if b.Mode != r.mode && !turned {
		return Effects{}, fmt.Errorf("%w: mode %v answered by %v", ErrProtocol, r.mode, b.Mode)
	}
	if b.Height < 0 || b.Height > merkle.MaxLevel || b.Head.Number == 0 {
		return Effects{}, fmt.Errorf("%w: a head or height that cannot be", ErrProtocol)
	}
	r.begin, r.mode, r.stats.Head, r.bound = b, b.Mode, b.Head, boundOf(b.Head)
	fresh := r.mode == Full && r.after == nil
	if b.Salt != r.have.Salt && r.mode != Since && !fresh {
		if r.mode == Compare {
			return Effects{}, fmt.Errorf("%w: the set was made anew while it was compared", ErrProtocol)
		}
		// Trees of different salts cannot be compared, nor joined.
		r.mode, r.after, r.through = Full, nil, desired.Revision{}
		return Effects{Reopen: true}, nil
	}
	r.stats.Mode = max(r.stats.Mode, r.mode)
	if r.Descending() {
		r.after = nil
	}
	if r.after == nil { // else part of what this stream brings came before, of an older head
		r.through = b.Head.Revision
	}
	if fresh || r.Descending() {
		r.forget()
	}
	switch {
	case fresh:
		r.have.Salt, r.stats.Upserts, r.stats.Deletes = b.Salt, 0, 0
		return Effects{Forget: true, Restage: true, Salt: b.Salt}, nil
	case r.Descending():
		e := r.descent.start(r, b.Height)
		e.Forget = true
		return e, nil
	default:
		return Effects{}, nil
	}
}

func (r *Receiver) handleBatch(b *Batch) (Effects, error) {
	changes, err := r.codec.DecodeFrame(b.Frame)
	if err != nil {
		return Effects{}, err
	}
	if len(changes) == 0 || len(b.Parts) > 0 {
		return Effects{}, fmt.Errorf("%w: a batch of nothing, or with parts", ErrProtocol)
	}
	if r.mode == Full && slices.ContainsFunc(changes, desired.Change.Deleted) {
		return Effects{}, fmt.Errorf("%w: a deletion in a full pull", ErrProtocol)
	}
	if r.received += len(changes); r.mode == Since && r.received > MaxTouched {
		return Effects{}, fmt.Errorf("%w: a delta of more than %d changes", ErrProtocol, MaxTouched)
	}
	if err := cmp.Or(follow(r.after, changes), r.bound.take(changes)); err != nil {
		return Effects{}, err
	}
	r.after = changes[len(changes)-1].Key
	r.count(changes)
	return Effects{Changes: changes}, nil
}

// follow returns an error unless changes, of which there are some, come after
// the key last. Keys ascend throughout a stream: one that could go back would
// never end.
func follow(last []byte, changes []desired.Change) error {
	if first := changes[0].Key; bytes.Compare(first, last) <= 0 {
		return fmt.Errorf("%w: key %q does not come after %q", ErrProtocol, first, last)
	}
	return nil
}

func (r *Receiver) count(changes []desired.Change) {
	for i := range changes {
		if changes[i].Deleted() {
			r.stats.Deletes++
			r.unmarked.Deletes++
		} else {
			r.stats.Upserts++
			r.unmarked.Upserts++
		}
	}
}

// forget takes back what Effects.Forget drops.
func (r *Receiver) forget() {
	r.stats.Upserts -= r.unmarked.Upserts
	r.stats.Deletes -= r.unmarked.Deletes
	r.unmarked = Stats{}
}

// handleEnd decides whether what has come is a published state, or a mixture
// that a further round has to complete.
func (r *Receiver) handleEnd(end *End) (Effects, error) {
	if r.Descending() && !r.descent.finished() {
		return Effects{}, fmt.Errorf("%w: a descent that ends early", ErrProtocol)
	}
	head := end.Head
	if head.Number == 0 {
		head = r.begin.Head
	}
	if backwards(r.begin.Head, head) {
		return Effects{}, fmt.Errorf("%w: revision %v was the head, and then %v", ErrProtocol, r.begin.Head.Position, head.Position)
	}
	if r.mode == Compare {
		r.done = true
		return Effects{}, nil
	}
	r.stats.Head = head
	if r.through == head.Revision {
		return Effects{Verify: &head}, nil
	}
	r.mode, r.base, r.after, r.through = Since, r.through, nil, desired.Revision{}
	return Effects{Reopen: true}, nil
}

// backwards reports whether a history that had the head was cannot have the head
// is later.
func backwards(was, is desired.Head) bool {
	return is.Epoch == was.Epoch && is.Revision != was.Revision && is.Number <= was.Number
}
