//go:build unix

package exec

import "syscall"

// signalGroup sends a signal to the program and all that it started, as far as
// that stayed in its group.
func signalGroup(pid int, signal syscall.Signal) { _ = syscall.Kill(-pid, signal) }
