package bench_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"espalier/bench"
	"espalier/internal/delta"
	"espalier/internal/desired"
	"espalier/internal/publish"
	espalierv1 "espalier/proto/espalier/v1"
)

func transfer(t *testing.T, o bench.TransferOptions) map[string]bench.TransferRow {
	t.Helper()
	report, err := bench.RunTransfer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]bench.TransferRow{}
	for _, row := range report.Rows {
		rows[row.Case] = row
	}
	return rows
}

// apply publishes a file as the command line does.
func apply(ctx context.Context, address string, set desired.Name, path string) error {
	in, err := publish.Read(ctx, path, nil, publish.ReadOptions{})
	if err != nil {
		return err
	}
	defer in.Close()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(delta.MaxMessageBytes)))
	if err != nil {
		return err
	}
	defer conn.Close()
	to := publish.Server{Operator: espalierv1.NewOperatorServiceClient(conn), Sync: espalierv1.NewSyncServiceClient(conn)}
	_, err = publish.Apply(ctx, to, in, publish.Options{Set: set})
	return err
}

func TestTransfer(t *testing.T) {
	var seen []string
	report, err := bench.RunTransfer(t.Context(), bench.TransferOptions{
		Size:      bench.Size{Objects: 5000, ValueBytes: 100, Seed: 1},
		Rounds:    2,
		Baselines: true,
		Apply:     apply,
		Row:       func(r bench.TransferRow) { seen = append(seen, r.Case) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := bench.Cases(); !slices.Equal(seen, want) {
		t.Errorf("cases %v, want %v", seen, want)
	}
	modes := map[string]string{
		"load": "", "apply-jsonl": "", "full": "full", "idle": "unchanged", "corrupt": "descent", "delete-1": "delta",
		"warm-1": "delta", "warm-100": "delta", "warm-100-clustered": "delta",
		"warm-10000": "delta", "warm-10000-clustered": "delta",
		"descent-1": "descent", "descent-100": "descent", "descent-100-clustered": "descent",
		"descent-10000": "descent", "descent-10000-clustered": "descent",
		"descent-half": "descent", "descent-all": "descent",
	}
	for _, r := range report.Rows {
		if r.Mode != modes[r.Case] {
			t.Errorf("%s: mode %q, want %q", r.Case, r.Mode, modes[r.Case])
		}
		if got := r.Upserts + r.Deletes; r.Mode != "" && got != r.Changed {
			t.Errorf("%s: %d objects sent or gone, want %d", r.Case, got, r.Changed)
		}
		if whole := r.Changed == 5000 && r.Case != "descent-all"; whole != (r.Baseline != nil) {
			t.Errorf("%s: baseline %v", r.Case, r.Baseline)
		}
		if r.PeakHeap == 0 || r.Seconds <= 0 || r.SetObjects == 0 || r.SetBytes == 0 || r.What == "" {
			t.Errorf("%s: something is missing in %+v", r.Case, r)
		}
		if r.Mode != "" && (r.Sent == 0 || r.Received == 0 || r.RoundTrips == 0) {
			t.Errorf("%s: nothing crossed the wire: %+v", r.Case, r)
		}
		if wire := r.Sent + r.Received; wire > 0 && r.OverPayload != int64(wire)-int64(r.Payload) {
			t.Errorf("%s: %d + %d is not %d over %d", r.Case, r.Sent, r.Received, r.OverPayload, r.Payload)
		}
	}
	if len(report.Root) != 64 || report.Count == 0 || report.PeakHeap == 0 {
		t.Errorf("the report ends at root %q, %d objects, a peak of %d", report.Root, report.Count, report.PeakHeap)
	}
	text, err := json.Marshal(report)
	if err != nil {
		t.Fatal(err)
	}
	var back bench.TransferReport
	if err := json.Unmarshal(text, &back); err != nil || len(back.Rows) != len(report.Rows) || back.Objects != 5000 {
		t.Errorf("JSON does not give the report back: %v, %s", err, text)
	}
}

// TestBytesAreReproducible: what crosses the wire follows from the seed alone,
// but for the salt of the tree and the key of a descent, which are random.
func TestBytesAreReproducible(t *testing.T) {
	o := bench.TransferOptions{
		Size:  bench.Size{Objects: 3000, ValueBytes: 50, Seed: 9},
		Cases: []string{"warm-1", "warm-100", "delete-1", "idle"},
	}
	first, second := transfer(t, o), transfer(t, o)
	for name, a := range first {
		b := second[name]
		if a.Payload != b.Payload || max(a.Sent, b.Sent)-min(a.Sent, b.Sent) > 16 || max(a.Received, b.Received)-min(a.Received, b.Received) > 16 {
			t.Errorf("%s: %d sent, %d received; again: %d and %d", name, a.Sent, a.Received, b.Sent, b.Received)
		}
	}
}

// TestBudget holds the figures that don't depend on time to what was promised.
func TestBudget(t *testing.T) {
	rows := transfer(t, bench.TransferOptions{
		Size: bench.Size{Objects: 100_000, ValueBytes: 100, Seed: 3},
		Cases: []string{
			"full", "warm-1", "warm-100", "warm-10000", "delete-1", "idle",
			"descent-1", "descent-100", "descent-100-clustered", "descent-half", "descent-all",
		},
	})
	for name, most := range map[string]int64{
		"warm-1": 165, "delete-1": 165, "idle": 130, "descent-1": 2000, "descent-100": 90_000, "descent-100-clustered": 6000,
	} {
		if got := rows[name].OverPayload; got > most {
			t.Errorf("%s: %d bytes over the payload, at most %d are allowed", name, got, most)
		}
	}
	for name, most := range map[string]float64{
		"full": 0.95, "warm-100": 0.95, "warm-10000": 0.95, "descent-half": 0.95, "descent-all": 1.05 * rows["full"].Ratio,
	} {
		if got := rows[name].Ratio; got > most {
			t.Errorf("%s: %.3f of the payload, at most %.2f is allowed", name, got, most)
		}
	}
	for name, most := range map[string]int{"warm-1": 1, "warm-100": 1, "delete-1": 1, "idle": 1, "descent-1": 7, "descent-half": 7, "descent-all": 7} {
		if got := rows[name].RoundTrips; got > most {
			t.Errorf("%s: %d round trips, at most %d are allowed", name, got, most)
		}
	}
	for _, name := range []string{"descent-half", "descent-all"} {
		if r := rows[name]; r.Upserts != r.Changed || r.Deletes != 0 {
			t.Errorf("%s: %d upserts and %d deletions of %d updates", name, r.Upserts, r.Deletes, r.Changed)
		}
	}
}

func TestTransferLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	size := bench.Size{Objects: 20_000, ValueBytes: 100}
	for _, stopAt := range []string{"publishing", "receiving", "recomputing", ""} {
		ctx, cancel := context.WithCancel(t.Context())
		o := bench.TransferOptions{Size: size, Cases: []string{"full"}}
		o.Observer.Progress = func(what string, done, _ uint64) {
			if what == stopAt && done > 0 {
				cancel()
			}
		}
		_, err := bench.RunTransfer(ctx, o)
		cancel()
		if canceled := errors.Is(err, context.Canceled); err != nil != (stopAt != "") || err != nil && !canceled {
			t.Errorf("stopped while %q: %v", stopAt, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("stopped while %q: %v left behind, %v", stopAt, left, err)
		}
	}
}

func TestBadTransfer(t *testing.T) {
	size := bench.Size{Objects: 1000, ValueBytes: 100}
	for _, o := range []bench.TransferOptions{
		{Size: bench.Size{Objects: 1000}},
		{Size: size, Rounds: bench.MaxRounds + 1},
		{Size: size, Cases: []string{"warm-1", "warm-2"}},
		{Size: size, Cases: []string{"apply-jsonl"}}, // with nothing to apply
	} {
		if _, err := bench.RunTransfer(t.Context(), o); !errors.Is(err, desired.ErrInvalid) {
			t.Errorf("RunTransfer(%+v) = %v, want an error that matches desired.ErrInvalid", o, err)
		}
	}
}
