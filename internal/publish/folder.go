package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"espalier/internal/desired"
	"espalier/internal/spool"
)

// errChanged: a file was written to, or replaced, while it was read.
var errChanged = errors.New("it changes while it is read")

// ReadFolder reads an input from a folder. Each regular file in it, at any
// depth, is an object whose key is its path below the folder, with slashes, and
// whose value is its content; its permissions become the attribute "mode". A
// symbolic link becomes an object with the attribute "symlink", its target, and
// is never followed. Folders themselves are not objects. Anything else, and a
// name that can't be a key, is an error that names the path.
func ReadFolder(ctx context.Context, dir string, o ReadOptions) (*Input, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, pathless(err)
	}
	defer root.Close()
	w := spool.New(o.TempDir, spool.Options{})
	defer w.Close()
	r := folderReader{to: w, prefix: o.KeyPrefix, progress: o.Progress}
	if err := r.read(ctx, root, ""); err != nil {
		return nil, err
	}
	return newInput(w, o)
}

type folderReader struct {
	to       *spool.Writer
	prefix   string
	progress Progress
	done     uint64 // bytes
	hasher   desired.Hasher
	value    bytes.Buffer
}

// read adds what is in the folder of that path, which is empty or ends in a
// slash. Of a large folder it reads a part at a time; what is in a part comes in
// the order of its keys.
func (r *folderReader) read(ctx context.Context, folder *os.Root, dir string) error {
	f, err := folder.Open(".")
	if err != nil {
		return explainPath(dir, err)
	}
	defer f.Close()
	for {
		entries, end := f.ReadDir(folderEntries)
		slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sortName(a), sortName(b)) })
		for _, e := range entries {
			if err := r.entry(ctx, folder, dir, e); err != nil {
				return err
			}
		}
		if errors.Is(end, io.EOF) {
			return nil
		}
		if end != nil {
			return explainPath(dir, end)
		}
	}
}

// sortName returns a name that sorts as the keys of the entry do.
func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}

func (r *folderReader) entry(ctx context.Context, folder *os.Root, dir string, e fs.DirEntry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name := dir + e.Name()
	var err error
	switch kind := e.Type(); {
	case kind.IsDir():
		return r.folder(ctx, folder, name)
	case kind.IsRegular():
		err = r.file(folder, name)
	case kind&fs.ModeSymlink != 0:
		err = r.symlink(folder, name)
	default:
		err = fmt.Errorf("%w file: %s; only files, folders and symbolic links can be published", desired.ErrInvalid, kindOf(kind))
	}
	if err != nil {
		return explainPath(name, err)
	}
	r.progress.report(PhaseRead, r.done, 0)
	return nil
}

func kindOf(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "it is a named pipe"
	case mode&fs.ModeSocket != 0:
		return "it is a socket"
	case mode&fs.ModeDevice != 0:
		return "it is a device"
	default:
		return "it is of an unknown kind"
	}
}

// folder adds what is in a folder below folder, unless it was replaced meanwhile.
func (r *folderReader) folder(ctx context.Context, folder *os.Root, name string) error {
	before, err := folder.Lstat(path.Base(name))
	if err != nil {
		return explainPath(name, err)
	}
	sub, err := folder.OpenRoot(path.Base(name))
	if err != nil {
		return explainPath(name, err)
	}
	defer sub.Close()
	if opened, err := sub.Stat("."); err != nil || !os.SameFile(before, opened) {
		return explainPath(name, cmp.Or(err, errChanged))
	}
	return r.read(ctx, sub, name+"/")
}

// file adds a regular file.
func (r *folderReader) file(folder *os.Root, name string) error {
	var mode fs.FileMode
	err := errChanged
	for attempt := 0; attempt < readAttempts && errors.Is(err, errChanged); attempt++ {
		mode, err = r.readFile(folder, path.Base(name))
	}
	if err != nil {
		return err
	}
	attributes := map[string]string{desired.ModeAttribute: fmt.Sprintf("%04o", mode.Perm())}
	return r.add(desired.Object{Key: r.prefix + name, Value: r.value.Bytes(), Attributes: attributes})
}

// readFile reads a file into r.value. It returns errChanged if it is not the one
// that the folder names, or is written to meanwhile.
func (r *folderReader) readFile(folder *os.Root, name string) (fs.FileMode, error) {
	before, err := folder.Lstat(name)
	if err != nil {
		return 0, err
	}
	if before.Size() > desired.MaxValueBytes {
		return 0, fmt.Errorf("%w file: %d bytes, at most %d are allowed", desired.ErrInvalid, before.Size(), desired.MaxValueBytes)
	}
	// Not to wait for a writer, should it be a named pipe by now.
	f, err := folder.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	opened, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if !opened.Mode().IsRegular() || !os.SameFile(before, opened) {
		return 0, errChanged // and a symbolic link may have been followed
	}
	r.value.Reset()
	size, err := r.value.ReadFrom(io.LimitReader(f, before.Size()+1))
	if err != nil {
		return 0, err
	}
	after, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if size != after.Size() || !after.ModTime().Equal(before.ModTime()) {
		return 0, errChanged
	}
	return after.Mode(), nil
}

func (r *folderReader) symlink(folder *os.Root, name string) error {
	target, err := folder.Readlink(path.Base(name))
	if err != nil {
		return err
	}
	if !utf8.ValidString(target) {
		return fmt.Errorf("%w symbolic link: its target %q is not UTF-8", desired.ErrInvalid, target)
	}
	return r.add(desired.Object{Key: r.prefix + name, Attributes: map[string]string{desired.SymlinkAttribute: target}})
}

func (r *folderReader) add(o desired.Object) error {
	key := []byte(o.Key)
	if err := desired.CheckKey(key); err != nil {
		return err
	}
	envelope, err := desired.Encode(o)
	if err != nil {
		return err
	}
	r.done += uint64(len(o.Value))
	return r.to.Add(desired.Change{Key: key, Envelope: envelope, Digest: r.hasher.Sum(key, envelope)}, 0)
}

// explainPath returns err with the path, below the folder, that it is about.
func explainPath(name string, err error) error {
	if name == "" {
		return pathless(err)
	}
	return fmt.Errorf("%q: %w", name, pathless(err))
}
