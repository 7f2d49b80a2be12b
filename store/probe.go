package store

import (
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"espalier/store/internal/boltfile"
)

// Probe checks the structure of the file at path, which nobody must have open
// for writing. It may crash the process that it runs in: it is what
// Options.Probe runs in a child.
func Probe(path string) error {
	if err := verifyFile(path); err != nil {
		return err
	}
	h, err := openReadOnly(path)
	if err != nil {
		return err
	}
	defer h.retire()
	return h.view(func(tx *bolt.Tx) error {
		var first error
		for err := range tx.Check() { // on a goroutine of bbolt's, where no fault can be caught
			if first == nil {
				first = fmt.Errorf("%w: file %s: %w", ErrCorrupt, path, err)
			}
		}
		return first
	})
}

// verifyFile checks the structure of the file at path without bbolt.
func verifyFile(path string) error { return fileError(path, boltfile.Verify(path)) }

// inspect reads what the file at path says of itself.
func inspect(path string) (boltfile.Info, error) {
	info, err := boltfile.Inspect(path)
	return info, fileError(path, err)
}

func fileError(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, boltfile.ErrDamaged):
		return fmt.Errorf("%w: file %s: %w", ErrCorrupt, path, err)
	}
	return fmt.Errorf("read file %s: %w", path, err)
}
