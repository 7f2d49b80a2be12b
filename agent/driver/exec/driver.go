// Package exec lets a program of the operator's make objects true: it is given
// changes as JSON lines on its standard input, and answers for each on its
// standard output. docs/drivers.md specifies both for who writes a program.
//
// The program is told at least once: what it was given may come again that it
// did already, after a crash of its own or of the host, or where its answer was
// lost. The id of a change is what makes that recognisable.
package exec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"espalier/agent/driver"
	"espalier/internal/desired"
)

// Options says which program it is, and how it is run.
type Options struct {
	// Command is the program, an absolute path, and its arguments. Required. It need
	// not be there yet: what is to be applied fails until it is.
	Command []string
	// Batch is how many changes one run is given at most; 0: DefaultBatch. Parallel is
	// how many runs there are at once; 0: 1. At most MaxBatch and MaxParallel.
	Batch, Parallel int
	// Timeout is how long a run may take, at most MaxTimeout; 0: as long as the
	// context of Apply allows, and DefaultTimeout for one that looks at objects.
	Timeout time.Duration
	// Grace is what a program that is told to end has for it; 0: DefaultGrace.
	Grace time.Duration
	// Env is added to the few variables that the program gets, as "KEY=value"; the
	// last of a name wins. The agent's own environment is not handed on.
	Env []string
	// Dir is the program's working folder; empty: "/".
	Dir string
	// Host is the host's name, for the program's ESPALIER_HOST; empty: there is none.
	Host desired.Name
	// Check says that the program also looks at objects that it made true: the
	// driver is a driver.Scanner then.
	Check bool
	// Logger receives what the program says on its standard error; nil:
	// slog.Default().
	Logger *slog.Logger
}

// program is the driver.
type program struct {
	options Options
	env     []string
	log     *slog.Logger
}

// checker is the driver if the program looks at objects, too.
type checker struct{ program }

// New returns a driver that runs a program. It is a driver.Batcher, and a
// driver.Scanner if Options.Check says so. It has nothing to close: no run
// outlives the call that it is for. Its errors match desired.ErrInvalid.
func New(o Options) (driver.Driver, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	o.Batch = cmp.Or(o.Batch, DefaultBatch)
	o.Parallel = cmp.Or(o.Parallel, 1)
	o.Grace = cmp.Or(o.Grace, DefaultGrace)
	o.Dir = cmp.Or(o.Dir, "/")
	log := cmp.Or(o.Logger, slog.Default()).With("program", o.Command[0])
	p := program{options: o, env: environment(o), log: log}
	if o.Check {
		return &checker{p}, nil
	}
	return &p, nil
}

func (o *Options) check() error {
	switch {
	case len(o.Command) == 0 || o.Command[0] == "":
		return fmt.Errorf("%w driver exec: it has no command", desired.ErrInvalid)
	case !filepath.IsAbs(o.Command[0]):
		return fmt.Errorf("%w command %q: want an absolute path", desired.ErrInvalid, o.Command[0])
	case o.Dir != "" && !filepath.IsAbs(o.Dir):
		return fmt.Errorf("%w folder %q of a command: want an absolute path", desired.ErrInvalid, o.Dir)
	case o.Batch < 0 || o.Batch > MaxBatch:
		return fmt.Errorf("%w batch %d: want 1 to %d", desired.ErrInvalid, o.Batch, MaxBatch)
	case o.Parallel < 0 || o.Parallel > MaxParallel:
		return fmt.Errorf("%w parallel %d: want 1 to %d", desired.ErrInvalid, o.Parallel, MaxParallel)
	case o.Timeout < 0 || o.Timeout > MaxTimeout:
		return fmt.Errorf("%w timeout %v: want a time up to %v", desired.ErrInvalid, o.Timeout, MaxTimeout)
	case o.Grace < 0:
		return fmt.Errorf("%w grace %v: it is less than 0", desired.ErrInvalid, o.Grace)
	}
	for _, text := range o.Command {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("%w command %q: it contains a NUL", desired.ErrInvalid, o.Command)
		}
	}
	for _, v := range o.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" || strings.ContainsRune(v, 0) {
			return fmt.Errorf("%w variable %q of a command: want NAME=value", desired.ErrInvalid, v)
		}
	}
	return nil
}

// Batching implements driver.Batcher.
func (p *program) Batching() driver.Batching {
	return driver.Batching{Objects: p.options.Batch, Parallel: p.options.Parallel, Timeout: p.options.Timeout}
}

// Apply implements driver.Driver by one run of the program.
func (p *program) Apply(ctx context.Context, changes []driver.Change) []driver.Result {
	results := make([]driver.Result, len(changes))
	if len(changes) == 0 {
		return results
	}
	if p.options.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = withTimeout(ctx, p.options.Timeout)
		defer cancel()
	}
	b := newBatch(len(changes))
	for _, deletion := range []bool{true, false} { // deletions first
		for i, c := range changes {
			if c.Deleted() != deletion {
				continue
			}
			if err := b.add(requestOf(c), i); err != nil {
				results[i] = driver.Result{Err: err, Untouched: true}
			}
		}
	}
	err := p.run(ctx, b)
	var never notBegun
	untouched := errors.As(err, &never)
	for _, a := range b.asked {
		r := &results[a.index]
		switch {
		case !a.answered:
			r.Err, r.Untouched = err, untouched
		case a.answer.err != nil:
			r.Err = a.answer.err
		case !changes[a.index].Deleted():
			r.Note = encodeNote(a.request.ID, a.answer.note)
		}
	}
	return results
}

// withTimeout has a run end in time, and say why.
func withTimeout(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("it took longer than the %v that it has: %w", d, context.DeadlineExceeded))
}
