package bench

import (
	"bufio"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"

	"espalier/internal/desired"
	"espalier/store"
)

// load publishes the whole set by one commit. The time that it takes to make up
// the objects is taken off.
func (t *transfer) load(ctx context.Context) (TransferRow, error) {
	name := setName
	if t.loads > 0 { // once more, to measure
		name = t.fresh()
	}
	t.loads++
	making, err := t.making(ctx)
	if err != nil {
		return TransferRow{}, err
	}
	stop := watch()
	objects := t.workload.Objects(ctx, t.progress("publishing"))
	result, err := t.world.store.Commit(ctx, name, store.Commit{Changes: objects})
	took := stop().minus(making)
	t.options.Observer.finished()
	if err != nil {
		return TransferRow{}, err
	}
	if name != setName {
		if err := t.world.store.Delete(ctx, name); err != nil {
			return TransferRow{}, err
		}
	}
	return TransferRow{
		What: "load into an empty set", Changed: result.Created, Payload: result.Head.Bytes,
		Seconds: took.wall.Seconds(), CPUSeconds: took.cpu.Seconds(),
	}, nil
}

// fresh returns the name of a set that isn't there.
func (t *transfer) fresh() desired.Name {
	t.loads++
	return desired.Name(fmt.Sprintf("again-%06d", t.loads)) // as long as setName
}

// apply publishes the whole set from a file, over the server.
func (t *transfer) apply(ctx context.Context) (TransferRow, error) {
	if t.jsonl == "" {
		path := filepath.Join(t.dir, "objects.jsonl")
		if err := t.workload.writeJSONL(ctx, path, t.progress("writing JSONL")); err != nil {
			return TransferRow{}, err
		}
		t.options.Observer.finished()
		t.jsonl = path
	}
	name := t.fresh()
	before := t.world.wire.settled(ctx)
	stop := watch()
	if err := t.options.Apply(ctx, t.world.address(), name, t.jsonl); err != nil {
		return TransferRow{}, err
	}
	took := stop()
	crossed := t.world.wire.settled(ctx).since(before)
	published, err := t.world.store.Head(name)
	if err != nil {
		return TransferRow{}, err
	}
	if published.Objects != uint64(t.options.Objects) || published.Bytes != t.workload.bytes() {
		return TransferRow{}, fmt.Errorf("%d objects of %d bytes were published, want %d of %d",
			published.Objects, published.Bytes, t.options.Objects, t.workload.bytes())
	}
	return TransferRow{
		What: "apply of JSONL to an empty set", Changed: published.Objects, Payload: published.Bytes,
		Sent: crossed.received, Received: crossed.sent,
		Seconds: took.wall.Seconds(), CPUSeconds: took.cpu.Seconds(),
	}, t.world.store.Delete(ctx, name)
}

// writeJSONL writes the set as it is before any change to a new file, which is
// in the system's cache then, as one that was just made would be.
func (w *Workload) writeJSONL(ctx context.Context, path string, progress func(done, total uint64)) error {
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write JSONL: %w", err)
	}
	defer f.Close()
	b := bufio.NewWriterSize(f, 1<<20)
	var line []byte
	for c, err := range w.Objects(ctx, progress) {
		if err != nil {
			return err
		}
		line = append(append(line[:0], `{"key":"`...), c.Key...) // nothing in a key has to be quoted
		line = append(line, `","value_base64":"`...)
		line = append(base64.StdEncoding.AppendEncode(line, c.Envelope[1:]), "\"}\n"...)
		if _, err := b.Write(line); err != nil {
			return fmt.Errorf("write JSONL: %w", err)
		}
	}
	if err := cmp.Or(b.Flush(), f.Sync()); err != nil {
		return fmt.Errorf("write JSONL: %w", err)
	}
	return nil
}

// bytes returns what keys and values add up to before any change.
func (w *Workload) bytes() uint64 { return uint64(w.size.Objects) * uint64(keyBytes+w.size.ValueBytes) }

// full lets an agent sync that has nothing.
func (t *transfer) full(ctx context.Context) (TransferRow, error) {
	if err := t.world.newAgent(t.progress("receiving")); err != nil {
		return TransferRow{}, err
	}
	synced, err := t.world.sync(ctx)
	t.options.Observer.finished()
	if err != nil {
		return TransferRow{}, err
	}
	row := synced.row("first full sync")
	row.Changed, row.Payload = synced.report.Head.Objects, synced.report.Head.Bytes
	return row, nil
}

// baseline loads the objects into a plain bbolt file. The time that it takes to
// make them up is taken off.
func (t *transfer) baseline(ctx context.Context) (*Baseline, error) {
	making, err := t.making(ctx)
	if err != nil {
		return nil, err
	}
	stop := watch()
	p, err := loadPlain(t.dir, keysAndValues, t.workload.Objects(ctx, t.progress("loading plain bbolt")))
	took := stop().minus(making)
	t.options.Observer.finished()
	if err != nil {
		return nil, err
	}
	return &Baseline{Seconds: took.wall.Seconds(), CPUSeconds: took.cpu.Seconds()}, p.remove()
}

// making returns what it takes to make up the objects.
func (t *transfer) making(ctx context.Context) (spent, error) {
	stop := watch()
	for _, err := range t.workload.Objects(ctx, nil) {
		if err != nil {
			return spent{}, err
		}
	}
	return stop(), nil
}
