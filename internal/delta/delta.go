// Package delta is the conversation that brings a copy of a set up to date:
// both halves of it, as plain state machines without I/O, clock or goroutines.
//
// The Sender stands at the server. It is handed requests and asked for
// responses; each call reads a bounded chunk from a Source. The Receiver stands
// at the agent. It is handed responses and asked what to do: requests to send,
// changes to keep, a root to verify. Neither trusts the other: every size that
// a peer controls is bounded (limits.go), and nothing counts as received before
// its root is verified.
//
// A pull has one of three shapes, and falls from the first to the second where
// the history does not reach:
//
//   - since: the changes after a revision that the receiver names by its root;
//   - descent: the receiver compares its tree with the sender's, a level a
//     round trip, and is sent the objects of the stretches that differ;
//   - full: everything, in key order.
//
// The set may move during a pull. What is streamed then includes everything up
// to the head of the first read, and perhaps some of what came later; a round
// of "since" follows, until the head was the same before and after.
//
// docs/protocol.md describes the conversation and its encodings for those who
// write a second implementation.
package delta

import (
	"encoding/binary"
	"errors"
	"iter"

	"espalier/internal/desired"
	"espalier/merkle"

	"github.com/cespare/xxhash/v2"
)

// ErrProtocol is what errors about a peer that breaks the protocol match.
var ErrProtocol = errors.New("protocol violated by the peer")

// ErrTooDifferent is returned by a Sender whose descent would have to list more
// than MaxNodes nodes of one level: a full pull serves the receiver better.
var ErrTooDifferent = errors.New("too much differs to compare trees")

// Mode is the shape of a pull.
type Mode int

// The modes; their numbers are those of the wire.
const (
	Since   Mode = 1
	Descent Mode = 2
	Full    Mode = 3
	// Compare is a descent that ends in the keys and digests of the sender's
	// objects in the stretches that differ, not in their values.
	Compare Mode = 4
)

// String returns the word that reports use.
func (m Mode) String() string {
	switch m {
	case Since:
		return "delta"
	case Descent:
		return "descent"
	case Full:
		return "full"
	case Compare:
		return "compare"
	default:
		return "unchanged"
	}
}

// Source is a set at one revision, as a Sender reads it. What it hands out is
// valid until the Sender's call returns.
type Source interface {
	merkle.Reader
	Head() desired.Head
	Shape() merkle.Shape
	// Get returns the object under key; ok is false where there is none.
	Get(key []byte) (c desired.Change, ok bool, err error)
	// Objects returns the objects with from <= key < until, ascending.
	Objects(from, until []byte) iter.Seq2[desired.Change, error]
	// Touched returns the root of the revision of that number, zero where the
	// journal does not reach back to it, and the union of the keys that were
	// touched after it, ascending, in memory of their own. ok is false where the
	// root is zero, or the keys are more than limit.
	Touched(number uint64, limit int) (root desired.Digest, keys [][]byte, ok bool, err error)
}

// Open asks for a pull.
type Open struct {
	Set  desired.Name
	Mode Mode
	// Base is the revision that the receiver holds; for Since.
	Base desired.Revision
	// After leaves out the keys up to and including it; for Since and Full.
	After []byte
	// Seed keys the short digests of this descent.
	Seed uint64
	// Width is how many bytes travel of the digests that the descent lists first,
	// unasked: ShortWidth to MaxShortWidth, or all of them.
	Width int
	// From and Until bound the keys compared, for Compare: from <= key < until;
	// empty: no bound.
	From, Until []byte
}

// Request is a message of the receiver; one of the fields is set.
type Request struct {
	Open *Open
	// Narrow asks for the nodes one level below the named ones: a byte for the
	// width of their digests, and pairs of uvarints.
	Narrow []byte
	// Leaves names level-1 nodes and the digests held of what is in them, as
	// leafSender.receive reads it.
	Leaves []byte
}

// Response is a message of the sender; one of the fields is set.
type Response struct {
	Begin   *Begin
	Digests *Digests
	Batch   *Batch
	End     *End
}

// Begin answers Open.
type Begin struct {
	Mode   Mode
	Head   desired.Head
	Height int
	Salt   uint64
}

// Digests lists nodes: segments of uvarint(count<<1 | more of this run follows)
// and count digests. Neither a list nor a segment is empty.
type Digests struct {
	Data []byte
	Last bool // of this level
}

// Batch carries changes and, in a descent, what is gone in each part that ends
// with it: uvarint(changes of the frame that belong to the part), uvarint(digests
// gone), and for each the uvarint gap to the index before. It is never without
// both. Keys ascend from batch to batch throughout a stream.
type Batch struct {
	Frame []byte
	Parts []byte
}

// End ends the stream. Head is that of the last read; zero: still that of Begin,
// and so the pull is exact.
type End struct{ Head desired.Head }

// short returns the first width bytes of d under this descent's key, the rest
// zero. A whole digest is d itself.
//
// XXH64 under a fresh random seed is enough: nobody can choose SHA-256 digests
// for a seed that is drawn later, and what collides by chance is caught by the
// root, whereupon the descent is repeated with whole digests.
func short(seed uint64, width int, d *desired.Digest) desired.Digest {
	if width == len(d) {
		return *d
	}
	var h xxhash.Digest
	h.ResetWithSeed(seed)
	h.Write(d[:])
	var s desired.Digest
	binary.BigEndian.PutUint64(s[:], h.Sum64())
	clear(s[width:MaxShortWidth])
	return s
}

// validWidth reports whether digests can travel in so many bytes.
func validWidth(width int) bool {
	return width >= ShortWidth && width <= MaxShortWidth || width == len(desired.Digest{})
}

// MatchDigest returns the MatchWidth bytes that stand for d under seed where a
// publisher asks which of its objects a set has as they are.
func MatchDigest(seed uint64, d desired.Digest) [MatchWidth]byte {
	var h xxhash.Digest
	h.ResetWithSeed(seed)
	h.Write(d[:])
	return [MatchWidth]byte(binary.BigEndian.AppendUint64(nil, h.Sum64()))
}
