//go:build !linux

package main

import (
	"errors"
	"net"
	"syscall"
)

// loseSegments can't be done here but for no loss at all.
func loseSegments(_ syscall.Conn, part float64) error {
	if part > 0 {
		return errors.ErrUnsupported
	}
	return nil
}

func losingFrom(float64) *net.Dialer { return &net.Dialer{} }
