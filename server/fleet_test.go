package server_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/pki"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// fleetOf returns a client of somebody's that asks about hosts.
func (w *secured) fleetOf(id pki.Identity) espalierv1.FleetServiceClient {
	w.t.Helper()
	return espalierv1.NewFleetServiceClient(w.dial(w.as(id)))
}

// polls polls as a host, and returns the answer.
func (w *secured) polls(p wire.Poll) wire.PollAnswer {
	w.t.Helper()
	conn := w.dial(w.as(pki.Identity{Role: pki.RoleHost, Name: p.Host}))
	defer conn.Close()
	resp, err := espalierv1.NewSyncServiceClient(conn).Poll(w.t.Context(), wire.PollToWire(p, false))
	if err != nil {
		w.t.Fatal(err)
	}
	a, err := wire.PollAnswerFromWire(resp, len(p.Held))
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// statuses returns what a poll says of the sets, in their order; "" for one that
// is current.
func (w *secured) statuses(host desired.Name, sets ...desired.Name) string {
	w.t.Helper()
	p := wire.Poll{Host: host}
	for _, name := range sets {
		p.Held = append(p.Held, delta.Held{Name: name})
	}
	said := make([]string, len(sets))
	for _, a := range w.polls(p).Sets {
		said[a.Index] = espalierv1.SetAnswer_Status(a.Status).String()
	}
	return strings.ReplaceAll(strings.Join(said, " "), "STATUS_", "")
}

// TestListDecidesWhatAHostReads changes a host's list, and polls and pulls as the
// host: it gets what is on the list and nothing else, also after a restart.
func TestListDecidesWhatAHostReads(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "base", "secret")
	list := func(sets ...string) *espalierv1.SetListResponse {
		t.Helper()
		resp, err := w.fleetOf(root).SetList(t.Context(), &espalierv1.SetListRequest{Host: "web-1", Sets: sets})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	check := func(want string) {
		t.Helper()
		for range 2 {
			if got := w.statuses("web-1", "web-1", "base", "secret"); got != want {
				t.Errorf("web-1, base and secret are %s, want %s", got, want)
			}
			w.restart()
		}
	}
	check("PULL UNKNOWN UNKNOWN")
	if got := list("base", "web-1"); got.GetList().GetVersion() != 1 || len(got.GetList().GetLeft()) != 0 {
		t.Errorf("the first list is %v", got)
	}
	check("PULL PULL UNKNOWN")
	if got := list("base", "web-1"); got.GetList().GetVersion() != 1 {
		t.Errorf("the same list again is %v", got)
	}
	if got := list("secret"); got.GetList().GetVersion() != 2 || fmt.Sprint(got.GetList().GetLeft()) != "[base web-1]" || got.GetDeleted() != 2 || got.GetObjects() != 2 {
		t.Errorf("another list is %v", got)
	}
	check("UNKNOWN UNKNOWN PULL")
	a := w.polls(wire.Poll{Host: "web-1", ListVersion: 1, ListSum: 1})
	if a.List == nil || a.List.Version != 2 || !slices.Equal(a.List.Sets, []desired.Name{"secret"}) {
		t.Errorf("who has version 1 is told %+v", a.List)
	}
	if a = w.polls(wire.Poll{Host: "web-1", ListVersion: 2, ListSum: a.List.Sum()}); a.List != nil {
		t.Errorf("who has version 2 is told %+v", a.List)
	}
}

// TestListGuards: a list that would take away too much, or names what isn't
// there, is refused, and nothing changes.
func TestListGuards(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "base")
	client := w.fleetOf(root)
	limit := &espalierv1.DeleteLimit{Count: 0, Percent: 10}
	for name, c := range map[string]struct {
		req  *espalierv1.SetListRequest
		want error
	}{
		"objects that leave":     {&espalierv1.SetListRequest{Host: "web-1", Sets: []string{"base"}, MaxDelete: limit}, store.ErrTooManyDeletes},
		"a set that isn't there": {&espalierv1.SetListRequest{Host: "web-1", Sets: []string{"web-1", "bose"}}, store.ErrNotFound},
		"no sets":                {&espalierv1.SetListRequest{Host: "web-1"}, desired.ErrInvalid},
		"an odd set":             {&espalierv1.SetListRequest{Host: "web-1", Sets: []string{"../x"}}, desired.ErrInvalid},
		"an odd host":            {&espalierv1.SetListRequest{Host: "Web", Sets: []string{"base"}}, desired.ErrInvalid},
		"a long reason":          {&espalierv1.SetListRequest{Host: "web-1", Sets: []string{"base"}, Why: strings.Repeat("x", store.MaxWhyBytes+1)}, desired.ErrInvalid},
	} {
		if _, err := client.SetList(t.Context(), c.req); !errors.Is(wire.FromStatus(err), c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	dry, err := client.SetList(t.Context(), &espalierv1.SetListRequest{Host: "web-1", Sets: []string{"base"}, MaxDelete: limit, DryRun: true})
	if err != nil || dry.GetRefused() == "" || dry.GetDeleted() != 1 {
		t.Errorf("dry run: %v, %v", dry, err)
	}
	if got := w.statuses("web-1", "web-1", "base"); got != "PULL UNKNOWN" {
		t.Errorf("after all that web-1 and base are %s", got)
	}
	own, err := client.SetList(t.Context(), &espalierv1.SetListRequest{Host: "new-1", Sets: []string{"base", "new-1"}})
	if err != nil || own.GetList().GetVersion() != 1 {
		t.Errorf("a host's own set that isn't there yet: %v, %v", own, err)
	}
}

// TestListOfARestoredServer: a server whose lists were put back finds out from
// the hosts, and the next list that is made is one that they follow.
func TestListOfARestoredServer(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "base")
	client := w.fleetOf(root)
	get := func() *espalierv1.HostInfo {
		t.Helper()
		resp, err := client.GetHost(t.Context(), &espalierv1.GetHostRequest{Host: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetHost()
	}
	if _, err := client.SetList(t.Context(), &espalierv1.SetListRequest{Host: "web-1", Sets: []string{"base"}}); err != nil {
		t.Fatal(err)
	}
	if a := w.polls(wire.Poll{Host: "web-1", ListVersion: 7, ListSum: 1}); a.List == nil || a.List.Version != 1 {
		t.Errorf("who is ahead is told %+v", a.List)
	}
	if h := get(); h.GetListState() != espalierv1.HostInfo_LIST_STATE_AHEAD || h.GetState() != espalierv1.HostInfo_STATE_REFUSING {
		t.Errorf("a host that is ahead: %v", h)
	}
	w.polls(wire.Poll{Host: "web-1", ListVersion: 1, ListSum: 1})
	if h := get(); h.GetListState() != espalierv1.HostInfo_LIST_STATE_FORKED {
		t.Errorf("a host with another list of that version: %v", h)
	}
	w.polls(wire.Poll{Host: "web-1", ListVersion: 7, ListSum: 1})
	next, err := client.SetList(t.Context(), &espalierv1.SetListRequest{Host: "web-1", Sets: []string{"base"}})
	if err != nil || next.GetList().GetVersion() != 8 {
		t.Errorf("the next list is %v, %v, want version 8", next, err)
	}
}

// TestHosts: what a host says of itself is what operators are told, those who may
// use its sets, and survives a restart.
func TestHosts(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "base", "db-1")
	if _, err := w.fleetOf(root).SetList(t.Context(), &espalierv1.SetListRequest{Host: "db-1", Sets: []string{"base", "db-1"}}); err != nil {
		t.Fatal(err)
	}
	report := &desired.Report{Agent: "v1", Problems: []desired.Problem{{Set: "db-1", Text: "no disk"}}}
	if a := w.polls(wire.Poll{Host: "db-1"}); !a.Tell {
		t.Error("a host that has told nothing isn't asked")
	}
	if a := w.polls(wire.Poll{Host: "db-1", Held: []delta.Held{{Name: "base", Number: 1}, {Name: "db-1"}}, Report: report}); a.Tell {
		t.Error("a host that has told is asked again")
	}
	reader := pki.Identity{Role: pki.RoleReader, Name: "r", Sets: []string{"base"}}
	for range 2 {
		for who, want := range map[*pki.Identity]string{
			&root:   "db-1 troubled [base db-1] [base db-1] [no disk] v1",
			&reader: "db-1 behind [base] [base] [] v1",
		} {
			resp, err := w.fleetOf(*who).ListHosts(t.Context(), &espalierv1.ListHostsRequest{})
			if err != nil || len(resp.GetHosts()) != 1 {
				t.Fatalf("hosts for %v: %v, %v", who, resp, err)
			}
			h, err := wire.HostFromWire(resp.GetHosts()[0])
			if err != nil {
				t.Fatal(err)
			}
			var held, problems []string
			for _, s := range h.Sets {
				held = append(held, string(s.Name))
			}
			for _, p := range h.Report.Problems {
				problems = append(problems, p.Text)
			}
			if got := fmt.Sprint(h.Name, " ", h.State, " ", h.List.Sets, " ", held, " ", problems, " ", h.Report.Agent); got != want {
				t.Errorf("%v is told %s, want %s", who, got, want)
			}
			if h.Age > time.Hour || h.Address == "" {
				t.Errorf("it polled %v ago from %q", h.Age, h.Address)
			}
		}
		w.restart()
	}
	if a := w.polls(wire.Poll{Host: "db-1"}); !a.Tell {
		t.Error("after a restart a host isn't asked")
	}
	stranger := pki.Identity{Role: pki.RoleReader, Name: "r", Sets: []string{"other-*"}}
	_, foreign := w.fleetOf(stranger).GetHost(t.Context(), &espalierv1.GetHostRequest{Host: "db-1"})
	_, unknown := w.fleetOf(stranger).GetHost(t.Context(), &espalierv1.GetHostRequest{Host: "no-1"})
	if statusOf(t, foreign, "db-1") != statusOf(t, unknown, "no-1") || !errors.Is(wire.FromStatus(unknown), wire.ErrNoHost) {
		t.Errorf("of a foreign host: %v; of an unknown one: %v", foreign, unknown)
	}
}

// TestPullEndsWithTheList takes a set off a host's list while the host pulls it
// slowly: the pull ends.
func TestPullEndsWithTheList(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "base")
	value := make([]byte, 1<<20)
	rand.NewChaCha8([32]byte{}).Read(value)
	admin := w.dial(w.as(root))
	for i := range 12 {
		if _, err := commit(t, admin, &espalierv1.CommitTerms{Set: "base"}, frame(t, put(fmt.Sprint(i), string(value)))); err != nil {
			t.Fatal(err)
		}
	}
	list := func(sets ...string) {
		t.Helper()
		if _, err := w.fleetOf(root).SetList(t.Context(), &espalierv1.SetListRequest{Host: "web-1", Sets: sets}); err != nil {
			t.Fatal(err)
		}
	}
	list("base", "web-1")
	stream, err := espalierv1.NewSyncServiceClient(w.dial(w.as(web1))).Pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := delta.Request{Open: &delta.Open{Set: "base", Mode: delta.Full, Width: delta.ShortWidth}}
	if err := stream.Send(wire.PullRequestToWire(open)); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	list("web-1")
	for err == nil { // what was on its way comes
		_, err = stream.Recv()
	}
	if !errors.Is(wire.FromStatus(err), store.ErrNotFound) {
		t.Errorf("the pull ends with %v, want %v", err, store.ErrNotFound)
	}
}

// TestListVersionIsNotTheHostsToSpend: a host that claims to have the last list
// there can be doesn't keep the admin from making another.
func TestListVersionIsNotTheHostsToSpend(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1", "base")
	for i := range 3 {
		w.polls(wire.Poll{Host: "web-1", ListVersion: desired.MaxNumber, ListSum: 1})
		sets := [][]string{{"base", "web-1"}, {"web-1"}, {"base"}}[i]
		resp, err := w.fleetOf(root).SetList(t.Context(), &espalierv1.SetListRequest{Host: "web-1", Sets: sets})
		if err != nil || resp.GetList().GetVersion() > 1<<24 {
			t.Errorf("a list after such a claim: %v, %v", resp.GetList(), err)
		}
	}
}

// TestHostsThatClaimMuch: what hosts say they hold doesn't keep the admin from
// seeing the fleet.
func TestHostsThatClaimMuch(t *testing.T) {
	w := secure(t)
	for i := range 40 {
		p := wire.Poll{Host: desired.Name(fmt.Sprintf("m%02d", i)), Report: &desired.Report{}}
		for j := range wire.MaxPolledSets {
			p.Held = append(p.Held, delta.Held{Name: desired.Name(strings.Repeat("n", 240) + fmt.Sprint(j))})
		}
		for range desired.MaxProblems {
			p.Report.Problems = append(p.Report.Problems, desired.Problem{Text: strings.Repeat("x", desired.MaxProblemBytes)})
		}
		w.polls(p)
	}
	seen := 0
	for req := (&espalierv1.ListHostsRequest{}); ; {
		resp, err := w.fleetOf(root).ListHosts(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		seen += len(resp.GetHosts())
		if !resp.GetMore() {
			break
		}
		req.After = resp.GetHosts()[len(resp.GetHosts())-1].GetName()
	}
	if seen != 40 {
		t.Errorf("the admin sees %d hosts, want 40", seen)
	}
}

// TestRevokedHostIsShown: a host that was shut out is shown as such, until it polls
// again with what was issued since.
func TestRevokedHostIsShown(t *testing.T) {
	w := secure(t)
	w.make(t, "web-1")
	state := func() espalierv1.HostInfo_State {
		t.Helper()
		resp, err := w.fleetOf(root).GetHost(t.Context(), &espalierv1.GetHostRequest{Host: "web-1"})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetHost().GetState()
	}
	w.polls(wire.Poll{Host: "web-1"})
	if _, err := w.admin().Revoke(t.Context(), &espalierv1.RevokeRequest{Role: "host", Name: "web-1"}); err != nil {
		t.Fatal(err)
	}
	if got := state(); got != espalierv1.HostInfo_STATE_REVOKED {
		t.Errorf("once revoked it is %v", got)
	}
	w.polls(wire.Poll{Host: "web-1"})
	if got := state(); got == espalierv1.HostInfo_STATE_REVOKED {
		t.Errorf("once it is back it is %v", got)
	}
}
