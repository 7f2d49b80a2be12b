//go:build linux

package process_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/agent/driver/process"
)

var seedFlag = flag.Uint64("seed", 0, "of the random histories; 0: the time")

// history is a random one, with an oracle of what should run: the versions of the
// copies by their replica.
type history struct {
	*world
	rng    *rand.Rand
	told   []string
	should map[int]string
	pids   map[int]int // of those that nobody has touched since
}

// TestHistories holds the driver against an oracle: whatever is asked for, and
// whatever dies, in the end there runs what should, and what nobody had a reason
// to start anew is the process that it was.
func TestHistories(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for i := range uint64(2) {
		t.Run(fmt.Sprint(seed+i), func(t *testing.T) {
			h := &history{world: newWorld(t), rng: rand.New(rand.NewPCG(seed+i, 0)), should: map[int]string{}, pids: map[int]int{}}
			defer func() {
				if t.Failed() {
					t.Logf("go test -run TestHistories -seed %d\n%s\n%s", seed+i, strings.Join(h.told, "\n"), h.log.String())
				}
			}()
			for range 25 {
				h.step()
			}
			h.apply(nil)
			h.wants()
		})
	}
}

func (h *history) step() {
	switch h.rng.IntN(10) {
	case 0:
		h.tell("the agent is started anew")
		h.restart(process.Options{})
	case 1, 2:
		h.murder()
	case 3:
		h.tell("the object is removed")
		h.note = h.maybe(h.note)
		h.apply(nil)
		h.should, h.note = map[int]string{}, nil
	case 4:
		h.bad()
	case 5:
		h.interrupted()
	default:
		h.good(h.rng.IntN(5), string(rune('a'+h.rng.IntN(3))))
	}
	h.check()
}

func (h *history) tell(format string, args ...any) {
	h.told = append(h.told, fmt.Sprintf(format, args...))
}

// maybe loses a note now and then, as if the record was lost.
func (h *history) maybe(note []byte) []byte {
	if h.rng.IntN(5) == 0 {
		h.tell("  the note is lost")
		return nil
	}
	return note
}

// good applies a version that runs.
func (h *history) good(replicas int, label string) {
	h.tell("%d copies of %s", replicas, label)
	h.note = h.maybe(h.note)
	h.apply(h.spec(replicas, "stay", label))
	for i := range 256 {
		if i >= replicas {
			delete(h.should, i)
		} else if h.should[i] != label {
			h.should[i] = label
			delete(h.pids, i)
		}
	}
	if f := h.scan(); f.Drift != "" || f.Err != nil {
		h.t.Errorf("after Apply a scan finds %+v", f)
	}
}

// bad applies a version that ends: it costs one copy, if all others run, and no
// more than what is missing.
func (h *history) bad() {
	replicas := 1 + h.rng.IntN(4)
	h.tell("%d copies of a version that ends", replicas)
	err := h.tryApply(h.t.Context(), h.spec(replicas, "exit", "1", "bad").with("ready_after", "5m"))
	if err == nil || !strings.Contains(err.Error(), "exited with status 1") {
		h.t.Fatalf("Apply(a version that ends) = %v", err)
	}
	whole := true
	for i := range 256 {
		if i >= replicas {
			delete(h.should, i)
		} else if h.should[i] == "" {
			whole = false
		}
	}
	if whole {
		delete(h.should, 0)
	}
}

// interrupted applies a version, and gives up at once; then it doesn't.
func (h *history) interrupted() {
	label := string(rune('a' + h.rng.IntN(3)))
	h.tell("2 copies of %s, given up", label)
	ctx, cancel := context.WithTimeout(h.t.Context(), time.Duration(h.rng.IntN(40))*time.Millisecond)
	defer cancel()
	_ = h.tryApply(ctx, h.spec(2, "stay", label))
	h.pids = map[int]int{} // who knows
	h.good(2, label)
}

// murder kills some programs or shims.
func (h *history) murder() {
	for _, p := range running(h.name) {
		if h.rng.IntN(2) == 0 {
			continue
		}
		victim := p.pid
		if h.rng.IntN(2) == 0 {
			victim = h.state(p.replica).Shim.PID
		}
		h.tell("copy %d: %d is killed", p.replica, victim)
		_ = unix.Kill(victim, unix.SIGKILL)
		until(h.t, "the copy is gone", func() bool { return !alive(p.pid) })
		delete(h.should, p.replica)
	}
}

// check compares what runs with what should.
func (h *history) check() {
	h.t.Helper()
	got := map[int]string{}
	for _, p := range running(h.name) {
		got[p.replica] += p.args[1]
		if before, known := h.pids[p.replica]; known && before != p.pid && h.should[p.replica] != "" {
			h.t.Errorf("copy %d was started anew without a reason", p.replica)
		}
		h.pids[p.replica] = p.pid
	}
	for i := range h.pids {
		if h.should[i] == "" {
			delete(h.pids, i)
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(h.should) {
		h.t.Fatalf("there run %v, want %v", got, h.should)
	}
	if n := slices.Max(append([]int{0}, len(shims(h.name))-len(got))); n > 0 {
		until(h.t, "shims without a program have ended", func() bool { return len(shims(h.name)) <= len(got) })
	}
}
