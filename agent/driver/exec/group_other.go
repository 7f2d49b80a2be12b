//go:build unix && !linux

package exec

import (
	"os/exec"
	"syscall"
)

// ownGroup has a process lead a group of its own.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitExit waits until a program has ended, and returns how.
func awaitExit(c *exec.Cmd) (wait func() error) {
	err := c.Wait()
	return func() error { return err }
}
