package apply_test

import (
	"context"
	"fmt"
	"testing"

	"espalier/agent/driver"
	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// idle is a driver for which everything is true at once.
type idle struct{}

func (idle) Batching() driver.Batching { return driver.Batching{Objects: 4096, Parallel: 2} }

func (idle) Apply(_ context.Context, changes []driver.Change) []driver.Result {
	results := make([]driver.Result, len(changes))
	for i := range results {
		results[i].Note = make([]byte, 48)
	}
	return results
}

const million = 1_000_000

// fill makes the mirror hold a million objects, of which one has that value.
func fill(b *testing.B, m *store.Mirror, number uint64, odd string) {
	b.Helper()
	ctx := context.Background()
	kind := store.StageEmpty
	st, err := m.Stage(ctx, kind, 0)
	if err != nil {
		b.Fatal(err)
	}
	var h desired.Hasher
	build := merkle.Shape{}.NewBuilder(func(int, merkle.Row) error { return nil })
	var batch []desired.Change
	for i := range million {
		value := fmt.Sprintf("%0100d", i)
		if i == million/3 {
			value = odd
		}
		key := fmt.Appendf(nil, "run/%04d/obj/%08x", i/1000, i)
		env, err := desired.Encode(desired.Object{Key: string(key), Value: []byte(value)})
		if err != nil {
			b.Fatal(err)
		}
		c := desired.Change{Key: key, Envelope: env, Digest: h.Sum(key, env)}
		if err := build.Add(key, c.Digest); err != nil {
			b.Fatal(err)
		}
		if batch = append(batch, c); len(batch) == 20_000 {
			if err := st.Write(ctx, batch, []byte("x")); err != nil {
				b.Fatal(err)
			}
			batch = nil
		}
	}
	root, _, err := build.Finish()
	if err != nil {
		b.Fatal(err)
	}
	head := m.Head()
	if head.Epoch.IsZero() {
		head.Epoch = desired.NewEpoch()
	}
	head.Number, head.Root = number, root.Digest
	if err := st.Promote(ctx, head); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkFirst applies a million objects to a host that has none, with a driver
// that costs nothing: what deciding and recording cost.
func BenchmarkFirst(b *testing.B) {
	for range b.N {
		b.StopTimer()
		w := newWorld(b, "web-01")
		fill(b, w.sets[0].Mirror, 1, "odd")
		w.routes = []apply.Route{{Prefix: "run/", Name: "idle", Driver: idle{}}}
		w.restart()
		b.StartTimer()
		if err := w.Once(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if c := w.Status(); c.State != desired.Converged {
			b.Fatal(statusText(c))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/million/float64(b.N), "µs/object")
}

// BenchmarkOne applies one change among a million objects.
func BenchmarkOne(b *testing.B) {
	w := newWorld(b, "web-01")
	fill(b, w.sets[0].Mirror, 1, "odd")
	w.routes = []apply.Route{{Prefix: "run/", Name: "idle", Driver: idle{}}}
	w.restart()
	if err := w.Once(b.Context()); err != nil {
		b.Fatal(err)
	}
	key := fmt.Appendf(nil, "run/%04d/obj/%08x", million/3/1000, million/3)
	var h desired.Hasher
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		env, _ := desired.Encode(desired.Object{Key: string(key), Value: fmt.Append(nil, i)})
		change := desired.Change{Key: key, Envelope: env, Digest: h.Sum(key, env)}
		m := w.sets[0].Mirror
		head := m.Head()
		head.Number++
		err := m.View(func(s *store.Snapshot) error {
			u, err := s.Shape().Update(s, []merkle.Change{{Key: key, Digest: change.Digest}})
			head.Root = u.Root.Digest
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Adopt(b.Context(), head, sequence([]desired.Change{change})); err != nil {
			b.Fatal(err)
		}
		w.Desire(w.sets, w.orders)
		b.StartTimer()
		if err := w.Once(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	if c := w.Status(); c.State != desired.Converged {
		b.Fatal(statusText(c))
	}
}
