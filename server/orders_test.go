package server_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/fleet"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
)

// order tells a host something, as an admin.
func (w *secured) order(req *espalierv1.SetOrdersRequest) (*espalierv1.SetOrdersResponse, error) {
	w.t.Helper()
	resp, err := w.fleetOf(root).SetOrders(w.t.Context(), req)
	return resp, wire.FromStatus(err)
}

// guarded is what a host reports that waits for root to be released.
func guarded(root desired.Digest) *desired.Report {
	return &desired.Report{Agent: "v1", Applying: &desired.Convergence{Desired: root, State: desired.Guarded, Guarded: 40}}
}

// TestOrders tells a host one thing after the other, among changes of its list: it
// is told all of it, also after a restart, and the audit log knows who did it.
func TestOrders(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "base")
	digest := desired.Digest{7}
	w.polls(wire.Poll{Host: "web-1", Report: guarded(digest)})
	list := func(sets ...string) {
		t.Helper()
		if _, err := w.fleetOf(root).SetList(t.Context(), &espalierv1.SetListRequest{Host: "web-1", Sets: sets}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want desired.List) {
		t.Helper()
		for range 2 {
			a := w.polls(wire.Poll{Host: "web-1"})
			if a.List == nil || a.List.Version != want.Version || !slices.Equal(a.List.Sets, want.Sets) || a.List.Orders != want.Orders {
				t.Errorf("the host is told %+v, want %+v", a.List, want)
			}
			if a = w.polls(wire.Poll{Host: "web-1", ListVersion: want.Version, ListSum: want.Sum()}); a.List != nil {
				t.Errorf("who has %+v is told %+v", want, a.List)
			}
			w.restart()
		}
		w.polls(wire.Poll{Host: "web-1", ListVersion: want.Version, ListSum: want.Sum(), Report: guarded(digest)})
	}
	want := desired.OwnList("web-1")
	if _, err := w.order(&espalierv1.SetOrdersRequest{Host: "web-1", Order: espalierv1.SetOrdersRequest_ORDER_RESUME}); err != nil {
		t.Error(err)
	}
	for range 2 { // the second changes nothing
		resp, err := w.order(&espalierv1.SetOrdersRequest{Host: "web-1", Order: espalierv1.SetOrdersRequest_ORDER_PAUSE, Why: "new disk"})
		if err != nil || resp.GetList().GetVersion() != 1 || !resp.GetList().GetPaused() {
			t.Fatalf("a pause: %v, %v", resp, err)
		}
	}
	want = want.Pause(0, "new disk")
	check(want)
	list("base", "web-1")
	want = want.Next(0, []desired.Name{"base", "web-1"})
	check(want)
	resp, err := w.order(&espalierv1.SetOrdersRequest{Host: "web-1", Order: espalierv1.SetOrdersRequest_ORDER_RELEASE, Root: digest[:], Why: "they may go"})
	if err != nil || resp.GetGuarded() != 40 {
		t.Fatalf("a release: %v, %v", resp, err)
	}
	want = want.ReleaseRoot(0, digest)
	check(want)
	if _, err := w.order(&espalierv1.SetOrdersRequest{Host: "web-1", Order: espalierv1.SetOrdersRequest_ORDER_RESUME}); err != nil {
		t.Fatal(err)
	}
	want = want.Resume(0)
	check(want)

	log, err := os.ReadFile(filepath.Join(w.dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`"who":"admin/root"`, `"what":"pause","on":"host/web-1","revision":1,"why":"new disk"`,
		`"what":"release","on":"host/web-1","revision":3,"why":"deletions: 40, to root ` + digest.String() + `; they may go"`,
		`"what":"resume","on":"host/web-1","revision":4`,
	} {
		if !strings.Contains(string(log), part) {
			t.Errorf("the audit log lacks %s:\n%s", part, log)
		}
	}
	if n := strings.Count(string(log), `"what":"pause"`); n != 1 {
		t.Errorf("the audit log has %d pauses, of which one changed nothing", n)
	}
}

// TestOrdersAreRefused where they are of no use, or not of the one that is meant.
func TestOrdersAreRefused(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1")
	digest, other := desired.Digest{7}, desired.Digest{8}
	release := func(root desired.Digest) *espalierv1.SetOrdersRequest {
		return &espalierv1.SetOrdersRequest{Host: "web-1", Order: espalierv1.SetOrdersRequest_ORDER_RELEASE, Root: root[:]}
	}
	pause := espalierv1.SetOrdersRequest_ORDER_PAUSE
	w.polls(wire.Poll{Host: "web-1", Report: &desired.Report{}})
	if _, err := w.order(release(digest)); !errors.Is(err, fleet.ErrNotGuarded) {
		t.Errorf("a release of a host that only mirrors: %v, want %v", err, fleet.ErrNotGuarded)
	}
	w.polls(wire.Poll{Host: "web-1", Report: guarded(digest)})
	for name, c := range map[string]struct {
		req  *espalierv1.SetOrdersRequest
		want error
	}{
		"another root":      {release(other), fleet.ErrNotGuarded},
		"a host unheard of": {&espalierv1.SetOrdersRequest{Host: "web-9", Order: pause}, wire.ErrNoHost},
		"an odd host":       {&espalierv1.SetOrdersRequest{Host: "../x", Order: pause}, desired.ErrInvalid},
		"no order":          {&espalierv1.SetOrdersRequest{Host: "web-1"}, desired.ErrInvalid},
		"a long reason":     {&espalierv1.SetOrdersRequest{Host: "web-1", Order: pause, Why: strings.Repeat("x", desired.MaxWhyBytes+1)}, desired.ErrInvalid},
	} {
		if _, err := w.order(c.req); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if a := w.polls(wire.Poll{Host: "web-1"}); a.List != nil {
		t.Errorf("after all that the host is told %+v", a.List)
	}
}

// TestOrdersWakeHeldPolls: who waits for something to happen is told at once.
func TestOrdersWakeHeldPolls(t *testing.T) {
	holding(t, 10, func(t *testing.T, conn *grpc.ClientConn, _ func()) {
		head := make1(t, conn, "web-01", "1")
		askFor(t, conn, "web-01", head, 0) // or nobody would know of it
		go func() {
			time.Sleep(10 * time.Second)
			req := &espalierv1.SetOrdersRequest{Host: "web-01", Order: espalierv1.SetOrdersRequest_ORDER_PAUSE}
			if _, err := espalierv1.NewFleetServiceClient(conn).SetOrders(t.Context(), req); err != nil {
				t.Error(err)
			}
		}()
		if a := askFor(t, conn, "web-01", head, time.Minute); a.after != 10*time.Second || a.List == nil || !a.List.Paused {
			t.Errorf("a poll of a host that was paused after 10 s took %v: %+v", a.after, a)
		}
	})
}

// TestAnswersHaveAnAge: a host is told how old the revision is that it is told of,
// be it with a delta or to be pulled.
func TestAnswersHaveAnAge(t *testing.T) {
	holding(t, 10, func(t *testing.T, conn *grpc.ClientConn, _ func()) {
		head := make1(t, conn, "web-01", "1")
		time.Sleep(time.Hour)
		make1(t, conn, "web-01", "2")
		time.Sleep(222 * time.Second)
		a := askFor(t, conn, "web-01", head, 0)
		if want := 222 * time.Second; len(a.Sets) != 1 || a.Sets[0].Status != wire.StatusDelta || a.Sets[0].Age != want {
			t.Errorf("a delta: %+v, want one whose age is %v", a.Sets, want)
		}
		p := wire.Poll{Host: "web-01", Held: []delta.Held{{Name: "web-01"}}}
		resp, err := espalierv1.NewSyncServiceClient(conn).Poll(t.Context(), wire.PollToWire(p, true))
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.PollAnswerFromWire(resp, 1)
		if want := 222 * time.Second; err != nil || len(got.Sets) != 1 || got.Sets[0].Status != wire.StatusPull || got.Sets[0].Age != want {
			t.Errorf("to be pulled: %+v, %v, want one whose age is %v", got.Sets, err, want)
		}
		current := askFor(t, conn, "web-01", make1(t, conn, "web-01", "3"), 0)
		if len(current.Sets) != 0 {
			t.Errorf("who has it is told %+v", current.Sets)
		}
	})
}
