package process

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"espalier/internal/durable"
)

// slot is the place of one copy of an object.
type slot struct {
	d       *Driver
	name    string
	replica int
}

func (s slot) path(suffix string) string {
	return filepath.Join(s.d.folder(s.name), strconv.Itoa(s.replica)+suffix)
}

func (s slot) statePath() string { return s.path(".json") }
func (s slot) stopPath() string  { return s.path(".stop") }
func (s slot) lockPath() string  { return s.path(".lock") }

// phase is what a copy does.
type phase byte

const (
	phaseNone     phase = iota // no shim is there
	phaseLive                  // its program runs
	phaseStopping              // its program runs, and was asked to stop
	phaseBetween               // its shim is there, and starts or ends
)

// copyState is what is found in a slot.
type copyState struct {
	slot
	phase  phase
	*state // nil: nothing is known of it
}

// look says what is in the slot. It changes nothing.
func (s slot) look() (copyState, error) {
	c := copyState{slot: s}
	held, err := lockHeld(s.lockPath())
	if err != nil {
		return c, fmt.Errorf("copy %d: lock: %w", s.replica, err)
	}
	c.state, err = readState(s.statePath())
	switch {
	case err != nil && !held && errors.Is(err, errDamaged):
		s.d.log.Warn("state of a copy that doesn't run is damaged", "name", s.name, "replica", s.replica, "error", err)
		return c, nil
	case err != nil:
		return c, fmt.Errorf("copy %d: state: %w; if it runs, its shim does: kill PID, and its program ends too", s.replica, err)
	case !held:
		c.reap()
		return c, nil
	}
	c.phase = phaseBetween
	if c.state == nil || c.End != nil || c.Program.PID == 0 {
		return c, nil
	}
	h, err := c.openShim()
	if errors.Is(err, errGone) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("copy %d: %w", s.replica, err)
	}
	h.close()
	c.phase = phaseLive
	if readStopOrder(s.stopPath(), c.Run) != nil {
		c.phase = phaseStopping
	}
	return c, nil
}

// openShim returns a handle on the shim, or an error that matches errGone. What
// runs since another boot is somebody else.
func (c copyState) openShim() (*handle, error) {
	if c.Boot != c.d.boot {
		return nil, errGone
	}
	return c.Shim.open()
}

// reap lets go of the shim if it has ended, and is a child of this process.
func (c copyState) reap() {
	if c.state == nil {
		return
	}
	if h, err := c.openShim(); err == nil { // which reaps what has ended
		h.close()
	}
}

// settle is look, except that it waits for the end of what comes or goes.
func (s slot) settle(ctx context.Context) (copyState, error) {
	ticker := time.NewTicker(settleEvery)
	defer ticker.Stop()
	for end := time.Now().Add(settleTimeout); ; {
		c, err := s.look()
		if err != nil || c.phase != phaseBetween {
			return c, err
		}
		if time.Now().After(end) {
			if c.state == nil {
				return c, fmt.Errorf("copy %d: %s is held, and nothing says by whom: look for a process of the command shim with the arguments %q and %d, and kill it",
					s.replica, s.lockPath(), s.name, s.replica)
			}
			return c, s.force(ctx, *c.state)
		}
		select {
		case <-ctx.Done():
			return c, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// lockHeld reports whether a shim holds the lock.
func lockHeld(path string) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return false, err
	}
	return lock.Type != unix.F_UNLCK, nil
}

// takeLock returns a file that holds the lock, and goes on doing so in whatever
// process inherits it.
func takeLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}

// start starts a copy in an empty slot, and returns what its shim wrote of it.
func (s slot) start(ctx context.Context, spec Spec) (copyState, error) {
	c, err := s.begin(ctx, spec)
	if err != nil {
		return c, fmt.Errorf("copy %d: %w", s.replica, err)
	}
	s.d.log.Info("copy started", "name", s.name, "replica", s.replica, "pid", c.Program.PID, "version", c.Version)
	return c, nil
}

func (s slot) begin(ctx context.Context, spec Spec) (copyState, error) {
	c := copyState{slot: s}
	if err := s.leave(ctx); err != nil {
		return c, err
	}
	o, err := s.order(spec)
	if err != nil {
		return c, err
	}
	lock, err := takeLock(s.lockPath())
	if err != nil {
		return c, err
	}
	defer lock.Close()
	if err := s.launch(ctx, o, lock); err != nil {
		return c, err
	}
	if c.state, err = readState(s.statePath()); err != nil {
		return c, err
	}
	if c.state == nil || c.Run != o.State.Run {
		return c, fmt.Errorf("%s is not what its shim wrote", s.statePath())
	}
	c.phase = phaseLive
	return c, nil
}

func (s slot) order(spec Spec) (order, error) {
	who, err := lookUp(spec.User)
	if err != nil {
		return order{}, err
	}
	run := make([]byte, 16)
	if _, err := rand.Read(run); err != nil {
		return order{}, err
	}
	o := order{
		State: state{
			Name: s.name, Replica: s.replica, Version: spec.version(),
			Run: hex.EncodeToString(run), Stop: spec.Stop,
		},
		StatePath: s.statePath(), StopPath: s.stopPath(),
		LogPath:  filepath.Join(s.d.logDir, logName(s.name, s.replica)),
		LogBytes: s.d.logBytes, LogFiles: s.d.logFiles,
		Argv: spec.Argv, Dir: spec.Dir, As: who.as,
	}
	o.Env = environment(spec.Env, who, map[string]string{
		"ESPALIER_NAME": s.name, "ESPALIER_REPLICA": strconv.Itoa(s.replica), runVariable: o.State.Run,
	})
	return o, nil
}

// launch starts a shim, and returns once that has started the program.
func (s slot) launch(ctx context.Context, o order, lock *os.File) error {
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	stdin, err := inMemory(text)
	if err != nil {
		return err
	}
	defer stdin.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	argv := append(append([]string{}, s.d.shim...), "--", s.name, strconv.Itoa(s.replica))
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		// It does little. Nothing of its environment goes to the program.
		Dir: "/", Env: append(os.Environ(), "GOMAXPROCS=2", "GOMEMLIMIT=16MiB"),
		Files: []*os.File{stdin, write, write, lock},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	err = errors.Join(err, write.Close())
	if err != nil {
		return fmt.Errorf("shim: %w", err)
	}
	if err = s.await(ctx, read); err != nil {
		_ = p.Kill() // it has ended, or is of no use; its program goes with it
		_, _ = p.Wait()
		return err
	}
	return p.Release() // whoever sees its end reaps it
}

// inMemory returns a file with that content that lies nowhere.
func inMemory(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory for the order: %w", err)
	}
	f := os.NewFile(uintptr(fd), "order")
	_, err = f.Write(text)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// await reads a shim's answer.
func (s slot) await(ctx context.Context, read *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("its shim has not started it within %v", startTimeout))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := io.ReadAll(io.LimitReader(read, maxReplyBytes))
	text, failed := strings.CutPrefix(string(reply), replyFailed)
	switch {
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("answer of its shim: %w", err)
	case string(reply) == replyStarted:
		return nil
	case failed:
		return errors.New(clip(strings.TrimSpace(text), maxDriftBytes))
	default:
		return fmt.Errorf("its shim %q doesn't work: %s", s.d.shim, clip(string(reply), maxDriftBytes))
	}
}

// stop stops the copy, waits until nothing of it is left, and empties the slot.
func (s slot) stop(ctx context.Context, c copyState, how Stopping) error {
	if c.phase == phaseLive || c.phase == phaseStopping {
		if err := c.halt(ctx, how); err != nil {
			return fmt.Errorf("copy %d: stop: %w", s.replica, err)
		}
		s.d.log.Info("copy stopped", "name", s.name, "replica", s.replica, "pid", c.Program.PID)
	}
	if err := s.leave(ctx); err != nil {
		return fmt.Errorf("copy %d: stop: %w", s.replica, err)
	}
	return nil
}

func (c copyState) halt(ctx context.Context, how Stopping) error {
	h, err := c.openShim()
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer h.close()
	err = writeJSON(c.stopPath(), stopOrder{c.Run, how})
	if err != nil { // a full disk
		c.d.log.Warn("copy is stopped as it was started to be", "name", c.name, "replica", c.replica, "error", err)
	}
	if err := h.signal(unix.SIGTERM); err != nil {
		return err
	}
	late, cancel := context.WithTimeout(ctx, how.Timeout+killTimeout+stopGrace)
	defer cancel()
	if err := h.wait(late); err == nil || ctx.Err() != nil {
		return err
	}
	return c.force(ctx, *c.state)
}

// force ends a shim that doesn't do its duty, and its program.
func (s slot) force(ctx context.Context, st state) error {
	s.d.log.Warn("shim does not end, and is killed", "name", s.name, "replica", s.replica, "pid", st.Shim.PID)
	if st.Boot != s.d.boot {
		return errors.New("its lock is held, but not by the shim of its state")
	}
	for _, p := range []identity{st.Shim, st.Program} {
		h, err := p.open()
		if errors.Is(err, errGone) {
			continue
		}
		if err == nil {
			err = h.kill(ctx)
			h.close()
		}
		if err != nil {
			return err
		}
	}
	return sweep(ctx, st.Run)
}

// leave empties a slot without a shim: what its copy left behind goes, and what
// was written of it.
func (s slot) leave(ctx context.Context) error {
	st, err := readState(s.statePath())
	if err != nil && !errors.Is(err, errDamaged) {
		return err
	}
	if err == nil && st != nil && st.Boot == s.d.boot && (st.End == nil || st.End.Left) {
		if err := sweep(ctx, st.Run); err != nil {
			return err
		}
	}
	if err := removeIfThere(s.stopPath()); err != nil {
		return err
	}
	return removeIfThere(s.statePath())
}

// forget removes what is left of a slot that was emptied.
func (s slot) forget() error { return removeIfThere(s.lockPath()) }

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// makeFolder makes the folder of an object's state.
func (d *Driver) makeFolder(name string) error {
	err := os.Mkdir(d.folder(name), 0o700)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return durable.SyncFolder(d.runDir)
}
