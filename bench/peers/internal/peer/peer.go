// Package peer drives what Espalier is compared with, and Espalier itself, each
// by its own client: a server in a process of its own, a publisher, and clients
// that keep a copy over connections which others may count.
package peer

import (
	"context"
	"iter"
	"slices"
	"time"

	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/workload"
)

// Scenario is something that a client may go through.
type Scenario string

// The scenarios, in the order in which a client goes through them.
const (
	First   Scenario = "first"   // it has nothing, and gets everything
	Warm    Scenario = "warm"    // it is connected and up to date, then something changes
	Idle    Scenario = "idle"    // it is connected and up to date, and nothing happens for a while
	Check   Scenario = "check"   // it asks over its connection whether there is something new
	Nothing Scenario = "nothing" // it comes back, and nothing has changed
	Resume  Scenario = "resume"  // it comes back, something has changed, and the server has its history
	Gone    Scenario = "gone"    // the same, but the server has no history of it (any more)
)

// Kind is a kind of server.
type Kind struct {
	Name    string
	Version string // of what it is
	Keeps   string // where the two ends keep the objects, and how safely
	Ways    []Way
	// Start starts an empty server.
	Start func(context.Context, Env) (Peer, error)
	// Absent says why it can't be measured on this machine; empty: it can.
	Absent string
	// SlowFrom is from how many objects on everything is measured only once; 0:
	// never.
	SlowFrom int
}

// Way is a way in which clients of a kind follow.
type Way struct {
	Name string
	Does []Scenario
	// Relists says that a client is sent everything, whatever has changed: one size
	// of change is measured.
	Relists bool
	// Forgetful says that a copy is wrong, and no error says so, where history is
	// gone: what the table is to show.
	Forgetful bool
	// Slow ways are measured once.
	Slow bool
}

// Goes reports whether clients go through s that way.
func (w Way) Goes(s Scenario) bool { return slices.Contains(w.Does, s) }

// Env is what a server is started with.
type Env struct {
	Dir      string // its own, empty
	Espalier string // the program
}

// Peer is a server, and the publisher's connection to it.
type Peer interface {
	// Addr is where clients connect to, host:port.
	Addr() string
	Process() *meter.Process
	// Load publishes what there is at first, and Commit changes, ascending by key.
	// Both return a mark that is higher than those before: what a client has to
	// have seen.
	Load(ctx context.Context, batches iter.Seq[[]workload.Change]) (mark uint64, err error)
	Commit(ctx context.Context, changes []workload.Change) (mark uint64, err error)
	// Forget makes the server forget what it needn't keep of its history.
	Forget(ctx context.Context) error
	// NewClient returns a client that has nothing. It connects to addr, and may use
	// the folder dir, which is empty.
	NewClient(way Way, addr, dir string) (Client, error)
	Close() error
}

// Client keeps a copy. It is for one goroutine.
type Client interface {
	// CatchUp connects and returns once the copy is what the server has, of which
	// the mark is the latest.
	CatchUp(ctx context.Context, mark uint64) error
	// Follow makes a client that has caught up one that stays connected.
	Follow(ctx context.Context) error
	// Await returns once the copy of a client that follows includes the mark.
	Await(ctx context.Context, mark uint64) error
	// Check asks the server once whether there is something new.
	Check(ctx context.Context) error
	// Leave drops the connection; the copy stays.
	Leave() error
	// Each hands over every object of the copy. What it hands over may be valid
	// until the next only.
	Each(object func(key string, value []byte)) error
	Close() error
}

// Trips is implemented by clients that know how many round trips it took them to
// catch up.
type Trips interface{ RoundTrips() int }

// patience bounds how long a server may take to answer while nothing is measured.
const patience = 5 * time.Minute

// loadByCommits is Load for servers to which it is nothing special.
func loadByCommits(ctx context.Context, p Peer, batches iter.Seq[[]workload.Change]) (mark uint64, err error) {
	for batch := range batches {
		if mark, err = p.Commit(ctx, batch); err != nil {
			return 0, err
		}
	}
	return mark, nil
}
