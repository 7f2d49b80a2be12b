package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// child is the process of the fleet's server, as its agents' process sees it.
type child struct {
	command  *exec.Cmd
	orders   io.WriteCloser
	outcomes *json.Decoder
	unhook   func() bool // from the context
}

// childPatience is how long the process may take to end by itself.
const childPatience = 30 * time.Second

// start starts the process, which gets no more orders once ctx is done.
func (o *FleetOptions) start(ctx context.Context) (*child, error) {
	command, err := o.Child()
	if err != nil {
		return nil, err
	}
	orders, err := command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("server's process: %w", err)
	}
	outcomes, err := command.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("server's process: %w", err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("server's process: %w", err)
	}
	return &child{
		command: command, orders: orders, outcomes: json.NewDecoder(outcomes),
		unhook: context.AfterFunc(ctx, func() { _ = orders.Close() }), // the order that it carries out is the last
	}, nil
}

// do gives an order and waits until it has been carried out.
func (c *child) do(o order) (outcome, error) {
	line, err := json.Marshal(o)
	if err == nil {
		_, err = c.orders.Write(append(line, '\n'))
	}
	var r outcome
	if err == nil {
		err = c.outcomes.Decode(&r)
	}
	if err != nil {
		return r, fmt.Errorf("server's process: %w", err)
	}
	if r.Err != "" {
		return r, errors.New("server's process: " + r.Err)
	}
	return r, nil
}

// Close lets the process stop, and ends it if it doesn't.
func (c *child) Close() error {
	c.unhook()
	_ = c.orders.Close() // it may be closed already
	force := time.AfterFunc(childPatience, func() { _ = c.command.Process.Kill() })
	defer force.Stop()
	if err := c.command.Wait(); err != nil {
		return fmt.Errorf("server's process: %w", err)
	}
	return nil
}

// usage is what a process has used.
type usage struct {
	at       time.Time
	cpu      time.Duration
	resident uint64
}

// usage reads what the process has used so far from the system: CPU to a
// hundredth of a second, and the memory that it has now.
func (c *child) usage() (usage, error) {
	u := usage{at: time.Now()}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.command.Process.Pid))
	if err != nil {
		return u, fmt.Errorf("what the server uses: %w", err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have spaces
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return u, errors.New("what the server uses: /proc says too little")
	}
	// proc_pid_stat(5): utime is field 14, stime 15, rss 24; these begin with 3.
	numbers := make([]uint64, 3)
	for i, field := range []int{14, 15, 24} {
		if numbers[i], err = strconv.ParseUint(fields[field-3], 10, 64); err != nil {
			return u, fmt.Errorf("what the server uses: %w", err)
		}
	}
	u.cpu = time.Duration(numbers[0]+numbers[1]) * (time.Second / clockTicks)
	u.resident = numbers[2] * uint64(os.Getpagesize())
	return u, nil
}

// clockTicks is the unit of CPU time in /proc, USER_HZ: 100 on all of Go's
// platforms.
const clockTicks = 100

// checkFiles returns nil if a process may have a connection for each agent, with
// some files besides.
func checkFiles(agents int) error {
	const besides = 256
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	need := uint64(agents + besides)
	if limit.Cur < need && limit.Max >= need { // Go raises it at the start, but a program may lower it again
		limit.Cur = limit.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			return fmt.Errorf("raise the limit of open files: %w", err)
		}
	}
	if limit.Cur < need {
		return fmt.Errorf("%d agents take %d open files in each of two processes, and this one may have %d: run 'ulimit -n %d' first, as root if it is refused",
			agents, need, limit.Max, need)
	}
	return nil
}
