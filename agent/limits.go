package agent

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	connectBackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"
)

// Every bound of the agent, with its reason. Those of messages are in package
// delta.
const (
	// DefaultInterval is the time between polls of a server that says nothing.
	DefaultInterval = 30 * time.Second
	// MinInterval and MaxInterval bound what a server can ask for.
	MinInterval = time.Second
	MaxInterval = time.Hour
	// CallTimeout bounds a poll, and the silence within a pull.
	CallTimeout = 60 * time.Second
	// PullAttempts is how often a pull is tried again that brought nothing new.
	PullAttempts = 3

	// maxAsks is how many polls a sync begins with, each of which may bring another
	// list of sets.
	maxAsks = 4

	// adoptChanges and adoptBytes bound what is applied to a mirror in one
	// transaction; more is staged beside it.
	adoptChanges = 16 << 10
	adoptBytes   = 8 << 20
	// stageChanges and stageBytes bound one transaction of a staging: what a
	// cut can cost, and what is held in memory, twice.
	stageChanges = 20_000
	stageBytes   = 8 << 20
	// scrubBytes is what is read of the mirrors after each poll: a set of a
	// million objects in an hour, at the default interval.
	scrubBytes = 2 << 20
	// renewRetry is how long after a failure a certificate is renewed.
	renewRetry = time.Minute
	// deliverBytes bounds what is read at once for a Handler.
	deliverBytes = 1 << 20

	// The windows are static, since probing for the bandwidth costs more bytes
	// than an idle poll.
	streamWindow   = 4 << 20
	connWindow     = 8 << 20
	maxHeaderBytes = 16 << 10
)

// A connection whose peer vanished is noticed within a minute of a call.
var keepaliveParams = keepalive.ClientParameters{Time: 40 * time.Second, Timeout: 20 * time.Second}

// After a connection failed, gRPC waits before it makes another, and fails all
// calls at once until then. It must not wait as long as the agent does from poll
// to poll, or polls would fail long after the server is back.
var connectParams = grpc.ConnectParams{
	Backoff:           connectBackoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: DefaultInterval / 2},
	MinConnectTimeout: 20 * time.Second,
}

// backoff returns how long to wait after so many failures in a row: at random
// up to 1 s, growing by 1.6 with each, at most 120 s (full jitter; Brooker,
// "Exponential Backoff And Jitter", 2015).
func backoff(failures int) time.Duration {
	most := min(120, math.Pow(1.6, float64(failures-1)))
	return time.Duration(rand.Float64() * most * float64(time.Second))
}

// jitter returns d, give or take a tenth: fixed phases echo through a fleet.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

func clamp(d time.Duration) time.Duration { return min(max(d, MinInterval), MaxInterval) }

// sleep returns after d, or once ctx is done.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
