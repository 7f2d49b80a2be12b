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
	level   int       // of the nodes that the runs are made of
	runs    []stretch // asked for
	found   []stretch // in the level being received, so far
	listed  int       // nodes received of that level
	run     []desired.Digest
	leaves  leafReceiver
	trips   *int
	waiting bool // for digests
}

// stretch is a part of the two trees that differs: count nodes of the sender's
// list from index first on; and of the receiver's own keys, from <= key < until,
// or none.
type stretch struct {
	first, count int
	from, until  []byte
	none         bool
}

// start takes the root of the sender's tree as the first node listed. Its
// children follow unasked.
func (d *descentReceiver) start(r *Receiver, height int) Effects {
	*d = descentReceiver{
		open: Open{Mode: r.mode, Seed: r.lastSeed, Width: r.width}, level: max(1, height),
		runs: []stretch{{count: 1}}, trips: &r.stats.RoundTrips,
	}
	d.leaves.init(&d.open, r.codec)
	if d.level > 1 {
		d.waiting = true
		return Effects{}
	}
	d.leaves.queue = d.runs
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
	for len(r.rest) > 0 {
		header := r.uvarint(2*MaxNodes + 1)
		n := header >> 1
		if d.listed+len(d.run)+n > MaxNodes {
			r.fail("more than %d nodes in a level", MaxNodes)
		}
		digests := r.bytes(n * d.open.Width)
		if r.err != nil {
			return Effects{}, r.err
		}
		for len(digests) > 0 {
			var s desired.Digest
			digests = digests[copy(s[:d.open.Width], digests):]
			d.run = append(d.run, s)
		}
		if header&1 != 0 {
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

// endRun compares a run that is listed whole.
func (d *descentReceiver) endRun(view merkle.Reader) error {
	d.passOurs()
	if len(d.runs) == 0 || len(d.run) == 0 {
		return fmt.Errorf("%w: a run that was not asked for, or is empty", ErrProtocol)
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
	keys, own, err := d.ownNodes(view, run)
	if err != nil {
		return err
	}
	index := make(map[desired.Digest]int, len(own))
	for i, s := range own {
		index[s] = i
	}
	ours, theirs := 0, 0 // up to where both lists are settled
	for j, s := range d.run {
		i, ok := index[s]
		if !ok || i < ours {
			continue
		}
		d.differ(run, keys, ours, i, theirs, j)
		ours, theirs = i+1, j+1
	}
	d.differ(run, keys, ours, len(own), theirs, len(d.run))
	return nil
}

// ownNodes returns the receiver's nodes of a run, one level down. A tree that is
// too low to have any stands for one node that matches none.
func (d *descentReceiver) ownNodes(view merkle.Reader, run stretch) (keys [][]byte, digests []desired.Digest, err error) {
	if run.none {
		return nil, nil, nil
	}
	for row, err := range view.Rows(d.level-1, run.from, run.until) {
		if err != nil {
			return nil, nil, err
		}
		keys = append(keys, bytes.Clone(row.Key))
		digests = append(digests, short(d.open.Seed, d.open.Width, (*desired.Digest)(&row.Digest)))
	}
	if len(keys) == 0 {
		return [][]byte{run.from}, []desired.Digest{{}}, nil
	}
	return keys, digests, nil
}

// differ adds the stretch of our nodes [i, iEnd) and their nodes [j, jEnd).
func (d *descentReceiver) differ(run stretch, keys [][]byte, i, iEnd, j, jEnd int) {
	if i == iEnd && j == jEnd {
		return
	}
	s := stretch{first: d.listed + j, count: jEnd - j, none: i == iEnd}
	if !s.none {
		s.from, s.until = keys[i], run.until
		if iEnd < len(keys) {
			s.until = keys[iEnd]
		}
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
	var narrow []byte
	if d.level > 1 {
		next := 0
		for _, s := range d.runs {
			if s.count > 0 {
				narrow = binary.AppendUvarint(narrow, uint64(s.first-next))
				narrow = binary.AppendUvarint(narrow, uint64(s.count))
				next = s.first + s.count
			}
		}
	}
	if len(narrow) > 0 {
		return Effects{Requests: []Request{{Narrow: narrow}}}, nil
	}
	d.waiting = false
	d.leaves.queue = d.runs
	d.runs = nil
	return Effects{More: true}, nil
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
