package sim_test

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"espalier/internal/delta"
	"espalier/internal/sim"
)

var (
	seeds = flag.Uint64("seeds", 300, "how many seeds TestSeeds runs")
	from  = flag.Uint64("from", 0, "the first of them")
	seed  = flag.Int64("seed", -1, "the one seed to run and to tell of")
	// A planted bug is found or it isn't: its story is of no interest.
	brief = flag.Bool("brief", false, "don't shrink what fails")
)

var codec = delta.NewCodec()

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // worlds are small, and there are many
	os.Exit(m.Run())
}

// TestSeeds runs worlds, and shows the shortest story of the first that breaks a
// promise.
func TestSeeds(t *testing.T) {
	if *seed >= 0 {
		lines, err := sim.NewPlan(uint64(*seed)).Tell(codec)
		t.Logf("the story of seed %d:\n%s", *seed, strings.Join(lines, "\n"))
		if err != nil {
			t.Fatalf("seed %d: %v", *seed, err)
		}
		return
	}
	var next, ran atomic.Uint64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for !failed.Load() {
				n := next.Add(1) - 1
				if n >= *seeds {
					return
				}
				p := sim.NewPlan(*from + n)
				if err := p.Run(codec); err != nil && failed.CompareAndSwap(false, true) {
					report(t, p, err)
				}
				ran.Add(1)
			}
		})
	}
	workers.Wait()
	t.Logf("%d seeds", ran.Load())
}

func report(t *testing.T, p *sim.Plan, err error) {
	t.Errorf("seed %d: %v", p.Seed, err)
	if *brief {
		return
	}
	short := p.Shrink(codec)
	lines, err := short.Tell(codec)
	t.Logf("%d of its %d events are enough; replay all with: go test ./internal/sim -run TestSeeds -seed %d -v\n%s\n%v",
		short.Events(), p.Events(), p.Seed, strings.Join(lines, "\n"), err)
}

// TestReplay: a seed replays bit for bit.
func TestReplay(t *testing.T) {
	for n := range uint64(20) {
		tell := func() string {
			lines, err := sim.NewPlan(n).Tell(codec)
			return fmt.Sprintf("%x %d %v", sha256.Sum256([]byte(strings.Join(lines, "\n"))), len(lines), err)
		}
		if first, second := tell(), tell(); first != second {
			t.Errorf("seed %d: its story is %s, and then %s", n, first, second)
		}
	}
}
