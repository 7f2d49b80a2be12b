package bench

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"time"

	"espalier/internal/desired"
)

// FleetOptions says what RunFleet measures.
type FleetOptions struct {
	// Agents is how many agents there are, each of a host of its own with a
	// connection of its own; 0: DefaultFleetAgents.
	Agents int
	// Interval is how long each waits between two polls, give or take a tenth; 0:
	// DefaultFleetInterval.
	Interval time.Duration
	// Duration is how long idle polls are measured, and how long polls while hosts
	// change; 0: DefaultFleetDuration.
	Duration time.Duration
	// PlainOnly leaves out the run over TLS.
	PlainOnly bool
	// Child prepares a process, of this program or another, that calls ServeFleet
	// with its standard input and output.
	Child func() (*exec.Cmd, error)
	// HeapProfile names files for the server's heap while it holds the agents: one
	// for each run, with its number and ".pprof" after it; empty: none.
	HeapProfile string
	Observer    Observer
}

// The defaults of FleetOptions.
const (
	DefaultFleetAgents   = 10_000
	DefaultFleetInterval = 10 * time.Second
	DefaultFleetDuration = 20 * time.Second
)

// FleetReport is the outcome of RunFleet.
type FleetReport struct {
	Machine
	Agents   int     `json:"agents"`
	Interval float64 `json:"interval_seconds"`
	Seconds  float64 `json:"seconds"`
	// FillSeconds is how long it took to create a set for each host.
	FillSeconds float64    `json:"fill_seconds"`
	Runs        []FleetRun `json:"runs"`
}

// FleetRun is what was measured over connections of one kind.
type FleetRun struct {
	TLS bool `json:"tls"`
	// Held is how many agents were connected at the end, all of which had polled
	// without an error; ConnectSeconds how long it took until all were.
	Held           int     `json:"held"`
	ConnectSeconds float64 `json:"connect_seconds"`
	Memory         Memory  `json:"memory_per_agent"`
	// Idle are polls while nothing changes.
	Idle FleetPolls `json:"idle"`
	// All is a change for each host, as fast as the server commits. One is a
	// change for one host, made for a few, one at a time. Churn is a change every
	// second for one host in a hundred, spread evenly.
	All   FleetChange `json:"change_all"`
	One   FleetChange `json:"change_one"`
	Churn FleetChange `json:"churn"`
}

// Memory is what the server takes for an agent's connection, in bytes: what it
// took after a garbage collection while it held them all, less what it took
// before the first, over their number. The kernel's buffers are not in it.
type Memory struct {
	// Resident is the memory of the process, Heap Go's live objects, Stacks those
	// of goroutines.
	Resident float64 `json:"resident_bytes"`
	Heap     float64 `json:"heap_bytes"`
	Stacks   float64 `json:"stack_bytes"`
}

// FleetPolls is what polls came to.
type FleetPolls struct {
	PerSecond float64 `json:"per_second"`
	Failed    int     `json:"failed"`
	// Idle is how long those took that found nothing, as their agents saw it.
	Idle Spread `json:"idle_seconds"`
	// CPUSeconds is the server's for a poll, with what else it did meanwhile.
	CPUSeconds float64 `json:"server_cpu_seconds"`
}

// FleetChange is what changes took.
type FleetChange struct {
	Commits int `json:"commits"`
	// Seconds is the time from the first commit until every agent had what was
	// committed for it; CommitSeconds until the last commit was durable.
	Seconds       float64 `json:"seconds"`
	CommitSeconds float64 `json:"commit_seconds"`
	// Delay is the time from a commit until its agent had it, the wait for its
	// next poll included; Carried how long the polls took that brought something.
	Delay   Spread `json:"delay_seconds"`
	Carried Spread `json:"carried_seconds"`
	// Polls are those in the time of the commits.
	Polls FleetPolls `json:"polls"`
	// PeakCPU is how many CPUs the server kept busy in the second in which it was
	// busiest, PeakResident the most memory that its process had, in bytes.
	PeakCPU      float64 `json:"peak_cpus"`
	PeakResident uint64  `json:"peak_resident_bytes"`
}

// RunFleet holds agents of as many hosts at one server, in a process of its own,
// and measures what they take. It returns an error that matches
// desired.ErrInvalid if the options make no sense.
func RunFleet(ctx context.Context, o FleetOptions) (FleetReport, error) {
	o.setDefaults()
	report := FleetReport{
		Machine: thisMachine(), Agents: o.Agents, Interval: o.Interval.Seconds(), Seconds: o.Duration.Seconds(),
	}
	if err := o.check(); err != nil {
		return report, err
	}
	err := inFolder(ctx, "", func(dir string) error {
		var err error
		if report.FillSeconds, err = o.fill(ctx, dir); err != nil {
			return err
		}
		kinds := []bool{false, true}
		if o.PlainOnly {
			kinds = kinds[:1]
		}
		for _, tls := range kinds {
			run, err := o.run(ctx, dir, tls)
			if err != nil {
				return err
			}
			report.Runs = append(report.Runs, run)
		}
		return nil
	})
	return report, err
}

func (o *FleetOptions) setDefaults() {
	o.Agents = cmp.Or(o.Agents, DefaultFleetAgents)
	o.Interval = cmp.Or(o.Interval, DefaultFleetInterval)
	o.Duration = cmp.Or(o.Duration, DefaultFleetDuration)
}

func (o *FleetOptions) check() error {
	switch {
	case o.Agents < 1 || o.Agents > MaxFleetAgents:
		return fmt.Errorf("%w number of agents %d: want 1 to %d", desired.ErrInvalid, o.Agents, MaxFleetAgents)
	case o.Interval < MinFleetInterval || o.Interval > MaxPollDuration:
		return fmt.Errorf("%w interval %v: want %v to %v", desired.ErrInvalid, o.Interval, MinFleetInterval, MaxPollDuration)
	case o.Duration < MinFleetInterval || o.Duration > MaxPollDuration:
		return fmt.Errorf("%w duration %v: want %v to %v", desired.ErrInvalid, o.Duration, MinFleetInterval, MaxPollDuration)
	case o.Child == nil:
		return fmt.Errorf("%w options: a fleet needs a process for its server", desired.ErrInvalid)
	}
	return checkFiles(o.Agents)
}
