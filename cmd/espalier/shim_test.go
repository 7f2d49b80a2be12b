//go:build linux

package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/agent/driver"
	"espalier/agent/driver/process"
	"espalier/internal/desired"
)

// TestShim shows that the program is the shim of what an agent runs, that what
// ends other commands doesn't end it, and that people are told that it isn't
// theirs.
func TestShim(t *testing.T) {
	if r := espalier(t, "", "shim", "--", "a", "0"); r.status != 1 || r.stdout != "" || !strings.Contains(r.stderr, "this command is run by the agent") {
		t.Errorf("espalier shim = %+v, want status 1", r)
	}
	dir := t.TempDir()
	d, err := process.New(process.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	c := driver.Change{Key: "run/a", Name: "a", Object: &desired.Object{Value: []byte(`{"argv":["/bin/sleep","600"],"ready_after":"0s"}`)}}
	r := d.Apply(t.Context(), []driver.Change{c})
	t.Cleanup(func() {
		if r := d.Apply(context.Background(), []driver.Change{{Key: c.Key, Name: c.Name}}); r[0].Err != nil {
			t.Error(r[0].Err)
		}
	})
	if r[0].Err != nil {
		t.Fatal(r[0].Err)
	}
	read := func() (s struct {
		Shim struct{ PID int }
		End  *struct{ How string }
	},
	) {
		text, err := os.ReadFile(filepath.Join(dir, "run", "a", "0.json"))
		if err == nil {
			err = json.Unmarshal(text, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range 2 {
		for _, sig := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT} {
			if err := syscall.Kill(read().Shim.PID, sig); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := syscall.Kill(read().Shim.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(2 * time.Minute); read().End == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited two minutes for the shim to stop its program")
		}
	}
	if how := read().End.How; how != "was ended by SIGTERM" {
		t.Errorf("the program %s, want that it was asked to end", how)
	}
}
