package store

import (
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// File is a backup, or another file of a set, open for reading. It is safe for
// concurrent use.
type File struct {
	h    *handle
	meta meta
}

// OpenFile opens the file at path for reading, and leaves it as it is. No
// process may be writing to it.
func OpenFile(path string) (*File, error) {
	h, err := openReadOnly(path)
	if err != nil {
		return nil, err
	}
	f := &File{h: h}
	err = h.view(func(tx *bolt.Tx) (err error) {
		f.meta, err = readMeta(tx)
		return err
	})
	if err != nil {
		h.retire()
		return nil, fmt.Errorf("file %s: %w", path, err)
	}
	return f, nil
}

// Name returns the name of the set that the file was made of.
func (f *File) Name() desired.Name { return f.meta.name }

// Head returns the revision in the file.
func (f *File) Head() desired.Head { return f.meta.head }

// View calls fn with a snapshot of the file.
func (f *File) View(fn func(*Snapshot) error) error {
	return viewHandle(f.h, fn)
}

// Check recomputes everything in the file from its objects; see Store.Check.
func (f *File) Check(ctx context.Context, progress func(done, total uint64)) (Report, error) {
	return checkHandle(ctx, f.h, progress)
}

// Close closes the file, once the views have ended.
func (f *File) Close() error {
	f.h.retire()
	return nil
}
