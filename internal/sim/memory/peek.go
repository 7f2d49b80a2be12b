package memory

import (
	"iter"

	"espalier/internal/desired"
)

// Copy is a mirror or a staging as it lies on a disk, for those who check it. Two
// are the same if nothing was written in between.
type Copy struct{ file *copyFile }

// Mirror returns the mirror of a set; false: there is none.
func (a Agent) Mirror(set desired.Name) (Copy, bool) { return a.peek(mirrorPrefix + string(set)) }

// Staged returns what is staged of a set; false: nothing is.
func (a Agent) Staged(set desired.Name) (Copy, bool) { return a.peek(stagingPrefix + string(set)) }

func (a Agent) peek(name string) (Copy, bool) {
	f, ok := a.Disk.seen[name].(*copyFile)
	return Copy{f}, ok
}

// Floors returns the copies of a floor that can be read.
func (a Agent) Floors(set desired.Name) (floors []desired.Revision) {
	for _, prefix := range floorPrefixes {
		if r, ok := a.Disk.seen[prefix+string(set)].(desired.Revision); ok {
			floors = append(floors, r)
		}
	}
	return floors
}

// Head returns the revision.
func (c Copy) Head() desired.Head { return c.file.head }

// Salt returns the tree's.
func (c Copy) Salt() uint64 { return c.file.salt }

// Damaged reports whether the content is known not to be the head's.
func (c Copy) Damaged() bool { return c.file.root != c.file.head.Root }

// Get returns what is under a key; nil: nothing.
func (c Copy) Get(key []byte) desired.Envelope {
	if i, ok := c.file.find(key); ok {
		return c.file.objects[i].Envelope
	}
	return nil
}

// Objects returns the objects, with whether a bit of each was flipped.
func (c Copy) Objects() iter.Seq2[desired.Change, bool] { return c.file.all() }

// Objects returns what lies on a server's disk of a set.
func (s *Store) Objects(set desired.Name) iter.Seq2[desired.Change, bool] {
	f, err := s.load(set)
	if err != nil || f == nil {
		return func(func(desired.Change, bool) bool) {}
	}
	return f.all()
}

func (c *content) all() iter.Seq2[desired.Change, bool] {
	return func(yield func(desired.Change, bool) bool) {
		for _, o := range c.objects {
			if !yield(o.Change, o.flipped) {
				return
			}
		}
	}
}
