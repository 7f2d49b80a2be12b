package boltfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

// maxDepth bounds the pages above a leaf: bbolt's files have a handful.
const maxDepth = 32

// Verify reads every page that the file at path has in use and holds its
// structure against the format: each page is what refers to it takes it for, is
// referred to once, and has its keys in order and in its bounds. It maps
// nothing and trusts nothing, so that it can't crash, as bbolt can when it opens
// a damaged file. It returns an error that matches ErrDamaged.
//
// The file must not be written to meanwhile.
func Verify(path string) error {
	v, err := openVerifier(path)
	if err != nil {
		return err
	}
	defer v.f.Close()
	for id := range uint64(2) {
		if err := v.meta(id); err != nil {
			return err
		}
	}
	if err := v.freelist(); err != nil {
		return err
	}
	return v.tree(v.info.root, 0, nil, nil)
}

// Salvage hands fn the rows of the top buckets, as far as they can be read,
// bucket by bucket and in key order, in memory that is only valid until fn
// returns. What Verify would stumble over is left out, with what lies below it.
// It returns an error that matches ErrDamaged if there is not even a first page,
// and that of fn.
func Salvage(path string, fn func(bucket, key, value []byte) error) error {
	v, err := openVerifier(path)
	if err != nil {
		return err
	}
	defer v.f.Close()
	v.row = fn
	return v.passOver(v.tree(v.info.root, 0, nil, nil))
}

// verifier walks the pages of a file.
type verifier struct {
	f    *os.File
	info Info
	seen []uint64 // a bit for each page
	bufs [maxDepth + 1][]byte

	// row is handed the rows of buckets; nil: a damaged page ends the walk.
	row    func(bucket, key, value []byte) error
	bucket []byte // that the walk is in; nil: the root's
}

func openVerifier(path string) (*verifier, error) {
	info, err := Inspect(path)
	if err != nil {
		return nil, err
	}
	if info.PageSize < 512 || info.PageSize > 1<<20 {
		return nil, fmt.Errorf("%w: its pages have %d bytes", ErrDamaged, info.PageSize)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	return &verifier{f: f, info: info, seen: make([]uint64, info.Pages/64+1)}, nil
}

// passOver returns err, unless it is about a page that Salvage leaves out.
func (v *verifier) passOver(err error) error {
	if v.row != nil && errors.Is(err, ErrDamaged) {
		return nil
	}
	return err
}

// page is a page as it was read.
type page struct {
	id    uint64
	flags uint16
	count int
	body  []byte // behind the header
}

// read reads a page, with its overflow, into the buffer of the depth.
func (v *verifier) read(id uint64, depth int) (page, error) {
	size := int64(v.info.PageSize)
	if id < 2 || id >= v.info.Pages {
		return page{}, fmt.Errorf("%w: it refers to page %d of %d", ErrDamaged, id, v.info.Pages)
	}
	b, err := v.load(depth, id, 1)
	if err != nil {
		return page{}, err
	}
	pages := uint64(order.Uint32(b[12:])) + 1
	if order.Uint64(b) != id || pages > v.info.Pages-id {
		return page{}, fmt.Errorf("%w: page %d has no valid header", ErrDamaged, id)
	}
	for i := id; i < id+pages; i++ {
		if v.seen[i/64]&(1<<(i%64)) != 0 {
			return page{}, fmt.Errorf("%w: page %d is used twice", ErrDamaged, i)
		}
		v.seen[i/64] |= 1 << (i % 64)
	}
	if pages > 1 {
		if b, err = v.load(depth, id, int64(pages)); err != nil {
			return page{}, err
		}
	}
	p := page{id: id, flags: order.Uint16(b[8:]), count: int(order.Uint16(b[10:])), body: b[pageHeader : size*int64(pages)]}
	return p, nil
}

func (v *verifier) load(depth int, id uint64, pages int64) ([]byte, error) {
	size := int64(v.info.PageSize)
	if int64(cap(v.bufs[depth])) < pages*size {
		v.bufs[depth] = make([]byte, pages*size)
	}
	b := v.bufs[depth][:pages*size]
	if _, err := v.f.ReadAt(b, int64(id)*size); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

// meta verifies the header of a meta page that is valid itself. The other one
// may be anything, after a crash.
func (v *verifier) meta(id uint64) error {
	var b [pageHeader]byte
	off := int64(id) * int64(v.info.PageSize)
	if _, ok := readMeta(v.f, off); !ok {
		return nil
	}
	if _, err := v.f.ReadAt(b[:], off); err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	if order.Uint64(b[:]) != id || order.Uint16(b[8:]) != flagMeta {
		return fmt.Errorf("%w: page %d has no valid header", ErrDamaged, id)
	}
	return nil
}

func (v *verifier) freelist() error {
	if !v.info.Clean {
		return nil
	}
	p, err := v.read(v.info.freelist, 0)
	if err != nil {
		return err
	}
	ids, count := p.body, uint64(p.count)
	if p.count == 0xFFFF && len(ids) >= 8 {
		ids, count = ids[8:], order.Uint64(ids)
	}
	if p.flags != flagFreelist || count > uint64(len(ids)/8) {
		return fmt.Errorf("%w: page %d is not a list of free pages", ErrDamaged, p.id)
	}
	for i := range count {
		id := order.Uint64(ids[8*i:])
		if id < 2 || id >= v.info.Pages || v.seen[id/64]&(1<<(id%64)) != 0 {
			return fmt.Errorf("%w: page %d can't be free, and is listed", ErrDamaged, id)
		}
		v.seen[id/64] |= 1 << (id % 64)
	}
	return nil
}

// tree verifies the page and all below it, whose keys lie in [from, until); a
// nil until stands for the end.
func (v *verifier) tree(id uint64, depth int, from, until []byte) error {
	if depth > maxDepth {
		return fmt.Errorf("%w: page %d lies deeper than %d pages", ErrDamaged, id, maxDepth)
	}
	p, err := v.read(id, depth)
	if err != nil {
		return err
	}
	if p.flags == flagBranch && p.count > 0 {
		return v.branch(p, depth, from, until)
	}
	if p.flags != flagLeaf {
		return fmt.Errorf("%w: page %d is neither branch nor leaf", ErrDamaged, id)
	}
	return v.leaf(p, depth, from, until)
}

func (v *verifier) branch(p page, depth int, from, until []byte) error {
	for i := range p.count {
		key, err := p.key(i)
		if err != nil {
			return err
		}
		next := until
		if i+1 < p.count {
			if next, err = p.key(i + 1); err != nil {
				return err
			}
		}
		if bytes.Compare(key, from) < 0 || next != nil && bytes.Compare(key, next) >= 0 {
			return fmt.Errorf("%w: page %d has its keys out of order", ErrDamaged, p.id)
		}
		if err := v.passOver(v.tree(order.Uint64(p.body[i*element+8:]), depth+1, key, next)); err != nil {
			return err
		}
	}
	return nil
}

// key returns the i-th key of a branch.
func (p page) key(i int) ([]byte, error) {
	if (i+1)*element > len(p.body) {
		return nil, p.overrun()
	}
	e := p.body[i*element:]
	return p.part(i, order.Uint32(e), order.Uint32(e[4:]), 0)
}

func (p page) overrun() error {
	return fmt.Errorf("%w: page %d has rows beyond its end", ErrDamaged, p.id)
}

// part returns the key of a row, which lies at pos from the i-th element on,
// along with what belongs behind it.
func (p page) part(i int, pos, key, value uint32) ([]byte, error) {
	start := i*element + int(pos)
	end := start + int(key) + int(value)
	if key == 0 || start < p.count*element || end > len(p.body) {
		return nil, p.overrun()
	}
	return p.body[start:end], nil
}

func (v *verifier) leaf(p page, depth int, from, until []byte) error {
	for i := range p.count {
		if (i+1)*element > len(p.body) {
			return p.overrun()
		}
		e := p.body[i*element:]
		size := order.Uint32(e[8:])
		row, err := p.part(i, order.Uint32(e[4:]), size, order.Uint32(e[12:]))
		if err != nil {
			return err
		}
		key := row[:size]
		if order := bytes.Compare(key, from); order < 0 || order == 0 && i > 0 || until != nil && bytes.Compare(key, until) >= 0 {
			return fmt.Errorf("%w: page %d has its keys out of order", ErrDamaged, p.id)
		}
		from = key
		switch {
		case order.Uint32(e)&elementBucket != 0:
			err = v.passOver(v.nested(p, key, row[size:], depth))
		case v.row != nil && v.bucket != nil:
			err = v.row(v.bucket, key, row[size:])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nested verifies the bucket of that name whose header, and page if it is a
// small one, is the value of a row of p.
func (v *verifier) nested(p page, name, value []byte, depth int) error {
	defer func(outer []byte) { v.bucket = outer }(v.bucket)
	v.bucket = name
	if len(value) < 16 {
		return p.overrun()
	}
	if root := order.Uint64(value); root != 0 {
		return v.tree(root, depth+1, nil, nil)
	}
	if len(value) < 16+pageHeader {
		return p.overrun()
	}
	in := page{id: p.id, flags: order.Uint16(value[16+8:]), count: int(order.Uint16(value[16+10:])), body: value[16+pageHeader:]}
	if in.flags != flagLeaf {
		return fmt.Errorf("%w: page %d has a bucket that is no leaf", ErrDamaged, p.id)
	}
	return v.leaf(in, depth, nil, nil)
}
