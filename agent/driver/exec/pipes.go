package exec

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// pipes are those between the agent and a run of the program. They are files of
// the kernel's alone, without goroutines of package os/exec, which would wait for
// whoever holds an end.
type pipes struct {
	theirs         [3]*os.File
	stdin          *os.File
	stdout, stderr *drain
}

func (p *pipes) open() error {
	var ours [3]*os.File
	for i := range ours {
		r, w, err := os.Pipe()
		if err != nil {
			for j := range i {
				_, _ = ours[j].Close(), p.theirs[j].Close()
			}
			return err
		}
		if p.theirs[i], ours[i] = w, r; i == 0 {
			p.theirs[i], ours[i] = r, w
		}
	}
	p.stdin, p.stdout, p.stderr = ours[0], &drain{file: ours[1]}, &drain{file: ours[2]}
	return nil
}

func (p *pipes) closeTheirs() {
	for _, f := range p.theirs {
		_ = f.Close()
	}
}

func (p *pipes) closeOurs() {
	_, _, _ = p.stdin.Close(), p.stdout.file.Close(), p.stderr.file.Close()
}

// lastCall has writers and readers return, the latter with all that was written
// before.
func (p *pipes) lastCall() {
	_ = p.stdin.Close()
	p.stdout.lastCall()
	p.stderr.lastCall()
}

// drain reads a pipe until its end or, after the last call, until it is empty.
type drain struct {
	file *os.File
	last atomic.Bool
}

// lastCall may be called while another goroutine reads.
func (d *drain) lastCall() {
	d.last.Store(true)
	_ = d.file.SetReadDeadline(time.Unix(1, 0)) // who waits for bytes looks up
}

func (d *drain) Read(p []byte) (int, error) {
	if !d.last.Load() {
		n, err := d.file.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
	return d.poll(p)
}

// poll reads what is there, without waiting for more.
func (d *drain) poll(p []byte) (n int, err error) {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	for err = os.ErrDeadlineExceeded; errors.Is(err, os.ErrDeadlineExceeded); { // the last call's, which may come in between
		if err := d.file.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
		err = raw.Read(func(fd uintptr) bool {
			for {
				if n, failed = syscall.Read(int(fd), p); !errors.Is(failed, syscall.EINTR) {
					return true
				}
			}
		})
	}
	switch {
	case err != nil:
		return 0, err
	case errors.Is(failed, syscall.EAGAIN), failed == nil && n <= 0:
		return 0, io.EOF
	case failed != nil:
		return 0, failed
	}
	return n, nil
}
