package onhost_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/internal/onhost"
)

// fake is an agent that notes what it is told.
type fake struct {
	convergence *desired.Convergence
	failures    []desired.Failure
	steps       int
	broken      error
	told        []string
}

func (f *fake) Convergence() (desired.Convergence, bool) {
	if f.convergence == nil {
		return desired.Convergence{}, false
	}
	return *f.convergence, true
}

func (f *fake) Failures() []desired.Failure { return f.failures }

func (f *fake) Plan() iter.Seq2[apply.Step, error] {
	return func(yield func(apply.Step, error) bool) {
		for i := range f.steps {
			if !yield(apply.Step{Key: fmt.Sprint("k", i), Action: "delete"}, nil) {
				return
			}
		}
		if f.broken != nil {
			yield(apply.Step{}, f.broken)
		}
	}
}

func (f *fake) Pause(why string) error { f.told = append(f.told, "pause "+why); return nil }

func (f *fake) Resume() error { f.told = append(f.told, "resume"); return nil }

func (f *fake) Release(root desired.Digest) error {
	if f.broken != nil {
		return f.broken
	}
	f.told = append(f.told, "release "+root.String())
	return nil
}

// serve serves f in a folder, until stop is called.
func serve(t *testing.T, dir string, f *fake) (c *onhost.Client, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- onhost.Serve(ctx, dir, "web-01", f) }()
	c = onhost.NewClient(dir)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		_, err := c.Status(ctx)
		if err == nil {
			break
		}
		if !errors.Is(err, onhost.ErrNotRunning) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	return c, func() {
		t.Helper()
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}
}

func TestOnHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 40)) // longer than a socket's path may be
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	f := &fake{}
	c, stop := serve(t, dir, f)
	defer stop()
	if info, err := os.Stat(filepath.Join(dir, "agent.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v, want it to be its owner's alone", info, err)
	}
	ctx := t.Context()
	if s, err := c.Status(ctx); err != nil || s.Host != "web-01" || s.Applying != nil {
		t.Errorf("Status = %+v, %v", s, err)
	}
	f.convergence = &desired.Convergence{State: desired.Guarded, Pending: 7, Desired: desired.Digest{1}}
	if s, err := c.Status(ctx); err != nil || s.Applying == nil || !s.Applying.Equal(*f.convergence) {
		t.Errorf("Status = %+v, %v, want %+v", s, err, f.convergence)
	}
	for i := range 5000 {
		f.failures = append(f.failures, desired.Failure{Key: fmt.Sprint(i), Error: strings.Repeat("x", 200), Attempts: 1})
	}
	n := 0
	for got, err := range c.Failures(ctx) {
		if err != nil || got != f.failures[n] {
			t.Fatalf("failure %d is %+v, %v", n, got, err)
		}
		n++
	}
	if n != len(f.failures) {
		t.Errorf("there are %d failures, want %d", n, len(f.failures))
	}
	for _, err := range []error{c.Pause(ctx, "a look"), c.Resume(ctx), c.Release(ctx, desired.Digest{1})} {
		if err != nil {
			t.Error(err)
		}
	}
	if want := []string{"pause a look", "resume", "release " + desired.Digest{1}.String()}; !slices.Equal(f.told, want) {
		t.Errorf("it was told %q, want %q", f.told, want)
	}
}

func TestPlan(t *testing.T) {
	f := &fake{steps: 3, broken: errors.New("disk on fire")}
	c, stop := serve(t, t.TempDir(), f)
	defer stop()
	var keys []string
	var last error
	for s, err := range c.Plan(t.Context()) {
		if last = err; err == nil {
			keys = append(keys, s.Action+" "+s.Key)
		}
	}
	if !slices.Equal(keys, []string{"delete k0", "delete k1", "delete k2"}) || !errors.Is(last, onhost.ErrRefused) || !strings.Contains(last.Error(), "on fire") {
		t.Errorf("the plan is %q, %v", keys, last)
	}
	if err := c.Release(t.Context(), desired.Digest{}); !errors.Is(err, onhost.ErrRefused) || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("Release = %v, want the agent's word", err)
	}
}

// TestNotRunning: nobody answers before an agent runs, nor after; what is left of
// one is no hindrance for the next.
func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	if _, err := onhost.NewClient(dir).Status(t.Context()); !errors.Is(err, onhost.ErrNotRunning) {
		t.Errorf("Status = %v, want %v", err, onhost.ErrNotRunning)
	}
	for range 2 {
		c, stop := serve(t, dir, &fake{})
		stop()
		if _, err := c.Status(t.Context()); !errors.Is(err, onhost.ErrNotRunning) {
			t.Errorf("Status = %v, want %v", err, onhost.ErrNotRunning)
		}
	}
}
