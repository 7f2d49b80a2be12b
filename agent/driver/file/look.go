//go:build linux

package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/internal/desired"
)

// looker looks at one object after the other.
type looker struct {
	*scan
	t        *tree
	dir      string
	dirKnown bool // to the watches
	owners   owners
	hasher   desired.Hasher
	buf      []byte // what files are read into
}

// look reports what it finds of one object. Its error ends the scan.
func (l *looker) look(ctx context.Context, k driver.Known) error {
	d := l.driver
	if checkName(k.Name) != nil || d.unmanaged.match(k.Name) {
		return nil // it was true under other options; its next change says what is wrong
	}
	dir, base := split(k.Name)
	f, err := l.t.folder(dir)
	if err != nil {
		l.Report(k, lostFolder(err))
		return nil
	}
	if dir != l.dir || !l.dirKnown {
		l.dir, l.dirKnown = dir, true
		d.watched.learn(dir, d.options.MaxWatches)
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(f.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case errors.Is(err, unix.ENOENT):
		l.Report(k, driver.Finding{Drift: "missing"})
		return nil
	case err != nil:
		l.Report(k, driver.Finding{Err: explain("look at", d.full(k.Name), err)})
		return nil
	}
	was, err := decodeNote(k.Note)
	if err == nil && !l.Contents && was.unchanged(&st) {
		return nil
	}
	finding, err := l.closely(ctx, f, base, k, was, err == nil, &st)
	if err != nil {
		return err
	}
	if finding.Drift != "" || finding.Note != nil || finding.Err != nil {
		l.Report(k, finding)
	}
	return nil
}

// lostFolder says of an object whose folder can't be opened what is wrong with it.
func lostFolder(err error) driver.Finding {
	switch {
	case errors.Is(err, unix.ENOENT):
		return driver.Finding{Drift: "missing, with its folder"}
	case errors.Is(err, unix.ELOOP):
		return driver.Finding{Drift: "missing: a symbolic link is in the place of a folder"}
	case errors.Is(err, unix.ENOTDIR):
		return driver.Finding{Drift: "missing: something else is in the place of a folder"}
	case errors.Is(err, unix.EXDEV):
		return driver.Finding{Drift: "missing: a mount point is in the place of a folder"}
	default:
		return driver.Finding{Err: err}
	}
}

// unchanged reports whether a stat says that nothing has happened since the note.
func (n *note) unchanged(st *unix.Stat_t) bool {
	return n.ino == st.Ino && n.ctime == unix.TimespecToNsec(st.Ctim) && n.mtime == unix.TimespecToNsec(st.Mtim) &&
		n.size == st.Size && n.uid == st.Uid && n.gid == st.Gid && (n.kind == symlink || uint32(n.mode) == st.Mode&0o7777) &&
		n.kind.is(st.Mode)
}

func (k kind) is(mode uint32) bool {
	return k == regular && mode&unix.S_IFMT == unix.S_IFREG || k == symlink && mode&unix.S_IFMT == unix.S_IFLNK
}

// closely holds what is there against what shall be.
func (l *looker) closely(ctx context.Context, f *folder, base string, k driver.Known, was note, noted bool, st *unix.Stat_t) (driver.Finding, error) {
	o, err := l.load(k.Key)
	if err != nil || o == nil {
		return driver.Finding{Err: err}, nil // if nothing shall be any more, nothing is wrong
	}
	w, err := l.owners.want(o)
	if err != nil {
		return driver.Finding{Err: err}, nil
	}
	var drift []string
	if !w.kind.is(st.Mode) {
		return driver.Finding{Drift: kindOf(st.Mode) + ", not " + w.kind.String()}, nil
	}
	if w.kind == regular && st.Mode&0o7777 != w.mode {
		drift = append(drift, fmt.Sprintf("mode %04o, not %04o", st.Mode&0o7777, w.mode))
	}
	if st.Uid != w.uid || w.group && st.Gid != w.gid {
		drift = append(drift, w.otherOwner(st))
	}
	seen, what, err := l.content(ctx, f, base, o, &w, st)
	if err != nil {
		return l.unread(k, err)
	}
	if what != "" {
		drift = append(drift, what)
	}
	if len(drift) > 0 {
		return driver.Finding{Drift: strings.Join(drift, ", "), Seen: seen}, nil
	}
	if noted && was.unchanged(st) {
		return driver.Finding{}, nil
	}
	now := noteOf(st)
	now.group, now.made = w.group, was.made
	return driver.Finding{Note: now.encode()}, nil
}

// unread tells what ends the scan from what is wrong with one object.
func (l *looker) unread(k driver.Known, err error) (driver.Finding, error) {
	var stop *stopError
	switch {
	case errors.As(err, &stop):
		return driver.Finding{}, stop.error
	case errors.Is(err, errReplaced), errors.Is(err, unix.ENOENT):
		return driver.Finding{}, nil // the next look sees what it is
	default:
		return driver.Finding{Err: explain("read", l.driver.full(k.Name), err)}, nil
	}
}

// stopError is an error that ends the scan.
type stopError struct{ error }

func (k kind) String() string {
	if k == symlink {
		return "a symbolic link"
	}
	return "a file"
}

func (w *want) otherOwner(st *unix.Stat_t) string {
	if w.group {
		return fmt.Sprintf("owner %d:%d, not %d:%d", st.Uid, st.Gid, w.uid, w.gid)
	}
	return fmt.Sprintf("owner %d, not %d", st.Uid, w.uid)
}

// content says what is otherwise in a file or link, and, if it was read, what
// object is there instead. A file of another size is read in a scan of contents
// alone.
func (l *looker) content(ctx context.Context, f *folder, base string, o *desired.Object, w *want, st *unix.Stat_t) (desired.Digest, string, error) {
	if w.kind == symlink {
		target, err := readLink(f, base)
		if err != nil || target == w.target {
			return desired.Digest{}, "", err
		}
		return l.seen(o, w, st, nil, target), fmt.Sprintf("target %q, not %q", shorten(target), shorten(w.target)), nil
	}
	size := ""
	if st.Size != int64(len(w.value)) {
		size = fmt.Sprintf("%d bytes, not %d", st.Size, len(w.value))
	}
	if st.Size > desired.MaxValueBytes || size != "" && !l.Contents {
		return desired.Digest{}, size, nil
	}
	value, err := l.readFile(ctx, f, base, st)
	if err != nil {
		return desired.Digest{}, "", err
	}
	if size == "" && !bytes.Equal(value, w.value) {
		size = "content"
	}
	if size == "" && w.fits(st) {
		return desired.Digest{}, "", nil
	}
	return l.seen(o, w, st, value, ""), size, nil
}

// shorten keeps a finding to a few words.
func shorten(target string) string {
	const most = 64
	if len(target) <= most {
		return target
	}
	return strings.ToValidUTF8(target[:most], "") + "…"
}

// readFile returns a file's content, which is valid until the next call.
func (l *looker) readFile(ctx context.Context, f *folder, base string, st *unix.Stat_t) ([]byte, error) {
	fd, err := l.t.openFile(f, base, st)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if need := int(st.Size) + 1; cap(l.buf) < need {
		l.buf = make([]byte, max(need, readChunk))
	}
	got, paid := 0, 0
	for buf := l.buf[:st.Size+1]; got < len(buf); {
		if got == paid && got < int(st.Size) {
			chunk := min(readChunk, int(st.Size)-got)
			if err := l.spend(ctx, 0, chunk); err != nil {
				return nil, &stopError{err}
			}
			paid += chunk
		}
		end := len(buf)
		if paid < int(st.Size) {
			end = paid
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, buf[got:end]) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		got += n
	}
	return l.buf[:got], nil
}

// seen returns the digest of the object that is there: what can't be seen on a
// disk is taken from what shall be.
func (l *looker) seen(o *desired.Object, w *want, st *unix.Stat_t, value []byte, target string) desired.Digest {
	there := *o
	there.Value, there.Attributes = value, maps.Clone(o.Attributes)
	if there.Attributes == nil {
		there.Attributes = map[string]string{}
	}
	if w.kind == symlink {
		there.Attributes[desired.SymlinkAttribute] = target
	} else if _, ok := o.Attributes[desired.ModeAttribute]; ok || st.Mode&0o7777 != w.mode {
		there.Attributes[desired.ModeAttribute] = fmt.Sprintf("%04o", st.Mode&0o7777)
	}
	if st.Uid != w.uid || w.group && st.Gid != w.gid {
		there.Attributes[desired.OwnerAttribute] = fmt.Sprintf("%d:%d", st.Uid, st.Gid)
	}
	envelope, err := desired.Encode(there)
	if err != nil {
		return desired.Digest{} // no object can be that
	}
	return l.hasher.Sum([]byte(o.Key), envelope)
}
