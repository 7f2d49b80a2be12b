package store

import (
	"testing"

	"espalier/internal/desired"
)

// WriteFloor writes a copy of a floor.
func WriteFloor(t testing.TB, path string, r desired.Revision) {
	t.Helper()
	if err := writeFile(path, encodeFloor(r)); err != nil {
		t.Fatal(err)
	}
}

// Small returns o with the bounds on what is handled at once lowered to rows,
// so that small sets are rewritten and read in chunks.
func Small(o Options, rows int) Options {
	o.small = rows
	return o
}

// NoSync lets the set's commits not wait for the disk, for measurements of all
// else, until its file is closed.
func NoSync(s *Store, name desired.Name) error {
	set, err := s.use(name)
	if err != nil {
		return err
	}
	defer s.letGo(set)
	h, err := s.borrow(set)
	if err != nil {
		return err
	}
	defer h.release()
	h.db.NoSync = true
	return nil
}
