package exec

import (
	"errors"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownGroup has a process lead a group of its own, and end with the thread that
// starts it.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// awaitExit waits until a program has ended, and returns what it is waited for
// with: until then its number, and so its group's, is nobody else's.
func awaitExit(c *exec.Cmd) (wait func() error) {
	for errors.Is(unix.Waitid(unix.P_PID, c.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	return c.Wait
}
