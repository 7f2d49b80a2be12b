package meter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// stopPatience is how long a process may take to end by itself.
	stopPatience = 10 * time.Second
	// startPatience is how long one may take until it can be connected to.
	startPatience = time.Minute
	// keptOutput is how much of what a process says is kept for its error.
	keptOutput = 1 << 10
	// clockTicks is how many of /proc's ticks make a second, on every Linux that Go
	// runs on.
	clockTicks = 100
)

// Process is a program that was started, and ends with this one.
type Process struct {
	command *exec.Cmd
	stdin   io.Closer
	said    tail
	ended   chan struct{}
	err     error // once ended is closed
}

// Start starts a program, which gets a standard input that ends when it is to
// end. What it writes to its standard error is kept for errors; its standard
// output as well, unless the command has another.
func Start(command *exec.Cmd) (*Process, error) {
	p := &Process{command: command, ended: make(chan struct{})}
	if command.Stdin == nil {
		in, err := command.StdinPipe()
		if err != nil {
			return nil, err
		}
		p.stdin = in
	}
	if command.Stdout == nil {
		command.Stdout = &p.said
	}
	command.Stderr = &p.said
	// In a group of its own, so that ctrl-C reaches this program alone, which then
	// ends its children in order; should it be killed, the kernel kills them.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = command.Wait()
		close(p.ended)
	}()
	return p, nil
}

// Stop asks the process to end, and kills it if it doesn't.
func (p *Process) Stop() error {
	if p.stdin != nil {
		_ = p.stdin.Close()
	}
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(stopPatience):
		_ = p.command.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end within %v and was killed", p.command.Path, stopPatience)
	}
	return nil
}

// Wait waits until the process has ended, and stops it if ctx is done before.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.ended:
		return p.failure()
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), p.Stop())
	}
}

func (p *Process) failure() error {
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w: %s", strings.Join(p.command.Args, " "), p.err, bytes.TrimSpace(p.said.bytes()))
}

// AwaitListening waits until the process can be connected to at addr.
func (p *Process) AwaitListening(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("%s is not there after %v", addr, startPatience))
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-p.ended:
			return errors.Join(errors.New("it ended before it could be connected to"), p.failure())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(quietPoll):
		}
	}
}

// CPU returns the time that the process has used so far, and those of its
// children that have ended, in steps of 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	text, err := os.ReadFile(p.proc("stat"))
	if err != nil {
		return 0, err
	}
	// The name may have spaces; what follows begins with the process's state. The
	// 12th to 15th after it are utime, stime, and the children's.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return 0, fmt.Errorf("%s has %d fields", p.proc("stat"), len(fields))
	}
	var ticks uint64
	for _, field := range fields[11:15] {
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / clockTicks, nil
}

func (p *Process) proc(name string) string {
	return fmt.Sprintf("/proc/%d/%s", p.command.Process.Pid, name)
}

// FreeAddr returns an address of the loopback that nobody listens on.
func FreeAddr() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if over := len(t.kept) - keptOutput; over > 0 {
		t.kept = append(t.kept[:0], t.kept[over:]...)
	}
	return len(b), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.kept)
}
