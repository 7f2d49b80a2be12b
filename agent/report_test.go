package agent_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/agent"
	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
)

// TestReportsCutHeldPolls: over a real connection, what an agent says of applying
// reaches the server though its poll is held for minutes, and an order the agent.
func TestReportsCutHeldPolls(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr})
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan error, 1)
	go func() { stopped <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient(o.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fleet := espalierv1.NewFleetServiceClient(conn)
	until := func(what string, done func(h *espalierv1.HostInfo) bool) {
		t.Helper()
		for begin := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			resp, err := fleet.ListHosts(t.Context(), &espalierv1.ListHostsRequest{})
			if err == nil && len(resp.GetHosts()) == 1 && done(resp.GetHosts()[0]) {
				return
			}
			if time.Since(begin) > time.Minute {
				t.Fatalf("%s: not within a minute: %v, %v", what, resp, err)
			}
		}
	}
	until("a poll is held", func(h *espalierv1.HostInfo) bool { return h.GetPace() == "held" && h.GetSets()[0].GetCurrent() })
	a.Follower().Report(&desired.Convergence{State: desired.Waiting, Objects: 7})
	until("a report", func(h *espalierv1.HostInfo) bool { return h.GetReport().GetApplying().GetObjects() == 7 })
	pause := &espalierv1.SetOrdersRequest{Host: "web-01", Order: espalierv1.SetOrdersRequest_ORDER_PAUSE, Why: "because"}
	if _, err := fleet.SetOrders(t.Context(), pause); err != nil {
		t.Fatal(err)
	}
	until("a pause", func(*espalierv1.HostInfo) bool { return a.Follower().List().Paused })
	if got := a.Follower().List(); got.Why != "because" || got.Version != 1 {
		t.Errorf("the agent was told %+v", got)
	}
}

// TestStages: what a change took is known of those that this host waited for.
func TestStages(t *testing.T) {
	o := serve(t)
	o.publish(t, "web-01", map[string]string{"a": "1"})
	a := open(t, agent.Options{Host: "web-01", Dir: t.TempDir(), Server: o.addr})
	stages := func() desired.Stages {
		t.Helper()
		sync(t, a)
		return a.Follower().Sets()[0].Stages
	}
	first := stages()
	if first.Waited != 0 || first.Transferred <= 0 {
		t.Errorf("a first pull took %+v, want a transfer, and nobody to have waited", first)
	}
	if again := stages(); again != first {
		t.Errorf("without a change they are %+v, want %+v", again, first)
	}
	committed := time.Now().Truncate(time.Millisecond)
	o.publish(t, "web-01", map[string]string{"a": "2"})
	second := stages()
	if most := time.Since(committed); second.Waited < time.Millisecond || second.Waited > most+time.Millisecond || second.Transferred <= 0 || second.Transferred > most {
		t.Errorf("a change took %+v, want what is within %v", second, most)
	}
}
