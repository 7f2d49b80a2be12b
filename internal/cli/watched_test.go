package cli

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"espalier/server"
)

// TestWatchedWaits: who asks for metrics before the server has registered its
// own waits for them.
func TestWatchedWaits(t *testing.T) {
	var logged bytes.Buffer
	o := server.Options{Logger: slog.New(slog.NewTextHandler(&logged, nil))}
	run, err := new(app).watched("127.0.0.1:0", &o)
	if err != nil {
		t.Fatal(err)
	}
	address := regexp.MustCompile(`address=(\S+)`).FindStringSubmatch(logged.String())[1]
	ctx, cancel := context.WithCancel(t.Context())
	stopped, asked := make(chan error, 1), make(chan string, 1)
	go func() { stopped <- run(ctx) }()
	go func() {
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			asked <- err.Error()
			return
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		asked <- string(text)
	}()
	o.Metrics.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "espalier_late_total"}))
	o.Ready()
	if got := <-asked; !strings.Contains(got, "espalier_late_total 0") {
		t.Errorf("metrics lack what was registered last:\n%s", got)
	}
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestWatchedStops: a server that never became ready is not waited for.
func TestWatchedStops(t *testing.T) {
	o := server.Options{Logger: slog.New(slog.DiscardHandler)}
	run, err := new(app).watched("127.0.0.1:0", &o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx); err != nil {
		t.Error(err)
	}
}
