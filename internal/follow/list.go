package follow

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"espalier/internal/desired"
)

// errBehind is what errors match that say that the server's list of sets is older
// than this host's: it lags, and there is nothing to do but to wait for it.
var errBehind = errors.New("the server is behind")

// open opens the mirrors that Options.Sets names or else the list does
// that the server last sent, and those whose leaving the Handler doesn't know of
// yet. What is mirrored and neither on the list nor taken off it stays, below the
// others: the list is lost, which says nothing about the sets.
func (f *Follower) open() (err error) {
	sets := f.options.Sets
	if len(sets) == 0 {
		if f.list, err = f.options.Disk.List(); err != nil {
			return err
		}
		if sets = f.list.Sets; len(sets) == 0 {
			sets = []desired.Name{f.options.Host}
		}
		held, err := f.options.Disk.Mirrored()
		if err != nil {
			return err
		}
		var kept []desired.Name
		for _, name := range held {
			switch {
			case slices.Contains(sets, name):
			case slices.Contains(f.list.Left, name):
				if err := f.openInto(&f.leaving, name); err != nil {
					return err
				}
			default:
				f.log.Warn("a set is mirrored that is neither on this host's list nor taken off it; it stays until the server says", "set", name)
				kept = append(kept, name)
			}
		}
		sets = slices.Concat(kept, sets)
	}
	for _, name := range sets {
		if err := f.openInto(&f.sets, name); err != nil {
			return err
		}
	}
	return nil
}

func (f *Follower) openInto(sets *[]*Set, name desired.Name) error {
	m, err := f.options.Disk.Open(name)
	if err != nil {
		return fmt.Errorf("mirror of %q: %w", name, err)
	}
	*sets = append(*sets, &Set{Name: name, Mirror: m})
	return nil
}

// relist follows the list of sets that came with a poll, or changes nothing. It
// reports whether there are sets now that were not asked about.
func (f *Follower) relist(next desired.List) (more bool, err error) {
	if len(f.options.Sets) > 0 {
		return false, nil
	}
	if err := admitList(f.list, f.names(), next); err != nil {
		return false, err
	}
	old := slices.Concat(f.sets, f.leaving)
	var sets, opened []*Set
	for _, name := range next.Sets {
		if i := slices.IndexFunc(old, func(s *Set) bool { return s.Name == name }); i >= 0 {
			sets = append(sets, old[i])
			old = slices.Delete(old, i, i+1)
		} else if err = f.openInto(&opened, name); err != nil {
			break
		} else {
			sets = append(sets, opened[len(opened)-1])
		}
	}
	if err == nil {
		err = f.options.Disk.WriteList(next)
	}
	if err != nil {
		for _, s := range opened {
			err = errors.Join(err, s.Close())
		}
		return false, fmt.Errorf("version %d of this host's list of sets: %w", next.Version, err)
	}
	f.log.Info("this host's list of sets has changed", "version", next.Version, "sets", next.Sets, "paused", next.Paused, "why", next.Why)
	f.list, f.sets, f.leaving = next, sets, old
	f.shown.Store(&next)
	if f.options.Listed != nil {
		f.options.Listed(next)
	}
	return len(opened) > 0, nil
}

// names returns the sets that this host mirrors.
func (f *Follower) names() (names []desired.Name) {
	for _, s := range f.sets {
		names = append(names, s.Name)
	}
	return names
}

// admitList returns nil if next leads on from the list that this host has, and
// accounts for every set that it holds. It never moves backwards, and no set
// goes because nothing is said of it.
func admitList(is desired.List, held []desired.Name, next desired.List) error {
	switch {
	case next.Version < is.Version:
		return fmt.Errorf("%w: it has version %d of this host's list of sets, which has version %d; what this host has stays in force",
			errBehind, next.Version, is.Version)
	case next.Version == is.Version:
		return fmt.Errorf("%w: it has another version %d of this host's list of sets; "+
			"'espalier host sets' on the server makes one that this host follows", ErrUnsafe, is.Version)
	}
	for _, name := range held {
		if !slices.Contains(next.Sets, name) && !slices.Contains(next.Left, name) {
			return fmt.Errorf("%w: version %d of this host's list of sets doesn't say what becomes of set %q, which this host holds; "+
				"'espalier host sets' on the server has to name it, once more at least", ErrUnsafe, next.Version, name)
		}
	}
	return nil
}

// leave tells the Handler of the sets that have left the list, and forgets them.
func (f *Follower) leave(ctx context.Context) error {
	var errs []error
	f.leaving = slices.DeleteFunc(f.leaving, func(s *Set) bool {
		err := f.leaveSet(ctx, s)
		if err != nil {
			errs = append(errs, fmt.Errorf("set %q, which has left this host's list: %w", s.Name, err))
		}
		return err == nil
	})
	return errors.Join(errs...)
}

func (f *Follower) leaveSet(ctx context.Context, s *Set) error {
	if f.options.Left != nil {
		if err := f.options.Left(ctx, s); err != nil {
			return err
		}
	}
	if err := s.Remove(); err != nil {
		return err
	}
	f.log.Info("a set has left this host's list, and is mirrored no longer", "set", s.Name)
	return s.Close()
}
