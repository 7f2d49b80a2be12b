package server_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
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

// inTime runs a server in a bubble of time. stop stops it early.
func inTime(t *testing.T, o server.Options, fn func(t *testing.T, conn *grpc.ClientConn, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		s, l, conn := listen(t)
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error, 1)
		o.ScratchDir, o.ScrubBytes = t.TempDir(), -1
		go func() { stopped <- server.New(s, o).Run(ctx, l) }()
		fn(t, conn, cancel)
		synctest.Wait()
		cancel()
		conn.Close()
		if err := errors.Join(<-stopped, s.Close()); err != nil {
			t.Error(err)
		}
	})
}

// holding runs a server in a bubble, with room for so many held polls.
func holding(t *testing.T, room int, fn func(t *testing.T, conn *grpc.ClientConn, stop func())) {
	inTime(t, server.Options{Limits: server.Limits{MaxHeld: room}}, fn)
}

// told is the answer to a poll, and how long it took.
type told struct {
	wire.PollAnswer
	after time.Duration
}

// askFor polls as a host that holds its set, and may be held.
func askFor(t *testing.T, conn *grpc.ClientConn, host desired.Name, head *espalierv1.Head, hold time.Duration) told {
	t.Helper()
	h, err := wire.HeadFromWire(head)
	if err != nil {
		t.Fatal(err)
	}
	p := wire.Poll{
		Host: host, Hold: hold, Report: &desired.Report{},
		Held: []delta.Held{{Name: host, Epoch: h.Epoch.Prefix(), Number: h.Number, Root: h.Root.Prefix()}},
	}
	began := time.Now()
	resp, err := espalierv1.NewSyncServiceClient(conn).Poll(t.Context(), wire.PollToWire(p, true))
	if err != nil {
		t.Fatal(err)
	}
	a, err := wire.PollAnswerFromWire(resp, 1)
	if err != nil {
		t.Fatal(err)
	}
	return told{a, time.Since(began)}
}

// make1 commits to a set.
func make1(t *testing.T, conn *grpc.ClientConn, set, value string) *espalierv1.Head {
	t.Helper()
	resp, err := commit(t, conn, &espalierv1.CommitTerms{Set: set}, frame(t, put("a", value)))
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetHead()
}

// TestHeldPoll: a poll that may wait is answered when its set changes, when the
// host's list does, or at its time, and not because of anything else.
func TestHeldPoll(t *testing.T) {
	holding(t, 10, func(t *testing.T, conn *grpc.ClientConn, _ func()) {
		head := make1(t, conn, "web-01", "1")
		if a := askFor(t, conn, "web-01", head, 0); a.after > 0 || a.Held {
			t.Errorf("a poll that may not wait took %v, held: %v", a.after, a.Held)
		}
		if a := askFor(t, conn, "web-01", head, time.Minute); a.after != time.Minute || !a.Held || len(a.Sets) > 0 {
			t.Errorf("a poll with nothing to say took %v: %+v", a.after, a)
		}
		later := func(after time.Duration, do func()) {
			go func() {
				time.Sleep(after)
				do()
			}()
		}
		later(5*time.Second, func() { make1(t, conn, "other", "1") })
		later(20*time.Second, func() { make1(t, conn, "web-01", "2") })
		a := askFor(t, conn, "web-01", head, time.Minute)
		if a.after != 20*time.Second || !a.Held || len(a.Sets) != 1 || a.Sets[0].Number != 2 {
			t.Errorf("a poll whose set changed after 20 s took %v: %+v", a.after, a)
		}
		head = make1(t, conn, "web-01", "3")
		later(10*time.Second, func() {
			req := &espalierv1.SetListRequest{Host: "web-01", Sets: []string{"other", "web-01"}}
			if _, err := espalierv1.NewFleetServiceClient(conn).SetList(t.Context(), req); err != nil {
				t.Error(err)
			}
		})
		if a = askFor(t, conn, "web-01", head, time.Minute); a.after != 10*time.Second || a.List == nil {
			t.Errorf("a poll whose list changed after 10 s took %v: %+v", a.after, a)
		}
	})
}

// TestHeldPollsWithoutRoom: beyond the budget polls are answered at once, with a
// time to come back, and a place that is left is taken by the next.
func TestHeldPollsWithoutRoom(t *testing.T) {
	holding(t, 3, func(t *testing.T, conn *grpc.ClientConn, _ func()) {
		var polls sync.WaitGroup
		heads := map[desired.Name]*espalierv1.Head{}
		for i := range 5 {
			host := desired.Name(fmt.Sprintf("h%d", i))
			heads[host] = make1(t, conn, string(host), "1")
		}
		answers := make(chan told, 5)
		for host, head := range heads {
			polls.Go(func() { answers <- askFor(t, conn, host, head, time.Minute) })
		}
		polls.Wait()
		held := 0
		for range 5 {
			a := <-answers
			switch {
			case a.after == time.Minute:
				held++
			case a.after > 0 || a.Held || a.Next == 0:
				t.Errorf("a poll without room took %v: %+v", a.after, a)
			}
		}
		if held != 3 {
			t.Errorf("%d polls were held, want 3", held)
		}
		if a := askFor(t, conn, "h0", heads["h0"], time.Minute); a.after != time.Minute {
			t.Errorf("a poll with room again took %v", a.after)
		}
	})
}

// TestHeldPollsEndWithTheServer: who waits is told when the server stops, at
// once, and not to come back at once.
func TestHeldPollsEndWithTheServer(t *testing.T) {
	holding(t, 3, func(t *testing.T, conn *grpc.ClientConn, stop func()) {
		head := make1(t, conn, "web-01", "1")
		go func() {
			time.Sleep(10 * time.Second)
			stop()
		}()
		if a := askFor(t, conn, "web-01", head, time.Minute); a.after != 10*time.Second || a.Held {
			t.Errorf("it took %v, held: %v", a.after, a.Held)
		}
	})
}

// TestCommitStorm: a storm of commits to the set of one host doesn't wake those
// who wait for others.
func TestCommitStorm(t *testing.T) {
	holding(t, 10, func(t *testing.T, conn *grpc.ClientConn, _ func()) {
		head := make1(t, conn, "web-01", "1")
		go func() {
			for i := range 100 {
				make1(t, conn, "storm", fmt.Sprint(i))
				time.Sleep(100 * time.Millisecond)
			}
		}()
		if a := askFor(t, conn, "web-01", head, 5*time.Second); a.after != 5*time.Second {
			t.Errorf("it took %v", a.after)
		}
		time.Sleep(time.Minute)
	})
}
