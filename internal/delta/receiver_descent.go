package delta

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"espalier/internal/desired"
	"espalier/merkle"
)

// descentReceiver finds the stretches of keys in which two trees differ, a level
// at a time, without keys on the wire.
//
// A node's digest stands for its content, keys included, so a digest that both
// sides list in a run is the same node at the same place. The nodes between two
// such are a stretch that differs: to the sender a range of indices in what it
// listed, to the receiver a range of its own keys. Either may be empty. The
// stretches of level 1 are settled by leafReceiver.
type descentReceiver struct {
	open    Open
	width   int       // of the digests listed
	level   int       // of the nodes that the runs are made of
	runs    []stretch // asked for
	found   []stretch // in the level being received, so far
	listed  int       // nodes received of that level, in runs that are whole
	run     []desired.Digest
	leaves  leafReceiver
	trips   *int
	waiting bool // for digests

	// Our nodes of the run being compared: first keys, and places by digest.
	own   keyList
	index digestIndex
}

// stretch is a part of the two trees that differs: count nodes of the sender's
// list from index first on, whose keys are after <= key < until; and as many as
// nodes of the receiver's, from <= key < until, or none.
type stretch struct {
	first, count       int
	after, from, until []byte
	ours               int
	none               bool
}

// start takes the root of the sender's tree as the first node listed. Its
// children follow unasked.
func (d *descentReceiver) start(r *Receiver, height int) Effects {
	*d = descentReceiver{
		open: Open{Mode: r.mode, Seed: r.lastSeed, Width: r.width}, width: r.width, level: max(1, height),
		runs: []stretch{{count: 1, ours: 1}}, trips: &r.stats.RoundTrips,
	}
	d.leaves.init(&d.open, r.codec, r.begin.Head)
	if d.level > 1 {
		d.waiting = true
		return Effects{}
	}
	d.leaves.start(d.runs)
	*d.trips++
	return Effects{More: true}
}

func (d *descentReceiver) finished() bool { return !d.waiting && d.leaves.finished() }

// list takes digests of the level below the runs.
func (d *descentReceiver) list(view merkle.Reader, msg *Digests) (Effects, error) {
	if !d.waiting {
		return Effects{}, fmt.Errorf("%w: digests that were not asked for", ErrProtocol)
	}
	r := reader{rest: msg.Data}
	if len(r.rest) == 0 {
		r.fail("no digests")
	}
	for len(r.rest) > 0 {
		more := d.segment(&r)
		if r.err != nil || more {
			continue
		}
		if err := d.endRun(view); err != nil {
			return Effects{}, err
		}
	}
	if r.err != nil || !msg.Last {
		return Effects{}, r.err
	}
	return d.descend()
}

// segment reads some nodes of a run and reports whether more of it follow.
func (d *descentReceiver) segment(r *reader) (more bool) {
	header := r.uvarint(2*MaxNodes + 1)
	n := header >> 1
	if n == 0 || d.listed+len(d.run)+n > MaxNodes {
		r.fail("%d nodes after %d, at most %d in a level are allowed", n, d.listed+len(d.run), MaxNodes)
	}
	for digests := r.bytes(n * d.width); len(digests) > 0; {
		var s desired.Digest
		digests = digests[copy(s[:d.width], digests):]
		d.run = append(d.run, s)
	}
	return header&1 != 0
}

// endRun compares a run that is listed whole.
func (d *descentReceiver) endRun(view merkle.Reader) error {
	d.passOurs()
	if len(d.runs) == 0 {
		return fmt.Errorf("%w: a run that was not asked for", ErrProtocol)
	}
	if err := d.align(view, d.runs[0]); err != nil {
		return err
	}
	d.runs = d.runs[1:]
	d.listed += len(d.run)
	d.run = d.run[:0]
	return nil
}

// passOurs carries on the stretches that the sender has nothing in.
func (d *descentReceiver) passOurs() {
	for len(d.runs) > 0 && d.runs[0].count == 0 {
		d.found = append(d.found, d.runs[0])
		d.runs = d.runs[1:]
	}
}

// align adds to found the stretches in which the run's lists of nodes differ.
func (d *descentReceiver) align(view merkle.Reader, run stretch) error {
	if err := d.readOwn(view, run); err != nil {
		return err
	}
	ours, theirs := 0, 0 // up to where both lists are settled
	for j, s := range d.run {
		i, ok := d.index.from(s, ours)
		if !ok {
			continue
		}
		d.differ(run, ours, i, theirs, j)
		ours, theirs = i+1, j+1
	}
	d.differ(run, ours, d.own.len(), theirs, len(d.run))
	return nil
}

// readOwn reads the receiver's nodes of a run, one level down. A tree that is
// too low to have any stands for one node that matches none.
func (d *descentReceiver) readOwn(view merkle.Reader, run stretch) error {
	d.own.reset()
	d.index.reset()
	if run.none {
		return nil
	}
	for row, err := range view.Rows(d.level-1, run.from, run.until) {
		if err != nil {
			return err
		}
		d.index.add(short(d.open.Seed, d.width, (*desired.Digest)(&row.Digest)))
		d.own.add(row.Key)
	}
	if d.own.len() == 0 {
		d.own.add(run.from)
	}
	return nil
}

// differ adds the stretch of our nodes [i, iEnd) and their nodes [j, jEnd).
func (d *descentReceiver) differ(run stretch, i, iEnd, j, jEnd int) {
	if i == iEnd && j == jEnd {
		return
	}
	s := stretch{first: d.listed + j, count: jEnd - j, ours: iEnd - i, none: i == iEnd, after: run.after, until: run.until}
	if i > 0 {
		s.after = bytes.Clone(d.own.at(i - 1))
	}
	if !s.none {
		s.from = bytes.Clone(d.own.at(i))
	}
	if iEnd < d.own.len() {
		s.until = bytes.Clone(d.own.at(iEnd))
	}
	d.found = append(d.found, s)
}

// descend goes one level down, once a level is listed whole.
func (d *descentReceiver) descend() (Effects, error) {
	d.passOurs()
	if len(d.runs) > 0 || len(d.run) > 0 {
		return Effects{}, fmt.Errorf("%w: a level that is not listed whole", ErrProtocol)
	}
	d.runs, d.found, d.listed = d.found, nil, 0
	d.level--
	*d.trips++
	if narrow := d.narrow(); len(narrow) > 0 {
		return Effects{Requests: []Request{{Narrow: narrow}}}, nil
	}
	d.waiting = false
	d.leaves.start(d.runs)
	d.runs = nil
	return Effects{More: true}, nil
}

// narrow asks for the level below the runs. It is empty where there is none, or
// the sender has nothing in any of them.
func (d *descentReceiver) narrow() []byte {
	if d.level == 1 {
		return nil
	}
	pairs := uint64(0)
	for i := range d.runs {
		s := &d.runs[i] // in a longer one, more is spoilt by two nodes that meet far apart
		pairs += changedBelow(s.count) * uint64(s.ours) * fanOut * uint64(min(s.count, fanOut))
	}
	d.width = d.open.widthFor(pairs)
	b := []byte{byte(d.width)}
	next := 0
	for _, s := range d.runs {
		if s.count > 0 {
			b = binary.AppendUvarint(b, uint64(s.first-next))
			b = binary.AppendUvarint(b, uint64(s.count))
			next = s.first + s.count
		}
	}
	if next == 0 {
		return nil
	}
	return b
}

func (d *descentReceiver) batch(view merkle.Reader, b *Batch) (Effects, error) {
	if d.waiting {
		return Effects{}, fmt.Errorf("%w: objects before they were asked for", ErrProtocol)
	}
	return d.leaves.batch(view, b)
}

func (d *descentReceiver) advance(view merkle.Reader) (Effects, error) {
	return d.leaves.advance(view)
}
