//go:build linux

package process_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/agent/driver/process"
)

// TestMain is also the shim, the programs and the agent of the tests.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case "shim":
			if process.Shim() != nil {
				os.Exit(1)
			}
			os.Exit(0)
		case "child":
			os.Exit(child(os.Args[2], os.Args[3:]))
		case "agent":
			os.Exit(agent(os.Args[2:]))
		}
	}
	os.Setenv("GORACE", os.Getenv("GORACE")+" "+goRace)
	os.Exit(m.Run())
}

// child is a program. Its first argument but one says what it does; those that
// stay do so until they are asked to end.
func child(mode string, args []string) int {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, unix.SIGTERM, unix.SIGUSR1)
	switch mode {
	case "stay": // LABEL
		fmt.Println("ready", os.Getpid())
		<-asked
	case "exit": // STATUS TEXT
		fmt.Println(args[1])
		status, _ := strconv.Atoi(args[0])
		return status
	case "stubborn", "grandchild": // doesn't end
		fmt.Println("ready")
		for range asked {
			fmt.Println("asked")
		}
	case "says": // which signal it got
		fmt.Println("ready")
		fmt.Println("got", <-asked)
	case "lines": // FROM UNTIL, then waits
		from, _ := strconv.Atoi(args[0])
		until, _ := strconv.Atoi(args[1])
		for i := from; i < until; i++ {
			fmt.Println(line(i))
		}
		fmt.Println("ready")
		<-asked
	case "drip": // a line each time it is sent SIGUSR1
		fmt.Println("ready")
		for i := 0; (<-asked).(unix.Signal) == unix.SIGUSR1; i++ {
			fmt.Println(line(i))
		}
	case "parent", "leave": // LABEL; with a stubborn child, in a session of its own if there is another argument
		c := exec.Command(os.Args[0], "child", "grandchild")
		c.Stdout = os.Stdout
		if len(args) > 1 {
			c.SysProcAttr = &unix.SysProcAttr{Setsid: true}
		}
		if err := c.Start(); err != nil {
			return 1
		}
		if mode == "leave" {
			return 3
		}
		fmt.Println("parent")
		<-asked
	case "counts": // LABEL FILE; writes how many copies run when it is asked to end
		fmt.Println("ready")
		<-asked
		f, err := os.OpenFile(args[1], os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			return 1
		}
		fmt.Fprintf(f, "%s %s %d\n", args[0], os.Getenv("ESPALIER_REPLICA"), len(running(os.Getenv("ESPALIER_NAME"))))
		return 0
	case "env":
		dir, _ := os.Getwd()
		fmt.Printf("%s\ndir=%s\nuid=%d gid=%d\nready\n", strings.Join(os.Environ(), "\n"), dir, os.Getuid(), os.Getgid())
		<-asked
	default:
		return 99
	}
	return 0
}

func line(i int) string { return fmt.Sprintf("line %07d %s", i, strings.Repeat("x", i%50)) }

// until waits for a condition.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited two minutes until %s", what)
		}
	}
}

// next returns what comes next, within two minutes.
func next(t testing.TB, names <-chan string) string {
	t.Helper()
	select {
	case name := <-names:
		return name
	case <-time.After(2 * time.Minute):
		t.Fatal("waited two minutes for Watch to touch an object")
		return ""
	}
}
