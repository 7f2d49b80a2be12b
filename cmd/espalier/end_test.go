package main

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestEnd ends a demo from outside, in each way, and looks at what is left.
func TestEnd(t *testing.T) {
	for name, end := range map[string]func(c *exec.Cmd, out *os.File){
		"SIGINT":      func(c *exec.Cmd, _ *os.File) { c.Process.Signal(syscall.SIGINT) },
		"SIGTERM":     func(c *exec.Cmd, _ *os.File) { c.Process.Signal(syscall.SIGTERM) },
		"SIGHUP":      func(c *exec.Cmd, _ *os.File) { c.Process.Signal(syscall.SIGHUP) },
		"closed pipe": func(_ *exec.Cmd, out *os.File) { out.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "SIGHUP" && signal.Ignored(syscall.SIGHUP) {
				t.Skip("SIGHUP is ignored here, as under nohup, and by whatever is started from here")
			}
			temp := t.TempDir()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			c := exec.Command(os.Args[0], "demo", "--objects", "50000")
			var stderr bytes.Buffer
			c.Stdout, c.Stderr, c.Env = w, &stderr, append(os.Environ(), "TMPDIR="+temp)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			w.Close()
			if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
				t.Fatalf("the demo says nothing: %v", err)
			}
			end(c, r)
			if err := c.Wait(); c.ProcessState.ExitCode() != 1 {
				t.Errorf("it ended with %v, want status 1", err)
			}
			if said := stderr.String(); name == "closed pipe" && said != "" || name != "closed pipe" && !strings.Contains(said, "interrupted") {
				t.Errorf("it says %q", said)
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("it leaves %v, %v", left, err)
			}
		})
	}
}

// TestBadOutput prints to what can't be written to.
func TestBadOutput(t *testing.T) {
	bad, err := os.Open(os.DevNull) // for reading
	if err != nil {
		t.Fatal(err)
	}
	defer bad.Close()
	dir := t.TempDir()
	server := serve(t, filepath.Join(dir, "server"))
	must(t, nil, "", server.at("set", "s", "k", "v")...)
	for _, args := range [][]string{
		server.at("get", "s", "k"), server.at("list", "s"), server.at("head", "s"), server.at("sets"), server.at("check", "s"),
		server.at("apply", "s", "-f", write(t, dir, 3, 1)), server.at("agent", "--once", "--host", "s", "--data", filepath.Join(dir, "agent")),
		{"version"},
		{"--help"},
		{"demo", "--objects", "1000"},
	} {
		c := exec.Command(os.Args[0], args...)
		var stderr bytes.Buffer
		c.Stdout, c.Stderr = bad, &stderr
		_ = c.Run()
		if status := c.ProcessState.ExitCode(); status != 1 || !strings.Contains(stderr.String(), "standard output: ") {
			t.Errorf("espalier %s: status %d, %q, want 1, and what is wrong", strings.Join(args, " "), status, stderr.String())
		}
	}
}
