package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"testing"

	"espalier/agent"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	"espalier/store"
)

// TestVerdict: only a probe that could tell, or that crashed, speaks against a
// file. One that was killed, as by an operator's second ^C, doesn't.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		script       string
		found, fails bool
	}{
		{"exit 0", false, false},
		{"echo it is damaged", true, false},
		{"exit 1", false, true},
		{"echo panic: page 7 >&2; exit 2", true, false},
		{"kill -SEGV $$", true, false},
		{"kill -BUS $$", true, false},
		{"kill -ABRT $$", true, false},
		{"kill -KILL $$", false, true},
		{"kill -TERM $$", false, true},
		{"kill -INT $$", false, true},
	} {
		found, err := verdict(exec.Command("sh", "-c", c.script))
		if (found != "") != c.found || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v, want found %v, fails %v", c.script, found, err, c.found, c.fails)
		}
	}
	if found, err := verdict(exec.Command(filepath.Join(t.TempDir(), "nothing"))); found != "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a program that is not there: %q, %v", found, err)
	}
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, exitDone},
		{errors.New("anything"), exitFailed},
		{store.ErrNotFound, exitFailed},
		{misusef("no"), exitMisuse},
		{fmt.Errorf("%w key", desired.ErrInvalid), exitMisuse},
		{fmt.Errorf("%w: %w", delta.ErrProtocol, desired.ErrInvalid), exitFailed}, // what a server sent
		{store.ErrConflict, exitRefused},
		{&store.DeleteGuardError{}, exitRefused},
		{store.ErrRequestReused, exitRefused},
		{agent.ErrUnsafe, exitRefused},
		{wire.ErrUnreachable, exitUnreachable},
	} {
		err := c.err
		if err != nil {
			err = fmt.Errorf("set s: %w", err)
		}
		if got := exitStatus(err); got != c.want {
			t.Errorf("%v ends with %d, want %d", err, got, c.want)
		}
	}
}
