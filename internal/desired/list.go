package desired

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
)

// List says which sets a host is to mirror.
type List struct {
	// Version grows by one with each change; 0: nobody has made a list, and the
	// host mirrors the set of its own name.
	Version uint64
	// Sets are in order: of several that have a key, the later wins. At least one,
	// at most MaxListSets.
	Sets []Name
	// Left are sets that were taken off the list, so that a host never has to
	// infer from silence that one has to go. The latest come last; at most
	// MaxListLeft.
	Left []Name
}

// OwnList returns the list of a host for which nobody has made one.
func OwnList(host Name) List { return List{Sets: []Name{host}} }

// Next returns the list of those sets that follows l: its version is above l's
// and seen, and what was on l and isn't any more has left.
func (l List) Next(seen uint64, sets []Name) List {
	next := List{Version: max(l.Version, seen) + 1, Sets: slices.Clone(sets)}
	for _, name := range slices.Concat(l.Left, l.Sets) {
		if !slices.Contains(sets, name) {
			next.Left = append(next.Left, name)
		}
	}
	next.Left = next.Left[max(0, len(next.Left)-MaxListLeft):]
	return next
}

// Check returns nil if l can be a host's list, or an error that matches
// ErrInvalid.
func (l List) Check() error {
	switch {
	case l.Version > MaxNumber:
		return fmt.Errorf("%w list of sets: version %d", ErrInvalid, l.Version)
	case len(l.Sets) == 0: // which would pass for one that got lost
		return fmt.Errorf("%w list of sets: it is empty", ErrInvalid)
	case len(l.Sets) > MaxListSets:
		return fmt.Errorf("%w list of sets: %d sets, at most %d are allowed", ErrInvalid, len(l.Sets), MaxListSets)
	case len(l.Left) > MaxListLeft:
		return fmt.Errorf("%w list of sets: %d sets that left, at most %d are allowed", ErrInvalid, len(l.Left), MaxListLeft)
	}
	all := slices.Concat(l.Sets, l.Left)
	for i, name := range all {
		if _, err := ParseName(string(name)); err != nil {
			return err
		}
		if slices.Contains(all[:i], name) {
			return fmt.Errorf("%w list of sets: it names set %q twice", ErrInvalid, name)
		}
	}
	return nil
}

// Sum returns the first 8 bytes of the SHA-256 digest of l, big endian: two
// sides that have the same version tell by it whether they have the same list.
func (l List) Sum() uint64 {
	sum := sha256.Sum256(append([]byte("espalier list\x00"), l.Encode()...))
	return binary.BigEndian.Uint64(sum[:])
}

// Encode returns l as bytes: uvarints for the version and for both numbers of
// names, each of which follows its length.
func (l List) Encode() []byte {
	b := binary.AppendUvarint(nil, l.Version)
	for _, names := range [][]Name{l.Sets, l.Left} {
		b = binary.AppendUvarint(b, uint64(len(names)))
		for _, name := range names {
			b = binary.AppendUvarint(b, uint64(len(name)))
			b = append(b, name...)
		}
	}
	return b
}

// DecodeList reads what Encode returned. It returns an error that matches
// ErrInvalid for anything else.
func DecodeList(b []byte) (l List, err error) {
	malformed := fmt.Errorf("%w list of sets: it is malformed", ErrInvalid)
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			err, b = malformed, nil
			return 0
		}
		b = b[n:]
		return v
	}
	l.Version = number()
	for _, names := range []*[]Name{&l.Sets, &l.Left} {
		for n := number(); n > 0 && err == nil; n-- {
			size := number()
			if size > uint64(len(b)) {
				return List{}, malformed
			}
			*names = append(*names, Name(b[:size]))
			b = b[size:]
		}
	}
	switch {
	case err != nil:
		return List{}, err
	case len(b) > 0:
		return List{}, malformed
	}
	return l, l.Check()
}
