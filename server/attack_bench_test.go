package server_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"espalier/internal/pki"
	"espalier/server"
)

// BenchmarkPollUnderAttack polls, over TLS, while others misbehave, and prints
// the median and the 99th percentile of how long a poll takes, in milliseconds,
// and the heap of server and clients together: on the machine that attacks.
func BenchmarkPollUnderAttack(b *testing.B) {
	attacks := map[string]func(ctx context.Context, w *secured){
		"nobody":    func(ctx context.Context, _ *secured) { <-ctx.Done() },
		"half-open": halfOpen,
		"strangers": strangers,
	}
	for _, name := range []string{"nobody", "half-open", "strangers"} {
		b.Run(name, func(b *testing.B) { pollUnder(b, attacks[name]) })
	}
}

// attackers is how many connections an attacker holds at once.
const attackers = 10_000

// halfOpen makes connections and says nothing, again and again, the oldest
// making room once there are many.
func halfOpen(ctx context.Context, w *secured) {
	var group sync.WaitGroup
	const workers = 8
	for range workers {
		group.Go(func() {
			held := make([]net.Conn, attackers/workers)
			for i := 0; ctx.Err() == nil; i = (i + 1) % len(held) {
				c, err := w.dialer(ctx)
				if err != nil {
					time.Sleep(time.Millisecond) // there is no room: what it wants
					continue
				}
				if held[i] != nil {
					held[i].Close()
				}
				held[i] = c
			}
			for _, c := range held {
				if c != nil {
					c.Close()
				}
			}
		})
	}
	group.Wait()
}

// strangers makes whole handshakes without a certificate, as fast as they go.
func strangers(ctx context.Context, w *secured) {
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for ctx.Err() == nil {
				conn := w.dial(pki.JoinConfig(w.authority.Fingerprint()))
				_ = poll(conn) // and is refused
				conn.Close()
			}
		})
	}
	group.Wait()
}

func pollUnder(b *testing.B, attack func(context.Context, *secured)) {
	w := secure(b)
	conn := w.dial(w.as(web1))
	if err := poll(conn); err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	var group sync.WaitGroup
	group.Go(func() { attack(ctx, w) })
	time.Sleep(time.Second) // until it has begun
	var took []time.Duration
	var failed atomic.Int32
	for range max(b.N, 500) {
		start := time.Now()
		if err := poll(conn); err != nil {
			failed.Add(1)
		}
		took = append(took, time.Since(start))
		time.Sleep(5 * time.Millisecond)
	}
	used := heap()
	stop()
	group.Wait()
	slices.Sort(took)
	b.ReportMetric(took[len(took)/2].Seconds()*1e3, "p50-ms")
	b.ReportMetric(took[len(took)*99/100].Seconds()*1e3, "p99-ms")
	b.ReportMetric(float64(failed.Load()), "failed")
	b.ReportMetric(float64(used)/(1<<20), "heap-MiB")
	b.ReportMetric(0, "ns/op")
	if _, waiting := w.server.Connections(); waiting > server.MaxHalfOpen {
		b.Errorf("%d connections wait, want %d at most", waiting, server.MaxHalfOpen)
	}
}
