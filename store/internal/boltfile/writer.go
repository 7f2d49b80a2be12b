package boltfile

import (
	"bytes"
	"fmt"
	"os"
	"slices"
)

const (
	// fill is the part of a page that the Writer uses: what is inserted later
	// would split a full page in two.
	fill = 0.9
	// longFreelist is the count of a list of free pages that is too long for it.
	longFreelist = 0xFFFF
	// bufferBytes is how much the Writer gathers before it writes.
	bufferBytes = 1 << 20
)

// Writer writes a bbolt file front to back, from rows that come in key order
// within each bucket. That takes a third of the time of putting them with
// bbolt, which searches, copies and splits nodes, and writes page by page.
//
// Full pages are written as they come, so a Writer holds one page of each level
// of each bucket. A checkpoint writes copies of those, and a meta page, which
// makes the file whole; the copies are free space once the next checkpoint is
// there. A Writer is for one goroutine.
type Writer struct {
	f        *os.File
	pageSize int
	next     uint64 // the page after the last
	buf      []byte // the pages up to it that aren't written yet
	buckets  []*Bucket
	txid     uint64

	passing []uint64 // pages that only the last checkpoint refers to
	free    []uint64 // pages that no checkpoint after the last will refer to
}

// Create creates the file at path, which must not exist, with empty buckets of
// the given names. It is no bbolt file before the first checkpoint.
func Create(path string, perm os.FileMode, names ...[]byte) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	w := &Writer{f: f, pageSize: os.Getpagesize(), next: 2}
	for _, name := range names {
		w.buckets = append(w.buckets, &Bucket{w: w, name: bytes.Clone(name)})
	}
	slices.SortFunc(w.buckets, func(a, b *Bucket) int { return bytes.Compare(a.name, b.name) })
	return w, nil
}

// Bucket returns the bucket of that name, which must be one of Create's.
func (w *Writer) Bucket(name []byte) *Bucket {
	for _, b := range w.buckets {
		if bytes.Equal(b.name, name) {
			return b
		}
	}
	panic(fmt.Sprintf("boltfile: no bucket %q", name))
}

// Pages returns how many pages were written, and their bytes.
func (w *Writer) Pages() (pages, bytes uint64) { return w.next, w.next * uint64(w.pageSize) }

// Checkpoint makes the file whole and durable, with all rows that were put.
// After a crash the file is as the last checkpoint left it.
func (w *Writer) Checkpoint() error { return w.checkpoint(w.f.Sync) }

// Finish makes the file whole. It is not durable before it is synced.
func (w *Writer) Finish() error { return w.checkpoint(func() error { return nil }) }

func (w *Writer) checkpoint(sync func() error) error {
	w.free = append(w.free, w.passing...)
	first := w.next
	root := leaf{}
	for _, b := range w.buckets {
		page, err := b.root()
		if err != nil {
			return err
		}
		var value [16]byte
		order.PutUint64(value[:], page)
		root.add(b.name, value[:], elementBucket)
	}
	page, err := w.writeLeaf(&root)
	if err != nil {
		return err
	}
	list, err := w.writeFreelist()
	if err != nil {
		return err
	}
	w.passing = w.passing[:0]
	for id := first; id < w.next; id++ {
		w.passing = append(w.passing, id)
	}
	if err := w.flush(); err != nil {
		return err
	}
	if err := sync(); err != nil {
		return err
	}
	if err := w.writeMeta(page, list); err != nil {
		return err
	}
	return sync()
}

// Close closes the file.
func (w *Writer) Close() error { return w.f.Close() }

// page appends a page for so many bytes after its header, with its overflow,
// and returns the page's id and those bytes.
func (w *Writer) page(flags, count, size int) (id uint64, body []byte, err error) {
	if len(w.buf) >= bufferBytes {
		if err := w.flush(); err != nil {
			return 0, nil, err
		}
	}
	pages := (pageHeader + size + w.pageSize - 1) / w.pageSize
	at := len(w.buf)
	w.buf = append(w.buf, make([]byte, pages*w.pageSize)...)
	p := w.buf[at:]
	id = w.next
	order.PutUint64(p, id)
	order.PutUint16(p[8:], uint16(flags))
	order.PutUint16(p[10:], uint16(count))
	order.PutUint32(p[12:], uint32(pages-1))
	w.next += uint64(pages)
	return id, p[pageHeader : pageHeader+size], nil
}

func (w *Writer) flush() error {
	start := int64(w.next)*int64(w.pageSize) - int64(len(w.buf))
	_, err := w.f.WriteAt(w.buf, start)
	w.buf = w.buf[:0]
	return err
}

func (w *Writer) writeLeaf(l *leaf) (uint64, error) {
	id, body, err := w.page(flagLeaf, len(l.rows), l.size())
	if err != nil {
		return 0, err
	}
	pos := len(l.rows) * element
	copy(body[pos:], l.data)
	for i, r := range l.rows {
		e := body[i*element:]
		order.PutUint32(e, r.flags)
		order.PutUint32(e[4:], uint32(pos-i*element))
		order.PutUint32(e[8:], r.key)
		order.PutUint32(e[12:], r.value)
		pos += int(r.key + r.value)
	}
	return id, nil
}

func (w *Writer) writeBranch(entries []entry) (uint64, error) {
	id, body, err := w.page(flagBranch, len(entries), branchSize(entries))
	if err != nil {
		return 0, err
	}
	pos := len(entries) * element
	for i, n := range entries {
		e := body[i*element:]
		order.PutUint32(e, uint32(pos-i*element))
		order.PutUint32(e[4:], uint32(len(n.key)))
		order.PutUint64(e[8:], n.page)
		pos += copy(body[pos:], n.key)
	}
	return id, nil
}

// writeFreelist writes the list of free pages. One of more than the header can
// count has its length in front.
func (w *Writer) writeFreelist() (uint64, error) {
	ids, count := w.free, len(w.free)
	if count >= longFreelist {
		ids, count = slices.Concat([]uint64{uint64(count)}, ids), longFreelist
	}
	id, body, err := w.page(flagFreelist, count, 8*len(ids))
	for i, page := range ids {
		order.PutUint64(body[8*i:], page)
	}
	return id, err
}

// writeMeta writes the meta page, and the other one, too, if this is the first.
func (w *Writer) writeMeta(root, freelist uint64) error {
	w.txid++
	ids := []uint64{w.txid}
	if w.txid == 1 {
		ids = []uint64{0, 1}
	}
	for _, txid := range ids {
		p := make([]byte, w.pageSize)
		order.PutUint64(p, txid%2)
		order.PutUint16(p[8:], flagMeta)
		m := p[pageHeader:]
		order.PutUint32(m, magic)
		order.PutUint32(m[4:], version)
		order.PutUint32(m[8:], uint32(w.pageSize))
		order.PutUint64(m[16:], root)
		order.PutUint64(m[32:], freelist)
		order.PutUint64(m[40:], w.next)
		order.PutUint64(m[48:], txid)
		order.PutUint64(m[56:], sum(m[:56]))
		if _, err := w.f.WriteAt(p, int64(txid%2)*int64(w.pageSize)); err != nil {
			return err
		}
	}
	return nil
}
