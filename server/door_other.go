//go:build !linux

package server

import (
	"net"
	"time"
)

// setUserTimeout does nothing where there is no such option.
func setUserTimeout(net.Conn, time.Duration) error { return nil }
