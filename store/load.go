package store

import (
	"bytes"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store/internal/boltfile"
)

// bulk grows a tree along with objects that are appended in key order. Rows of
// level 1 are stored as they come, those above, a thousandth of the objects, at
// the end, in order.
type bulk struct {
	builder *merkle.Builder
	upper   [merkle.MaxLevel + 1][]merkle.Row
	// nodes stores a row of the tree.
	nodes rowWriter
	// stored are the rows of level 1 that are there already, from before a
	// restart; they have to come out of the builder again.
	stored []merkle.Row
	// children counts those of each level's open node, widest is the most that
	// a node had.
	children [merkle.MaxLevel + 2]int
	widest   int
}

// rowWriter is a bucket, of bbolt's or of a file that is being written.
type rowWriter interface{ Put(key, value []byte) error }

func newBulk(salt uint64, nodes rowWriter) *bulk {
	b := &bulk{nodes: nodes}
	b.builder = merkle.Shape{Salt: salt}.NewBuilder(b.emit)
	return b
}

func (b *bulk) emit(level int, row merkle.Row) error {
	width := b.children[level]
	if level == 1 {
		width = int(row.Count)
	}
	b.widest = max(b.widest, width)
	b.children[level] = 0
	b.children[level+1]++
	switch {
	case level > 1:
		b.upper[level] = append(b.upper[level], row)
		return nil
	case len(b.stored) > 0:
		was := b.stored[0]
		b.stored = b.stored[1:]
		if !bytes.Equal(was.Key, row.Key) || was.Digest != row.Digest || was.Count != row.Count {
			return fmt.Errorf("%w: %s: it is not what its children make of it", ErrCorrupt, nodeName(level, was.Key))
		}
		return nil
	}
	return b.put(level, &row)
}

func (b *bulk) put(level int, row *merkle.Row) error {
	return b.nodes.Put(appendTreeKey(make([]byte, 0, 1+len(row.Key)), level, row.Key), encodeNode(row))
}

// finish ends the tree and returns its root.
func (b *bulk) finish() (merkle.Row, error) {
	root, _, err := b.builder.Finish()
	if err != nil {
		return merkle.Row{}, err
	}
	for level := range b.upper {
		for i := range b.upper[level] {
			if err := b.put(level, &b.upper[level][i]); err != nil {
				return merkle.Row{}, err
			}
		}
	}
	return root, nil
}

// loader writes the file of a set from all of its objects, in key order. The
// file is nothing until finish has returned; whoever doesn't get there calls
// abort.
type loader struct {
	opener  opener
	path    string
	w       *boltfile.Writer // nil: closed
	meta    meta             // head counts what was added
	tree    *bulk
	objects *boltfile.Bucket
	row     []byte // scratch
	done    bool
	wrote   written
}

func newLoader(o opener, path string, name desired.Name, salt uint64) (*loader, error) {
	if err := removeFile(path); err != nil {
		return nil, err
	}
	w, err := boltfile.Create(path, fileMode, setBuckets...)
	if err != nil {
		return nil, fmt.Errorf("create file: %w", err)
	}
	return &loader{
		opener: o, path: path, w: w, meta: meta{name: name, salt: salt},
		tree: newBulk(salt, w.Bucket(bucketTree)), objects: w.Bucket(bucketObjects),
	}, nil
}

// add adds an object.
func (l *loader) add(c *desired.Change) error {
	l.row = append(append(l.row[:0], c.Digest[:]...), c.Envelope...)
	return l.addRow(c.Key, l.row)
}

// addRow adds an object's row as it is stored.
func (l *loader) addRow(key, row []byte) error {
	if len(row) < minObjectRow {
		_, err := decodeObject(key, row)
		return err
	}
	l.meta.head.Objects++
	l.meta.head.Bytes += payload(key, row)
	if err := l.tree.builder.Add(key, merkle.Digest(row[:digestBytes])); err != nil {
		return l.failed(err)
	}
	return l.failed(l.objects.Put(key, row))
}

// failed says what an error of the writer means.
func (l *loader) failed(err error) error {
	switch {
	case err == nil:
		return nil
	case full(err):
		return fmt.Errorf("%w: file %s", ErrDiskFull, l.path)
	}
	return fmt.Errorf("write file %s: %w", l.path, err)
}

// copyBucket copies the rows of a bucket of old.
func (l *loader) copyBucket(old *bolt.Tx, name []byte) error {
	b := old.Bucket(name)
	if b == nil {
		return fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
	}
	to := l.w.Bucket(name)
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if err := to.Put(k, v); err != nil {
			return l.failed(err)
		}
	}
	return nil
}

// finish ends the tree, lets fn make it a revision and makes the file durable.
// It is the caller's to move where it belongs.
func (l *loader) finish(fn func(*edit) error) (h *handle, err error) {
	root, err := l.tree.finish()
	if err == nil {
		err = l.w.Finish()
	}
	if err != nil {
		return nil, l.failed(err)
	}
	l.meta.head.Root = root.Digest
	l.wrote.pages, l.wrote.bytes = l.w.Pages()
	if err := l.close(); err != nil {
		return nil, err
	}
	h, err = l.opener.created(l.path)
	if err != nil {
		return nil, err
	}
	h.db.NoFreelistSync = false // a file that nobody wrote to since is clean
	w, err := h.update(func(tx *bolt.Tx) error {
		if err := l.meta.create(tx); err != nil {
			return err
		}
		e, err := openEdit(tx)
		if err != nil {
			return err
		}
		return fn(e)
	})
	if err == nil {
		err = h.sync()
	}
	h.dirty.Store(false)
	if err != nil {
		h.retire()
		return nil, err
	}
	l.wrote.add(w)
	l.done = true
	return h, nil
}

func (l *loader) close() error {
	w := l.w
	l.w = nil
	return l.failed(w.Close())
}

// checkWidth refuses a tree that cannot come about by chance.
func (l *loader) checkWidth() error {
	if l.tree.widest <= merkle.MaxChildren {
		return nil
	}
	return fmt.Errorf("%w: %w: one would have %d children, at most %d are allowed; such keys do not come about by chance",
		desired.ErrInvalid, merkle.ErrTooWide, l.tree.widest, merkle.MaxChildren)
}

// abort removes the file unless it is finished.
func (l *loader) abort() {
	if l.done {
		return
	}
	if l.w != nil {
		_ = l.close()
	}
	if err := removeFile(l.path); err != nil {
		l.opener.log.Warn("a temporary file was left behind", "error", err)
	}
}
