package delta

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"espalier/internal/desired"
	"espalier/merkle"
)

// leafReceiver settles the stretches of level 1, in key order. It names the
// digests that it holds of each, in parts of at most PartDigests, and keeps
// asking as long as what is unanswered fits into a window; the answers come in
// the same order. What only the receiver has is deleted without asking.
type leafReceiver struct {
	open      *Open
	codec     *Codec
	hasher    desired.Hasher
	bound     bound
	width     int // of the digests named
	meanBytes int // of the sender's objects; 0: unknown

	queue []stretch
	next  int       // first index that may still be named to the sender
	at    []byte    // where in queue[0] to go on; nil at its beginning
	asked []ownPart // not yet answered
	ahead int       // what those count for in the window
	last  bool      // everything is asked
	after []byte    // the last key received

	// What is still to be settled of the batch received last.
	changes []desired.Change
	parts   []byte

	// The part being answered, asked[0].
	loaded bool
	keys   keyList
	sums   []desired.Digest // of keys, if the part is whole
	met    []bool           // by key: an object of that key has come
}

// ownPart is what the receiver holds of a part: from <= key < until, or none.
// What the sender holds of it is after <= key < until.
type ownPart struct {
	after, from, until []byte
	none               bool
	ours               bool // the sender has nothing there: it is not asked
	whole              bool // no digests are named: it sends all that it has
	named              int  // digests that it was told
	cut                int  // bytes of the key that it was told to cut at
}

// size returns what p counts for in the window. The sender counts the same for
// what it was asked.
func (p *ownPart) size(width int) int {
	if p.ours {
		return partBytes + desired.MaxKeyBytes // it has no digests, but keys to delete
	}
	return partBytes + p.cut + p.named*width
}

func (l *leafReceiver) init(o *Open, codec *Codec, head desired.Head) {
	l.open, l.codec, l.bound = o, codec, boundOf(head)
	if o.Mode == Compare {
		l.bound.bytes = math.MaxUint64 // digests come, not values: their number bounds them
	}
	if head.Objects > 0 {
		l.meanBytes = int(min(head.Bytes/head.Objects, desired.MaxEnvelopeBytes))
	}
}

// start takes the stretches of level 1.
func (l *leafReceiver) start(queue []stretch) {
	l.queue = queue
	pairs := uint64(0)
	for i := range queue {
		if s := &queue[i]; !l.dense(s) {
			pairs += changedBelow(s.count) * uint64(min(s.ours*fanOut, PartDigests))
		}
	}
	l.width = l.open.widthFor(pairs)
}

// dense reports whether it is cheaper to be sent all of a stretch than to name
// what is held of it. If one in f of the objects were still the same, one in
// fanOut times f of the nodes would match, most of them nodes of a single object;
// so in so long a stretch without a match that share is guessed as fanOut by its
// length. It costs the object to be sent it for nothing, and a digest, and a byte
// to be told that it's gone, to name it.
func (l *leafReceiver) dense(s *stretch) bool {
	return l.open.Mode == Compare || l.meanBytes > 0 && s.count*(ShortWidth+2) >= fanOut*l.meanBytes
}

func (l *leafReceiver) finished() bool { return l.last && len(l.asked) == 0 }

// advance settles what needs no answer, and asks as far as the window goes.
func (l *leafReceiver) advance(view merkle.Reader) (Effects, error) {
	if len(l.parts) > 0 || len(l.changes) > 0 {
		return l.settle(view)
	}
	var e Effects
	if l.oursFirst() {
		if err := l.endOurs(view, &e); err != nil {
			return Effects{}, err
		}
		e.More = true
		return e, nil
	}
	for !l.last && l.ahead < leavesWindow {
		msg := []byte{byte(l.width << 1)}
		for len(l.queue) > 0 && len(msg) < leavesBytes && l.ahead < leavesWindow {
			var err error
			if msg, err = l.ask(view, msg); err != nil {
				return Effects{}, err
			}
		}
		if len(l.queue) == 0 {
			l.last, msg[0] = true, msg[0]|1
		}
		if len(msg) > 1 || l.last {
			e.Requests = append(e.Requests, Request{Leaves: msg})
		}
	}
	e.More = l.oursFirst()
	return e, nil
}

// oursFirst reports whether what comes next is not for the sender to answer.
func (l *leafReceiver) oursFirst() bool { return len(l.asked) > 0 && l.asked[0].ours }

// ask appends the next part of the first stretch to msg, as leafSender.receive
// reads it.
func (l *leafReceiver) ask(view merkle.Reader, msg []byte) ([]byte, error) {
	s := &l.queue[0]
	p := ownPart{after: s.after, from: s.from, until: s.until, none: s.none, ours: s.count == 0, whole: l.dense(s)}
	if l.at != nil {
		p.after, p.from = l.at, l.at
	}
	digests, cut, err := l.held(view, &p)
	if err != nil {
		return nil, err
	}
	if !p.ours {
		head := uint64(s.first-l.next) << 1
		if cut != nil {
			head |= 1
		}
		msg = binary.AppendUvarint(msg, head)
		msg = binary.AppendUvarint(msg, uint64(s.count))
		if cut != nil {
			msg = append(binary.AppendUvarint(msg, uint64(len(cut))), cut...)
		}
		msg = binary.AppendUvarint(msg, uint64(p.named))
		msg = append(msg, digests...)
		if l.next = s.first; cut == nil {
			l.next += s.count
		}
	}
	p.cut = len(cut)
	l.ahead += p.size(l.width)
	if l.at = cut; cut != nil {
		p.until = cut
	} else {
		l.queue = l.queue[1:]
	}
	l.asked = append(l.asked, p)
	return msg, nil
}

// held returns the digests that name what is held of the part, and the key to
// cut it at if that is too much.
func (l *leafReceiver) held(view merkle.Reader, p *ownPart) (digests, cut []byte, err error) {
	if p.none {
		return nil, nil, nil
	}
	count := 0
	for row, err := range view.Rows(0, p.from, p.until) {
		if err != nil {
			return nil, nil, err
		}
		if count == PartDigests {
			return digests, bytes.Clone(row.Key), nil
		}
		count++
		if !p.whole && !p.ours {
			s := short(l.open.Seed, l.width, (*desired.Digest)(&row.Digest))
			digests = append(digests, s[:l.width]...)
			p.named++
		}
	}
	return digests, nil, nil
}

// batch takes the answers to some parts.
func (l *leafReceiver) batch(view merkle.Reader, b *Batch) (Effects, error) {
	changes, err := l.decode(b)
	if err != nil {
		return Effects{}, err
	}
	l.changes, l.parts = changes, b.Parts
	return l.settle(view)
}

// settle goes on with the batch. A few bytes can end thousands of parts, each
// with PartDigests objects of ours that are gone, and as many of ours alone can
// lie before one, so it hands out a bounded number at once.
func (l *leafReceiver) settle(view merkle.Reader) (Effects, error) {
	var e Effects
	for len(l.parts) > 0 || len(l.changes) > 0 {
		if len(e.Changes)+len(e.Differences) >= PartDigests {
			e.More = true
			return e, nil
		}
		if err := l.settleNext(view, &e); err != nil {
			return Effects{}, err
		}
	}
	e.More = l.oursFirst() || !l.last && l.ahead < leavesWindow/2
	return e, nil
}

// settleNext settles the next part that ends, or what came of one that doesn't
// end yet.
func (l *leafReceiver) settleNext(view merkle.Reader, e *Effects) error {
	if l.oursFirst() {
		return l.endOurs(view, e)
	}
	if len(l.parts) == 0 {
		err := l.meet(view, e, l.changes)
		l.changes = nil
		return err
	}
	r := reader{rest: l.parts}
	n := r.uvarint(len(l.changes))
	if err := l.meet(view, e, l.changes[:n]); err != nil {
		return err
	}
	if err := l.endAsked(e, &r); err != nil {
		return err
	}
	l.changes, l.parts = l.changes[n:], r.rest
	return nil
}

// decode returns the changes of a batch that brings the answers forward.
func (l *leafReceiver) decode(b *Batch) (changes []desired.Change, err error) {
	if len(b.Frame) > 0 {
		if changes, err = l.codec.DecodeFrame(b.Frame); err != nil {
			return nil, err
		}
	}
	if len(changes) == 0 && len(b.Parts) == 0 {
		return nil, fmt.Errorf("%w: a batch of nothing", ErrProtocol)
	}
	if len(changes) > 0 {
		if err := follow(l.after, changes); err != nil {
			return nil, err
		}
		l.after = changes[len(changes)-1].Key
	}
	return changes, l.bound.take(changes)
}

// errMisplaced: an object came for a part that it does not lie in. The two sides
// do not mean the same by a stretch: digests of two nodes were equal by chance,
// or the sender lies. Either way what it says is gone must not be believed.
var errMisplaced = errors.New("an object out of place")

// meet takes objects that came for the first part that waits for an answer.
func (l *leafReceiver) meet(view merkle.Reader, e *Effects, changes []desired.Change) error {
	if err := l.load(view); err != nil {
		return err
	}
	p := &l.asked[0]
	for _, c := range changes {
		if c.Deleted() {
			return fmt.Errorf("%w: a deletion among the objects of a descent", ErrProtocol)
		}
		if bytes.Compare(c.Key, p.after) < 0 || p.until != nil && bytes.Compare(c.Key, p.until) >= 0 {
			return fmt.Errorf("%w: %w: %q is not after %q and before %q", ErrProtocol, errMisplaced, c.Key, p.after, p.until)
		}
		i, known := l.keys.search(c.Key)
		if known {
			l.met[i] = true
		}
		if l.open.Mode != Compare {
			if !p.whole || !known || l.hasher.Sum(c.Key, c.Envelope) != l.sums[i] {
				e.Changes = append(e.Changes, c)
			}
			continue
		}
		head, sum, err := c.Envelope.Split()
		if err != nil || len(head) > 0 || len(sum) != len(desired.Digest{}) {
			return fmt.Errorf("%w: no digest of %q", ErrProtocol, c.Key)
		}
		switch {
		case !known:
			e.Differences = append(e.Differences, Difference{Key: c.Key, Kind: OnlyTheirs})
		case !bytes.Equal(sum, l.sums[i][:]):
			e.Differences = append(e.Differences, Difference{Key: c.Key, Kind: Differs})
		}
	}
	return nil
}

// load reads the keys of the first part, unless it did.
func (l *leafReceiver) load(view merkle.Reader) error {
	if l.loaded {
		return nil
	}
	if len(l.asked) == 0 {
		return fmt.Errorf("%w: an answer to nothing", ErrProtocol)
	}
	l.keys.reset()
	l.sums, l.loaded = l.sums[:0], true
	p := l.asked[0]
	if !p.none {
		for row, err := range view.Rows(0, p.from, p.until) {
			if err != nil {
				return err
			}
			l.keys.add(row.Key)
			if p.whole {
				l.sums = append(l.sums, desired.Digest(row.Digest))
			}
		}
	}
	l.met = append(l.met[:0], make([]bool, l.keys.len())...)
	return nil
}

// endOurs ends a first part that only the receiver has: all of it goes.
func (l *leafReceiver) endOurs(view merkle.Reader, e *Effects) error {
	if err := l.load(view); err != nil {
		return err
	}
	for i := range l.keys.len() {
		l.drop(e, i)
	}
	l.endPart()
	return nil
}

// endAsked ends the first part with what r says is gone of the digests that it
// named: how many, and for each the gap to the index before.
func (l *leafReceiver) endAsked(e *Effects, r *reader) error {
	named := l.asked[0].named
	i := -1
	for n := r.uvarint(named); n > 0; n-- {
		i += 1 + r.uvarint(PartDigests)
		if i >= min(named, l.keys.len()) {
			r.fail("digest %d of %d is gone", i, named)
		}
		if r.err != nil {
			return r.err
		}
		if !l.met[i] {
			l.drop(e, i)
		}
	}
	if l.asked[0].whole {
		for i, met := range l.met {
			if !met {
				l.drop(e, i)
			}
		}
	}
	l.endPart()
	return r.err
}

// drop takes our object of an index for one that the sender doesn't have.
func (l *leafReceiver) drop(e *Effects, i int) {
	key := bytes.Clone(l.keys.at(i))
	if l.open.Mode == Compare {
		e.Differences = append(e.Differences, Difference{Key: key, Kind: OnlyOurs})
	} else {
		e.Changes = append(e.Changes, desired.Change{Key: key})
	}
}

func (l *leafReceiver) endPart() {
	l.ahead -= l.asked[0].size(l.width)
	l.asked, l.loaded = l.asked[1:], false
}
