package server_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
)

// limited runs a server with limits in a bubble.
func limited(t *testing.T, l server.Limits, fn func(t *testing.T, conn *grpc.ClientConn)) {
	inTime(t, server.Options{Limits: l}, func(t *testing.T, conn *grpc.ClientConn, _ func()) { fn(t, conn) })
}

// pullAll pulls a set to its end, and returns how long that took.
func pullAll(t *testing.T, conn *grpc.ClientConn, set desired.Name) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	stream, err := espalierv1.NewSyncServiceClient(conn).Pull(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open := delta.Request{Open: &delta.Open{Set: set, Mode: delta.Full, Width: delta.ShortWidth}}
	if err := stream.Send(wire.PullRequestToWire(open)); err != nil {
		t.Fatal(err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return time.Since(began), wire.FromStatus(err)
}

// TestPollRate: polls beyond the rate are refused with a time to retry, drawn for
// each, and those after it are not.
func TestPollRate(t *testing.T) {
	limited(t, server.Limits{PollRate: 10}, func(t *testing.T, conn *grpc.ClientConn) {
		client := espalierv1.NewSyncServiceClient(conn)
		retries := map[time.Duration]bool{}
		refused := 0
		for range 40 {
			_, err := client.Poll(t.Context(), wire.PollToWire(wire.Poll{Host: "web-01"}, true))
			if err = wire.FromStatus(err); err == nil {
				continue
			}
			retry, ok := wire.RetryAfter(err)
			if !errors.Is(err, wire.ErrOverloaded) || !ok || retry < time.Second {
				t.Fatalf("a poll too many: %v, to retry in %v", err, retry)
			}
			refused++
			retries[retry] = true
		}
		if refused < 20 || refused > 30 || len(retries) < refused/2 {
			t.Errorf("%d of 40 polls were refused, with %d different times", refused, len(retries))
		}
		time.Sleep(time.Second)
		if _, err := client.Poll(t.Context(), wire.PollToWire(wire.Poll{Host: "web-01"}, true)); err != nil {
			t.Errorf("a second later: %v", err)
		}
	})
}

// TestBytesASecond: pulls take the time that the limits give them, a host's own
// and that of all.
func TestBytesASecond(t *testing.T) {
	burst := 2 * delta.MaxMessageBytes
	limited(t, server.Limits{HostBytes: 1 << 20, Bytes: 4 << 20}, func(t *testing.T, conn *grpc.ClientConn) {
		value := make([]byte, 1<<20)
		rand.NewChaCha8([32]byte{}).Read(value) // it doesn't compress
		for i := range 16 {
			if _, err := commit(t, conn, &espalierv1.CommitTerms{Set: "web-01"}, frame(t, put(fmt.Sprintf("%02d", i), string(value)+fmt.Sprint(i)))); err != nil {
				t.Fatal(err)
			}
		}
		least, most := time.Duration(16<<20-burst)*time.Second/(1<<20), 17*time.Second
		took, err := pullAll(t, conn, "web-01")
		if err != nil || took < least || took > most {
			t.Errorf("a pull of 16 MiB took %v, %v, want %v to %v", took, err, least, most)
		}
	})
}

// TestTooManyPulls: a pull too many is told to retry; polls go on.
func TestTooManyPulls(t *testing.T) {
	limited(t, server.Limits{MaxPulls: 1}, func(t *testing.T, conn *grpc.ClientConn) {
		make1(t, conn, "web-01", "1")
		stream, err := espalierv1.NewSyncServiceClient(conn).Pull(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open := delta.Request{Open: &delta.Open{Set: "web-01", Mode: delta.Descent, Width: delta.ShortWidth}}
		if err := stream.Send(wire.PullRequestToWire(open)); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if _, err := pullAll(t, conn, "web-01"); !errors.Is(err, wire.ErrOverloaded) {
			t.Errorf("a second pull: %v, want %v", err, wire.ErrOverloaded)
		}
		if _, err := espalierv1.NewSyncServiceClient(conn).Poll(t.Context(), wire.PollToWire(wire.Poll{Host: "web-01"}, true)); err != nil {
			t.Errorf("a poll meanwhile: %v", err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		synctest.Wait()
		if _, err := pullAll(t, conn, "web-01"); err != nil {
			t.Errorf("a pull after the other: %v", err)
		}
	})
}
