// Package boltfile knows the format of bbolt's files: it reads what a file says
// of itself without mapping it, and writes a whole file front to back.
//
// The format is that of go.etcd.io/bbolt internal/common, version 2, unchanged
// since 2014; its byte order is the machine's. A file is a sequence of pages:
//
//	page     id 8, flags 2, count 2, overflow 4 (further pages that belong to this one)
//	meta     pages 0 and 1; the valid one with the higher transaction id counts:
//	         magic 4, version 4, page size 4, flags 4, root bucket 16, freelist page 8,
//	         pages in the file 8, transaction id 8, FNV-1a of the above 8
//	leaf     count × (flags 4, position of the key, from here 4, key size 4, value size 4), keys and values
//	branch   count × (position of the key, from here 4, key size 4, page 8), keys
//	freelist count × page 8
//	bucket   as a value, with flag 1: root page 8, sequence 8
package boltfile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

const (
	magic   = 0xED0CDAED
	version = 2

	pageHeader = 16
	element    = 16 // of a leaf or a branch
	metaBytes  = 64

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	elementBucket = 0x01

	noFreelist = 1<<64 - 1
)

var order = binary.NativeEndian

// ErrDamaged is what errors about a file that can't be a bbolt file, or not a
// whole one, match.
var ErrDamaged = errors.New("damaged")

// Info is what a file says of itself.
type Info struct {
	PageSize uint32
	// Pages are those in use or free, from the file's start.
	Pages uint64
	// Clean is whether the free pages are listed in the file. bbolt walks all
	// pages of one that isn't when it opens it.
	Clean bool
	// Torn is whether one of the two first pages is not valid, so that the
	// other, which may be older, has to do. Crashes don't leave such a file: the
	// disk does.
	Torn bool

	txid, root, freelist uint64
}

// Inspect reads the newest valid meta page of the file at path, and holds the
// file's size against it, so that a file that was cut short is never mapped.
func Inspect(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	stat, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	newest, first := readMeta(f, 0)
	at := int64(newest.PageSize)
	if !first {
		at = int64(os.Getpagesize())
	}
	m, second := readMeta(f, at)
	if second && (!first || m.txid > newest.txid) {
		newest = m
	}
	if !first && !second {
		return Info{}, fmt.Errorf("%w: it has no valid first page", ErrDamaged)
	}
	newest.Torn = !first || !second
	if want := int64(newest.Pages) * int64(newest.PageSize); stat.Size() < want {
		return Info{}, fmt.Errorf("%w: it is cut short, %d bytes of %d", ErrDamaged, stat.Size(), want)
	}
	return newest, nil
}

func readMeta(r io.ReaderAt, off int64) (Info, bool) {
	var b [metaBytes]byte
	if _, err := r.ReadAt(b[:], off+pageHeader); err != nil {
		return Info{}, false
	}
	if order.Uint32(b[0:]) != magic || order.Uint32(b[4:]) != version || order.Uint64(b[56:]) != sum(b[:56]) {
		return Info{}, false
	}
	return Info{
		PageSize: order.Uint32(b[8:]),
		Clean:    order.Uint64(b[32:]) != noFreelist,
		Pages:    order.Uint64(b[40:]),
		txid:     order.Uint64(b[48:]),
		root:     order.Uint64(b[16:]),
		freelist: order.Uint64(b[32:]),
	}, true
}

func sum(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	return h.Sum64()
}
