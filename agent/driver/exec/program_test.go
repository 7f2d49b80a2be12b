package exec_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	osexec "os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/agent/driver/exec"
)

// TestMain lets the test's own binary be the program that a driver runs.
func TestMain(m *testing.M) {
	if mode := os.Getenv("PROGRAM_MODE"); mode != "" {
		os.Exit(program(mode))
	}
	os.Exit(m.Run())
}

// line is what the program reads.
type line struct {
	ID          string            `json:"id"`
	Op          string            `json:"op"`
	Key         string            `json:"key"`
	Name        string            `json:"name"`
	Doubt       bool              `json:"doubt"`
	Note        *string           `json:"note"`
	Value       *string           `json:"value"`
	ValueBase64 []byte            `json:"value_base64"`
	Attributes  map[string]string `json:"attributes"`
	After       []string          `json:"after"`
}

// program is the program that the mode names.
func program(mode string) int {
	lines := func(yield func(line) bool) {
		d := json.NewDecoder(os.Stdin)
		for {
			var l line
			if err := d.Decode(&l); err != nil || !yield(l) {
				return
			}
		}
	}
	ok := func(l line) { fmt.Printf("{\"id\":%q,\"ok\":true}\n", l.ID) }
	all := func() {
		for l := range lines {
			ok(l)
		}
	}
	switch mode {
	case "ok":
		all()
	case "backwards": // answers in another order than it was asked, without a last line's end
		var read []line
		for l := range lines {
			read = append(read, l)
		}
		for i := range read {
			ok(read[len(read)-1-i])
		}
	case "record": // tells what it was given
		for l := range lines {
			text, _ := json.Marshal(l)
			fmt.Fprintln(os.Stderr, string(text))
			fmt.Printf("{\"id\":%q,\"ok\":true,\"note\":%q}\n", l.ID, "noted "+l.Name)
		}
	case "environment":
		fmt.Fprintln(os.Stderr, strings.Join(os.Environ(), "\n"))
		dir, _ := os.Getwd()
		fmt.Fprintln(os.Stderr, "DIR="+dir)
		all()
	case "mixed": // refuses what is named so, and forgets what is named so
		for l := range lines {
			switch {
			case strings.Contains(l.Name, "refused"):
				fmt.Printf("{\"id\":%q,\"error\":\"no room for %s\"}\n", l.ID, l.Name)
			case strings.Contains(l.Name, "forgotten"):
			default:
				ok(l)
			}
		}
		fmt.Fprintln(os.Stderr, "that was all")
	case "look":
		for l := range lines {
			switch l.Name {
			case "gone":
				fmt.Printf("{\"id\":%q,\"drift\":\"missing\"}\n", l.ID)
			case "noted":
				fmt.Printf("{\"id\":%q,\"ok\":true,\"note\":\"anew\"}\n", l.ID)
			case "refused":
				fmt.Printf("{\"id\":%q,\"error\":\"can't look\"}\n", l.ID)
			case "forgotten":
			default:
				ok(l)
			}
		}
	case "say": // answers each with what its value is
		for l := range lines {
			fmt.Println(strings.ReplaceAll(*l.Value, "ID", l.ID))
		}
	case "crash": // after half of what it was given
		var read []line
		for l := range lines {
			read = append(read, l)
		}
		for _, l := range read[:len(read)/2] {
			ok(l)
		}
		fmt.Fprintln(os.Stderr, "panic: out of luck")
		return 7
	case "deaf": // never reads, and hangs
		fmt.Fprintln(os.Stderr, "ready")
		forever()
	case "closes": // closes its input unread
		os.Stdin.Close()
		fmt.Fprintln(os.Stderr, "ready")
	case "eager": // answers for what it has not read, and more than a pipe holds; then reads
		for range 4000 {
			fmt.Println(`{"id":"unknown-but-long-enough-to-fill-the-pipe-before-anything-is-read","ok":true}`)
		}
		all()
	case "hangs": // after half of what it was given
		half := true
		for l := range lines {
			if half {
				ok(l)
			}
			half = !half
			if l.Name == "last" {
				break
			}
		}
		fmt.Fprintln(os.Stderr, "ready")
		forever()
	case "polite": // answers when it is told to end
		ended := make(chan os.Signal, 1)
		signal.Notify(ended, syscall.SIGTERM)
		fmt.Fprintln(os.Stderr, "ready")
		<-ended
		all()
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		forked("sleeper")
		fmt.Fprintln(os.Stderr, "ready")
		forever()
	case "flood":
		for {
			if _, err := fmt.Println("nonsense"); err != nil {
				return 1
			}
		}
	case "longline":
		for {
			if _, err := fmt.Print(strings.Repeat("x", 1000)); err != nil {
				return 1
			}
		}
	case "noisy":
		for i := range 10_000 {
			fmt.Fprintln(os.Stderr, i, strings.Repeat("z", 10))
		}
	case "parent": // leaves one behind that keeps its pipes open
		all()
		forked("sleeper")
	case "runaway": // the same, in a session of its own
		all()
		forked("escaped")
	case "agent": // runs another program
		return agent()
	case "held":
		if _, err := os.OpenFile(os.Getenv("PROGRAM_FIFO"), os.O_WRONLY, 0); err != nil {
			return 1
		}
		fmt.Fprintln(os.Stderr, "held")
		forever()
	case "escaped", "sleeper":
		if mode == "escaped" {
			if _, err := syscall.Setsid(); err != nil {
				return 1
			}
		}
		signal.Ignore(syscall.SIGTERM)
		if _, err := os.OpenFile(os.Getenv("PROGRAM_FIFO"), os.O_WRONLY, 0); err != nil {
			return 1
		}
		fmt.Fprintln(os.Stdout, "not an answer")
		fmt.Fprintf(os.NewFile(3, "up"), "%d\n", os.Getpid())
		forever()
	}
	return 0
}

func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

// forked starts the program in another mode, and tells its number once it is up.
func forked(mode string) {
	r, w, err := os.Pipe()
	if err != nil {
		panic(err)
	}
	c := osexec.Command(os.Args[0])
	c.Env = append(os.Environ(), "PROGRAM_MODE="+mode)
	c.Stdin, c.Stdout, c.Stderr, c.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, []*os.File{w}
	if err := c.Start(); err != nil {
		panic(err)
	}
	w.Close()
	pid, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		panic(err)
	}
	fmt.Fprint(os.Stderr, "pid ", pid)
}

// agent is an agent that is about to be killed: it runs a program that holds the
// pipe.
func agent() int {
	d, err := exec.New(exec.Options{
		Command: []string{os.Args[0]}, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Env: []string{"PROGRAM_MODE=held", "PROGRAM_FIFO=" + os.Getenv("PROGRAM_FIFO")},
	})
	if err != nil {
		return 1
	}
	d.Apply(context.Background(), changes("a"))
	return 0
}
