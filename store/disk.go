package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"espalier/internal/desired"
	"espalier/internal/durable"
)

const (
	fileMode   = 0o600
	folderMode = 0o700

	setsFolder = "sets"
	fleetFile  = "fleet.db"
	// appliedFile is an agent's record of what it made true; beside it are a new
	// one and a damaged one.
	appliedFile      = "applied.db"
	newExtension     = ".new"
	damagedExtension = ".damaged"
	lockFile         = "lock"
	ownerFile        = "owner" // whose data folder it is, in words

	// The names of files that belong to a set. Only what ends in setSuffix is
	// one: a set's name may contain dots, and anything else.
	setSuffix     = ".db"
	newSuffix     = ".db.new"     // being written; left over by a crash
	stagingSuffix = ".db.staging" // an agent's; survives
	floorSuffix   = ".db.floor"   // an agent's; written as a small file
	floorSuffix2  = ".db.floor2"  // another copy of it
	damagedSuffix = ".db.damaged" // an agent's: a mirror that can't be read
	longestSuffix = len(floorSuffix2 + durable.Suffix)
)

// IdentityFile is the name under which agents and operators keep the credentials
// that they were given; an agent's lie in its data folder, and are there before
// anything else.
const IdentityFile = "identity.pem"

// setPath returns the path of a file that belongs to the set. A name that would
// make it too long for a file system is cut and told apart by a digest; '~' is
// in no name.
func setPath(dir string, name desired.Name, suffix string) string {
	base := string(name)
	if len(base)+longestSuffix > 255 {
		sum := sha256.Sum256([]byte(name))
		base = base[:180] + "~" + hex.EncodeToString(sum[:16])
	}
	return filepath.Join(dir, setsFolder, base+suffix)
}

// makeFolders creates the data folder and the one of its sets.
func makeFolders(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, setsFolder), folderMode); err != nil {
		return fmt.Errorf("create data folder: %w", err)
	}
	return durable.SyncFolder(dir)
}

// removeFile removes the file, durably. It need not be there.
func removeFile(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove file: %w", err)
	}
	return durable.SyncFolder(filepath.Dir(path))
}

// NeedRoom returns an error that matches ErrDiskFull unless there is room to
// stage a set of that head.
func (m *Mirror) NeedRoom(head desired.Head) error { return needRoom(m.dir, fileBytes(head)) }

// needRoom returns an error that matches ErrDiskFull unless dir's disk has room
// for so many bytes.
func needRoom(dir string, bytes uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("ask for the room in %s: %w", dir, err)
	}
	free := st.Bavail * uint64(st.Bsize)
	if bytes += roomMargin; free < bytes {
		return fmt.Errorf("%w: %s has %d MiB left, %d MiB are needed", ErrDiskFull, dir, free>>20, bytes>>20)
	}
	return nil
}

// fileBytes returns what a set of that size takes on the disk, roughly.
func fileBytes(h desired.Head) uint64 {
	return (h.Bytes + h.Objects*64) * 5 / 4
}

// LockDir locks the data folder dir, which it creates if need be, for this
// process until the lock is closed. owner, such as "agent of web-01", is what
// the folder belongs to from then on. It returns an error that matches ErrInUse
// and says who has it, if another process has, and one that matches ErrForeign
// if the folder belongs to another owner. Open locks its folder itself.
func LockDir(dir, owner string) (io.Closer, error) {
	if err := ours(dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	if err := own(dir, owner); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// ours returns nil if dir is a data folder, or empty, or not there.
func ours(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read data folder: %w", err)
	}
	for _, f := range files {
		if f.Name() == ownerFile || f.Name() == setsFolder {
			return nil
		}
	}
	for _, f := range files {
		if name := f.Name(); name != lockFile && name != IdentityFile {
			return fmt.Errorf("%w: %s is no data folder, and not empty: it has %.100q", ErrForeign, dir, name)
		}
	}
	return nil
}

// Free returns nil if no process has the data folder dir locked, and nothing
// else than a data folder is there; else an error that matches ErrInUse or
// ErrForeign.
func Free(dir string) error {
	if err := ours(dir); err != nil {
		return err
	}
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	return lock.Close()
}

// own makes dir belong to owner, if it belongs to nobody.
func own(dir, owner string) error {
	path := filepath.Join(dir, ownerFile)
	switch b, err := os.ReadFile(path); {
	case errors.Is(err, fs.ErrNotExist):
		return writeFile(path, []byte(owner+"\n"))
	case err != nil:
		return fmt.Errorf("read the owner of data folder: %w", err)
	case string(b) != owner+"\n":
		return fmt.Errorf("%w: %s is that of the %.300s, not of the %s; give each a folder of its own",
			ErrForeign, dir, bytes.TrimSpace(b), owner)
	}
	return nil
}

// writeFile replaces the small file at path, durably.
func writeFile(path string, content []byte) error {
	err := durable.WriteFile(path, content, fileMode)
	if full(err) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

func lockDir(dir string) (io.Closer, error) {
	if dir == "" {
		return nil, fmt.Errorf("%w data folder: its path is empty", desired.ErrInvalid)
	}
	if err := makeFolders(dir); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("lock data folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: data folder %s%s", ErrInUse, dir, holder(f))
		}
		return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
	}
	me := strconv.Itoa(os.Getpid()) + " " + filepath.Base(os.Args[0]) + "\n"
	_ = f.Truncate(0) // it only tells others who we are: a full disk is no reason not to start
	_, _ = f.WriteAt([]byte(me), 0)
	return folderLock{f}, nil
}

type folderLock struct{ f *os.File }

// Close gives up the lock. Closing the file is not enough: a child process that
// is just being started may hold it open for a moment.
func (l folderLock) Close() error {
	err := unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	if e := l.f.Close(); err == nil {
		err = e
	}
	return err
}

// holder says who wrote itself into the lock file.
func holder(f *os.File) string {
	b := make([]byte, 256)
	n, _ := f.ReadAt(b, 0)
	pid, program, ok := strings.Cut(strings.TrimSpace(string(b[:n])), " ")
	if !ok {
		return ""
	}
	return fmt.Sprintf(", by process %s (%s)", pid, program)
}
