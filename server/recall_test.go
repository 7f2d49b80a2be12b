package server_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/wire"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
	"espalier/store"
)

// TestStartRemembersChanges starts a server of sets one of which changed every few
// minutes for hours: its host is told to come back sooner than the other's.
func TestStartRemembersChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l, conn := listen(t)
		commit := func(set desired.Name, value string) {
			t.Helper()
			_, err := s.Commit(t.Context(), set, store.Commit{Changes: func(yield func(desired.Change, error) bool) { yield(put("a", value), nil) }})
			if err != nil {
				t.Fatal(err)
			}
		}
		commit("quiet", "1")
		time.Sleep(48 * time.Hour)
		for i := range 200 {
			commit("busy", fmt.Sprint(i))
			time.Sleep(5 * time.Minute)
		}
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error, 1)
		o := server.Options{ScratchDir: t.TempDir(), ScrubBytes: -1, Limits: server.Limits{PollBudget: 0.1}}
		go func() { stopped <- server.New(s, o).Run(ctx, l) }()
		time.Sleep(time.Second)
		next := map[desired.Name]uint32{}
		for _, host := range []desired.Name{"quiet", "busy"} {
			head, err := s.Head(host)
			if err != nil {
				t.Fatal(err)
			}
			p := wire.Poll{Host: host, Held: []delta.Held{{Name: host, Epoch: head.Epoch.Prefix(), Number: head.Number, Root: head.Root.Prefix()}}}
			for range 2 { // the first hint spreads those who come after a start
				resp, err := espalierv1.NewSyncServiceClient(conn).Poll(t.Context(), wire.PollToWire(p, true))
				if err != nil {
					t.Fatal(err)
				}
				next[host] = resp.GetNextPollMs()
			}
		}
		if next["busy"]*2 > next["quiet"] {
			t.Errorf("the hosts are told to come back in %v ms", next)
		}
		cancel()
		conn.Close()
		if err := errors.Join(<-stopped, s.Close()); err != nil {
			t.Error(err)
		}
	})
}
