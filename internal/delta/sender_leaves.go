package delta

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// leafSender answers the last step of a descent: for each part, a range of keys
// and the digests that the receiver holds of it, the objects that are not among
// them, and which of the digests stand for nothing any more. It reads each key
// at most once, whatever the receiver asks.
type leafSender struct {
	open    *Open
	stretch stretchReader
	begun   bool
	last    bool // no more requests follow
	parts   []part
	ahead   int    // what parts count for in the window
	cut     []byte // where the part before cut a stretch in two, nil if it didn't
	cutEnd  int    // the index that this stretch ends before

	// The part being answered, parts[0].
	held  digestIndex // of the digests held
	gone  []bool      // by index, so far
	at    []byte      // where to go on; nil at its beginning
	sent  int         // changes in the open frame that are of this part
	ended []byte      // the parts that end with the open frame
	reads int         // objects looked at for this answer
}

// part is one range of keys and the digests held of it.
type part struct {
	run
	digests []byte
	width   int // of each
	cut     int // bytes of the key that it is cut at
}

// size returns what p counts for in the window.
func (p *part) size() int { return partBytes + p.cut + len(p.digests) }

func (l *leafSender) init(o *Open, n *nodes) {
	l.open, l.stretch = o, stretchReader{nodes: n}
}

func (l *leafSender) pending() bool { return len(l.parts) > 0 || l.last }

// done reports whether all is answered but the end.
func (l *leafSender) done() bool { return len(l.parts) == 0 && l.last }

// receive reads a byte, the width of the digests times 2, plus 1 if this is the
// last message, and then parts:
//
//	uvarint  nodes skipped, times 2, plus 1 if the part is cut short
//	uvarint  nodes
//	uvarint  bytes of the key to cut at, and the key; only if cut: the next part
//	         goes on there, with the same nodes
//	uvarint  digests, and the digests
//
// Only the last message may be without parts.
func (l *leafSender) receive(b []byte) error {
	if l.last {
		return fmt.Errorf("%w: leaves after the last", ErrProtocol)
	}
	l.begun = true
	r := reader{rest: b}
	flags := r.byte()
	width := int(flags >> 1)
	l.last = flags&1 != 0
	if !validWidth(width) || !l.last && len(r.rest) == 0 {
		r.fail("leaves without parts, or of flags %#x", flags)
	}
	for len(r.rest) > 0 {
		p := l.readPart(&r, width)
		l.parts = append(l.parts, p)
		l.ahead += p.size()
	}
	if l.last && l.cut != nil {
		r.fail("a part was cut and not continued")
	}
	if l.ahead > 2*leavesWindow {
		r.fail("%d bytes of leaves unanswered", l.ahead)
	}
	return r.err
}

func (l *leafSender) readPart(r *reader, width int) part {
	head := r.uvarint(2*MaxNodes + 1)
	gap := head >> 1
	first := l.stretch.next + gap
	p := part{run: l.stretch.read(r, gap), width: width}
	if l.cut != nil {
		if gap != 0 || l.stretch.next != l.cutEnd {
			r.fail("a part was cut and not continued")
		}
		// The two sides may not see a stretch begin at the same key.
		if bytes.Compare(p.from, l.cut) < 0 {
			p.from = l.cut
		}
	}
	if head&1 != 0 {
		cut := r.bytes(r.uvarint(desired.MaxKeyBytes))
		if bytes.Compare(cut, l.cut) <= 0 {
			r.fail("a part is cut where it begins")
		}
		if p.until == nil || bytes.Compare(cut, p.until) < 0 {
			p.until = cut
		}
		p.cut = len(cut)
		l.cut, l.cutEnd, l.stretch.next = cut, l.stretch.next, first
	} else {
		l.cut = nil
	}
	p.digests = r.bytes(r.uvarint(PartDigests) * width)
	return p
}

func (l *leafSender) next(src Source, frame *FrameWriter) (Response, error) {
	l.reads = 0
	for len(l.parts) > 0 && !l.full(frame) {
		if err := l.answer(src, frame); err != nil {
			return Response{}, err
		}
	}
	b := &Batch{Parts: l.ended}
	l.ended, l.sent = nil, 0
	if frame.Len() > 0 {
		b.Frame = frame.Frame()
	}
	return Response{Batch: b}, nil
}

// full reports whether the answer has to be closed before more is looked at.
func (l *leafSender) full(frame *FrameWriter) bool {
	return frame.Full() || len(l.ended) >= partsBytes || l.reads >= maxReads
}

// answer adds to the frame what the first part asks for, as far as there is
// room.
func (l *leafSender) answer(src Source, frame *FrameWriter) error {
	p := &l.parts[0]
	from := p.from
	if l.at == nil {
		l.hold(p)
	} else {
		from = l.at
	}
	if len(p.digests) == 0 && l.open.Mode != Compare {
		return l.answerWhole(src, frame, from)
	}
	for row, err := range src.Rows(0, from, p.until) {
		if err != nil {
			return err
		}
		if l.full(frame) {
			l.at = bytes.Clone(row.Key)
			return nil
		}
		l.reads++
		s := short(l.open.Seed, p.width, (*desired.Digest)(&row.Digest))
		if i, ok := l.held.take(s); ok { // each digest stands for one object
			l.gone[i] = false
			continue
		}
		if err := l.add(src, frame, &row, s[:p.width]); err != nil {
			return err
		}
		l.sent++
	}
	l.endPart()
	return nil
}

// answerWhole adds all objects of the first part: it is answer without digests
// to look at.
func (l *leafSender) answerWhole(src Source, frame *FrameWriter, from []byte) error {
	for c, err := range src.Objects(from, l.parts[0].until) {
		if err != nil {
			return err
		}
		if l.full(frame) {
			l.at = bytes.Clone(c.Key)
			return nil
		}
		l.reads++
		if err := frame.Add(c); err != nil {
			return err
		}
		l.sent++
	}
	l.endPart()
	return nil
}

// hold indexes the digests of a part.
func (l *leafSender) hold(p *part) {
	n := len(p.digests) / p.width
	l.held.reset()
	l.gone = append(l.gone[:0], make([]bool, n)...)
	for i := range n {
		var d desired.Digest
		copy(d[:], p.digests[i*p.width:(i+1)*p.width])
		l.held.add(d)
		l.gone[i] = true
	}
}

// add adds an object that the receiver does not hold; to compare, its digest
// stands for its value.
func (l *leafSender) add(src Source, frame *FrameWriter, row *merkle.Row, digest []byte) error {
	if l.open.Mode == Compare {
		return frame.Add(desired.Change{Key: row.Key, Envelope: append([]byte{0}, digest...)})
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
	l.ahead -= l.parts[0].size()
	l.parts, l.at, l.sent = l.parts[1:], nil, 0
}
