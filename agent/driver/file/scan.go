//go:build linux

package file

import (
	"context"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"espalier/agent/driver"
	"espalier/internal/desired"
)

// Scan implements driver.Scanner. It stats each object relative to its folder and
// holds that against the object's note; what differs, and in a scan of contents
// everything, is looked at more closely. Chunks of objects are looked at in
// parallel; s.Load and s.Spend are called by one goroutine at a time.
func (d *Driver) Scan(ctx context.Context, s driver.Scan) error {
	g, ctx := errgroup.WithContext(ctx)
	workers := min(runtime.GOMAXPROCS(0), maxParallel)
	full, empty := make(chan []driver.Known, workers), make(chan []driver.Known, 2*workers+1)
	for range cap(empty) {
		empty <- make([]driver.Known, 0, scanChunk)
	}
	shared := &scan{Scan: s, driver: d}
	g.Go(func() error {
		defer close(full)
		return shared.feed(ctx, full, empty)
	})
	for range workers {
		g.Go(func() error { return shared.work(ctx, full, empty) })
	}
	return g.Wait()
}

// scan is what the goroutines of one Scan share.
type scan struct {
	driver.Scan
	driver *Driver
	mu     sync.Mutex // for Load and Spend
}

func (s *scan) spend(ctx context.Context, objects, bytes int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Spend(ctx, objects, bytes)
}

func (s *scan) load(key string) (*desired.Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Load(key)
}

// feed hands the objects to the workers in chunks.
func (s *scan) feed(ctx context.Context, full chan<- []driver.Known, empty <-chan []driver.Known) error {
	var chunk []driver.Known
	send := func() error {
		if err := s.spend(ctx, len(chunk), 0); err != nil {
			return err
		}
		select {
		case full <- chunk:
			chunk = nil
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	for known, err := range s.Objects {
		if err != nil {
			return err
		}
		if chunk == nil {
			select {
			case chunk = <-empty:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if chunk = append(chunk, known); len(chunk) == scanChunk {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if len(chunk) == 0 {
		return nil
	}
	return send()
}

func (s *scan) work(ctx context.Context, full <-chan []driver.Known, empty chan<- []driver.Known) error {
	t, err := s.driver.tree()
	if err != nil {
		return err
	}
	defer t.close()
	l := looker{scan: s, t: t, owners: owners{self: s.driver.uid}}
	for chunk := range full {
		t.flush() // what was opened a while ago may have been moved away since
		for _, k := range chunk {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			if err := l.look(ctx, k); err != nil {
				return err
			}
		}
		empty <- chunk[:0] // there is room for all that there are
	}
	return nil
}
