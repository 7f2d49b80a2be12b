package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"espalier/internal/durable"
)

// handle is an open bbolt file. It is shared by reference count: who holds a
// reference may use it, even if a rewrite has put another file in its place.
type handle struct {
	db   *bolt.DB
	file *os.File // bbolt's own
	log  *slog.Logger

	path   atomic.Pointer[string]
	broken atomic.Pointer[error] // why the file must not be used any more
	dirty  atomic.Bool           // its free pages are not listed in the file

	mu      sync.Mutex
	refs    int
	retired bool // closes with the last reference
}

// opener opens files the way Options asks for; its fields are set.
type opener struct {
	log   *slog.Logger
	probe func(ctx context.Context, path string) error
	// inPlace bounds what is applied in one transaction, chunk what is read
	// under one snapshot: smaller only in tests.
	inPlace, chunk bounds
}

func newOpener(o Options) opener {
	op := opener{
		log: o.Logger, probe: o.Probe,
		inPlace: bounds{MaxAdoptChanges, MaxAdoptBytes}, chunk: bounds{chunkRows, chunkBytes},
	}
	if o.small > 0 {
		op.inPlace.rows, op.chunk.rows = o.small, o.small
	}
	if op.log == nil {
		op.log = slog.Default()
	}
	if op.probe == nil {
		op.probe = func(_ context.Context, path string) error { return verifyFile(path) }
	}
	return op
}

// open opens the set's or fleet's file at path for reading and writing. A file
// that was not closed cleanly is probed first.
func (o opener) open(path string) (*handle, error) {
	b, err := inspect(path)
	if err != nil {
		return nil, err
	}
	if b.Torn {
		o.log.Error("one of a file's two first pages is damaged; if it was the newer one, what was committed last is lost", "file", path)
	}
	if !b.Clean {
		if err := o.probe(context.Background(), path); err != nil {
			return nil, fmt.Errorf("probe file %s, which was not closed cleanly: %w", path, err)
		}
	}
	h, err := openBolt(path, o.log, bolt.Options{NoFreelistSync: true}, os.O_RDWR)
	if err == nil {
		h.dirty.Store(!b.Clean)
	}
	return h, err
}

// created opens a file that is being created, at a path of its own: nothing
// that is written is durable before sync is called.
func (o opener) created(path string) (*handle, error) {
	return openBolt(path, o.log, bolt.Options{NoFreelistSync: true, NoSync: true, NoGrowSync: true}, os.O_RDWR|os.O_CREATE)
}

// openReadOnly opens the file at path without touching it.
func openReadOnly(path string) (*handle, error) {
	if _, err := inspect(path); err != nil {
		return nil, err
	}
	return openBolt(path, slog.Default(), bolt.Options{ReadOnly: true}, os.O_RDONLY)
}

func openBolt(path string, log *slog.Logger, o bolt.Options, flag int) (h *handle, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	opened := &handle{log: log, refs: 1}
	opened.path.Store(&path)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: file %s: %v", ErrCorrupt, path, r)
			if opened.file != nil {
				_ = opened.file.Close() // and with it bbolt's lock
			}
		}
	}()
	o.Timeout = lockTimeout
	o.FreelistType = bolt.FreelistMapType
	o.NoStatistics = true
	o.OpenFile = func(path string, _ int, mode os.FileMode) (*os.File, error) {
		var err error
		opened.file, err = os.OpenFile(path, flag, mode)
		return opened.file, err
	}
	opened.db, err = bolt.Open(path, fileMode, &o)
	if err != nil {
		return nil, openError(path, err)
	}
	return opened, nil
}

// name returns the path of the file.
func (h *handle) name() string { return *h.path.Load() }

func openError(path string, err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: file %s", ErrInUse, path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return fmt.Errorf("%w: file %s: %w", ErrCorrupt, path, err)
	case full(err):
		return fmt.Errorf("%w: file %s: %w", ErrDiskFull, path, err)
	}
	return fmt.Errorf("open file %s: %w", path, err)
}

// acquire takes a reference; it returns false if the handle is going away.
func (h *handle) acquire() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.retired {
		return false
	}
	h.refs++
	return true
}

// release gives a reference back.
func (h *handle) release() {
	h.mu.Lock()
	h.refs--
	closing := h.refs == 0
	h.mu.Unlock()
	if closing {
		h.close()
	}
}

// retire gives back the reference of whoever opened the handle: it closes once
// the last borrower is done.
func (h *handle) retire() {
	h.mu.Lock()
	h.retired = true
	h.mu.Unlock()
	h.release()
}

// retireIdle is retire if nobody borrows the handle, and reports whether it was.
func (h *handle) retireIdle() bool {
	h.mu.Lock()
	idle := h.refs == 1 && !h.retired
	h.retired = h.retired || idle
	h.mu.Unlock()
	if idle {
		h.release()
	}
	return idle
}

// close closes the file and, if it was written to, leaves it clean: with its
// freelist in it, so that the next open neither walks nor doubts it.
func (h *handle) close() {
	if h.dirty.Load() && h.broken.Load() == nil {
		h.db.NoFreelistSync = false
		if _, err := h.update(func(*bolt.Tx) error { return nil }); err != nil {
			h.log.Warn("a file was not closed cleanly", "file", h.name(), "error", err)
		}
	}
	if err := h.db.Close(); err != nil {
		h.log.Warn("close file", "file", h.name(), "error", err)
	}
}

// view calls fn with a read transaction. A damaged page that fn comes upon is
// an error that matches ErrCorrupt.
func (h *handle) view(fn func(*bolt.Tx) error) (err error) {
	if err := h.usable(); err != nil {
		return err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := h.db.Begin(false)
	if err != nil {
		return fmt.Errorf("read file %s: %w", h.name(), err)
	}
	defer func() {
		r := recover()
		_ = tx.Rollback() // of a read transaction: never fails
		if r == nil {
			return
		}
		if !damage(r) {
			panic(r)
		}
		err = fmt.Errorf("%w: file %s: %v", ErrCorrupt, h.name(), r)
	}()
	return fn(tx)
}

// written is what a transaction wrote.
type written struct{ pages, bytes uint64 }

func (w *written) add(v written) { w.pages += v.pages; w.bytes += v.bytes }

// update calls fn with a write transaction and commits it unless fn returns an
// error. If the disk fails or a page is damaged the handle is unusable after.
func (h *handle) update(fn func(*bolt.Tx) error) (w written, err error) {
	if err := h.usable(); err != nil {
		return written{}, err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	tx, err := h.db.Begin(true)
	if err != nil {
		return written{}, fmt.Errorf("write file %s: %w", h.name(), err)
	}
	defer func() {
		if r := recover(); r != nil {
			foreign := !damage(r)
			abandon(tx)
			if foreign {
				panic(r)
			}
			err = h.breakDown(fmt.Errorf("%w: file %s: %v", ErrCorrupt, h.name(), r))
		}
	}()
	if err := fn(tx); err != nil {
		_ = tx.Rollback()
		return written{}, err
	}
	h.dirty.Store(true)
	pageSize := uint64(h.db.Info().PageSize)
	if err := tx.Commit(); err != nil {
		return written{}, h.commitError(err)
	}
	stats := tx.Stats()
	if stats.GetPageCount() > largeCommit {
		runtime.GC()
	}
	return written{pages: uint64(stats.GetPageCount()) + 1, bytes: uint64(stats.GetPageAlloc()) + pageSize}, nil
}

// abandon rolls tx back, whatever state it is in, so that the file can be
// closed.
func abandon(tx *bolt.Tx) {
	defer func() { _ = recover() }()
	_ = tx.Rollback()
}

// commitError says what a failed commit means. bbolt has rolled back. When a
// write found no room, nothing has happened; but after a failed sync nobody
// knows what is on the disk, and asking again would be told that all is well.
func (h *handle) commitError(err error) error {
	var write *fs.PathError
	if errors.As(err, &write) && full(err) {
		h.giveBack()
		return fmt.Errorf("%w: file %s", ErrDiskFull, h.name())
	}
	return h.breakDown(fmt.Errorf("write file %s: %w", h.name(), err))
}

// giveBack frees the room that a commit took at the end of the file before it
// failed.
func (h *handle) giveBack() {
	err := h.view(func(tx *bolt.Tx) error { return h.file.Truncate(tx.Size()) })
	if err != nil {
		h.log.Warn("the file keeps room that it doesn't need", "file", h.name(), "error", err)
	}
}

// breakDown makes the handle unusable.
func (h *handle) breakDown(err error) error {
	h.broken.CompareAndSwap(nil, &err)
	return err
}

func (h *handle) usable() error {
	if err := h.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// sync makes all that was written durable, with the file's size.
func (h *handle) sync() error {
	if err := h.file.Sync(); err != nil {
		return h.breakDown(fmt.Errorf("sync file %s: %w", h.name(), err))
	}
	return nil
}

// moveTo puts a created file, which is durable, in the place of the one at
// path, if there is one, and lets it be used like any other. If there is an
// error but name returns the new one, then nobody knows which of the two will have
// the name after a crash.
func (h *handle) moveTo(path string) error {
	if err := os.Rename(h.name(), path); err != nil {
		return fmt.Errorf("rename file: %w", err)
	}
	h.path.Store(&path)
	h.db.NoFreelistSync, h.db.NoSync, h.db.NoGrowSync = true, false, false
	return durable.SyncFolder(filepath.Dir(path))
}

// drop closes a created file that is not wanted, and removes it.
func (h *handle) drop() {
	h.dirty.Store(false) // never mind its freelist
	h.retire()
	if err := os.Remove(h.name()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.log.Warn("a temporary file was left behind", "file", h.name(), "error", err)
	}
}

func full(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// damage reports whether a panic comes from a damaged file rather than from an
// error in a program: it is a fault at an address, of the mapped file, or was
// raised in bbolt. It must be called by the deferred function that recovered.
func damage(r any) bool {
	if _, ok := r.(interface {
		runtime.Error
		Addr() uintptr
	}); ok {
		return true
	}
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") {
			return strings.HasPrefix(frame.Function, "go.etcd.io/bbolt")
		}
		if !more {
			return false
		}
	}
}
