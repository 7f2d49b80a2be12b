// Package durable replaces small files so that a crash leaves the old one or
// the new one, never less.
package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile puts content in the place of the file at path, which it creates
// with that mode. When it returns nil, that is durable. It writes to a file of
// the same name with ".new" behind it, so that one caller at a time may write
// to a path.
func WriteFile(path string, content []byte, mode os.FileMode) error {
	temp := path + Suffix
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	return Rename(temp, path)
}

// MakeFolder creates the folder, for its owner alone, and those above it that
// don't exist.
func MakeFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	return SyncFolder(dir)
}

// Suffix is what the name of a file that is being written ends in.
const Suffix = ".new"

// Rename puts a file that is durable in the place of another in the same
// folder, or gives it a name that is free, durably.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("rename file: %w", err)
	}
	return SyncFolder(filepath.Dir(to))
}

// SyncFolder makes what was created, renamed or removed in dir durable.
func SyncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}
