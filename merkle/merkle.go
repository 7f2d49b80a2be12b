// Package merkle answers one question: what is the hashed tree over a set of
// keyed digests, and how does it follow when some of them change?
//
// The tree is key-ordered and history-independent: its shape is a function of
// the keys and of a salt, never of the order in which they came, so two sides
// that hold the same objects hold the same tree without talking, and equal
// roots prove equal content.
//
// # Shape
//
// Level 0 holds the objects: a row for each, key and digest. A key's level is
// leadingZeros(xxhash64(salt, key)) / 5, so one key in 32 has level 1 or more,
// one in 32 of those level 2 or more, and so on. A key of level n starts a node
// at each of the levels 1 to n; besides, every level has a node anchored at the
// empty key, which sorts before every object. A node at level n holds the rows
// of level n-1 from its first key up to the first key of the next node of its
// level. The anchored node of level 1 holds none if the first object starts a
// node of its own, or if there is no object. The root is the only node of the
// lowest level ≥ 1 that has just one.
//
// A node's digest is SHA-256 over the domain tag 1, its level, both in a byte
// each, and its children's digests in order. The hash of keys is XXH64, seeded
// with the salt; it decides shape only, never equality.
//
// The rows (level, first key) → (digest, count) lie flat in an ordered key
// space. There are no pointers to follow and nothing to collect. Splitting a
// node is writing a row, joining two is deleting one; which rows change follows
// from the keys alone.
//
// The scheme is that of probabilistic B-trees over hashed boundaries (prolly
// trees, Noms 2015; Merkle search trees, Auvolat and Taïani 2019), flattened.
//
// The package is pure: no clock, no files, no network, no goroutines. It sees
// storage through Reader and hands what is to be written to its caller.
package merkle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// Digest is a SHA-256 digest of an object or of a node.
type Digest = [sha256.Size]byte

// MaxChildren is the most children that a node should be given by inserting:
// 64 times the mean. A node this wide cannot come about by chance (1e-28), only
// by keys that were made for it.
const MaxChildren = 64 << levelBits

// MaxLevel is the highest level that a row can have: a key's level is at most
// 64/5, and the root stands one above.
const MaxLevel = 64/levelBits + 1

const (
	levelBits = 5 // one key in 2^levelBits starts a node of the level above
	nodeTag   = 1 // keeps the digests of nodes apart from those of objects
)

// ErrTooWide is returned when inserting would build a node of more than
// Shape.MaxChildren children.
var ErrTooWide = errors.New("too many keys in one node of the tree")

// ErrOrder is returned when keys that must ascend do not.
var ErrOrder = errors.New("keys are not in ascending order")

// Row is a node of the tree or, at level 0, an object.
type Row struct {
	// Key is the first key that the row covers; empty for a level's anchor.
	Key    []byte
	Digest Digest
	// Count is the number of objects that the row covers; 1 at level 0.
	Count uint64
}

// Reader is a stored tree: the rows of all its levels. Keys that it hands out
// are only valid until the next call or iteration, as are those that it is given.
// The package finishes or leaves one iteration before it makes the next call.
type Reader interface {
	// Height returns the level of the root: at least 1, or 0 where no tree was
	// ever stored.
	Height() (int, error)
	// Before returns the last key of a row of the level that is less than key;
	// ok is false where there is none.
	Before(level int, key []byte) (first []byte, ok bool, err error)
	// Rows returns the rows of the level with from <= key < until, ascending;
	// a nil until stands for the end.
	Rows(level int, from, until []byte) iter.Seq2[Row, error]
}

// Shape fixes how keys become a tree.
type Shape struct {
	// Salt seeds the hash that decides the levels of keys.
	Salt uint64
	// MaxChildren bounds the children of a node that an insert adds to; 0: no
	// bound. It is for those who accept changes. Who rebuilds a tree, or follows
	// what others accepted, sets no bound: deletes may have joined nodes to a
	// wider one, and a batch that unites accepted ones may insert into it.
	MaxChildren int
}

// Level returns the level of key: it starts a node at the levels 1 to Level.
func (s Shape) Level(key []byte) int {
	var h xxhash.Digest
	h.ResetWithSeed(s.Salt)
	h.Write(key)
	return bits.LeadingZeros64(h.Sum64()) / levelBits
}

// Root returns the row of r's root, its key empty. Where no tree was ever
// stored it is the root of the empty tree.
func Root(r Reader) (Row, error) {
	height, err := r.Height()
	if err != nil {
		return Row{}, err
	}
	if height == 0 {
		return Row{Digest: EmptyRoot()}, nil
	}
	for row, err := range r.Rows(height, nil, nil) {
		row.Key = nil
		return row, err
	}
	return Row{}, fmt.Errorf("the tree has no row at its root's level %d", height)
}

// EmptyRoot returns the root of the tree without objects: a childless node of
// level 1.
func EmptyRoot() Digest { return sha256.Sum256([]byte{nodeTag, 1}) }

// Node returns the digest and the count of a node of the level that has those
// children, or the first error that comes with them.
func Node(level int, children iter.Seq2[Row, error]) (Digest, uint64, error) {
	var n node
	n.reset(level, nil)
	for row, err := range children {
		if err != nil {
			return Digest{}, 0, err
		}
		n.add(&row.Digest, row.Count)
	}
	row := n.row()
	return row.Digest, row.Count, nil
}

// node accumulates a node's children.
type node struct {
	key   []byte
	count uint64
	// preimage is what the node's digest is over. It lies in one piece since
	// hashing a node at once is faster than child by child through a hash.Hash.
	preimage []byte
}

func (n *node) reset(level int, key []byte) {
	n.key, n.count = key, 0
	n.preimage = append(n.preimage[:0], nodeTag, byte(level))
}

func (n *node) add(digest *Digest, count uint64) {
	n.preimage = append(n.preimage, digest[:]...)
	n.count += count
}

func (n *node) children() int { return len(n.preimage) / sha256.Size }

func (n *node) row() Row {
	return Row{Key: n.key, Digest: sha256.Sum256(n.preimage), Count: n.count}
}

func (s Shape) tooWide(level int, n *node) error {
	if s.MaxChildren == 0 || n.children() <= s.MaxChildren {
		return nil
	}
	return fmt.Errorf("%w: more than %d after %q at level %d; such keys do not come about by chance",
		ErrTooWide, s.MaxChildren, n.key, level)
}
