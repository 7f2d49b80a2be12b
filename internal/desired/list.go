package desired

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Orders are what an operator tells a host besides which sets it mirrors.
type Orders struct {
	// Paused says that the host makes nothing true for now; what it mirrors is kept
	// current all the same. Why says why, at most MaxWhyBytes of UTF-8; empty unless
	// Paused.
	Paused bool
	Why    string
	// Release is the host root (see HostRoot) whose deletions the host carries out,
	// however many there are; zero: none. It is of no meaning for any other root.
	Release Digest
	// Released is the version of the list with which that was ordered, by which a
	// host tells whether it made use of it already; 0 if Release is zero.
	Released uint64
}

// List says which sets a host is to mirror, and what else it is told.
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
	Orders
}

// OwnList returns the list of a host for which nobody has made one.
func OwnList(host Name) List { return List{Sets: []Name{host}} }

// Next returns the list of those sets that follows l: its version is above l's
// and seen, and what was on l and isn't any more has left. The orders stay.
func (l List) Next(seen uint64, sets []Name) List {
	next := List{Version: max(l.Version, seen) + 1, Sets: slices.Clone(sets), Orders: l.Orders}
	for _, name := range slices.Concat(l.Left, l.Sets) {
		if !slices.Contains(sets, name) {
			next.Left = append(next.Left, name)
		}
	}
	next.Left = next.Left[max(0, len(next.Left)-MaxListLeft):]
	return next
}

// Pause returns the list that follows l and says that the host is paused. seen is
// as with Next.
func (l List) Pause(seen uint64, why string) List {
	next := l.follow(seen)
	next.Paused, next.Why = true, why
	return next
}

// Resume returns the list that follows l and says that the host is paused no
// longer.
func (l List) Resume(seen uint64) List {
	next := l.follow(seen)
	next.Paused, next.Why = false, ""
	return next
}

// ReleaseRoot returns the list that follows l and lets the host carry out the
// deletions that lead to root.
func (l List) ReleaseRoot(seen uint64, root Digest) List {
	next := l.follow(seen)
	next.Release, next.Released = root, next.Version
	return next
}

// follow returns l with the version that follows.
func (l List) follow(seen uint64) List {
	l.Version = max(l.Version, seen) + 1
	l.Sets, l.Left = slices.Clone(l.Sets), slices.Clone(l.Left)
	return l
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
	if err := l.checkOrders(); err != nil {
		return err
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

func (l List) checkOrders() error {
	switch {
	case len(l.Why) > MaxWhyBytes:
		return fmt.Errorf("%w order: a reason of %d bytes, at most %d are allowed", ErrInvalid, len(l.Why), MaxWhyBytes)
	case !utf8.ValidString(l.Why):
		return fmt.Errorf("%w order: its reason is not UTF-8", ErrInvalid)
	case l.Why != "" && !l.Paused:
		return fmt.Errorf("%w order: a reason for no pause", ErrInvalid)
	case l.Release.IsZero() != (l.Released == 0), l.Released > l.Version:
		return fmt.Errorf("%w order: a release with version %d, in a list of version %d", ErrInvalid, l.Released, l.Version)
	}
	return nil
}

// Sum returns the first 8 bytes of the SHA-256 digest of l, big endian: two
// sides that have the same version tell by it whether they have the same list.
func (l List) Sum() uint64 {
	sum := sha256.Sum256(append([]byte("espalier list\x00"), l.Encode()...))
	return binary.BigEndian.Uint64(sum[:])
}

// What follows the names in an encoded list.
const (
	orderPaused  = 1 // the length of why, and why
	orderRelease = 2 // the version with which it was ordered, and the root
)

// Encode returns l as bytes: uvarints for the version and for both numbers of
// names, each of which follows its length. Orders, if there are any, come last:
// a uvarint of what they are, and what belongs to each.
func (l List) Encode() []byte {
	b := binary.AppendUvarint(nil, l.Version)
	for _, names := range [][]Name{l.Sets, l.Left} {
		b = binary.AppendUvarint(b, uint64(len(names)))
		for _, name := range names {
			b = appendString(b, string(name))
		}
	}
	if l.Orders == (Orders{}) {
		return b
	}
	flags := 0
	if l.Paused {
		flags |= orderPaused
	}
	if !l.Release.IsZero() {
		flags |= orderRelease
	}
	b = binary.AppendUvarint(b, uint64(flags))
	if l.Paused {
		b = appendString(b, l.Why)
	}
	if !l.Release.IsZero() {
		b = binary.AppendUvarint(b, l.Released)
		b = append(b, l.Release[:]...)
	}
	return b
}

// DecodeList reads what Encode returned. It returns an error that matches
// ErrInvalid for anything else.
func DecodeList(b []byte) (List, error) {
	d := listDecoder{rest: b}
	l := List{Version: d.number()}
	for _, names := range []*[]Name{&l.Sets, &l.Left} {
		for n := d.number(); n > 0 && !d.failed; n-- {
			*names = append(*names, Name(d.bytes(d.number())))
		}
	}
	if len(d.rest) > 0 {
		l.Orders = d.orders()
	}
	if d.failed || len(d.rest) > 0 {
		return List{}, fmt.Errorf("%w list of sets: it is malformed", ErrInvalid)
	}
	return l, l.Check()
}

// listDecoder reads the fields of a list. After the first failure it reads
// nothing.
type listDecoder struct {
	rest   []byte
	failed bool
}

func (d *listDecoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.rest, d.failed = nil, true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *listDecoder) bytes(n uint64) []byte {
	if n > uint64(len(d.rest)) {
		d.rest, d.failed = nil, true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *listDecoder) orders() (o Orders) {
	flags := d.number()
	if flags == 0 || flags > orderPaused|orderRelease { // what has no orders has none of these bytes
		d.failed = true
	}
	if o.Paused = flags&orderPaused != 0; o.Paused {
		o.Why = string(d.bytes(d.number()))
	}
	if flags&orderRelease != 0 {
		o.Released = d.number()
		copy(o.Release[:], d.bytes(uint64(len(o.Release))))
		d.failed = d.failed || o.Release.IsZero()
	}
	return o
}
