//go:build linux

package file

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The names of the mark: the first is hidden from all but root, and can't be
// forged by others; the second is for an agent that isn't root.
const (
	trustedMark = "trusted.espalier"
	userMark    = "user.espalier"
)

// mark marks an open file or folder as made by the driver, if its file system can.
func (d *Driver) mark(fd int, ino uint64) bool {
	return d.setMark(func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) }, ino)
}

// markLink is mark for a symbolic link, which can't be opened.
func (d *Driver) markLink(f *folder, base string, ino uint64) bool {
	path := through(f, base)
	return d.setMark(func(name string, value []byte) error { return unix.Lsetxattr(path, name, value, 0) }, ino)
}

func (d *Driver) setMark(set func(name string, value []byte) error, ino uint64) bool {
	if d.noMarks {
		return false
	}
	value := binary.BigEndian.AppendUint64(nil, ino)
	return set(d.markName, value) == nil
}

// marked reports whether an open file or folder bears the mark.
func (d *Driver) marked(fd int, ino uint64) bool {
	return d.hasMark(func(name string, value []byte) (int, error) { return unix.Fgetxattr(fd, name, value) }, ino)
}

func (d *Driver) markedLink(f *folder, base string, ino uint64) bool {
	path := through(f, base)
	return d.hasMark(func(name string, value []byte) (int, error) { return unix.Lgetxattr(path, name, value) }, ino)
}

func (d *Driver) hasMark(get func(name string, value []byte) (int, error), ino uint64) bool {
	if d.noMarks {
		return false
	}
	var value [8]byte
	n, err := get(d.markName, value[:])
	return err == nil && n == len(value) && binary.BigEndian.Uint64(value[:]) == ino
}

// markName returns the name of the mark that this process can set. It asks by
// removing what isn't there, which changes nothing.
func markName(fd int) string {
	if errors.Is(unix.Fremovexattr(fd, trustedMark+".probe"), unix.EPERM) {
		return userMark // the agent isn't root, or is in a container
	}
	return trustedMark
}

// through is the path of a name in an open folder, for calls that take no
// descriptor.
func through(f *folder, base string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", f.fd, base)
}
