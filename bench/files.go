package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"espalier/agent/driver"
	"espalier/agent/driver/file"
	"espalier/internal/desired"
)

// FilesOptions says what RunFiles measures.
type FilesOptions struct {
	// Files is how many there are; 0: DefaultFiles. ValueBytes is what is in each;
	// 0: DefaultFileBytes.
	Files, ValueBytes int
	// Rounds is how often all is measured, each time in folders of its own; 0: 1.
	Rounds int
	// Dir is where the folders are, which are removed in the end; empty: the
	// system's folder for temporary files.
	Dir      string
	Observer Observer
}

// The defaults of FilesOptions.
const (
	DefaultFiles     = 1_000_000
	DefaultFileBytes = 100
)

// FilesReport is the outcome of RunFiles. All times are in seconds, medians over
// the rounds; so are the ratios, each of which is of one round.
type FilesReport struct {
	Machine
	Files      int `json:"files"`
	ValueBytes int `json:"value_bytes"`
	Rounds     int `json:"rounds"`
	// Write is a plain loop that writes the files, and syncs their file system once.
	// Apply is a host's first apply of as many, from its mirror, each durable before it
	// has its name and before it is recorded as done, in batches of Batch, Parallel at
	// once. ApplyRatio is how many times as fast it is.
	Write      float64 `json:"write_seconds"`
	Apply      float64 `json:"apply_seconds"`
	ApplyRatio float64 `json:"apply_ratio"`
	Batch      int     `json:"batch"`
	Parallel   int     `json:"parallel"`
	// Walk is a parallel walk that does an lstat of each file; Scan is the host's look
	// for drift, where there is none; Contents is the driver's that reads all files.
	Walk      float64 `json:"walk_seconds"`
	Scan      float64 `json:"scan_seconds"`
	ScanRatio float64 `json:"scan_ratio"`
	Contents  float64 `json:"contents_seconds"`
}

// FilesRound is one round's figures.
type filesRound struct {
	write, apply, walk, scan, contents float64
}

// RunFiles holds what an agent does to have files on a host, its record included,
// against plain loops that write and look at as many files in folders of the same
// shape, on the same file system.
func RunFiles(ctx context.Context, o FilesOptions) (FilesReport, error) {
	o.Files, o.ValueBytes, o.Rounds = cmp.Or(o.Files, DefaultFiles), cmp.Or(o.ValueBytes, DefaultFileBytes), cmp.Or(o.Rounds, 1)
	report := FilesReport{Machine: thisMachine(), Files: o.Files, ValueBytes: o.ValueBytes, Rounds: o.Rounds}
	if err := errors.Join(checkSizes(o.Files, o.ValueBytes), checkRounds(o.Rounds)); err != nil {
		return report, err
	}
	dir := cmp.Or(o.Dir, os.TempDir())
	if err := checkRoom(dir, o.Rounds*2*o.Files, o.ValueBytes+filesKept); err != nil {
		return report, err
	}
	var rounds []filesRound
	err := inFolder(ctx, dir, func(dir string) error {
		defer o.Observer.finished()
		for i := range o.Rounds {
			f := filesBench{FilesOptions: o, dir: filepath.Join(dir, fmt.Sprint(i)), report: &report}
			r, err := f.run(ctx)
			if err != nil {
				return err
			}
			rounds = append(rounds, r)
		}
		return nil
	})
	if err != nil {
		return report, err
	}
	report.Write = medianOf(rounds, func(r filesRound) float64 { return r.write })
	report.Apply = medianOf(rounds, func(r filesRound) float64 { return r.apply })
	report.ApplyRatio = medianOf(rounds, func(r filesRound) float64 { return r.write / r.apply })
	report.Walk = medianOf(rounds, func(r filesRound) float64 { return r.walk })
	report.Scan = medianOf(rounds, func(r filesRound) float64 { return r.scan })
	report.ScanRatio = medianOf(rounds, func(r filesRound) float64 { return r.walk / r.scan })
	report.Contents = medianOf(rounds, func(r filesRound) float64 { return r.contents })
	return report, nil
}

// filesBench is one round. Nothing is deleted before the end: a file system may
// be slow to reuse what was freed a moment ago.
type filesBench struct {
	FilesOptions
	dir    string
	report *FilesReport
	done   atomic.Int64
}

func (f *filesBench) run(ctx context.Context) (r filesRound, err error) {
	plain, root := filepath.Join(f.dir, "plain"), filepath.Join(f.dir, "driver")
	for _, dir := range []string{f.dir, plain, root} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return r, fmt.Errorf("folder for the benchmark: %w", err)
		}
	}
	d, err := file.New(file.Options{Root: root})
	if err != nil {
		return r, err
	}
	h, err := openFilesHost(ctx, f, filepath.Join(f.dir, "agent"), d)
	if h != nil {
		defer h.close()
	}
	if err != nil {
		return r, err
	}
	like := d.Batching()
	f.report.Batch, f.report.Parallel = like.Objects, like.Parallel
	for _, step := range []struct {
		took *float64
		run  func() error
	}{
		{&r.write, func() error { return f.write(ctx, plain) }},
		{&r.apply, func() error { return h.once(ctx) }},
		{&r.walk, func() error { return f.walk(ctx, root) }},
		{&r.scan, func() error { return h.once(ctx) }},
		{&r.contents, func() error { return f.contents(ctx, d, h) }},
	} {
		if err := syncFileSystem(f.dir); err != nil { // what others wrote is not for us to pay
			return r, err
		}
		runtime.GC()
		f.done.Store(0)
		began := time.Now()
		if err := step.run(); err != nil {
			return r, err
		}
		*step.took = time.Since(began).Seconds()
	}
	return r, nil
}

// name returns the name of a file: with about a thousand others in its folder.
func (f *filesBench) name(i int) string {
	return fmt.Sprintf("svc/%04d/obj/%08x", i/filesPerFolder, uint32(i)*nameFactor)
}

// nameFactor scatters the names of files; nameInverse undoes it, modulo 2^32.
const (
	nameFactor  uint32 = 0x9e3779b1
	nameInverse uint32 = 0x0e8b2f51
)

// value fills b with what is in a file.
func (f *filesBench) value(b []byte, i int) []byte {
	b = fmt.Appendf(b[:0], "%0*x", f.ValueBytes, uint64(i)*0x9e3779b97f4a7c15)
	return b[len(b)-f.ValueBytes:]
}

func (f *filesBench) step(what string, n int) {
	f.Observer.progress(what, uint64(f.done.Add(int64(n))), uint64(f.Files))
}

// write is the plain loop.
func (f *filesBench) write(ctx context.Context, dir string) error {
	var value []byte
	for i := range f.Files {
		path := filepath.Join(dir, f.name(i))
		if i%filesPerFolder == 0 {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			f.step("writing plainly", min(i, filesPerFolder))
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return fmt.Errorf("plain loop: %w", err)
			}
		}
		value = f.value(value, i)
		if err := os.WriteFile(path, value, 0o644); err != nil {
			return fmt.Errorf("plain loop: %w", err)
		}
	}
	return syncFileSystem(dir)
}

// walk does an lstat of all files below a folder, the subfolders of "svc" in
// parallel.
func (f *filesBench) walk(ctx context.Context, root string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	svc := filepath.Join(root, "svc")
	entries, err := os.ReadDir(svc)
	if err != nil {
		return fmt.Errorf("plain walk: %w", err)
	}
	var seen atomic.Int64
	for _, e := range entries {
		g.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := 0
			err := filepath.WalkDir(filepath.Join(svc, e.Name()), func(path string, e os.DirEntry, err error) error {
				if err != nil || e.IsDir() {
					return err
				}
				n++
				_, err = os.Lstat(path)
				return err
			})
			seen.Add(int64(n))
			f.step("walking plainly", n)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("plain walk: %w", err)
	}
	if seen.Load() != int64(f.Files) {
		return fmt.Errorf("plain walk: %d files, want %d", seen.Load(), f.Files)
	}
	return nil
}

// contents has the driver read all files, and expects no drift.
func (f *filesBench) contents(ctx context.Context, d *file.Driver, h *filesHost) error {
	known, err := h.known()
	if err != nil {
		return err
	}
	looked, found := 0, atomic.Int64{}
	err = d.Scan(ctx, driver.Scan{
		Objects: values(known), Contents: true,
		Load: func(key string) (*desired.Object, error) {
			hash, err := strconv.ParseUint(key[len(key)-8:], 16, 32)
			if err != nil {
				return nil, fmt.Errorf("key %q: %w", key, err)
			}
			return &desired.Object{Key: key, Value: f.value(nil, int(uint32(hash)*nameInverse))}, nil
		},
		Spend: func(ctx context.Context, objects, _ int) error {
			looked += objects
			f.step("scanning contents", objects)
			return ctx.Err()
		},
		Report: func(driver.Known, driver.Finding) { found.Add(1) },
	})
	if err != nil {
		return err
	}
	if looked != f.Files || found.Load() > 0 {
		return fmt.Errorf("scan: %d objects looked at, want %d; %d findings, want none", looked, f.Files, found.Load())
	}
	return nil
}

func values(known []driver.Known) iter.Seq2[driver.Known, error] {
	return func(yield func(driver.Known, error) bool) {
		for _, k := range known {
			if !yield(k, nil) {
				return
			}
		}
	}
}
