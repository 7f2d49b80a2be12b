package delta

// Forked reports whether what is held is known not to be in src's history,
// although it is in its epoch: src is behind it, or had another root then. A
// revision that the journal doesn't reach any more is given the benefit of the
// doubt.
func Forked(src Source, held Held) (bool, error) {
	head := src.Head()
	switch {
	case held.Number == 0 || held.Epoch != head.Epoch.Prefix():
		return false, nil
	case held.Number >= head.Number:
		return !held.names(head), nil
	}
	root, _, _, err := src.Touched(held.Number, 0)
	return !root.IsZero() && root.Prefix() != held.Root, err
}
