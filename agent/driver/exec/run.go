package exec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// errFlood is why a program is ended that doesn't stop writing.
var errFlood = errors.New("it wrote more than its answers can be")

// notBegun is why a run did nothing at all.
type notBegun struct{ error }

func (e notBegun) Unwrap() error { return e.error }

// run is one run of the program.
type run struct {
	*program
	batch *batch
	cmd   *exec.Cmd
	pipes
	stop context.CancelCauseFunc // ends the program

	said words
}

// run runs the program for a batch, and returns once nothing is left of it. Its
// error says why what it did not answer is not done; it is a notBegun if the program
// never ran.
func (p *program) run(ctx context.Context, b *batch) error {
	if err := ctx.Err(); err != nil {
		return notBegun{fmt.Errorf("not begun: %w", context.Cause(ctx))}
	}
	if len(b.asked) == 0 {
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	r := &run{program: p, batch: b, stop: stop, said: words{log: p.log}}
	// The program is to end with the agent, and the kernel takes the thread that
	// started it for the agent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := r.start(); err != nil {
		return notBegun{explainStart(p.options.Command[0], p.options.Dir, err)}
	}
	err := r.converse(ctx)
	r.tell(err)
	return r.unanswered(ctx, err)
}

func (r *run) start() error {
	o := &r.options
	r.cmd = exec.Command(o.Command[0], o.Command[1:]...)
	r.cmd.Env, r.cmd.Dir, r.cmd.SysProcAttr = r.env, o.Dir, ownGroup()
	if err := r.open(); err != nil {
		return err
	}
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = r.theirs[0], r.theirs[1], r.theirs[2]
	err := r.cmd.Start()
	r.closeTheirs()
	if err != nil {
		r.closeOurs()
	}
	return err
}

// converse gives the program its lines and takes its answers until it has ended,
// by itself or because it has to. It returns how it ended.
func (r *run) converse(ctx context.Context) error {
	var group sync.WaitGroup
	group.Go(func() {
		// A program that doesn't read to the end is judged by its answers.
		_ = r.batch.write(r.stdin)
		_ = r.stdin.Close()
	})
	group.Go(r.listen)
	group.Go(func() { readLines(r.stderr, maxLogBytes, r.said.take) })
	exited := make(chan struct{})
	var wait func() error
	group.Go(func() {
		wait = awaitExit(r.cmd)
		close(exited)
	})
	select {
	case <-exited:
	case <-ctx.Done():
		r.end(exited)
	}
	// What the program left behind goes with it. Until it is waited for, nobody else
	// can have its number.
	signalGroup(r.cmd.Process.Pid, syscall.SIGKILL)
	<-exited
	err := wait()
	// Somebody may have left the group with the ends of our pipes. What the program
	// wrote is in them; nobody waits for more.
	r.lastCall()
	group.Wait()
	r.closeOurs()
	return err
}

// end asks the program to end, and waits for as long as it has for it.
func (r *run) end(exited <-chan struct{}) {
	signalGroup(r.cmd.Process.Pid, syscall.SIGTERM)
	grace := time.NewTimer(r.options.Grace)
	defer grace.Stop()
	select {
	case <-exited:
	case <-grace.C:
	}
}

// listen takes the program's answers.
func (r *run) listen() {
	room := outputSlack + len(r.batch.asked)*MaxAnswerBytes
	answers := &meter{Reader: r.stdout, left: room, over: func() { r.stop(errFlood) }}
	readLines(answers, MaxAnswerBytes, func(line []byte, cut bool) {
		if cut {
			r.batch.blame(fmt.Errorf("a line of its answers has more than %d bytes: %s", MaxAnswerBytes, quoted(line)))
		} else {
			r.batch.take(line)
		}
	})
}

// tell logs how a run went that was not as it should be, although all was
// answered; what was not has an error that says so.
func (r *run) tell(err error) {
	if r.batch.left > 0 {
		return
	}
	if r.batch.fault != nil {
		r.log.Warn("the program's answers are not all as they should be", "error", r.batch.fault)
	}
	if err != nil {
		r.log.Warn("the program answered all that it was asked, and ended otherwise than well", "error", err)
	}
}

// unanswered returns the error of what the program gave no answer for, having
// ended with err.
func (r *run) unanswered(ctx context.Context, err error) error {
	if r.batch.left == 0 {
		return nil
	}
	how := []string{"no answer from " + r.options.Command[0]}
	cause := context.Cause(ctx)
	switch {
	case cause != nil:
		how = append(how, "it was ended")
	case err != nil:
		how = append(how, "it ended with "+err.Error())
	default:
		how = append(how, "it ended as if all were well")
	}
	if r.batch.fault != nil {
		how = append(how, r.batch.fault.Error())
	}
	if last := r.said.last(); last != "" {
		how = append(how, fmt.Sprintf("its last words were %q", last))
	}
	text := strings.Join(how, "; ")
	if cause != nil {
		return fmt.Errorf("%s: %w", text, cause)
	}
	return errors.New(text)
}

// explainStart returns err, of a program that could not be started in a folder,
// for a person.
func explainStart(path, dir string, err error) error {
	why := "it can't be run"
	switch {
	case !there(dir):
		why = fmt.Sprintf("its folder %s is not there", dir)
	case errors.Is(err, fs.ErrNotExist) && there(path):
		why = "the interpreter that it names is not there"
	case errors.Is(err, fs.ErrNotExist):
		why = "there is no such program"
	case errors.Is(err, fs.ErrPermission):
		why = "it is not an executable file, or one that the agent may not run"
	case errors.Is(err, syscall.ENOEXEC):
		why = "it is no program of this machine; a script's first line is #! and its interpreter"
	}
	return fmt.Errorf("start %s: %s: %w", path, why, err)
}

func there(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
