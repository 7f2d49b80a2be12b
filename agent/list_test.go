package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/store"
)

// list makes the list of web-01.
func (o orchestrator) list(t *testing.T, sets ...string) {
	t.Helper()
	conn, err := grpc.NewClient(o.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := &espalierv1.SetListRequest{Host: "web-01", Sets: sets}
	if _, err := espalierv1.NewFleetServiceClient(conn).SetList(t.Context(), req); err != nil {
		t.Fatal(err)
	}
}

// info is what the server knows of web-01.
func (o orchestrator) info(t *testing.T) *espalierv1.HostInfo {
	t.Helper()
	conn, err := grpc.NewClient(o.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := espalierv1.NewFleetServiceClient(conn).GetHost(t.Context(), &espalierv1.GetHostRequest{Host: "web-01"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetHost()
}

// mirrored returns the sets of a report, with their revisions.
func mirrored(r agent.Report) string {
	var all []string
	for _, s := range r.Sets {
		all = append(all, fmt.Sprintf("%s@%d", s.Set, s.Head.Number))
	}
	return strings.Join(all, " ")
}

// syncs demands that a Sync succeeds with those sets at those revisions.
func syncs(t *testing.T, a *agent.Agent, want string) agent.Report {
	t.Helper()
	r, err := a.Sync(t.Context())
	if err != nil || mirrored(r) != want {
		t.Fatalf("synced %s, %v, want %s", mirrored(r), err, want)
	}
	return r
}

// sets is a handler that knows which sets it was told of.
type sets struct {
	told []string
	fail error
}

func (s *sets) Handle(_ context.Context, u agent.Update) error {
	if u.Left {
		for range u.Changes {
			return errors.New("a set that has left brings changes")
		}
		s.told = append(s.told, "-"+string(u.Set))
	} else {
		s.told = append(s.told, "+"+string(u.Set))
	}
	return s.fail
}

// TestListOfSets changes a host's list under an agent: it mirrors what is on it,
// in the same sync, and tells its handler of what has left, also if that fails at
// first or the agent is restarted in between. A set that comes back is where it
// was.
func TestListOfSets(t *testing.T) {
	o := serve(t)
	for _, set := range []desired.Name{"web-01", "base", "web"} {
		o.publish(t, set, map[string]string{"a": string(set)})
	}
	h, dir := &sets{}, t.TempDir()
	options := agent.Options{Host: "web-01", Dir: dir, Server: o.addr, Handler: h, Version: "v7"}
	a := open(t, options)
	told := func(want string) {
		t.Helper()
		if got := strings.Join(h.told, " "); got != want {
			t.Errorf("the handler was told %s, want %s", got, want)
		}
		h.told = nil
	}
	syncs(t, a, "web-01@1")
	told("+web-01")
	o.list(t, "base", "web", "web-01")
	if r := syncs(t, a, "base@1 web@1 web-01@1"); r.RoundTrips < 2 {
		t.Errorf("it took %d round trips", r.RoundTrips)
	}
	told("+base +web")
	syncs(t, a, "base@1 web@1 web-01@1")
	told("")
	if info := o.info(t); info.GetListState() != 0 || info.GetReport().GetAgent() != "v7" || len(info.GetSets()) != 3 {
		t.Errorf("the server knows %v", info)
	}

	path, err := a.MirrorPath("base")
	if err != nil {
		t.Fatal(err)
	}
	o.list(t, "web-01", "web")
	h.fail = errors.New("not now")
	if r, err := a.Sync(t.Context()); !errors.Is(err, h.fail) || mirrored(r) != "web-01@1 web@1" {
		t.Fatalf("synced %s, %v, want %v", mirrored(r), err, h.fail)
	}
	told("-base")
	a.Close()
	a = open(t, options)
	if _, err := a.Sync(t.Context()); !errors.Is(err, h.fail) {
		t.Fatalf("Sync = %v, want %v", err, h.fail)
	}
	told("-base")
	h.fail = nil
	syncs(t, a, "web-01@1 web@1")
	told("-base")
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mirror of what has left: %v", err)
	}
	syncs(t, a, "web-01@1 web@1")
	told("")

	o.publish(t, "base", map[string]string{"b": "2"})
	o.list(t, "web-01", "base")
	syncs(t, a, "web-01@1 base@2")
	told("+base -web")
	a.Close()
	a = open(t, options)
	syncs(t, a, "web-01@1 base@2")
	told("")
}

// TestListNeverGoesBack moves an agent between a server and one that lags, and
// one whose lists went another way: it keeps the list that it has, and says so.
func TestListNeverGoesBack(t *testing.T) {
	dir := t.TempDir()
	o := serveDir(t, dir)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	o.publish(t, "base", map[string]string{"b": "1"})
	o.list(t, "base", "web-01")
	o.stop()
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	o = serveDir(t, dir)
	o.list(t, "web-01")
	o.list(t, "web-01", "base")
	home := t.TempDir()
	at := func(o orchestrator) *agent.Agent {
		return open(t, agent.Options{Host: "web-01", Dir: home, Server: o.addr})
	}
	a := at(o)
	syncs(t, a, "web-01@1 base@1")
	a.Close()

	lagging := serveDir(t, old)
	a = at(lagging)
	for range 2 { // to be behind is no failure
		syncs(t, a, "web-01@1 base@1")
	}
	info := lagging.info(t)
	if info.GetListState() != espalierv1.HostInfo_LIST_STATE_AHEAD || len(info.GetReport().GetProblems()) != 1 {
		t.Errorf("the server that lags knows %v", info)
	}
	lagging.list(t, "base") // it knows that version 3 was seen
	syncs(t, a, "base@1")
	a.Close()

	o.list(t, "base", "web-01")
	a = at(o)
	r, err := a.Sync(t.Context())
	if !errors.Is(err, agent.ErrUnsafe) || mirrored(r) != "base@1" {
		t.Errorf("synced %s, %v with a server that has another list of that version, want %v", mirrored(r), err, agent.ErrUnsafe)
	}
	if _, err = a.Sync(t.Context()); !errors.Is(err, agent.ErrUnsafe) {
		t.Errorf("Sync = %v, want %v", err, agent.ErrUnsafe)
	}
	if problems := o.info(t).GetReport().GetProblems(); len(problems) != 1 || !problems[0].GetRefused() {
		t.Errorf("it reports %v", problems)
	}
	o.list(t, "base", "web-01")
	syncs(t, a, "base@1 web-01@1")
}

// TestListIsKeptTwice damages and removes what the agent keeps of its list: one
// copy is enough, with none that can be read it doesn't start, and where all are
// gone what is mirrored stays until the server says what becomes of it.
func TestListIsKeptTwice(t *testing.T) {
	o := serve(t)
	for _, set := range []desired.Name{"web-01", "base"} {
		o.publish(t, set, map[string]string{"a": "1"})
	}
	o.list(t, "base", "web-01")
	home := t.TempDir()
	options := agent.Options{Host: "web-01", Dir: home, Server: o.addr, Credentials: insecure.NewCredentials()}
	a := open(t, options)
	syncs(t, a, "base@1 web-01@1")
	copies := []string{filepath.Join(home, "list"), filepath.Join(home, "list2")}
	spoil := func(path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range copies {
		a.Close()
		spoil(path)
		a = open(t, options)
		syncs(t, a, "base@1 web-01@1")
		o.list(t, "base")
		o.list(t, "base", "web-01")
		syncs(t, a, "base@1 web-01@1") // which writes both anew
	}
	a.Close()
	spoil(copies[0])
	spoil(copies[1])
	if _, err := agent.Open(options); !errors.Is(err, store.ErrCorrupt) {
		t.Errorf("Open = %v with no copy that can be read, want %v", err, store.ErrCorrupt)
	}
	for _, path := range copies {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	o.stop()
	a = open(t, options)
	if r, err := a.Sync(t.Context()); err == nil || mirrored(r) != "base@1 web-01@1" {
		t.Errorf("without a list and a server it has %s, %v", mirrored(r), err)
	}
}

// TestListThatForgets: a server that drops a set from a list without saying that
// it has left is not followed.
func TestListThatForgets(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	home := t.TempDir()
	a := open(t, agent.Options{Host: "web-01", Dir: home, Server: o.addr})
	syncs(t, a, "web-01@1")
	a.Close()
	for name, list := range map[string]*espalierv1.HostList{
		"that forgets":     {Version: 3, Sets: []string{"base"}},
		"without sets":     {Version: 3},
		"with a set twice": {Version: 3, Sets: []string{"web-01", "web-01"}},
		"with odd names":   {Version: 3, Sets: []string{"web-01", "../x"}},
	} {
		a := open(t, agent.Options{Host: "web-01", Dir: home, Server: play(t, script{
			poll: func(*espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
				return &espalierv1.PollResponse{List: list}, nil
			},
		})})
		if r, err := a.Sync(t.Context()); err == nil || mirrored(r) != "web-01@1" {
			t.Errorf("a list %s: synced %s, %v", name, mirrored(r), err)
		}
		a.Close()
	}
	names, err := store.Mirrors(home)
	if err != nil || !slices.Equal(names, []desired.Name{"web-01"}) {
		t.Errorf("it mirrors %v, %v", names, err)
	}
}

// TestListThatNeverSettles: a sync ends, whatever the server says.
func TestListThatNeverSettles(t *testing.T) {
	n := 0
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: play(t, script{
		poll: func(*espalierv1.PollRequest) (*espalierv1.PollResponse, error) {
			n++
			return &espalierv1.PollResponse{List: &espalierv1.HostList{Version: uint64(n), Sets: []string{"web-01", fmt.Sprintf("s%d", n)}, Left: []string{fmt.Sprintf("s%d", n-1)}}}, nil
		},
	})})
	if _, err := a.Sync(t.Context()); err == nil || n > 10 {
		t.Errorf("Sync = %v after %d polls", err, n)
	}
}

// TestTell: who syncs once tells the server how it went, and a new process doesn't
// wipe what was told before it has anything to tell.
func TestTell(t *testing.T) {
	o := serve(t)
	dir := t.TempDir()
	problems := func() int { return len(o.info(t).GetReport().GetProblems()) }
	once := func() *agent.Agent {
		t.Helper()
		a := open(t, agent.Options{Host: "web-01", Dir: dir, Server: o.addr, Version: "v1"})
		_, _ = a.Sync(t.Context()) // there is no such set yet
		return a
	}
	a := once()
	if err := a.Tell(t.Context()); err != nil || problems() != 1 {
		t.Errorf("told of %d problems, %v, want 1", problems(), err)
	}
	a.Close()
	a = once()
	if problems() != 1 || o.info(t).GetReport().GetAgent() != "v1" {
		t.Errorf("another process has wiped what was told: %v", o.info(t))
	}
	head := o.publish(t, "web-01", map[string]string{"a": "1"})
	sync(t, a)
	if err := a.Tell(t.Context()); err != nil || problems() != 0 || o.info(t).GetSets()[0].GetNumber() != head.Number {
		t.Errorf("after a sync the server knows %v, %v", o.info(t), err)
	}
}
