package store

import "espalier/internal/desired"

// Small returns o with the bounds on what is handled at once lowered to rows,
// so that small sets are rewritten and read in chunks.
func Small(o Options, rows int) Options {
	o.small = rows
	return o
}

// NoSync lets the set's commits not wait for the disk, for measurements of all
// else, until its file is closed.
func NoSync(s *Store, name desired.Name) error {
	set, err := s.find(name)
	if err != nil {
		return err
	}
	h, err := s.borrow(set)
	if err != nil {
		return err
	}
	defer h.release()
	h.db.NoSync = true
	return nil
}
