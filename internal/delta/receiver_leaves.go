package delta

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"sort"

	"espalier/internal/desired"
	"espalier/merkle"
)

// leafReceiver settles the stretches of level 1, in key order. It names the
// digests that it holds of each, in parts of at most PartDigests, and keeps
// asking as long as what is unanswered fits into a window; the answers come in
// the same order. What only the receiver has is deleted without asking.
type leafReceiver struct {
	open  *Open
	codec *Codec
	queue []stretch
	next  int       // first index that may still be named to the sender
	at    []byte    // where in queue[0] to go on; nil at its beginning
	asked []ownPart // not yet answered
	ahead int       // bytes of those
	last  bool      // everything is asked

	// The part being answered, asked[0].
	loaded bool
	keys   [][]byte
	sums   []desired.Digest // Compare: short digests of keys
	met    []bool           // by key: an object of that key has come
}

// ownPart is what the receiver holds of a part: from <= key < until, or none.
type ownPart struct {
	from, until []byte
	none        bool
	ours        bool // the sender has nothing there: it is not asked
	size        int
}

func (l *leafReceiver) init(o *Open, codec *Codec) { l.open, l.codec = o, codec }

func (l *leafReceiver) finished() bool { return l.last && len(l.asked) == 0 }

// advance settles what needs no answer, and asks as far as the window goes.
func (l *leafReceiver) advance(view merkle.Reader) (Effects, error) {
	var e Effects
	if l.oursFirst() {
		err := l.endOurs(view, &e)
		e.More = true
		return e, err
	}
	for !l.last && l.ahead < leavesWindow {
		msg := []byte{0}
		for len(l.queue) > 0 && len(msg) < leavesBytes && l.ahead < leavesWindow {
			var err error
			if msg, err = l.ask(view, msg); err != nil {
				return e, err
			}
		}
		if len(l.queue) == 0 {
			l.last, msg[0] = true, 1
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

// endOurs deletes what only the receiver has.
func (l *leafReceiver) endOurs(view merkle.Reader, e *Effects) error {
	if err := l.load(view); err != nil {
		return err
	}
	return l.endPart(e, nil)
}

// ask appends the next part of the first stretch to msg, as leafSender.receive
// reads it.
func (l *leafReceiver) ask(view merkle.Reader, msg []byte) ([]byte, error) {
	s := &l.queue[0]
	p := ownPart{from: s.from, until: s.until, none: s.none, ours: s.count == 0}
	if l.at != nil {
		p.from = l.at
	}
	digests, n, cut, err := l.held(view, &p)
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
		msg = binary.AppendUvarint(msg, uint64(n))
		msg = append(msg, digests...)
		if l.next = s.first; cut == nil {
			l.next += s.count
		}
	}
	p.size = 16 + len(digests)
	if p.ours {
		p.size += desired.MaxKeyBytes // it has no digests, but keys to delete
	}
	l.ahead += p.size
	if l.at = cut; cut != nil {
		p.until = cut
	} else {
		l.queue = l.queue[1:]
	}
	l.asked = append(l.asked, p)
	return msg, nil
}

// held returns the digests of the part, and the key to cut it at if they are too
// many.
func (l *leafReceiver) held(view merkle.Reader, p *ownPart) (digests []byte, n int, cut []byte, err error) {
	if p.none {
		return nil, 0, nil, nil
	}
	count := 0
	for row, err := range view.Rows(0, p.from, p.until) {
		if err != nil {
			return nil, 0, nil, err
		}
		if count == PartDigests {
			return digests, n, bytes.Clone(row.Key), nil
		}
		count++
		if l.open.Mode != Compare && !p.ours {
			s := short(l.open.Seed, l.open.Width, (*desired.Digest)(&row.Digest))
			digests = append(digests, s[:l.open.Width]...)
			n++
		}
	}
	return digests, n, nil, nil
}

// batch takes the answers to some parts.
func (l *leafReceiver) batch(view merkle.Reader, b *Batch) (Effects, error) {
	var changes []desired.Change
	if len(b.Frame) > 0 {
		var err error
		if changes, err = l.codec.DecodeFrame(b.Frame); err != nil {
			return Effects{}, err
		}
	}
	var e Effects
	r := reader{rest: b.Parts}
	for len(r.rest) > 0 {
		n := r.uvarint(len(changes))
		gone := l.readGone(&r)
		if err := l.meet(view, &e, changes[:n]); err != nil {
			return e, err
		}
		if r.err != nil {
			return e, r.err
		}
		if err := l.endPart(&e, gone); err != nil {
			return e, err
		}
		changes = changes[n:]
	}
	if len(changes) > 0 {
		if err := l.meet(view, &e, changes); err != nil {
			return e, err
		}
	}
	e.More = l.oursFirst() || !l.last && l.ahead < leavesWindow/2
	return e, r.err
}

func (l *leafReceiver) readGone(r *reader) []int {
	gone := make([]int, 0, 8)
	for i, n := -1, r.uvarint(PartDigests); n > 0 && r.err == nil; n-- {
		i += r.uvarint(PartDigests) + 1
		gone = append(gone, i)
	}
	return gone
}

// meet takes objects that came for the first part that waits for an answer.
func (l *leafReceiver) meet(view merkle.Reader, e *Effects, changes []desired.Change) error {
	for l.oursFirst() {
		if err := l.endOurs(view, e); err != nil {
			return err
		}
	}
	if err := l.load(view); err != nil {
		return err
	}
	for _, c := range changes {
		i := sort.Search(len(l.keys), func(i int) bool { return bytes.Compare(l.keys[i], c.Key) >= 0 })
		known := i < len(l.keys) && bytes.Equal(l.keys[i], c.Key)
		if known {
			l.met[i] = true
		}
		switch {
		case c.Deleted():
			return fmt.Errorf("%w: a deletion among the objects of a descent", ErrProtocol)
		case l.open.Mode != Compare:
			e.Changes = append(e.Changes, c)
		case !known:
			e.Differences = append(e.Differences, Difference{Key: c.Key, Kind: OnlyTheirs})
		case !bytes.Equal(c.Envelope[1:], l.sums[i][:l.open.Width]):
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
	l.keys, l.sums, l.loaded = l.keys[:0], l.sums[:0], true
	p := l.asked[0]
	if !p.none {
		for row, err := range view.Rows(0, p.from, p.until) {
			if err != nil {
				return err
			}
			l.keys = append(l.keys, bytes.Clone(row.Key))
			if l.open.Mode == Compare {
				l.sums = append(l.sums, short(l.open.Seed, l.open.Width, (*desired.Digest)(&row.Digest)))
			}
		}
	}
	l.met = append(l.met[:0], make([]bool, len(l.keys))...)
	return nil
}

// endPart ends the first part: of what is held, what is gone is deleted.
func (l *leafReceiver) endPart(e *Effects, gone []int) error {
	p := l.asked[0]
	switch {
	case l.open.Mode == Compare:
		for i, key := range l.keys {
			if !l.met[i] {
				e.Differences = append(e.Differences, Difference{Key: key, Kind: OnlyOurs})
			}
		}
	case p.ours:
		for _, key := range l.keys {
			e.Changes = append(e.Changes, desired.Change{Key: key})
		}
	}
	for _, i := range gone {
		if i >= len(l.keys) {
			return fmt.Errorf("%w: digest %d of %d is gone", ErrProtocol, i, len(l.keys))
		}
		if !l.met[i] {
			e.Changes = append(e.Changes, desired.Change{Key: l.keys[i]})
		}
	}
	l.ahead -= p.size
	l.asked, l.loaded = l.asked[1:], false
	return nil
}
