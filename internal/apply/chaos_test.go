package apply_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"espalier/agent/driver"
	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/store"
)

var (
	chaosSeeds = flag.Int("chaos", 12, "how many random histories TestChaos tries")
	chaosSeed  = flag.Uint64("seed", 0, "the one that it tries; 0: random ones")
)

// wild is a driver for which all kinds of things go wrong, until it is calm.
type wild struct {
	t     *testing.T
	mu    sync.Mutex
	rng   *rand.Rand
	holds map[string]string
	busy  map[string]bool // keys that an Apply is at
	calls int             // of Apply, under way
	calm  bool
	hints chan string
}

func newWild(t *testing.T, seed uint64) *wild {
	return &wild{t: t, rng: rand.New(rand.NewPCG(seed, 1)), holds: map[string]string{}, busy: map[string]bool{}, hints: make(chan string)}
}

func (d *wild) Batching() driver.Batching {
	return driver.Batching{Objects: 4, Parallel: 2, Timeout: 30 * time.Second}
}

// chance reports whether something happens that does n times of a hundred, and
// never once d is calm.
func (d *wild) chance(n int) bool { return !d.calm && d.rng.IntN(100) < n }

// enter notes which objects an Apply is at, and returns how long it takes.
func (d *wild) enter(changes []driver.Change) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.calls++; d.calls > 2 {
		d.t.Errorf("%d Apply at once, want 2 at most", d.calls)
	}
	for _, c := range changes {
		if d.busy[c.Key] {
			d.t.Errorf("two Apply are at %s at once", c.Key)
		}
		d.busy[c.Key] = true
	}
	switch {
	case d.chance(5):
		return time.Hour
	case d.chance(40):
		return time.Duration(d.rng.IntN(3000)) * time.Millisecond
	}
	return 0
}

func (d *wild) Apply(ctx context.Context, changes []driver.Change) []driver.Result {
	sleep(ctx, d.enter(changes))
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls--
	results := make([]driver.Result, len(changes))
	for i, c := range changes {
		delete(d.busy, c.Key)
		results[i] = d.apply(c, ctx.Err())
	}
	if d.chance(3) {
		return results[:d.rng.IntN(len(results))] // the rest is not answered
	}
	return results
}

func (d *wild) apply(c driver.Change, err error) driver.Result {
	if strings.HasSuffix(c.Key, "!") {
		return driver.Result{Err: fmt.Errorf("%w: not here", driver.ErrUnmanaged)}
	}
	if err == nil && d.chance(20) {
		err = errBroken
	}
	switch {
	case err != nil && d.rng.IntN(3) == 0:
		return driver.Result{Err: err, Untouched: true}
	case err != nil && d.rng.IntN(2) == 0:
		d.holds[c.Key] = "half"
		return driver.Result{Err: err}
	case c.Deleted():
		delete(d.holds, c.Key)
	default:
		d.holds[c.Key] = string(c.Object.Value)
	}
	return driver.Result{Err: err, Note: []byte(d.holds[c.Key])}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func (d *wild) Scan(ctx context.Context, s driver.Scan) error {
	for k, err := range s.Objects {
		if err != nil {
			return err
		}
		if err := s.Spend(ctx, 1, 10); err != nil {
			return err
		}
		d.mu.Lock()
		is, ok := d.holds[k.Key]
		odd, fails := d.chance(5), d.chance(1)
		d.mu.Unlock()
		switch {
		case fails:
			return errBroken
		case odd:
			s.Report(k, driver.Finding{Err: errBroken})
		case !ok:
			s.Report(k, driver.Finding{Drift: "missing"})
		case is != string(k.Note):
			s.Report(k, driver.Finding{Drift: "it is " + is, Seen: desired.Digest{1}})
		}
	}
	return nil
}

func (d *wild) Watch(ctx context.Context, touched func(string)) error {
	for {
		select {
		case name := <-d.hints:
			touched(name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// disturb has somebody else change what is on the host.
func (d *wild) disturb() {
	d.mu.Lock()
	keys := slices.Sorted(maps.Keys(d.holds))
	if len(keys) == 0 {
		d.mu.Unlock()
		return
	}
	key := keys[d.rng.IntN(len(keys))]
	if d.holds[key] = "else"; d.rng.IntN(2) == 0 {
		delete(d.holds, key)
	}
	hint := d.rng.IntN(2) == 0
	d.mu.Unlock()
	if hint {
		_, name, _ := strings.Cut(key, "/")
		select {
		case d.hints <- name:
		default:
		}
	}
}

func (d *wild) is() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.holds)
}

// chaos is a host to which everything happens at once.
type chaos struct {
	*world
	rng     *rand.Rand
	drivers []*wild
	all     []apply.Set // also those that have left, or are lost
	empty   []apply.Set // a mirror of each that holds nothing
	keys    []string
	stop    func()
}

func newChaos(t *testing.T, seed uint64) *chaos {
	rng := rand.New(rand.NewPCG(seed, 0))
	names := []desired.Name{"one", "two", "three"}[:1+rng.IntN(3)]
	c := &chaos{world: newWorld(t, names...), rng: rng}
	c.all = slices.Clone(c.sets)
	dir := t.TempDir()
	for i, name := range names {
		m, err := store.OpenMirror(dir, name, store.Options{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		c.empty = append(c.empty, apply.Set{Name: name, Mirror: m})
		c.drivers = append(c.drivers, newWild(t, seed+uint64(i)))
	}
	c.drivers = append(c.drivers, newWild(t, seed+9))
	c.routes = nil
	for i, d := range c.drivers[:min(2, len(c.drivers))] {
		c.routes = append(c.routes, apply.Route{Prefix: []string{"run/", "web/"}[i], Name: fmt.Sprint("wild ", i), Driver: d})
	}
	c.policy.ScanInterval = time.Minute
	for i := range 3 + rng.IntN(30) {
		c.keys = append(c.keys, fmt.Sprintf("%s/%d%s", []string{"run", "run", "web", "free"}[rng.IntN(4)], i, []string{"", "", "", "!"}[rng.IntN(4)]))
	}
	c.begin()
	return c
}

// begin has an applier work, of the record as it is.
func (c *chaos) begin() {
	c.restart()
	ctx, cancel := context.WithCancel(context.Background())
	stopped, a := make(chan error, 1), c.Applier
	go func() { stopped <- a.Run(ctx) }()
	c.stop = func() {
		cancel()
		if err := <-stopped; err != nil {
			c.t.Errorf("Run = %v", err)
		}
	}
}

// happen lets something happen.
func (c *chaos) happen() {
	switch c.rng.IntN(12) {
	case 0, 1, 2:
		c.change(c.rng, c.keys)
	case 3, 4:
		c.drivers[c.rng.IntN(len(c.drivers))].disturb()
	case 5:
		c.orders.Paused = c.rng.IntN(3) == 0
		c.Desire(c.sets, c.orders)
	case 6: // sets leave, come, and change places
		c.sets = slices.Clone(c.all)
		c.rng.Shuffle(len(c.sets), func(i, j int) { c.sets[i], c.sets[j] = c.sets[j], c.sets[i] })
		c.Desire(c.sets[:1+c.rng.IntN(len(c.sets))], c.orders)
	case 7: // one is lost, and there again soon
		i := c.rng.IntN(len(c.sets))
		lost := slices.Clone(c.sets)
		lost[i] = c.empty[slices.IndexFunc(c.empty, func(s apply.Set) bool { return s.Name == lost[i].Name })]
		c.Desire(lost, c.orders)
	case 8:
		c.stop()
		if c.rng.IntN(2) == 0 {
			if err := c.record.Close(); err != nil {
				c.t.Fatal(err)
			}
			c.openRecord()
		}
		c.routes[0].Version = fmt.Sprint(c.rng.IntN(2))
		c.begin()
	case 9:
		if err := c.Pause("a look"); err != nil {
			c.t.Fatal(err)
		}
	case 10:
		if err := c.Resume(); err != nil {
			c.t.Fatal(err)
		}
	case 11:
		for _, err := range c.Plan() {
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				c.t.Errorf("Plan = %v", err)
			}
		}
	}
}

// settle lets faults stop, and fails the test unless the host converges.
func (c *chaos) settle() {
	for _, d := range c.drivers {
		d.mu.Lock()
		d.calm = true
		d.mu.Unlock()
	}
	c.orders.Paused = false
	c.Desire(c.sets, c.orders)
	if err := c.Resume(); err != nil {
		c.t.Fatal(err)
	}
	time.Sleep(20 * time.Minute)
	s := c.Status()
	if s.State != desired.Converged || s.Desired != s.Applied || s.Applied != s.Observed || s.Pending != 0 || s.Failed != 0 || s.Drifted != 0 {
		synctest.Wait()
		c.t.Errorf("in the end the status is %s; %s", statusText(s), c.Dump())
	}
	want, got := map[string]string{}, map[string]string{}
	for _, set := range c.sets {
		for key, o := range c.state[set.Name] {
			want[key] = string(o.Value)
		}
	}
	maps.DeleteFunc(want, func(key, _ string) bool {
		return strings.HasSuffix(key, "!") || !slices.ContainsFunc(c.routes, func(r apply.Route) bool { return strings.HasPrefix(key, r.Prefix) })
	})
	for _, d := range c.drivers {
		maps.Copy(got, d.is())
	}
	if !maps.Equal(got, want) {
		c.t.Errorf("in the end the host holds %v, want %v", got, want)
	}
}

// TestChaos lets everything go wrong that can, at once, and holds the host against
// plain maps once it doesn't any more.
func TestChaos(t *testing.T) {
	for i := range *chaosSeeds {
		seed := *chaosSeed
		if seed == 0 {
			seed = rand.Uint64()
		} else if i > 0 {
			break
		}
		t.Run(fmt.Sprintf("seed %#x", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newChaos(t, seed)
				for range 3 {
					for range 15 {
						c.happen()
						time.Sleep(time.Duration(c.rng.IntN(4000)) * time.Millisecond)
					}
					c.settle()
					for _, d := range c.drivers {
						d.mu.Lock()
						d.calm = false
						d.mu.Unlock()
					}
				}
				c.stop()
			})
		})
		if t.Failed() {
			return
		}
	}
}
