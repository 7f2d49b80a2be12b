package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
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
	// The race detector would let each of the hundreds of commands sleep for a second before it ends.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=10")
	os.Unsetenv("ESPALIER_SERVER")
	os.Unsetenv("ESPALIER_IDENTITY")
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

	mu   sync.Mutex
	said sync.Cond // of log or over
	log  strings.Builder
	over bool
}

var serving = regexp.MustCompile(`msg=serving address=(\S+)`)

// serve starts a server of a data folder on a free port, without TLS.
func serve(t *testing.T, data string) *daemon {
	t.Helper()
	return serveWith(t, data, "--insecure")
}

// serveWith starts a server with more flags.
func serveWith(t *testing.T, data string, flags ...string) *daemon {
	t.Helper()
	d := start(t, append([]string{"serve", "--listen", "127.0.0.1:0", "--data", data}, flags...)...)
	d.address = d.says(t, serving)
	return d
}

// start starts a command that goes on until it is killed.
func start(t *testing.T, args ...string) *daemon {
	t.Helper()
	d := &daemon{Cmd: exec.Command(os.Args[0], args...), ended: make(chan struct{})}
	d.said.L = &d.mu
	stderr, err := d.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.kill(syscall.SIGKILL) })
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			d.mu.Lock()
			fmt.Fprintln(&d.log, lines.Text())
			d.mu.Unlock()
			d.said.Broadcast()
		}
		d.Wait()
		d.mu.Lock()
		d.over = true
		d.mu.Unlock()
		d.said.Broadcast()
		close(d.ended)
	}()
	return d
}

// says waits until the process has logged what the expression matches, and
// returns its first group.
func (d *daemon) says(t *testing.T, what *regexp.Regexp) string {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if m := what.FindStringSubmatch(d.log.String()); m != nil {
			return m[len(m)-1]
		}
		if d.over {
			t.Fatalf("the process ended, and did not say %s:\n%s", what, d.log.String())
		}
		d.said.Wait()
	}
}

// kill ends the process with a signal and waits for its end.
func (d *daemon) kill(s syscall.Signal) {
	d.Process.Signal(s)
	<-d.ended
}

// at are the flags that name a server.
func (d *daemon) at(args ...string) []string {
	return slices.Clip(append(args, "--server", d.address, "--insecure"))
}

// as are the flags that name a server with TLS, and the caller's credentials.
func (d *daemon) as(identity string, args ...string) []string {
	return slices.Clip(append(args, "--server", d.address, "--identity", identity))
}

// host are the flags with which an agent names a server with TLS.
func (d *daemon) host(args ...string) []string {
	return slices.Clip(append(args, "--server", d.address))
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
