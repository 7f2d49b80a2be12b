package delta

import (
	"encoding/binary"
	"fmt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// leafSender answers the last step of a descent: for each part, a range of keys
// and the digests that the receiver holds of it, the objects that are not among
// them, and which of the digests stand for nothing any more.
type leafSender struct {
	open    *Open
	stretch stretchReader
	begun   bool
	last    bool // no more requests follow
	done    bool // all is answered but the end
	parts   []part
	cut     []byte // where the part before cut a stretch in two

	// The part being answered, parts[0].
	held  map[desired.Digest]int32 // index of each digest held
	gone  []bool                   // by index, so far
	at    []byte                   // where to go on; nil at its beginning
	sent  int                      // changes in the open frame that are of this part
	ended []byte                   // the parts that end with the open frame
}

// part is one range of keys and the digests held of it.
type part struct {
	run
	digests []byte
}

func (l *leafSender) init(o *Open, n *nodes) {
	l.open, l.stretch = o, stretchReader{nodes: n}
}

func (l *leafSender) pending() bool { return len(l.parts) > 0 || l.last }

// receive reads a byte, 1 if this is the last message, and then parts:
//
//	uvarint  nodes skipped, times 2, plus 1 if the part is cut short
//	uvarint  nodes
//	uvarint  bytes of the key to cut at, and the key; only if cut: the next part
//	         goes on there, with the same nodes
//	uvarint  digests, and the digests
func (l *leafSender) receive(b []byte) error {
	if l.last {
		return fmt.Errorf("%w: leaves after the last", ErrProtocol)
	}
	l.begun = true
	r := reader{rest: b}
	l.last = r.byte() == 1
	for len(r.rest) > 0 {
		l.parts = append(l.parts, l.readPart(&r))
	}
	return r.err
}

func (l *leafSender) readPart(r *reader) part {
	head := r.uvarint(2 * MaxNodes)
	if l.cut != nil && head>>1 != 0 {
		r.fail("a part was cut and not continued")
	}
	before := l.stretch.next
	p := part{run: l.stretch.read(r, head>>1)}
	if l.cut != nil {
		p.from, l.cut = l.cut, nil
	}
	if head&1 != 0 {
		p.until = r.bytes(r.uvarint(desired.MaxKeyBytes))
		l.cut, l.stretch.next = p.until, before+head>>1
		if len(p.until) == 0 {
			r.fail("a part is cut at no key")
		}
	}
	p.digests = r.bytes(r.uvarint(PartDigests) * l.open.Width)
	return p
}

func (l *leafSender) next(src Source, frame *FrameWriter) (Response, error) {
	for len(l.parts) > 0 && !frame.Full() && len(l.ended) < FrameBytes {
		if err := l.answer(src, frame); err != nil {
			return Response{}, err
		}
	}
	l.done = l.last && len(l.parts) == 0
	b := &Batch{Parts: l.ended}
	l.ended, l.sent = nil, 0
	if frame.Len() > 0 {
		b.Frame = frame.Frame()
	}
	return Response{Batch: b}, nil
}

// answer adds to the frame what the first part asks for, as far as there is
// room.
func (l *leafSender) answer(src Source, frame *FrameWriter) error {
	p := &l.parts[0]
	if l.at == nil {
		l.hold(p)
		l.at = p.from
	}
	for row, err := range src.Rows(0, l.at, p.until) {
		if err != nil {
			return err
		}
		if frame.Full() {
			l.at = append([]byte{}, row.Key...)
			return nil
		}
		s := short(l.open.Seed, l.open.Width, (*desired.Digest)(&row.Digest))
		if i, ok := l.held[s]; ok {
			l.gone[i] = false
			continue
		}
		if err := l.add(src, frame, &row, s); err != nil {
			return err
		}
		l.sent++
	}
	l.endPart()
	return nil
}

// hold indexes the digests of a part.
func (l *leafSender) hold(p *part) {
	n := len(p.digests) / l.open.Width
	if l.held == nil {
		l.held = make(map[desired.Digest]int32, n)
	}
	clear(l.held)
	l.gone = append(l.gone[:0], make([]bool, n)...)
	for i := range n {
		var d desired.Digest
		copy(d[:], p.digests[i*l.open.Width:(i+1)*l.open.Width])
		l.held[d], l.gone[i] = int32(i), true
	}
}

// add adds an object that the receiver does not hold; to compare, its digest
// stands for its value.
func (l *leafSender) add(src Source, frame *FrameWriter, row *merkle.Row, s desired.Digest) error {
	if l.open.Mode == Compare {
		return frame.Add(desired.Change{Key: row.Key, Envelope: append([]byte{0}, s[:l.open.Width]...)})
	}
	c, ok, err := src.Get(row.Key)
	if err == nil && !ok {
		err = fmt.Errorf("object %q is gone within one read", row.Key)
	}
	if err != nil {
		return err
	}
	return frame.Add(c)
}

// endPart writes down which digests of the part are gone.
func (l *leafSender) endPart() {
	n := 0
	for _, gone := range l.gone {
		if gone {
			n++
		}
	}
	l.ended = binary.AppendUvarint(l.ended, uint64(l.sent))
	l.ended = binary.AppendUvarint(l.ended, uint64(n))
	before := -1
	for i, gone := range l.gone {
		if gone {
			l.ended = binary.AppendUvarint(l.ended, uint64(i-before-1))
			before = i
		}
	}
	l.parts, l.at, l.sent = l.parts[1:], nil, 0
}
