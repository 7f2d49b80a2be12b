package process

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lockFD is where a shim finds the lock of its copy.
const lockFD = 3

// What a shim answers on its standard output.
const (
	replyStarted = "started\n"
	replyFailed  = "failed: "
)

// Shim is the whole life of a copy's shim: it reads from standard input what to
// run, starts that, answers, lets go of its standard streams, and returns once the
// program has ended and nothing of it is left. It takes the calling process over,
// signals and children included. The process has to end with it.
//
// SIGTERM asks it to stop the program, as the driver wrote it down or else as the
// program's object said when it was started; all other signals to end it ignores.
// If it is killed, so is the program.
func Shim() error {
	if !regular(0) || !regular(lockFD) {
		return errors.New("this command is run by the agent, for each copy of a program that it keeps running")
	}
	// The program gets SIGKILL when the thread ends that started it.
	runtime.LockOSThread()
	s := &shim{}
	err := s.begin()
	if err != nil {
		fmt.Fprintf(os.Stdout, "%s%v\n", replyFailed, err)
		return err
	}
	fmt.Fprint(os.Stdout, replyStarted)
	if err := detach(); err != nil {
		return errors.Join(err, unix.Kill(-s.PID, unix.SIGKILL)) // the reason reaches nobody: /dev/null can't be opened
	}
	return s.run()
}

type shim struct {
	order
	identity // the program's
	begun    time.Time
	children chan os.Signal // some child may have ended
	stops    chan os.Signal // the program is to stop
	output   *output
	drained  chan struct{} // closed once the output has ended

	status   unix.WaitStatus
	ended    bool             // the program has, with status; what it left behind need not have
	after    time.Duration    // it ran for so long
	asked    string           // the signal by which it was asked to stop
	until    time.Time        // what is left is killed then; zero: it may run on
	deadline <-chan time.Time // fires at until
	killing  bool             // until is over
}

// begin does all that can fail, and ends with a program that runs.
func (s *shim) begin() error {
	// Neither the lock nor anything that this process has inherited by accident is
	// the program's.
	unix.CloseOnExec(lockFD)
	_ = unix.CloseRange(lockFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC) // ENOSYS before Linux 5.11
	s.listen()
	if err := s.read(os.Stdin); err != nil {
		return err
	}
	// What the program leaves behind becomes this process's child.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	var err error
	if s.State.Shim, err = identify(os.Getpid()); err != nil {
		return err
	}
	if s.State.Boot, err = bootID(); err != nil {
		return err
	}
	if err := writeJSON(s.StatePath, s.State); err != nil { // what isn't written down isn't started
		return fmt.Errorf("state of the copy: %w", err)
	}
	err = s.start()
	if err == nil {
		s.State.Program = s.identity
		if err = writeJSON(s.StatePath, s.State); err == nil {
			return nil
		}
		err = errors.Join(fmt.Errorf("state of the copy: %w", err), unix.Kill(-s.PID, unix.SIGKILL))
	}
	s.State.End = &ending{At: time.Now(), How: clip("not started: "+err.Error(), maxTailBytes)}
	return errors.Join(err, writeJSON(s.StatePath, s.State))
}

// regular reports whether there is a regular file behind a descriptor.
func regular(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG
}

// listen takes over every signal by which somebody may mean this process. It does
// not ignore them in the kernel's sense, since the program would inherit that.
func (s *shim) listen() {
	s.children, s.stops = make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(s.children, unix.SIGCHLD)
	signal.Notify(s.stops, unix.SIGTERM)
	ignored := make(chan os.Signal, 1)
	signal.Notify(ignored, unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGPIPE, unix.SIGUSR1, unix.SIGUSR2, unix.SIGALRM,
		unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU, unix.SIGXFSZ)
}

func (s *shim) read(r io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(r, maxOrderBytes+1))
	switch {
	case err != nil:
		return fmt.Errorf("order: %w", err)
	case len(text) > maxOrderBytes:
		return fmt.Errorf("order: more than %d bytes", maxOrderBytes)
	}
	if err := json.Unmarshal(text, &s.order); err != nil {
		return fmt.Errorf("order: %w", err)
	}
	if len(s.Argv) == 0 || s.State.Run == "" || !filepath.IsAbs(s.StatePath) || !filepath.IsAbs(s.LogPath) {
		return errors.New("order: it is not whole")
	}
	return nil
}

// start starts the program in a session of its own, with its output going into
// the log.
func (s *shim) start() error {
	if info, err := os.Stat(s.Dir); err != nil || !info.IsDir() {
		return fmt.Errorf("dir %s: %w", s.Dir, orNotDir(err))
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	read, write, err := pipe()
	if err != nil {
		return err
	}
	defer unix.Close(write)
	attr := &syscall.ProcAttr{
		Dir: s.Dir, Env: s.Env, Files: []uintptr{null.Fd(), uintptr(write), uintptr(write)},
		Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if s.As != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: s.As.UID, Gid: s.As.GID, Groups: s.As.Groups}
	}
	syscall.Umask(0o022)
	s.begun = time.Now()
	pid, err := syscall.ForkExec(s.Argv[0], s.Argv, attr)
	if err != nil {
		return errors.Join(fmt.Errorf("program %s: %w", s.Argv[0], err), read.Close())
	}
	s.output = newOutput(read, &rotatedLog{path: s.LogPath, most: s.LogBytes, olds: s.LogFiles})
	s.drained = make(chan struct{})
	go func() {
		defer close(s.drained)
		s.output.run()
	}()
	s.identity, err = identify(pid)
	if err != nil {
		return errors.Join(err, unix.Kill(-pid, unix.SIGKILL))
	}
	return nil
}

func orNotDir(err error) error {
	if err == nil {
		return unix.ENOTDIR
	}
	return err
}

// pipe returns a pipe from which the runtime's poller reads, and into which
// programs write that expect to wait where it is full.
func pipe() (read *os.File, write int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, fmt.Errorf("pipe: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, 0, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), "output"), fds[1], nil
}

// detach lets go of the standard streams, which are the agent's.
func detach() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(null.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}

// run waits until nothing of the program is left, and writes down how it ended.
func (s *shim) run() error {
	for left := true; left; {
		select {
		case <-s.children:
		case <-s.stops:
			s.stop()
		case <-s.deadline:
			if s.killing { // and what was killed doesn't go
				return s.record(true)
			}
			s.kill()
		}
		left = s.reap()
	}
	return s.record(false)
}

// stop asks the program's process group to end, and sees to it that it does. Where
// it is asked again, only another signal or an earlier end changes anything.
func (s *shim) stop() {
	how := s.State.Stop
	if told := readStopOrder(s.StopPath, s.State.Run); told != nil {
		how = *told
	}
	if s.killing {
		return
	}
	if !s.ended && how.Signal != s.asked { // once it has ended, its group may be that of somebody else
		s.asked = how.Signal
		_ = unix.Kill(-s.PID, unix.SignalNum("SIG"+how.Signal))
		_ = unix.Kill(-s.PID, unix.SIGCONT) // a stopped one can't end
	}
	if until := time.Now().Add(how.Timeout); s.until.IsZero() || until.Before(s.until) {
		s.until, s.deadline = until, time.After(how.Timeout)
	}
}

// kill ends what there is of the program.
func (s *shim) kill() {
	if !s.killing {
		s.killing, s.deadline = true, time.After(killTimeout)
	}
	if !s.ended {
		_ = unix.Kill(-s.PID, unix.SIGKILL)
	}
	self := os.Getpid()
	all, err := pids()
	if err != nil {
		return
	}
	for _, pid := range all {
		// A child's id stays its own for as long as it isn't waited for, which is done
		// by this goroutine.
		if st, err := readStat(pid); err == nil && st.parent == self {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// reap takes note of what has ended, and reports whether anything is left. Once
// the program itself has ended, what it started may run on until it was to be
// killed anyway, if it was to stop; else it has no business there any more.
func (s *shim) reap() (left bool) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil: // ECHILD
			return false
		case pid == s.PID:
			s.ended, s.status, s.after = true, status, time.Since(s.begun)
		case pid == 0:
			if s.killing || s.ended && s.until.IsZero() {
				s.kill()
			}
			return true
		}
	}
}

// record writes down how the program ended.
func (s *shim) record(left bool) error {
	deadline := time.Now().Add(drainTimeout)
	_ = s.output.pipe.SetReadDeadline(deadline) // what holds the pipe now is nobody that this process knows
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	end := &ending{At: time.Now(), After: s.after, Left: left}
	<-s.drained // soon, by the deadline
	select {
	case <-s.output.done:
	case <-ctx.Done(): // the disk doesn't take it
	}
	end.Tail = s.output.lastLine()
	switch {
	case !s.ended:
		end.How = "could not be killed"
	case s.status.Signaled():
		end.How = "was ended by " + unix.SignalName(s.status.Signal())
	default:
		end.How = fmt.Sprintf("exited with status %d", s.status.ExitStatus())
	}
	s.State.End = end
	return writeJSON(s.StatePath, s.State)
}
