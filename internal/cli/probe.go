package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"espalier/store"
)

// probeName is not for people.
const probeName = "probe-file"

// probeCommand says on standard output what is wrong with a file, and ends with
// status 0 if it could tell.
func (a *app) probeCommand() *cobra.Command {
	return &cobra.Command{
		Use:    probeName + " PATH",
		Hidden: true,
		Args:   exactArgs("PATH"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := store.Probe(args[0])
			if errors.Is(err, store.ErrCorrupt) {
				_, err = fmt.Fprint(a.Out, strings.TrimPrefix(err.Error(), store.ErrCorrupt.Error()+": "))
			}
			return err
		},
	}
}

// probe checks a file in a process of its own: opening a damaged one can crash.
// It returns an error that matches store.ErrCorrupt if that process says so, or
// crashed. Where it can't be run, or is ended from outside, nothing is said
// against the file yet, and it is checked in this process.
func probe(ctx context.Context, path string) error {
	self, err := os.Executable()
	if err != nil {
		return store.Probe(path)
	}
	found, err := verdict(exec.CommandContext(ctx, self, probeName, "--", path))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return store.Probe(path)
	case found != "":
		return fmt.Errorf("%w: %.300s", store.ErrCorrupt, found)
	}
	return nil
}

// verdict runs a probe and returns what it found, if it could tell.
func verdict(c *exec.Cmd) (found string, err error) {
	out, err := c.Output()
	var ended *exec.ExitError
	if errors.As(err, &ended) && crashed(ended) {
		return fmt.Sprintf("file %s: the program crashes on it: %.200s", c.Args[len(c.Args)-1], ended.Stderr), nil
	}
	return string(out), err
}

// crashed reports whether a process came to its end by itself, but not as it
// should: the Go runtime ends with status 2, or by one of these signals.
func crashed(e *exec.ExitError) bool {
	if e.Exited() {
		return e.ExitCode() == 2
	}
	status, ok := e.Sys().(syscall.WaitStatus)
	if !ok {
		return false
	}
	switch status.Signal() {
	case syscall.SIGSEGV, syscall.SIGBUS, syscall.SIGABRT, syscall.SIGILL, syscall.SIGFPE, syscall.SIGTRAP:
		return true
	default:
		return false
	}
}
