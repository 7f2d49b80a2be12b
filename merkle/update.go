package merkle

import (
	"bytes"
	"fmt"
)

// Change is an object's new digest, or its removal.
type Change struct {
	Key    []byte
	Digest Digest
	Gone   bool
}

// row returns c as a change to level 0.
func (c *Change) row() RowChange {
	return RowChange{Row: Row{Key: c.Key, Digest: c.Digest, Count: 1}, Gone: c.Gone}
}

// RowChange is a row of the tree to write, or to delete.
type RowChange struct {
	Row
	Level int
	Gone  bool
}

// Updated is what Update computed.
type Updated struct {
	// Root is the new root's row, Height its level.
	Root   Row
	Height int
	// Rows are the changed rows of level 1 and above, by level, then key. A node
	// whose end alone has moved is among them, though its row stays the same.
	Rows []RowChange
}

// Update returns how the tree in r follows changes to its objects, which must
// ascend by key, delete only what is there and set only what differs. r is read,
// level by level, as it was before the changes; nothing is written. The rows
// share keys with changes, and nothing with r.
//
// It returns ErrOrder, an error where a change deletes what isn't there,
// ErrTooWide if a node that is given a new child exceeds the shape's bound, or
// r's error.
//
// The work at a level is this. A changed row below makes the node that covers
// its key dirty. If its key is a boundary of this level, then a row that came
// starts a node of its own and cuts the one before it short; one that went
// leaves its children to the node before it. So the level is walked stretch by
// stretch. A stretch begins with the old node that covers the next change, or
// with the one before where the change takes that node's boundary away. From
// there the old rows below, overlaid with the changes, are fed to the node that
// is open; a boundary closes it and opens the next. The stretch ends at the
// first old boundary that no change touches, since the node that starts there
// has the children that it had, up to the next change.
func (s Shape) Update(r Reader, changes []Change) (Updated, error) {
	height, err := r.Height()
	if err != nil {
		return Updated{}, err
	}
	if len(changes) == 0 && height > 0 {
		root, err := Root(r)
		return Updated{Root: root, Height: height}, err
	}
	below, err := leaves(changes)
	if err != nil {
		return Updated{}, err
	}
	u := updater{shape: s, old: r, height: height}
	for level := 1; level <= MaxLevel; level++ {
		done := len(u.rows)
		u.level, u.below = level, below
		if err := u.run(); err != nil {
			return Updated{}, err
		}
		below = u.rows[done:]
		single, err := u.single(below)
		if err != nil {
			return Updated{}, err
		}
		if single {
			root := below[0].Row
			if err := u.removeAbove(); err != nil {
				return Updated{}, err
			}
			return Updated{Root: root, Height: level, Rows: u.rows}, nil
		}
	}
	return Updated{}, fmt.Errorf("the tree has a second node at level %d, where no key starts one", MaxLevel)
}

// leaves returns changes as changed rows of level 0.
func leaves(changes []Change) ([]RowChange, error) {
	rows := make([]RowChange, len(changes))
	var last []byte
	for i, c := range changes {
		if bytes.Compare(c.Key, last) <= 0 {
			return nil, fmt.Errorf("%w: %q after %q", ErrOrder, c.Key, last)
		}
		rows[i] = c.row()
		last = c.Key
	}
	return rows, nil
}

// updater computes the changed rows of one level after the other, each from
// those of the level below.
type updater struct {
	shape  Shape
	old    Reader
	height int         // of the old tree
	level  int         // the level that is being worked on
	below  []RowChange // of level-1, ascending: what is left of them
	rows   []RowChange // of all levels so far: the result

	open     node // the node that is being fed
	slot     int  // the index in rows of what it becomes
	inserted bool // whether it was given a row that is new
	probe    []byte
}

// run computes the rows of the level.
func (u *updater) run() error {
	if len(u.below) == 0 { // the first tree, of no objects
		u.start(nil)
		return u.close()
	}
	for len(u.below) > 0 {
		first, err := u.first()
		if err != nil {
			return err
		}
		u.start(first)
		left := len(u.below)
		if err := u.feedStretch(first); err != nil {
			return err
		}
		if len(u.below) == left {
			return fmt.Errorf("the tree lacks a node between %q and %q at level %d", first, u.below[0].Key, u.level)
		}
		if err := u.close(); err != nil {
			return err
		}
	}
	return nil
}

// first returns the first key of the old node at which the next stretch begins.
func (u *updater) first() ([]byte, error) {
	if u.level > u.height {
		return nil, nil
	}
	next := &u.below[0]
	u.probe = append(u.probe[:0], next.Key...)
	if !next.Gone || !u.boundary(next.Key) {
		u.probe = append(u.probe, 0) // a node that starts at the key itself covers it
	}
	first, ok, err := u.old.Before(u.level, u.probe)
	if err == nil && !ok {
		err = fmt.Errorf("the tree has no node before %q at level %d", next.Key, u.level)
	}
	return bytes.Clone(first), err
}

// feedStretch feeds the old rows below from first on, overlaid with the
// changes, up to an old boundary that no change touches.
func (u *updater) feedStretch(first []byte) error {
	for row, err := range u.old.Rows(u.level-1, first, nil) {
		if err != nil {
			return err
		}
		for len(u.below) > 0 && bytes.Compare(u.below[0].Key, row.Key) < 0 {
			if err := u.feedNew(); err != nil {
				return err
			}
		}
		switch {
		case len(u.below) > 0 && bytes.Equal(u.below[0].Key, row.Key):
			if err := u.feedChange(); err != nil {
				return err
			}
		case !bytes.Equal(row.Key, first) && u.boundary(row.Key):
			return nil
		default:
			u.open.add(&row.Digest, row.Count)
		}
	}
	for len(u.below) > 0 {
		if err := u.feedNew(); err != nil {
			return err
		}
	}
	return nil
}

// feedNew feeds the next change, which has no old row.
func (u *updater) feedNew() error {
	if c := &u.below[0]; c.Gone {
		return fmt.Errorf("the tree has no row %q at level %d to delete", c.Key, u.level-1)
	}
	err := u.feedChange()
	u.inserted = true
	return err
}

// feedChange feeds the next change: as a child of the open node, or of one that
// it starts.
func (u *updater) feedChange() error {
	c := &u.below[0]
	u.below = u.below[1:]
	starts := !bytes.Equal(c.Key, u.open.key) && u.boundary(c.Key)
	switch {
	case c.Gone && starts:
		u.rows = append(u.rows, RowChange{Level: u.level, Row: Row{Key: c.Key}, Gone: true})
		return nil
	case c.Gone:
		return nil
	case starts:
		if err := u.close(); err != nil {
			return err
		}
		u.start(c.Key)
	}
	u.open.add(&c.Digest, c.Count)
	return nil
}

func (u *updater) boundary(key []byte) bool { return u.shape.Level(key) >= u.level }

// start opens a node; close must have ended the one before.
func (u *updater) start(key []byte) {
	u.open.reset(u.level, key)
	u.inserted, u.slot = false, len(u.rows)
	u.rows = append(u.rows, RowChange{Level: u.level})
}

func (u *updater) close() error {
	u.rows[u.slot].Row = u.open.row()
	if !u.inserted {
		return nil
	}
	return u.shape.tooWide(u.level, &u.open)
}

// single reports whether the level has one node once changed, the level's
// changed rows, are written.
func (u *updater) single(changed []RowChange) (bool, error) {
	for i := range changed {
		if !changed[i].Gone && len(changed[i].Key) > 0 {
			return false, nil
		}
	}
	// Beside the anchor only rows that go have changed. Is any other there?
	others := 1 - len(changed)
	for _, err := range u.old.Rows(u.level, []byte{0}, nil) {
		if others++; err != nil || others > 0 {
			return false, err
		}
	}
	return true, nil
}

// removeAbove removes every old row above the level.
func (u *updater) removeAbove() error {
	for level := u.level + 1; level <= u.height; level++ {
		for row, err := range u.old.Rows(level, nil, nil) {
			if err != nil {
				return err
			}
			u.rows = append(u.rows, RowChange{Level: level, Row: Row{Key: bytes.Clone(row.Key)}, Gone: true})
		}
	}
	return nil
}
