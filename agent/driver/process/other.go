//go:build !linux

package process

import (
	"errors"

	"espalier/agent/driver"
)

// Driver keeps programs running.
type Driver struct{ driver.Driver }

var errLinux = errors.New("the process driver needs Linux")

// New returns an error: what the driver relies on is Linux's.
func New(Options) (*Driver, error) { return nil, errLinux }

// Shim returns an error: what it relies on is Linux's.
func Shim() error { return errLinux }
