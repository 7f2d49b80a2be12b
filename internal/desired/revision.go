package desired

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Epoch names one lineage of a set's revisions. It is random, so that a
// restored or recreated set can never pass for the history it left.
type Epoch [16]byte

// NewEpoch returns a fresh random epoch.
func NewEpoch() Epoch {
	var e Epoch
	rand.Read(e[:]) // never fails: crypto/rand ends the program instead
	return e
}

// String returns e as 32 hexadecimal digits.
func (e Epoch) String() string { return hex.EncodeToString(e[:]) }

// IsZero reports whether e is no epoch at all.
func (e Epoch) IsZero() bool { return e == Epoch{} }

// Prefix returns the first 8 bytes of e, big endian.
func (e Epoch) Prefix() uint64 { return binary.BigEndian.Uint64(e[:]) }

// ParseEpoch returns the epoch that String printed.
func ParseEpoch(s string) (Epoch, error) {
	var e Epoch
	if len(s) != 2*len(e) {
		return e, fmt.Errorf("%w epoch %q: want %d hexadecimal digits", ErrInvalid, s, 2*len(e))
	}
	if _, err := hex.Decode(e[:], []byte(s)); err != nil {
		return Epoch{}, fmt.Errorf("%w epoch %q: %w", ErrInvalid, s, err)
	}
	return e, nil
}

// Position is a place in a set's history: the number grows by one with each
// commit of an epoch. A zero Epoch, where a position is asked for by a user,
// stands for the current one.
type Position struct {
	Epoch  Epoch
	Number uint64
}

// String returns p as ParsePosition reads it.
func (p Position) String() string {
	if p.Epoch.IsZero() {
		return strconv.FormatUint(p.Number, 10)
	}
	return p.Epoch.String() + ":" + strconv.FormatUint(p.Number, 10)
}

// ParsePosition reads "number" or "epoch:number".
func ParsePosition(s string) (Position, error) {
	var p Position
	number := s
	if epoch, rest, ok := strings.Cut(s, ":"); ok {
		var err error
		if p.Epoch, err = ParseEpoch(epoch); err != nil {
			return Position{}, err
		}
		number = rest
	}
	var err error
	if p.Number, err = strconv.ParseUint(number, 10, 64); err != nil {
		return Position{}, fmt.Errorf("%w revision %q: want a number, or epoch:number", ErrInvalid, s)
	}
	return p, nil
}

// Revision is one state of a set: where in its history, and the root that
// proves the content.
type Revision struct {
	Position
	Root Digest
}

// Head is the current revision of a set.
type Head struct {
	Revision
	// Objects is how many objects there are; Bytes what their keys and values
	// add up to.
	Objects, Bytes uint64
	// Lineage lists the positions at which earlier epochs were left, the
	// latest first, at most MaxLineage: this epoch follows Lineage[0].
	Lineage []Position
}

// Follows reports whether h is a later revision of the lineage that r is of:
// of the same epoch and a higher number, or of an epoch that follows r's.
func (h Head) Follows(r Revision) bool {
	if h.Epoch == r.Epoch {
		return h.Number > r.Number
	}
	for _, left := range h.Lineage {
		if left.Epoch == r.Epoch {
			return true
		}
	}
	return false
}
