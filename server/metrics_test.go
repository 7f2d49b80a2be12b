package server_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
)

// TestMetrics counts what a server did, and what it is held to, and names nobody.
func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	o := server.Options{Metrics: r, Limits: server.Limits{PollRate: 2, MaxPulls: 7}}
	inTime(t, o, func(t *testing.T, conn *grpc.ClientConn, _ func()) {
		make1(t, conn, "web-01", "hidden")
		for range 5 { // of which a burst of 3 is let through
			_, err := espalierv1.NewSyncServiceClient(conn).Poll(t.Context(), wire.PollToWire(wire.Poll{Host: "web-01"}, true))
			if err != nil && !errors.Is(wire.FromStatus(err), wire.ErrOverloaded) {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second) // until there is room again
		applying := wire.Poll{Host: "web-02", Report: &desired.Report{Applying: &desired.Convergence{State: desired.Waiting, Failed: 5}}}
		if _, err := espalierv1.NewSyncServiceClient(conn).Poll(t.Context(), wire.PollToWire(applying, true)); err != nil {
			t.Fatal(err)
		}
		if _, err := pullAll(t, conn, "web-01"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		for _, f := range families {
			for _, m := range f.GetMetric() {
				fmt.Fprintf(&text, "%s", f.GetName())
				for _, l := range m.GetLabel() {
					fmt.Fprintf(&text, " %s=%s", l.GetName(), l.GetValue())
				}
				fmt.Fprintf(&text, " %v\n", m.GetCounter().GetValue()+m.GetGauge().GetValue())
			}
		}
		for _, want := range []string{
			"espalier_polls_total outcome=idle 4", "espalier_polls_total outcome=failed 2", "espalier_refused_total reason=too many polls 2",
			"espalier_pulls_total outcome=done 1", "espalier_changes_total call=commit outcome=done 1",
			"espalier_hosts state=in step 1", "espalier_sets state=served 1", "espalier_limit name=pulls 7", "espalier_polls_held 0",
			"espalier_hosts state=troubled 1", "espalier_hosts_applying progress=failing 1", "espalier_hosts_applying progress=only mirrors 1",
			"espalier_hosts_applying progress=paused 0", "espalier_objects_failed 5",
		} {
			if !strings.Contains(text.String(), want+"\n") {
				t.Errorf("no %q in\n%s", want, &text)
			}
		}
		if strings.Contains(text.String(), "web-01") || strings.Contains(text.String(), "hidden") {
			t.Errorf("the metrics name somebody:\n%s", &text)
		}
	})
}
