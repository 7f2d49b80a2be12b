package contest_test

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"espalier/bench/peers/internal/contest"
	"espalier/bench/peers/internal/meter"
	"espalier/bench/peers/internal/peer"
	"espalier/bench/peers/internal/workload"
)

func TestMain(m *testing.M) {
	if peer.IsChild() {
		return
	}
	os.Exit(m.Run())
}

// options measures kinds at 500 objects.
func options(t *testing.T, kinds ...peer.Kind) contest.Options {
	t.Helper()
	return contest.Options{
		Objects: 500, Seed: 1, Runs: 1, Sizes: []int{1, 50}, Idle: time.Millisecond, Dir: t.TempDir(), Kinds: kinds,
		Log: t.Logf,
	}
}

func run(t *testing.T, o contest.Options) contest.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	r, err := contest.Run(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(o.Dir); len(left) > 0 || err != nil {
		t.Errorf("it left %v, %v behind", left, err)
	}
	return r
}

// TestKinds takes each through all that it does, and holds every copy against
// what was published.
func TestKinds(t *testing.T) {
	espalier := filepath.Join(t.TempDir(), "espalier")
	if err := peer.BuildEspalier(t.Context(), espalier); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []peer.Kind{peer.Espalier(), peer.Etcd(), peer.NATS(), peer.XDS(), peer.Rsync()} {
		t.Run(kind.Name, func(t *testing.T) {
			if kind.Absent != "" {
				t.Skip(kind.Absent)
			}
			o := options(t, kind)
			o.Espalier = espalier
			r := run(t, o)
			if failed := r.Servers[0].Failed; failed != "" || r.Failed() {
				t.Fatalf("Failed = %t: %s", r.Failed(), failed)
			}
			for _, way := range kind.Ways {
				for _, s := range way.Does {
					if !slices.ContainsFunc(r.Rows, func(row contest.Row) bool { return row.Way == way.Name && row.Scenario == s }) {
						t.Errorf("%s has no row of %s", way.Name, s)
					}
				}
			}
			for _, row := range r.Rows {
				checkRow(t, row)
			}
		})
	}
}

// checkRow expects a copy that is the same, except after NATS has purged its
// markers of deletions: a client that resumes keeps what was deleted.
func checkRow(t *testing.T, row contest.Row) {
	t.Helper()
	var want *workload.Verdict
	if row.Way == "resume by revision" && row.Scenario == peer.Gone && row.Changes == 50 {
		want = &workload.Verdict{Kept: 5}
	}
	if (row.Wrong == nil) != (want == nil) || want != nil && *row.Wrong != *want {
		t.Errorf("%s, %s, %d %s: %v, want %v", row.Way, row.Scenario, row.Changes, row.Shape, row.Wrong, want)
	}
	if row.Bytes.Median == 0 && row.Scenario != peer.Idle || row.PeakOwn == 0 {
		t.Errorf("%s, %s: %.0f bytes, %d bytes of memory: nothing was counted", row.Way, row.Scenario, row.Bytes.Median, row.PeakOwn)
	}
	if row.Payload > 0 && row.Bytes.Median < 0.5*float64(row.Payload) {
		t.Errorf("%s, %s: %.0f bytes for a payload of %d that doesn't compress", row.Way, row.Scenario, row.Bytes.Median, row.Payload)
	}
}

// TestCompactedMeansListing makes sure that what is called gone is gone: etcd's
// clients are sent everything again.
func TestCompactedMeansListing(t *testing.T) {
	kind := peer.Etcd()
	kind.Ways = kind.Ways[:1]
	for _, row := range run(t, options(t, kind)).Rows {
		if all := 500 * 121.0; row.Scenario == peer.Gone && row.Bytes.Median < all {
			t.Errorf("%d changes: %.0f bytes, want all %.0f", row.Changes, row.Bytes.Median, all)
		}
	}
}

// TestWrongClientIsFound plants clients that ignore some of what they are told.
func TestWrongClientIsFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		wrong func(workload.Change) bool // ignored
		want  *workload.Verdict
	}{
		{"right", func(workload.Change) bool { return false }, nil},
		{"keeps what is deleted", func(c workload.Change) bool { return c.Value == nil }, &workload.Verdict{Kept: 5}},
		{"takes in nothing", func(workload.Change) bool { return true }, &workload.Verdict{Missing: 5, Stale: 40, Kept: 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(t, fakeKind(c.wrong))
			o.Sizes = []int{50}
			r := run(t, o)
			if r.Failed() != (c.want != nil) {
				t.Errorf("Failed = %t", r.Failed())
			}
			for _, row := range r.Rows {
				if row.Scenario == peer.First || row.Scenario == peer.Nothing {
					continue
				}
				if (row.Wrong == nil) != (c.want == nil) || c.want != nil && *row.Wrong != *c.want {
					t.Errorf("%s: %v, want %v", row.Scenario, row.Wrong, c.want)
				}
			}
			if says := strings.Contains(r.Markdown(), "wrong: "); says != (c.want != nil) {
				t.Errorf("the table says wrong: %t", says)
			}
		})
	}
}

func TestCancelEndsEverything(t *testing.T) {
	o := options(t, peer.Etcd())
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	o.Log = func(format string, args ...any) {
		if strings.Contains(format, "are loaded") {
			cancel(enough)
		}
	}
	if _, err := contest.Run(ctx, o); !errors.Is(err, enough) {
		t.Errorf("Run = %v, want %v", err, enough)
	}
	if left, err := os.ReadDir(o.Dir); len(left) > 0 || err != nil {
		t.Errorf("it left %v, %v behind", left, err)
	}
}

// TestFailureIsReported measures what can't be started, and goes on.
func TestFailureIsReported(t *testing.T) {
	broken := peer.Kind{Name: "broken", Start: func(context.Context, peer.Env) (peer.Peer, error) {
		return nil, errors.New("a reason")
	}}
	absent := peer.Kind{Name: "absent", Absent: "there is none"}
	r := run(t, options(t, broken, absent, fakeKind(func(workload.Change) bool { return false })))
	if !r.Failed() || len(r.Servers) != 3 || len(r.Rows) == 0 {
		t.Errorf("report of %d servers and %d rows, failed %t", len(r.Servers), len(r.Rows), r.Failed())
	}
	for _, want := range []string{"failed: start: a reason", "not measured: there is none"} {
		if !strings.Contains(r.Markdown(), want) {
			t.Errorf("the document doesn't say %q", want)
		}
	}
}

func TestRunRefuses(t *testing.T) {
	for _, change := range []func(*contest.Options){
		func(o *contest.Options) { o.Runs = 0 },
		func(o *contest.Options) { o.Runs = contest.MaxRuns + 1 },
		func(o *contest.Options) { o.Idle = 0 },
		func(o *contest.Options) { o.Objects = 1 },
	} {
		o := options(t)
		change(&o)
		if _, err := contest.Run(t.Context(), o); err == nil {
			t.Errorf("Run took %d objects, %d runs, %v", o.Objects, o.Runs, o.Idle)
		}
	}
}

// fake is a server that does nothing: what is published its clients find in its
// memory.
type fake struct {
	process  *meter.Process
	listener net.Listener
	ignored  func(workload.Change) bool
	log      [][]workload.Change
	mu       sync.Mutex
}

func fakeKind(ignored func(workload.Change) bool) peer.Kind {
	return peer.Kind{
		Name: "fake", Ways: []peer.Way{{Name: "way", Does: []peer.Scenario{peer.First, peer.Warm, peer.Nothing, peer.Resume, peer.Gone}}},
		Start: func(context.Context, peer.Env) (peer.Peer, error) {
			p, err := meter.Start(exec.Command("cat"))
			if err != nil {
				return nil, err
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			return &fake{process: p, listener: listener, ignored: ignored}, err
		},
	}
}

func (f *fake) Addr() string                 { return f.listener.Addr().String() }
func (f *fake) Process() *meter.Process      { return f.process }
func (f *fake) Forget(context.Context) error { return nil }
func (f *fake) Close() error                 { return errors.Join(f.listener.Close(), f.process.Stop()) }

func (f *fake) Load(ctx context.Context, batches iter.Seq[[]workload.Change]) (uint64, error) {
	return f.Commit(ctx, slices.Concat(slices.Collect(batches)...))
}

func (f *fake) Commit(_ context.Context, changes []workload.Change) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, changes)
	return uint64(len(f.log)), nil
}

func (f *fake) NewClient(peer.Way, string, string) (peer.Client, error) {
	return &fakeClient{fake: f, objects: map[string][]byte{}}, nil
}

// fakeClient has all that there was when it was new, and ignores some of what
// came later.
type fakeClient struct {
	*fake
	objects map[string][]byte
	at      int
}

func (c *fakeClient) CatchUp(_ context.Context, mark uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	fresh := c.at == 0
	for ; c.at < int(mark); c.at++ {
		for _, change := range c.log[c.at] {
			switch {
			case !fresh && c.ignored(change):
			case change.Value == nil:
				delete(c.objects, change.Key)
			default:
				c.objects[change.Key] = change.Value
			}
		}
	}
	return nil
}

func (c *fakeClient) Follow(context.Context) error                 { return nil }
func (c *fakeClient) Await(ctx context.Context, mark uint64) error { return c.CatchUp(ctx, mark) }
func (c *fakeClient) Check(context.Context) error                  { return nil }
func (c *fakeClient) Leave() error                                 { return nil }
func (c *fakeClient) Close() error                                 { return nil }

func (c *fakeClient) Each(object func(key string, value []byte)) error {
	for key, value := range maps.All(c.objects) {
		object(key, value)
	}
	return nil
}
