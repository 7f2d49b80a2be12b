package pattern

import (
	"fmt"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"espalier/internal/desired"
)

// Point is a place in the grid: a state, how it changes, and what is between those
// who have it and those who want it. All agents follow the same state.
type Point struct {
	Objects    int `json:"objects"`
	ValueBytes int `json:"value_bytes"`
	Agents     int `json:"agents"`
	// EverySeconds is the mean time between commits, of which each changes Changes
	// objects: a tenth are inserts, a tenth deletions.
	EverySeconds float64 `json:"every_seconds"`
	Changes      int     `json:"changes"`
	// Clustered makes the objects that a commit changes neighbours.
	Clustered bool `json:"clustered"`
	// Loss is the part of the network's segments that are lost, DelayMillis how
	// long one takes, each way.
	Loss        float64 `json:"loss"`
	DelayMillis float64 `json:"delay_ms"`
	// AgentMbit is what an agent's line carries in a second, ServerMbit what the
	// orchestrator's does, for all agents together; each way.
	AgentMbit  float64 `json:"agent_mbit"`
	ServerMbit float64 `json:"server_mbit"`
	Faults     Faults  `json:"faults"`
}

// Faults says what goes wrong besides loss.
type Faults string

// The faults, which last until changes end.
const (
	NoFaults Faults = "none"
	// Cuts: each agent's connection is reset every 5 minutes, on average.
	Cuts Faults = "cuts"
	// Partitions: each agent is cut off for 10 minutes once, in an hour.
	Partitions Faults = "partitions"
	// Restarts: each agent's process is down for 10 s four times an hour, on
	// average, and the orchestrator's for 30 s twice.
	Restarts Faults = "restarts"
	// AllFaults: those together.
	AllFaults Faults = "all"
	// Rollbacks: each agent's disk, once, comes back as it was 10 minutes before, as
	// that of a virtual machine does whose snapshot is restored.
	Rollbacks Faults = "rollbacks"
)

// AllOfFaults returns the values of Faults.
func AllOfFaults() []Faults {
	return []Faults{NoFaults, Cuts, Partitions, Restarts, AllFaults, Rollbacks}
}

// BasePoint is what the points of the default grid have in common but for one
// figure.
func BasePoint() Point {
	return Point{
		Objects: 100_000, ValueBytes: 100, Agents: 20, EverySeconds: 60, Changes: 10,
		DelayMillis: 10, AgentMbit: 100, ServerMbit: 1000, Faults: NoFaults,
	}
}

// WorstPoint is the base point with all that can go wrong, and a segment in a
// thousand lost.
func WorstPoint() Point {
	p := BasePoint()
	p.Faults, p.Loss = AllFaults, 0.001
	return p
}

// DefaultGrid returns a star: the base point, and from there one figure changed
// at a time, since a product of all would take hours; and a second star's ray of
// numbers of objects, from the point at which everything goes wrong.
func DefaultGrid() []Point {
	var grid []Point
	add := func(change func(*Point)) {
		p := BasePoint()
		change(&p)
		grid = append(grid, p)
	}
	add(func(*Point) {})
	for _, n := range []int{100, 1_000, 10_000, 1_000_000} {
		add(func(p *Point) { p.Objects = n })
	}
	for _, every := range []float64{1, 10, 600} {
		add(func(p *Point) { p.EverySeconds = every })
	}
	for _, n := range []int{1, 100, 1000} {
		add(func(p *Point) { p.Changes = n })
	}
	add(func(p *Point) { p.Changes, p.Clustered = 1000, true })
	add(func(p *Point) { p.Agents = 200 })
	add(func(p *Point) { p.DelayMillis = 100 })
	add(func(p *Point) { p.AgentMbit = 10 })
	for _, loss := range []float64{0.001, 0.01, 0.05} {
		add(func(p *Point) { p.Loss = loss })
	}
	for _, f := range AllOfFaults()[1:] {
		add(func(p *Point) { p.Faults = f })
	}
	add(func(p *Point) { p.Faults, p.EverySeconds = Partitions, 1 })
	for _, n := range []int{100, 1_000, 10_000, 100_000, 1_000_000} {
		add(func(p *Point) { *p = WorstPoint(); p.Objects = n })
	}
	return grid
}

// String says in what the point differs from the base point.
func (p Point) String() string {
	base, parts := BasePoint(), []string(nil)
	add := func(differs bool, format string, args ...any) {
		if differs {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(p.Objects != base.Objects, "%d objects", p.Objects)
	add(p.ValueBytes != base.ValueBytes, "values of %d B", p.ValueBytes)
	add(p.Agents != base.Agents, "%d agents", p.Agents)
	add(p.EverySeconds != base.EverySeconds, "a commit every %g s", p.EverySeconds)
	add(p.Changes != base.Changes || p.Clustered, "%d changed at once", p.Changes)
	add(p.Clustered, "neighbours")
	add(p.Loss != base.Loss, "loss of %g%%", 100*p.Loss)
	add(p.DelayMillis != base.DelayMillis, "delay of %g ms", p.DelayMillis)
	add(p.AgentMbit != base.AgentMbit, "lines of %g Mbit/s", p.AgentMbit)
	add(p.ServerMbit != base.ServerMbit, "%g Mbit/s for all", p.ServerMbit)
	add(p.Faults != base.Faults, "faults: %s", p.Faults)
	if len(parts) == 0 {
		return "base"
	}
	return strings.Join(parts, ", ")
}

func (p *Point) delay() time.Duration { return seconds(p.DelayMillis / 1000) }

// seed returns what a point's chance comes from: the same for all patterns.
func (p *Point) seed(seed uint64) uint64 {
	return xxhash.Sum64String(fmt.Sprintf("%d %+v", seed, *p))
}

func (p *Point) check() error {
	bounded := func(what string, value, least, most float64) error {
		if value >= least && value <= most { // and not NaN
			return nil
		}
		return fmt.Errorf("%w %s %g: want %g to %g", desired.ErrInvalid, what, value, least, most)
	}
	for _, err := range []error{
		bounded("number of objects", float64(p.Objects), MinObjects, MaxObjects),
		bounded("size of values", float64(p.ValueBytes), 1, MaxValueBytes),
		bounded("number of agents", float64(p.Agents), 1, MaxAgents),
		bounded("seconds between commits", p.EverySeconds, MinEverySeconds, MaxEverySeconds),
		bounded("number of changes", float64(p.Changes), 1, MaxChanges),
		bounded("loss", p.Loss, 0, MaxLoss),
		bounded("delay in ms", p.DelayMillis, 0, MaxDelayMillis),
		bounded("Mbit/s of an agent", p.AgentMbit, MinMbit, MaxMbit),
		bounded("Mbit/s of the orchestrator", p.ServerMbit, MinMbit, MaxMbit),
	} {
		if err != nil {
			return err
		}
	}
	for _, f := range AllOfFaults() {
		if p.Faults == f {
			return nil
		}
	}
	return fmt.Errorf("%w faults %q: want one of %v", desired.ErrInvalid, p.Faults, AllOfFaults())
}
