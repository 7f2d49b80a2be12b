package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// identity is a process that can't be mistaken for a later one with its id, as
// long as the host isn't started anew.
type identity struct {
	PID int `json:"pid"`
	// Start is when it started, in hundredths of a second since the boot, as in
	// /proc/PID/stat.
	Start uint64 `json:"start"`
}

// age returns how long ago the process started.
func (p identity) age() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0
	}
	return max(0, time.Duration(now.Nano())-time.Duration(p.Start)*(time.Second/100))
}

// procStat is what is read of /proc/PID/stat.
type procStat struct {
	state  byte
	parent int
	start  uint64
}

func (s procStat) dead() bool { return s.state == 'Z' || s.state == 'X' }

// readStat returns an error that matches os.ErrNotExist or unix.ESRCH where there
// is no such process.
func readStat(pid int) (procStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	// The name, in brackets, may itself have brackets and spaces.
	_, rest, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %d fields", pid, len(fields))
	}
	s := procStat{state: fields[0][0]}
	s.parent, err = strconv.Atoi(fields[1])
	if err == nil {
		s.start, err = strconv.ParseUint(fields[19], 10, 64)
	}
	if err != nil {
		return procStat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return s, nil
}

// identify returns the identity of a process that can't end meanwhile: the
// caller's own, or a child that was not waited for.
func identify(pid int) (identity, error) {
	s, err := readStat(pid)
	return identity{pid, s.start}, err
}

// bootID names the time since the host's last start.
func bootID() (string, error) {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(text)), err
}

// pids returns the ids of all processes that can be seen.
func pids() ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	var all []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			all = append(all, pid)
		}
	}
	return all, err
}

// handle is a hold on one process: signals go to it or to nobody.
type handle struct {
	pid  int
	file *os.File // a pidfd
}

// errGone is that a process is not there, or another has its id.
var errGone = errors.New("no such process")

// open returns a handle on the process, or an error that matches errGone.
func (p identity) open() (*handle, error) {
	h, s, err := openPID(p.PID)
	switch {
	case err != nil:
		return nil, err
	case s.start != p.Start || s.dead():
		if s.start == p.Start {
			h.reap()
		}
		h.close()
		return nil, errGone
	}
	return h, nil
}

func openPID(pid int) (*handle, procStat, error) {
	if pid <= 0 {
		return nil, procStat{}, errGone
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: a thread has the id
		return nil, procStat{}, errGone
	}
	if err != nil {
		return nil, procStat{}, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	// So that the runtime's poller takes it, and no thread waits for each.
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, procStat{}, errors.Join(fmt.Errorf("pidfd of %d: %w", pid, err), unix.Close(fd))
	}
	h := &handle{pid, os.NewFile(uintptr(fd), "pidfd")}
	s, err := readStat(pid)
	if err != nil {
		h.close()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			err = errGone
		}
		return nil, procStat{}, err
	}
	return h, s, nil
}

func (h *handle) close() { _ = h.file.Close() }

// signal is no error where the process has ended.
func (h *handle) signal(sig unix.Signal) error {
	err := h.control(func(fd int) error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
	if err == nil || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return fmt.Errorf("signal %s to process %d: %w", unix.SignalName(sig), h.pid, err)
}

// reap lets go of the process if it is a child that has ended.
func (h *handle) reap() {
	_ = h.control(func(fd int) error { // ECHILD: it is somebody else's
		return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG, nil)
	})
}

func (h *handle) control(fn func(fd int) error) error {
	c, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := c.Control(func(fd uintptr) { failed = fn(int(fd)) }); err != nil {
		return err
	}
	return failed
}

// wait returns nil once the process has ended, or the cause of ctx's end.
func (h *handle) wait(ctx context.Context) error {
	if h.hasEnded() {
		h.reap()
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c, err := h.file.SyscallConn()
	if err != nil {
		return err
	}
	if err := h.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("watch process %d: %w", h.pid, err)
	}
	stop := context.AfterFunc(ctx, func() {
		_ = h.file.SetReadDeadline(time.Unix(1, 0)) // closed: then nobody waits
	})
	defer stop()
	err = c.Read(ended)
	switch {
	case err == nil:
		h.reap()
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	default:
		return fmt.Errorf("watch process %d: %w", h.pid, err)
	}
}

func (h *handle) hasEnded() (yes bool) {
	_ = h.control(func(fd int) error {
		yes = ended(uintptr(fd))
		return nil
	})
	return yes
}

// ended reports whether the process of a pidfd has ended.
func ended(fd uintptr) bool {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(p, 0)
	return err == nil && n > 0
}

// kill ends the process at once, and waits until it is gone.
func (h *handle) kill(ctx context.Context) error {
	if err := h.signal(unix.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout,
		fmt.Errorf("process %d does not end, %v after it was killed", h.pid, killTimeout))
	defer cancel()
	return h.wait(ctx)
}

// sweep kills every process that bears the mark of a run: what a copy left behind
// when its shim was killed.
func sweep(ctx context.Context, run string) error {
	for range sweepRounds {
		found, err := sweepOnce(ctx, []byte(runVariable+"="+run))
		if err != nil || found == 0 {
			return err
		}
	}
	return fmt.Errorf("what is left of it forks faster than it can be killed: see the processes with %s=%s in their environment", runVariable, run)
}

func sweepOnce(ctx context.Context, mark []byte) (found int, err error) {
	all, err := pids()
	if err != nil {
		return 0, err
	}
	for _, pid := range all {
		h, s, err := openPID(pid)
		if err != nil {
			continue // it has ended, or is nobody that we could see
		}
		if !s.dead() && bears(pid, mark) {
			found++
			err = h.kill(ctx)
		}
		h.close()
		if err != nil {
			return found, err
		}
	}
	return found, nil
}

// bears reports whether the environment that a process was started with has a
// variable of this text.
func bears(pid int, text []byte) bool {
	f, err := os.Open(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	defer f.Close()
	env, err := io.ReadAll(io.LimitReader(f, maxEnvironBytes))
	if err != nil {
		return false
	}
	for variable := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.Equal(variable, text) {
			return true
		}
	}
	return false
}
