package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// The tests run this binary as the program: what they start are real processes
// over real sockets.
func TestMain(m *testing.M) {
	if os.Getenv("ESPALIER_TEST_MAIN") != "" {
		main()
		return
	}
	os.Setenv("ESPALIER_TEST_MAIN", "1")
	os.Unsetenv("ESPALIER_SERVER")
	os.Exit(m.Run())
}

// result is how a command ended.
type result struct {
	status         int
	stdout, stderr string
}

// espalier runs a command to its end.
func espalier(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{status: c.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
}

// must runs a command that has to succeed, and reads its JSON into into, if
// that isn't nil.
func must(t *testing.T, into any, stdin string, args ...string) result {
	t.Helper()
	if into != nil {
		args = append(args, "-o", "json")
	}
	r := espalier(t, stdin, args...)
	if r.status != 0 {
		t.Fatalf("espalier %s: status %d\n%s%s", strings.Join(args, " "), r.status, r.stdout, r.stderr)
	}
	if into != nil {
		if err := json.Unmarshal([]byte(r.stdout), into); err != nil {
			t.Fatalf("espalier %s: %v in %q", strings.Join(args, " "), err, r.stdout)
		}
	}
	return r
}

// daemon is a command that runs until it is killed.
type daemon struct {
	*exec.Cmd
	address string
	ended   chan struct{}
}

var serving = regexp.MustCompile(`msg=serving address=(\S+)`)

// serve starts a server of a data folder on a free port.
func serve(t *testing.T, data string) *daemon {
	t.Helper()
	d := &daemon{ended: make(chan struct{})}
	d.Cmd = exec.Command(os.Args[0], "serve", "--insecure", "--listen", "127.0.0.1:0", "--data", data)
	stderr, err := d.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.kill(syscall.SIGKILL) })
	lines := bufio.NewScanner(stderr)
	var log strings.Builder
	for d.address == "" && lines.Scan() {
		fmt.Fprintln(&log, lines.Text())
		if m := serving.FindStringSubmatch(lines.Text()); m != nil {
			d.address = m[1]
		}
	}
	go func() {
		io.Copy(io.Discard, stderr)
		d.Wait()
		close(d.ended)
	}()
	if d.address == "" {
		t.Fatalf("the server did not start:\n%s", log.String())
	}
	return d
}

// kill ends the process with a signal and waits for its end.
func (d *daemon) kill(s syscall.Signal) {
	d.Process.Signal(s)
	<-d.ended
}

// at are the flags that name a server.
func (d *daemon) at(args ...string) []string {
	return append(args, "--server", d.address, "--insecure")
}

// write writes a file of n objects as JSONL and returns its path; version makes
// the values.
func write(t *testing.T, dir string, n, version int) string {
	t.Helper()
	path := filepath.Join(dir, fmt.Sprintf("state-%d-%d.jsonl", n, version))
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(f)
	for i := range n {
		fmt.Fprintf(w, `{"key":"svc/%02d/obj/%07d","value":"value %d of version %d, and something to make it longer"}`+"\n",
			i%20, i*7919%n, i, version)
	}
	if err := errors.Join(w.Flush(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return path
}

type commit struct {
	Set                                           string
	Epoch, Root                                   string
	Revision                                      uint64
	Objects, Created, Updated, Deleted, Unchanged uint64
}

type synced struct {
	Host string
	Sets []struct {
		Set, Epoch, Root, Mode string
		Revision, Objects      uint64
		Upserts, Deletes       uint64
	}
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	RoundTrips    int    `json:"round_trips"`
	Seconds       float64
	Applied       uint64
	Failed        uint64
}
