package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"espalier/internal/desired"
	"espalier/store"
)

// errBehind is what errors match that say that the server's list of sets is older
// than this host's: it lags, and there is nothing to do but to wait for it.
var errBehind = errors.New("the server is behind")

// openMirrors opens the mirrors that Options.Sets names or else the list does
// that the server last sent, and those whose leaving the Handler doesn't know of
// yet. What is mirrored and neither on the list nor taken off it stays, below the
// others: the list is lost, which says nothing about the sets.
func (a *Agent) openMirrors() (err error) {
	sets := a.options.Sets
	if len(sets) == 0 {
		if a.list, err = store.ReadList(a.options.Dir); err != nil {
			return err
		}
		if sets = a.list.Sets; len(sets) == 0 {
			sets = []desired.Name{a.options.Host}
		}
		held, err := store.Mirrors(a.options.Dir)
		if err != nil {
			return err
		}
		var kept []desired.Name
		for _, name := range held {
			switch {
			case slices.Contains(sets, name):
			case slices.Contains(a.list.Left, name):
				if err := a.openInto(&a.leaving, name); err != nil {
					return err
				}
			default:
				a.log.Warn("a set is mirrored that is neither on this host's list nor taken off it; it stays until the server says", "set", name)
				kept = append(kept, name)
			}
		}
		sets = slices.Concat(kept, sets)
	}
	for _, name := range sets {
		if err := a.openInto(&a.mirrors, name); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) openInto(mirrors *[]*mirror, name desired.Name) error {
	m, err := store.OpenMirror(a.options.Dir, name, store.Options{Logger: a.log, Probe: a.options.Probe})
	if err != nil {
		return fmt.Errorf("mirror of %q: %w", name, err)
	}
	*mirrors = append(*mirrors, &mirror{Mirror: m, name: name})
	return nil
}

// relist follows the list of sets that came with a poll, and reports whether
// there are sets now that were not asked about.
func (a *Agent) relist(next desired.List) (more bool, err error) {
	if len(a.options.Sets) > 0 {
		return false, nil
	}
	if err := admitList(a.list, a.held(), next); err != nil {
		return false, err
	}
	if err := store.WriteList(a.options.Dir, next); err != nil {
		return false, fmt.Errorf("list of sets: %w", err)
	}
	a.log.Info("this host's list of sets has changed", "version", next.Version, "sets", next.Sets)
	a.list = next
	old := slices.Concat(a.mirrors, a.leaving)
	a.mirrors, a.leaving, a.scrubber = nil, nil, scrubber{}
	for _, name := range next.Sets {
		if i := slices.IndexFunc(old, func(m *mirror) bool { return m.name == name }); i >= 0 {
			a.mirrors = append(a.mirrors, old[i])
			old = slices.Delete(old, i, i+1)
		} else if err := a.openInto(&a.mirrors, name); err != nil {
			a.leaving = old
			return false, err
		} else {
			more = true
		}
	}
	a.leaving = old
	return more, nil
}

// held returns the sets that this host mirrors.
func (a *Agent) held() (names []desired.Name) {
	for _, m := range a.mirrors {
		names = append(names, m.name)
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
func (a *Agent) leave(ctx context.Context) error {
	var errs []error
	a.leaving = slices.DeleteFunc(a.leaving, func(m *mirror) bool {
		err := a.leaveSet(ctx, m)
		if err != nil {
			errs = append(errs, fmt.Errorf("set %q, which has left this host's list: %w", m.name, err))
		}
		return err == nil
	})
	return errors.Join(errs...)
}

func (a *Agent) leaveSet(ctx context.Context, m *mirror) error {
	if h := a.options.Handler; h != nil && m.Head().Number > 0 {
		none := func(func(desired.Change, error) bool) {}
		if err := h.Handle(ctx, Update{Set: m.name, Head: m.Head(), Full: true, Left: true, Changes: none}); err != nil {
			return err
		}
	}
	if err := m.Remove(); err != nil {
		return err
	}
	a.log.Info("a set has left this host's list, and is mirrored no longer", "set", m.name)
	return m.Close()
}
