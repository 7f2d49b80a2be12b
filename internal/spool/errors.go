package spool

import (
	"errors"
	"fmt"
	"syscall"

	"espalier/internal/desired"
)

// ErrDiskFull is what errors match that say that the folder for temporary files
// has no room for the spool.
var ErrDiskFull = errors.New("no space left on the disk")

// ErrClosed is returned by a Writer that is finished or closed.
var ErrClosed = errors.New("the spool is closed")

// errDamaged: a file does not hold what was written to it.
var errDamaged = errors.New("the spool's file is damaged")

// DuplicateError says that a key came twice. It matches desired.ErrInvalid.
type DuplicateError struct {
	Key string
	// First and Second are the lines that Add was given, First the lower one.
	First, Second int
}

func (e *DuplicateError) Error() string {
	if e.Second == 0 {
		return fmt.Sprintf("key %q is there twice", e.Key)
	}
	return fmt.Sprintf("key %q is there twice: in line %d and in line %d", e.Key, e.First, e.Second)
}

// Is reports whether target is desired.ErrInvalid.
func (e *DuplicateError) Is(target error) bool { return target == desired.ErrInvalid }

// explain adds to an error of writing in dir what can be done about it.
func explain(dir string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: the folder for temporary files, %s, has no room for the input, "+
			"which is needed there up to twice; free some, or use another folder: %w", ErrDiskFull, dir, err)
	}
	return fmt.Errorf("spool in %s: %w", dir, err)
}
