package apply

import (
	"context"
	"errors"
	"iter"
	"sync"
	"time"

	"espalier/agent/driver"
	"espalier/store"
)

// hints are the keys that a driver is to look at.
type hints struct {
	mu    sync.Mutex
	keys  map[string]struct{}
	all   bool // there were too many
	ready chan struct{}
}

func (h *hints) add(key string) {
	h.mu.Lock()
	if len(h.keys) < maxHints {
		h.keys[key] = struct{}{}
	} else {
		h.all = true
	}
	h.mu.Unlock()
	select {
	case h.ready <- struct{}{}:
	default:
	}
}

func (h *hints) take() (keys []string, all bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys, all = sorted(h.keys), h.all
	h.keys, h.all = map[string]struct{}{}, false
	return keys, all
}

// watch takes a driver's hints of what may have changed.
func (a *Applier) watch(ctx context.Context, r *Route, w driver.Watcher) error {
	h := a.hints[r]
	if err := w.Watch(ctx, func(name string) { h.add(r.Prefix + name) }); err != nil && ctx.Err() == nil {
		a.log.Warn("changes are not noticed at once any more, but by scans", "driver", r.Name, "error", err)
	}
	return nil
}

// lookAtHints has a driver look at what may have changed.
func (a *Applier) lookAtHints(ctx context.Context, r *Route, s driver.Scanner) error {
	for h := a.hints[r]; ; {
		select {
		case <-h.ready:
		case <-ctx.Done():
			return nil
		}
		if pause(ctx, hintDelay); ctx.Err() != nil {
			return nil
		}
		keys, all := h.take()
		objects := a.hinted(r, keys)
		if all {
			objects = a.made(r)
		}
		if err := a.scan(ctx, r, s, a.stats(), objects); err != nil && ctx.Err() == nil {
			a.log.Error("look for drift", "driver", r.Name, "error", err)
		}
	}
}

// hint has the driver of a route look at an object soon, if it looks at all.
func (a *Applier) hint(r *Route, key string) {
	if h := a.hints[r]; h != nil {
		h.add(key)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// hinted returns what was made true of those keys.
func (a *Applier) hinted(r *Route, keys []string) iter.Seq2[driver.Known, error] {
	return func(yield func(driver.Known, error) bool) {
		var chunk []driver.Known
		err := view(a.record, a.routes, a.current(), func(h *host) error {
			for _, key := range keys {
				known, ok, err := h.known([]byte(key), r)
				if err != nil {
					return err
				}
				if ok {
					chunk = append(chunk, known)
				}
			}
			return nil
		})
		for _, k := range chunk {
			if !yield(k, nil) {
				return
			}
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			yield(driver.Known{}, err)
		}
	}
}
