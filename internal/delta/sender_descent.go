package delta

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// descentSender lists the nodes that the receiver asks for, a level at a time.
//
// Nodes are asked for by their index in the level listed before, but stand for
// ranges of keys, so that it does not matter if the tree moves in between: what
// is listed for a range is every node that intersects it.
type descentSender struct {
	open    *Open
	width   int    // of the digests listed
	level   int    // of nodes
	nodes   nodes  // the level that was listed last
	runs    []run  // still to be listed, one level down
	at      []byte // where in runs[0] to go on, nil at its beginning
	listing nodes  // of runs
	scratch []byte // of list
	leaves  leafSender
}

// run is the keys with from <= key < until; nil until: to the end.
type run struct{ from, until []byte }

// nodes are the listed nodes of a level: their first keys, by index, or where
// in the node the run began. Those listed for one run follow each other up to
// its end.
type nodes struct {
	keyList
	ends []runEnd // ascending by index
}

// runEnd ends a run before the node of that index, and before that key.
type runEnd struct {
	index int
	until []byte
}

func (l *nodes) endRun(until []byte) {
	l.ends = append(l.ends, runEnd{index: l.len(), until: until})
}

// stretchReader turns (gap, count) pairs into the runs of keys that those nodes
// cover.
type stretchReader struct {
	nodes *nodes
	next  int // the first index that may still be named
}

// read returns the run of the next count nodes after a gap. They have to follow
// each other in one run of the listing.
func (s *stretchReader) read(r *reader, gap int) run {
	count := r.uvarint(s.nodes.len())
	start := s.next + gap
	end := start + count
	if r.err == nil && (count == 0 || end > s.nodes.len()) {
		r.fail("nodes %d to %d of %d", start, end, s.nodes.len())
	}
	if r.err != nil {
		return run{}
	}
	for s.nodes.ends[0].index <= start {
		s.nodes.ends = s.nodes.ends[1:]
	}
	last := s.nodes.ends[0]
	if end > last.index {
		r.fail("nodes %d to %d lie in two runs", start, end)
		return run{}
	}
	s.next = end
	if end < last.index {
		return run{from: s.nodes.at(start), until: s.nodes.at(end)}
	}
	return run{from: s.nodes.at(start), until: last.until}
}

// start lists the root, as far as it concerns the range asked for, and goes on
// to its children.
func (d *descentSender) start(o *Open, height int) {
	d.open, d.width, d.level = o, o.Width, max(1, height)
	d.nodes.add(o.From)
	d.nodes.endRun(o.Until)
	if d.level > 1 {
		d.runs = []run{{from: o.From, until: o.Until}}
	}
	d.leaves.init(o, &d.nodes)
}

func (d *descentSender) receiveNarrow(b []byte) error {
	if d.open == nil || d.level <= 1 || len(d.runs) > 0 || d.leaves.begun {
		return fmt.Errorf("%w: a request to narrow that is out of place", ErrProtocol)
	}
	r := reader{rest: b}
	s := stretchReader{nodes: &d.nodes}
	if d.width = int(r.byte()); !validWidth(d.width) {
		r.fail("digests of %d bytes", d.width)
	}
	for len(r.rest) > 0 {
		d.runs = append(d.runs, s.read(&r, r.uvarint(MaxNodes)))
	}
	if r.err == nil && len(d.runs) == 0 {
		r.fail("a request to narrow nothing")
	}
	return r.err
}

func (d *descentSender) receiveLeaves(b []byte) error {
	nothing := len(b) == 1 && b[0]&1 != 0 // all that differs is the receiver's to delete
	if d.open == nil || d.level != 1 && !nothing || len(d.runs) > 0 {
		return fmt.Errorf("%w: a request for leaves that is out of place", ErrProtocol)
	}
	return d.leaves.receive(b)
}

func (d *descentSender) pending() bool { return len(d.runs) > 0 || d.leaves.pending() }

func (d *descentSender) next(src Source, frame *FrameWriter) (Response, error) {
	if len(d.runs) == 0 {
		return d.leaves.next(src, frame)
	}
	var data []byte
	for len(d.runs) > 0 && len(data) < FrameBytes {
		var err error
		if data, err = d.list(src, data); err != nil {
			return Response{}, err
		}
		if d.listing.len() > MaxNodes || len(d.listing.block) > MaxNodeBytes {
			return Response{}, ErrTooDifferent
		}
	}
	if len(d.runs) > 0 {
		return Response{Digests: &Digests{Data: data}}, nil
	}
	d.level--
	d.nodes, d.listing = d.listing, nodes{}
	return Response{Digests: &Digests{Data: data, Last: true}}, nil
}

// list appends to data a segment of the first run: as many of its nodes as fit.
func (d *descentSender) list(src merkle.Reader, data []byte) ([]byte, error) {
	level, r := d.level-1, d.runs[0]
	start := r.from
	if d.at != nil {
		start = d.at
	}
	// The first node listed covers start, and may begin before it: at the
	// beginning of a run, or where the tree moved since the last segment.
	first, _, err := src.Before(level, append(bytes.Clone(start), 0))
	if err != nil {
		return nil, err
	}
	d.listing.add(start)
	digests, count := d.scratch[:0], 0
	defer func() { d.scratch = digests }()
	for row, err := range src.Rows(level, bytes.Clone(first), r.until) {
		if err != nil {
			return nil, err
		}
		if len(data)+len(digests) >= FrameBytes {
			d.at = bytes.Clone(row.Key)
			return appendSegment(data, count, true, digests), nil
		}
		if count > 0 {
			d.listing.add(row.Key)
		}
		s := short(d.open.Seed, d.width, (*desired.Digest)(&row.Digest))
		digests = append(digests, s[:d.width]...)
		count++
	}
	if count == 0 { // the tree is lower now: one node that matches none
		digests = append(digests, make([]byte, d.width)...)
		count++
	}
	d.listing.endRun(r.until)
	d.runs, d.at = d.runs[1:], nil
	return appendSegment(data, count, false, digests), nil
}

func appendSegment(data []byte, count int, more bool, digests []byte) []byte {
	header := uint64(count) << 1
	if more {
		header |= 1
	}
	return append(binary.AppendUvarint(data, header), digests...)
}
