package server_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"espalier/internal/desired"
	espalierv1 "espalier/proto/espalier/v1"
	"espalier/server"
)

// lines is a log that several goroutines write to.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// with returns the lines that have all of the words.
func (l *lines) with(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
next:
	for line := range strings.Lines(l.text.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// TestLog changes a set in every way, and polls as a fleet does that asks for
// what isn't there: each change is one line, and a complaint is not repeated.
func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l, conn := listen(t)
		var log lines
		ctx, cancel := context.WithCancel(context.Background())
		stopped := make(chan error, 1)
		o := server.Options{Logger: slog.New(slog.NewTextHandler(&log, nil)), ScratchDir: t.TempDir(), ScrubBytes: -1}
		go func() { stopped <- server.New(s, o).Run(ctx, l) }()
		operator, agent := espalierv1.NewOperatorServiceClient(conn), espalierv1.NewSyncServiceClient(conn)

		must := func(_ any, err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(commit(t, conn, &espalierv1.CommitTerms{Set: "s", Why: "first"}, frame(t, put("a", "1"))))
		must(commit(t, conn, &espalierv1.CommitTerms{Set: "s", Why: "again"}, frame(t, put("a", "1"))))
		must(commit(t, conn, &espalierv1.CommitTerms{Set: "s", Why: "drill", Restore: &espalierv1.Restore{}}, frame(t, put("b", "1"))))
		stale := &espalierv1.CommitTerms{Set: "s", Expect: &espalierv1.Position{Number: 9}} // who is late tries again
		guarded := &espalierv1.CommitTerms{Set: "s", MaxDelete: &espalierv1.DeleteLimit{}}
		for range 3 {
			if _, err := commit(t, conn, stale, frame(t, put("a", "2"))); err == nil {
				t.Error("a stale revision was not refused")
			}
			if _, err := commit(t, conn, guarded, frame(t, desired.Change{Key: []byte("b")})); err == nil {
				t.Error("a deletion too many was not refused")
			}
		}
		must(operator.DeleteSet(t.Context(), &espalierv1.DeleteSetRequest{Set: "s", Why: "the end"}))
		poll := func(set string) {
			t.Helper()
			must(agent.Poll(t.Context(), &espalierv1.PollRequest{Sets: []*espalierv1.HeldSet{{Name: set}}}))
		}
		for range 100 {
			poll("s")
			time.Sleep(time.Second)
		}
		for _, c := range []struct {
			lines int
			words []string
		}{
			{1, []string{"INFO msg=commit set=s epoch=", "revision=1", "who=bufconn", "why=first", "created=1"}},
			{0, []string{"why=again"}},
			{1, []string{"INFO msg=restore set=s", "why=drill", "revision=2", "deleted=1"}},
			{1, []string{`WARN msg="commit refused" set=s`, "error="}},
			{1, []string{`INFO msg="delete set" set=s epoch=`, "revision=2", `why="the end"`}},
			{1, []string{"WARN", "set=s", "doesn't exist"}},
		} {
			if found := log.with(c.words...); len(found) != c.lines {
				t.Errorf("%q: %q, want %d lines", c.words, found, c.lines)
			}
		}
		time.Sleep(server.QuietTime)
		poll("s")
		if found := log.with("doesn't exist"); len(found) != 2 {
			t.Errorf("after %v: %q, want it again", server.QuietTime, found)
		}
		for i := range server.MaxWarnings + 10 {
			poll(fmt.Sprint("s", i))
		}
		if found := log.with("doesn't exist"); len(found) > 2+server.MaxWarningsEach {
			t.Errorf("%d lines, want %d at most of one caller", len(found), server.MaxWarningsEach)
		}
		conn.Close()
		cancel()
		must(nil, <-stopped)
		must(nil, s.Close())
	})
}
