package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"espalier/agent/driver"
	"espalier/agent/driver/file"
	"espalier/internal/apply"
	"espalier/internal/desired"
	"espalier/merkle"
	"espalier/store"
)

// filesHost is a host whose set has the files, and of which an agent makes them
// true: with its mirror, its record and its order, but without a server.
type filesHost struct {
	bench   *filesBench
	mirror  *store.Mirror
	record  *store.Applied
	applier *apply.Applier
}

// filesSet is the name of the host and of its set, filesPrefix what its keys begin
// with.
const (
	filesSet    = "files"
	filesPrefix = "files/"
)

func openFilesHost(ctx context.Context, f *filesBench, dir string, d *file.Driver) (h *filesHost, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("folder for the benchmark: %w", err)
	}
	o := store.Options{Logger: slog.New(slog.DiscardHandler)}
	h = &filesHost{bench: f}
	if h.mirror, err = store.OpenMirror(dir, filesSet, o); err != nil {
		return nil, err
	}
	if h.record, err = store.OpenApplied(dir, filesSet, o); err != nil {
		return nil, err
	}
	h.applier, err = apply.New(apply.Options{
		Record: h.record, Routes: []apply.Route{{Prefix: filesPrefix, Name: "file", Driver: d}}, Logger: o.Logger,
		Changed: h.show,
	})
	if err != nil {
		return nil, err
	}
	return h, h.fill(ctx)
}

func (h *filesHost) close() {
	if h.record != nil {
		_ = h.record.Close() // all of it is about to be removed
	}
	if h.mirror != nil {
		_ = h.mirror.Close()
	}
}

// show tells the observer how many files are made.
func (h *filesHost) show() {
	if c := h.applier.Status(); c.Pending%filesPerFolder == 0 && c.Objects > 0 {
		h.bench.Observer.progress("applying", c.Objects-min(c.Objects, c.Pending), c.Objects)
	}
}

// fill has the mirror hold the files.
func (h *filesHost) fill(ctx context.Context) error {
	staging, err := h.mirror.Stage(ctx, store.StageEmpty, 1)
	if err != nil {
		return err
	}
	tree := merkle.Shape{Salt: 1}.NewBuilder(func(int, merkle.Row) error { return nil })
	var hasher desired.Hasher
	for first := 0; first < h.bench.Files; first += filesPerFolder {
		var batch []desired.Change
		for i := first; i < min(first+filesPerFolder, h.bench.Files); i++ {
			o := desired.Object{Key: filesPrefix + h.bench.name(i), Value: h.bench.value(nil, i)}
			env, err := desired.Encode(o)
			if err != nil {
				return err
			}
			batch = append(batch, desired.Change{Key: []byte(o.Key), Envelope: env, Digest: hasher.Sum([]byte(o.Key), env)})
		}
		slices.SortFunc(batch, func(a, b desired.Change) int { return strings.Compare(string(a.Key), string(b.Key)) })
		for _, c := range batch {
			if err := tree.Add(c.Key, c.Digest); err != nil {
				return err
			}
		}
		if err := staging.Write(ctx, batch, []byte{1}); err != nil {
			return err
		}
	}
	root, _, err := tree.Finish()
	if err != nil {
		return err
	}
	head := desired.Head{Revision: desired.Revision{Position: desired.Position{Epoch: desired.NewEpoch(), Number: 1}, Root: root.Digest}}
	return staging.Promote(ctx, head)
}

// once has the host match its set, as an agent that runs once does: after a look at
// all that it made before.
func (h *filesHost) once(ctx context.Context) error {
	h.applier.Desire([]apply.Set{{Name: filesSet, Mirror: h.mirror}}, desired.Orders{})
	if err := h.applier.Once(ctx); err != nil {
		return err
	}
	switch c := h.applier.Status(); {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case c.State != desired.Converged || c.Found > 0:
		return fmt.Errorf("the host is %v: %s; %d drifts found, want none", c.State, c.Reason, c.Found)
	}
	return nil
}

// known returns what the record has of the files.
func (h *filesHost) known() (all []driver.Known, err error) {
	err = h.record.View(func(v *store.AppliedView) error {
		for row, err := range v.Rows(filesSet, nil, nil) {
			if err != nil {
				return err
			}
			key := string(row.Key)
			all = append(all, driver.Known{Key: key, Name: key[len(filesPrefix):], Note: slices.Clone(row.Note)})
		}
		return nil
	})
	return all, err
}
