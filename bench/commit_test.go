package bench_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"espalier/bench"
	"espalier/internal/desired"
)

func TestCommit(t *testing.T) {
	var seen []string
	report, err := bench.RunCommit(t.Context(), bench.CommitOptions{
		Size:  bench.Size{Objects: 5000, ValueBytes: 100, Seed: 1},
		Large: 20_000,
		Row:   func(r bench.CommitRow) { seen = append(seen, r.Case) },
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"commit-1", "commit-100", "commit-100-clustered", "commit-10000", "commit-10000-clustered"}
	if !slices.Equal(seen, want) {
		t.Errorf("cases %v, want %v", seen, want)
	}
	for _, r := range report.Rows {
		if r.Store.Pages < r.Plain.Pages || r.Plain.Pages == 0 || r.PagesRatio < 1 {
			t.Errorf("%s: %d pages, %d without tree and journal, a ratio of %.2f", r.Case, r.Store.Pages, r.Plain.Pages, r.PagesRatio)
		}
		if r.Store.Bytes < r.Store.Pages*512 || r.Plain.Bytes < r.Plain.Pages*512 || r.Commits == 0 || r.Changed == 0 ||
			r.Store.Seconds <= 0 || r.Plain.Seconds <= 0 || r.PeakHeap == 0 || r.What == "" {
			t.Errorf("%s: something is missing in %+v", r.Case, r)
		}
	}
	if one := report.Rows[0].Store.Pages; one > 15 {
		t.Errorf("a commit of 1 change writes %d pages, at most 15 are allowed", one)
	}
	g := report.Growth
	if g.Small.Objects != 10_000 || g.Large.Objects != 20_000 || g.Small.Pages == 0 || g.PagesRatio < 0.5 || g.PagesRatio > 2 || g.CPURatio <= 0 {
		t.Errorf("growth: %+v", g)
	}
}

func TestPoll(t *testing.T) {
	report, err := bench.RunPoll(t.Context(), bench.PollOptions{Agents: 3, Concurrency: 2, Duration: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if report.Pairs != 2 || report.CPURatio <= 0 || report.Poll.PerSecond <= 0 || report.Empty.CPUSeconds <= 0 {
		t.Errorf("report: %+v", report)
	}
	poll, empty := report.Poll.Sent+report.Poll.Received, report.Empty.Sent+report.Empty.Received
	if poll > 130 || empty > poll || empty < 40 {
		t.Errorf("an idle poll takes %.1f bytes, an empty call %.1f; want at most 130, and less", poll, empty)
	}
}

func TestBadOptions(t *testing.T) {
	size := bench.Size{Objects: 1000, ValueBytes: 100}
	for _, o := range []bench.CommitOptions{{}, {Size: size, Large: 1}, {Size: size, Rounds: bench.MaxRounds + 1}} {
		if _, err := bench.RunCommit(t.Context(), o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("RunCommit(%+v) = %v, want an error that matches desired.ErrInvalid", o, err)
		}
	}
	for _, o := range []bench.PollOptions{
		{Agents: -1},
		{Agents: bench.MaxAgents + 1},
		{Agents: 2, Concurrency: 3},
		{Duration: time.Millisecond},
		{Duration: 2 * bench.MaxPollDuration},
	} {
		if _, err := bench.RunPoll(t.Context(), o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("RunPoll(%+v) = %v, want an error that matches desired.ErrInvalid", o, err)
		}
	}
}
