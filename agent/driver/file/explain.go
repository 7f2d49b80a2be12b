//go:build linux

package file

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// remedies says what to do about an error of the system.
var remedies = []struct {
	errno unix.Errno
	text  string
}{
	{unix.ENOSPC, "free space, or inodes, on its file system"},
	{unix.EDQUOT, "raise the quota of the agent's user, or free space"},
	{unix.EROFS, "remount the file system for writing; it may have failed, see the system's log"},
	{unix.EIO, "check the disk; see the system's log"},
	{unix.EACCES, "give the agent's user the right to write there, or run the agent as root"},
	{unix.EPERM, "give the agent's user the right to do so, or run the agent as root; the file or folder may also be immutable (lsattr)"},
	{unix.ENAMETOOLONG, "use a shorter key: the file system takes no name that long"},
	{unix.EMFILE, "raise the limit of open files (ulimit -n)"},
	{unix.ENFILE, "raise the system's limit of open files (fs.file-max)"},
	{unix.EBUSY, "a mount point can't be replaced; unmount it"},
	{unix.EXDEV, "a mount point is in the way; unmount it, or set cross_mounts on the driver"},
	{unix.ELOOP, "a symbolic link is in the way, and not followed; remove it"},
	{unix.ENOTDIR, "something that is no folder is in the way; remove it"},
	{unix.EMLINK, "the folder holds as many folders as it can; spread the keys"},
	{unix.EOPNOTSUPP, "the file system can't do this; use another"},
	{unix.ESTALE, "the file system has lost it; check the mount"},
}

// explain returns err as that of doing something to a path, and what to do.
func explain(doing, path string, err error) error {
	for _, r := range remedies {
		if errors.Is(err, r.errno) {
			return fmt.Errorf("%s %q: %w: %s", doing, path, err, r.text)
		}
	}
	return fmt.Errorf("%s %q: %w", doing, path, err)
}

// kindOf says what a mode is the mode of.
func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "a file"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFDIR:
		return "a folder"
	case unix.S_IFIFO:
		return "a named pipe"
	case unix.S_IFSOCK:
		return "a socket"
	case unix.S_IFCHR, unix.S_IFBLK:
		return "a device"
	default:
		return "of an unknown kind"
	}
}

// describe says what is there.
func describe(st *unix.Stat_t) string {
	text := kindOf(st.Mode)
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		text += fmt.Sprintf(" of %d bytes, mode %04o", st.Size, st.Mode&0o7777)
	}
	return fmt.Sprintf("%s, owner %d:%d", text, st.Uid, st.Gid)
}
