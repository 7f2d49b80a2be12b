package bench

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// checkRoom returns nil if the file system of dir has room for n files.
func checkRoom(dir string, n, valueBytes int) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("room in %s: %w", dir, err)
	}
	block := uint64(st.Bsize)
	need := uint64(n) * ((uint64(valueBytes)+block-1)/block*block + 512) // with inode and name
	if have := st.Bavail * block; have < need {
		return fmt.Errorf("room in %s: %d files need %d MiB, and %d are free: name another folder, or fewer files", dir, n, need>>20, have>>20)
	}
	if need := uint64(n + n/100 + 100); st.Files > 0 && st.Ffree < need {
		return fmt.Errorf("room in %s: %d files need %d inodes, and %d are free: name another folder, or fewer files", dir, n, need, st.Ffree)
	}
	return nil
}

// syncFileSystem makes all durable that was written to the file system of dir.
func syncFileSystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync file system: %w", err)
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", dir, err)
	}
	return nil
}
