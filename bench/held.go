package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/internal/desired"
	"espalier/internal/pace"
	"espalier/store"
)

// HeldOptions says what RunHeld measures.
type HeldOptions struct {
	// Size is that of the set; the zero value has DefaultHeldObjects.
	Size
	// Changes is how many commits of one change are timed; 0: DefaultHeldChanges.
	Changes  int
	Observer Observer
}

// The defaults of HeldOptions.
const (
	DefaultHeldObjects = 10_000
	DefaultHeldChanges = 50
)

// HeldReport is the outcome of RunHeld. All times are in seconds.
type HeldReport struct {
	Machine
	Objects int `json:"objects"`
	Changes int `json:"changes"`
	// Delay is from the beginning of a commit to a mirror that is verified and
	// durable, at an agent whose poll the server held; Commit is the commit's part.
	Delay  Spread `json:"delay"`
	Commit Spread `json:"commit"`
	// Sync is what it takes to make a page of a file durable, in the same folder.
	Sync Spread `json:"sync"`
	// Beyond is the median delay without two such syncs, one at each end.
	Beyond float64 `json:"beyond_two_syncs"`
}

// heldPause is the time between commits: the poll is held again by then.
const heldPause = 2 * pace.HoldGap

// RunHeld commits changes one by one under an agent that follows with held polls,
// and measures how long each takes to get there.
func RunHeld(ctx context.Context, o HeldOptions) (HeldReport, error) {
	o.Objects, o.Changes = cmp.Or(o.Objects, DefaultHeldObjects), cmp.Or(o.Changes, DefaultHeldChanges)
	report := HeldReport{Machine: thisMachine(), Objects: o.Objects, Changes: o.Changes}
	if o.Changes < 1 || o.Changes > MaxHeldChanges {
		return report, fmt.Errorf("%w number of changes: %d, want 1 to %d", desired.ErrInvalid, o.Changes, MaxHeldChanges)
	}
	o.ValueBytes, o.Seed = cmp.Or(o.ValueBytes, 100), cmp.Or(o.Seed, 1)
	set, err := NewWorkload(o.Size)
	if err != nil {
		return report, err
	}
	err = inFolder(ctx, "", func(dir string) error {
		w, err := openWorld(ctx, dir, nil)
		if err != nil {
			return err
		}
		defer o.Observer.finished()
		return errors.Join(o.run(ctx, w, set, &report), w.Close())
	})
	return report, err
}

func (o *HeldOptions) run(ctx context.Context, w *world, set *Workload, report *HeldReport) error {
	if _, err := w.store.Commit(ctx, setName, store.Commit{Changes: set.Objects(ctx, nil)}); err != nil {
		return err
	}
	arrived := make(chan arrival, 16)
	a, err := agent.Open(agent.Options{
		Host: setName, Dir: filepath.Join(w.dir, "held"), Server: w.address(), Logger: quiet(), Credentials: insecure.NewCredentials(),
		Handler: agent.HandlerFunc(func(_ context.Context, u agent.Update) error {
			arrived <- arrival{number: u.Head.Number, at: time.Now()}
			return nil
		}),
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- a.Run(running) }()
	err = o.measure(ctx, w, arrived, report)
	stop()
	for {
		select {
		case <-arrived: // what nobody waits for any more
		case e := <-done:
			return errors.Join(err, e, a.Close())
		}
	}
}

// measure commits and waits, again and again.
func (o *HeldOptions) measure(ctx context.Context, w *world, arrived <-chan arrival, report *HeldReport) error {
	if _, err := await(ctx, arrived, 1); err != nil {
		return err
	}
	var delays, commits, syncs []time.Duration
	for i := range o.Changes {
		o.Observer.progress("committing", uint64(i), uint64(o.Changes))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(heldPause):
		}
		synced, err := timeSync(filepath.Join(w.dir, "page"))
		if err != nil {
			return err
		}
		began := time.Now()
		r, err := w.store.Commit(ctx, setName, store.Commit{Changes: oneChange(i)})
		if err != nil {
			return err
		}
		commits = append(commits, time.Since(began))
		at, err := await(ctx, arrived, r.Head.Number)
		if err != nil {
			return err
		}
		delays, syncs = append(delays, at.Sub(began)), append(syncs, synced)
	}
	report.Delay, report.Commit, report.Sync = spreadOf(delays), spreadOf(commits), spreadOf(syncs)
	report.Beyond = report.Delay.P50 - 2*report.Sync.P50
	return nil
}

// oneChange sets one object, to another value each time.
func oneChange(i int) func(func(desired.Change, error) bool) {
	return func(yield func(desired.Change, error) bool) {
		yield(desired.Change{Key: []byte("held/change"), Envelope: fmt.Appendf(desired.Envelope{0}, "value %d", i)}, nil)
	}
}

// await returns when the agent had a revision.
func await(ctx context.Context, arrived <-chan arrival, number uint64) (time.Time, error) {
	for {
		select {
		case <-ctx.Done():
			return time.Time{}, context.Cause(ctx)
		case a := <-arrived:
			if a.number >= number {
				return a.at, nil
			}
		}
	}
}

// timeSync writes a page to a file and makes it durable.
func timeSync(path string) (time.Duration, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, fmt.Errorf("open a file to sync: %w", err)
	}
	defer f.Close()
	began := time.Now()
	_, err = f.Write(slices.Repeat([]byte{byte(began.Nanosecond())}, 4096))
	if err == nil {
		err = f.Sync()
	}
	return time.Since(began), err
}
