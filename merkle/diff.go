package merkle

import (
	"bytes"
	"fmt"
	"iter"
)

// Difference is an object that two trees do not agree on. A zero digest stands
// for "not there".
type Difference struct {
	Key  []byte
	A, B Digest
}

// Diff returns the objects that differ between two trees of the same shape, in
// key order. Of a level it reads the stretches that nodes whose digests differ
// cover, and none further down if the roots are equal. A Difference's key is
// valid until the next iteration. An error of a reader ends the sequence.
func Diff(a, b Reader) iter.Seq2[Difference, error] { return DiffRange(a, b, nil, nil) }

// DiffRange is Diff for the objects with from <= key < until; a nil until stands
// for the end. It costs what lies in the range: whoever works on differences by
// and by goes on where he was.
func DiffRange(a, b Reader, from, until []byte) iter.Seq2[Difference, error] {
	return func(yield func(Difference, error) bool) {
		d := differ{yield: yield, from: from}
		top, err := lower(a, b)
		if err == nil {
			for level := range d.levels {
				d.levels[level] = pair{cursor{tree: a, level: level}, cursor{tree: b, level: level}}
			}
			_, err = d.diff(top, nil, until)
		}
		if err != nil {
			yield(Difference{}, err)
		}
	}
}

// lower returns the lower of two trees' heights.
func lower(a, b Reader) (int, error) {
	heightA, err := a.Height()
	if err != nil {
		return 0, err
	}
	heightB, err := b.Height()
	if err != nil {
		return 0, err
	}
	if max(heightA, heightB) > MaxLevel {
		return 0, fmt.Errorf("the trees have heights %d and %d, and none can exceed %d", heightA, heightB, MaxLevel)
	}
	return min(heightA, heightB), nil
}

type differ struct {
	levels [MaxLevel + 1]pair
	from   []byte // nothing that ends before it is of interest
	yield  func(Difference, error) bool
}

// diff compares the rows of a level in [from, until). Wherever both sides agree
// on a row they agree on all that it covers; the stretches between such rows
// are compared one level down. It reports whether to go on.
func (d *differ) diff(level int, from, until []byte) (bool, error) {
	rows := &d.levels[level]
	if bytes.Compare(from, d.from) < 0 {
		begin, err := rows.covering(level, d.from)
		if err != nil {
			return false, err
		}
		if bytes.Compare(from, begin) < 0 {
			from = begin
		}
	}
	rows.seek(from, until)
	var stretch []byte // the first key of the stretch that differs, nil: none
	for {
		row, ok, err := rows.next()
		if err != nil {
			return false, err
		}
		if !ok {
			break
		}
		more := true
		switch same := row.A == row.B; {
		case same && stretch != nil:
			more, err = d.diff(level-1, stretch, row.Key)
			stretch = nil
		case same:
		case level == 0:
			more = d.yield(row, nil)
		case stretch == nil:
			stretch = append([]byte{}, row.Key...)
		}
		if !more || err != nil {
			return false, err
		}
	}
	if stretch != nil {
		return d.diff(level-1, stretch, until)
	}
	return true, nil
}

// pair reads the rows of a level of both trees side by side.
type pair struct{ a, b cursor }

func (p *pair) seek(from, until []byte) {
	p.a.seek(from, until)
	p.b.seek(from, until)
}

// covering returns from where on the rows of the level have to be read of which
// one covers key in either tree.
func (p *pair) covering(level int, key []byte) ([]byte, error) {
	if level == 0 {
		return key, nil
	}
	above := append(bytes.Clone(key), 0) // the least key above it
	first, ok, err := p.a.tree.Before(level, above)
	if err != nil || !ok {
		return nil, err
	}
	first = bytes.Clone(first)
	other, ok, err := p.b.tree.Before(level, above)
	if err != nil || !ok {
		return nil, err
	}
	if bytes.Compare(other, first) < 0 {
		return bytes.Clone(other), nil
	}
	return first, nil
}

// next returns the next row of either tree, or of both. Its key is valid until
// the next call.
func (p *pair) next() (d Difference, ok bool, err error) {
	a, err := p.a.row()
	if err != nil {
		return d, false, err
	}
	b, err := p.b.row()
	if err != nil || a == nil && b == nil {
		return d, false, err
	}
	order := compareRows(a, b)
	if order <= 0 {
		d.Key, d.A = a.Key, a.Digest
		p.a.read++
	}
	if order >= 0 {
		d.Key, d.B = b.Key, b.Digest
		p.b.read++
	}
	return d, true, nil
}

// compareRows orders two rows by key, one that isn't there last.
func compareRows(a, b *Row) int {
	switch {
	case b == nil:
		return -1
	case a == nil:
		return 1
	default:
		return bytes.Compare(a.Key, b.Key)
	}
}

// readAhead is how many rows a cursor reads at a time.
const readAhead = 64

// cursor reads rows of a level ahead, so that no iteration of a Reader is left
// open while another goes on.
type cursor struct {
	tree        Reader
	level       int
	from, until []byte // what has not been read
	rows        []Row  // what has been, their keys in keys
	keys        []byte
	read        int // how many of rows are behind the cursor
	more        bool
}

func (c *cursor) seek(from, until []byte) {
	c.from, c.until, c.more = from, until, true
	c.rows, c.read = c.rows[:0], 0
}

// row returns the row at the cursor, nil at the end.
func (c *cursor) row() (*Row, error) {
	if c.read == len(c.rows) && c.more {
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
	if c.read == len(c.rows) {
		return nil, nil
	}
	return &c.rows[c.read], nil
}

func (c *cursor) fill() error {
	if c.rows == nil {
		c.rows = make([]Row, 0, readAhead)
		c.keys = make([]byte, 0, 32*readAhead)
	}
	c.rows, c.keys, c.read, c.more = c.rows[:0], c.keys[:0], 0, false
	for row, err := range c.tree.Rows(c.level, c.from, c.until) {
		if err != nil {
			return err
		}
		if len(c.rows) == readAhead {
			c.from, c.more = bytes.Clone(row.Key), true
			return nil
		}
		start := len(c.keys)
		c.keys = append(c.keys, row.Key...)
		row.Key = c.keys[start:len(c.keys):len(c.keys)]
		c.rows = append(c.rows, row)
	}
	return nil
}
