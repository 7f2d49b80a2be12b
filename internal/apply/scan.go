package apply

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"espalier/agent/driver"
	"espalier/internal/desired"
	"espalier/store"
)

// finding is what a scan found, to be recorded by the loop.
type finding struct {
	known driver.Known
	driver.Finding
}

// look runs what looks for drift beside the loop.
func (a *Applier) look(ctx context.Context, group *errgroup.Group) {
	p := a.options.Policy
	for i := range a.routes {
		r := &a.routes[i]
		scanner, ok := r.Driver.(driver.Scanner)
		if !ok {
			continue
		}
		if every := cmp.Or(p.ScanInterval, DefaultScanInterval); every > 0 {
			group.Go(func() error { return a.scanEvery(ctx, r, scanner, every, a.stats()) })
		}
		if every := cmp.Or(p.ContentsInterval, DefaultContentsInterval); every > 0 {
			group.Go(func() error { return a.scanEvery(ctx, r, scanner, every, a.contents()) })
		}
		group.Go(func() error { return a.lookAtHints(ctx, r, scanner) })
		if watcher, ok := r.Driver.(driver.Watcher); ok {
			group.Go(func() error { return a.watch(ctx, r, watcher) })
		}
	}
}

// budget is what a scan may cost.
type budget struct {
	contents       bool
	objects, bytes *rate.Limiter
}

func (a *Applier) stats() budget {
	return budget{objects: limiter(a.options.Policy.ScanRate, DefaultScanRate), bytes: rate.NewLimiter(rate.Inf, 0)}
}

func (a *Applier) contents() budget {
	p := a.options.Policy
	return budget{contents: true, objects: limiter(p.ContentsRate, DefaultContentsRate), bytes: limiter(p.ContentsBytes, DefaultContentsBytes)}
}

func limiter(perSecond, otherwise float64) *rate.Limiter {
	if perSecond == 0 {
		perSecond = otherwise
	}
	return rate.NewLimiter(rate.Limit(perSecond), max(1, int(min(perSecond, math.MaxInt32))))
}

// spend waits until so much may be looked at.
func (b budget) spend(ctx context.Context, objects, bytes int) error {
	if err := wait(ctx, b.objects, objects); err != nil {
		return err
	}
	return wait(ctx, b.bytes, bytes)
}

// wait takes n of a limiter, in parts if it gives no more at once.
func wait(ctx context.Context, l *rate.Limiter, n int) error {
	if l.Limit() == rate.Inf {
		return ctx.Err()
	}
	for n > 0 {
		part := min(n, l.Burst())
		if err := l.WaitN(ctx, part); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// scanEvery scans all that a driver made true, over and over: at first once that is
// due after the last scan of which the record knows.
func (a *Applier) scanEvery(ctx context.Context, r *Route, s driver.Scanner, every time.Duration, b budget) error {
	for due := a.scanned(r, b).Add(every); ; due = time.Now().Add(every) {
		if pause(ctx, time.Until(due)); ctx.Err() != nil {
			return nil
		}
		switch err := a.scan(ctx, r, s, b, a.made(r)); {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			a.log.Error("look for drift", "driver", r.Name, "error", err)
		case b.contents:
			if err := a.scanRecord(ctx, r); err != nil {
				return err
			}
		}
	}
}

// scanRecord holds the record against itself, as what a route made true was just
// held against what shall be, and keeps when that was.
func (a *Applier) scanRecord(ctx context.Context, r *Route) error {
	repaired, err := a.record.Check(ctx)
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return err
	}
	if repaired > 0 {
		a.nudge()
	}
	now := binary.BigEndian.AppendUint64(nil, uint64(time.Now().Unix()))
	return a.record.Update(store.AppliedUpdate{State: map[string][]byte{stateScanned + r.Prefix: now}})
}

// scanned returns when the last scan ended that looked at contents; the others are
// due whenever an agent starts.
func (a *Applier) scanned(r *Route, b budget) (at time.Time) {
	if !b.contents {
		return at
	}
	at = time.Now()
	_ = a.record.View(func(v *store.AppliedView) error { // else the loop comes upon it, too
		if kept := v.State(stateScanned + r.Prefix); len(kept) == 8 {
			at = time.Unix(int64(binary.BigEndian.Uint64(kept)), 0)
		}
		return nil
	})
	return at
}

// lookOnce scans all that was made true, as fast as may be. A driver that can't look
// is no reason not to ask the others.
func (a *Applier) lookOnce(ctx context.Context) error {
	if a.options.Policy.ScanInterval < 0 {
		return nil
	}
	var errs []error
	for i := range a.routes {
		r := &a.routes[i]
		if s, ok := r.Driver.(driver.Scanner); ok {
			b := budget{objects: rate.NewLimiter(rate.Inf, 0), bytes: rate.NewLimiter(rate.Inf, 0)}
			if err := a.scanOnce(ctx, r, s, b); err != nil {
				errs = append(errs, fmt.Errorf("look for drift of %s: %w", r.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// scanOnce scans while nothing else takes the findings.
func (a *Applier) scanOnce(ctx context.Context, r *Route, s driver.Scanner, b budget) error {
	group, ctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	group.Go(func() error {
		defer close(done)
		return a.scan(ctx, r, s, b, a.made(r))
	})
	group.Go(func() error {
		for over := false; ; {
			if err := a.absorb(a.current()); err != nil {
				return err
			}
			if err := a.write(); err != nil {
				return err
			}
			if over {
				return nil
			}
			select {
			case <-a.wake:
			case <-done:
				over = true // once more: for what came last
			case <-ctx.Done():
				return nil
			}
		}
	})
	return group.Wait()
}

// scan has a driver look at objects.
func (a *Applier) scan(ctx context.Context, r *Route, s driver.Scanner, b budget, objects iter.Seq2[driver.Known, error]) error {
	return s.Scan(ctx, driver.Scan{
		Objects: objects, Contents: b.contents, Load: a.load,
		Spend: b.spend, Report: func(k driver.Known, f driver.Finding) { a.report(ctx, k, f) },
	})
}

// made returns what was made true by a route.
func (a *Applier) made(r *Route) iter.Seq2[driver.Known, error] {
	return func(yield func(driver.Known, error) bool) {
		var from []byte
		for more := true; more; {
			var chunk []driver.Known
			err := view(a.record, a.routes, a.current(), func(h *host) error {
				chunk, more = nil, false
				for key, err := range h.everythingMade(span{from, nil}, r) {
					if err != nil {
						return err
					}
					if len(chunk) == scanChunk {
						from, more = bytes.Clone([]byte(key.Key)), true
						return nil
					}
					chunk = append(chunk, key)
				}
				return nil
			})
			for _, k := range chunk {
				if !yield(k, nil) {
					return
				}
			}
			if err != nil {
				yield(driver.Known{}, err)
				return
			}
		}
	}
}

// everythingMade returns copies of what was made true by a route, from a key on.
func (h *host) everythingMade(s span, r *Route) iter.Seq2[driver.Known, error] {
	prefix := []byte(r.Prefix)
	if bytes.Compare(s.from, prefix) < 0 {
		s.from = prefix
	}
	s.until = successor(r.Prefix)
	return func(yield func(driver.Known, error) bool) {
		var sources []iter.Seq2[[]byte, error]
		for _, set := range h.sets {
			sources = append(sources, h.recorded(set.name, s))
		}
		for key, err := range merged(sources) {
			var known driver.Known
			ok := true
			if err == nil {
				known, ok, err = h.known(key, r)
			}
			if ok && !yield(known, err) || err != nil {
				return
			}
		}
	}
}

// known returns what was made true of a key, if it was by r and nothing is known
// to be wrong with it.
func (h *host) known(key []byte, r *Route) (driver.Known, bool, error) {
	for _, set := range h.sets {
		row, ok, err := h.record.Row(set.name, key)
		if err != nil {
			return driver.Known{}, true, err
		}
		if !ok || row.State != store.AppliedTrue || row.Driver != r.Name || h.routes.find(key) != r {
			continue
		}
		_, drifted, err := h.record.Drift(key)
		if err != nil || drifted {
			return driver.Known{}, err != nil, err
		}
		return driver.Known{Key: string(key), Name: string(key[len(r.Prefix):]), Note: bytes.Clone(row.Note)}, true, nil
	}
	return driver.Known{}, false, nil
}

// load returns what shall be under a key.
func (a *Applier) load(key string) (*desired.Object, error) {
	var content *desired.Object
	err := view(a.record, a.routes, a.current(), func(h *host) error {
		o, err := h.object([]byte(key))
		if err != nil {
			return err
		}
		if o.winner < 0 || o.blind {
			return fmt.Errorf("object %q: %w", key, store.ErrNotFound)
		}
		c, err := desired.Envelope(bytes.Clone(o.content)).Object([]byte(key))
		content = &c
		return err
	})
	return content, err
}

// report takes what a scan found. It waits if there is much of it.
func (a *Applier) report(ctx context.Context, k driver.Known, f driver.Finding) {
	for {
		a.mu.Lock()
		if len(a.findings) < maxFindings {
			a.findings = append(a.findings, finding{k, f})
			a.mu.Unlock()
			a.nudge()
			return
		}
		room := a.room
		a.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return
		}
	}
}

// absorb takes what scans found into the ledger. What was applied since, or is
// under way, is no drift.
func (a *Applier) absorb(sets []Set) error {
	a.mu.Lock()
	findings := a.findings
	a.findings = nil
	close(a.room)
	a.room = make(chan struct{})
	a.mu.Unlock()
	if len(findings) == 0 {
		return nil
	}
	found, now := map[string]bool{}, time.Now()
	err := view(a.record, a.routes, sets, func(h *host) error {
		for _, f := range findings {
			key := []byte(f.known.Key)
			route := h.routes.find(key)
			if _, flies := a.flying[f.known.Key]; flies {
				a.missed[f.known.Key] = struct{}{}
				continue
			}
			if found[f.known.Key] || route == nil {
				continue
			}
			is, ok, err := h.known(key, route)
			if err != nil {
				return err
			}
			if _, just := a.just[f.known.Key]; just || ok && !bytes.Equal(is.Note, f.known.Note) {
				a.hint(route, f.known.Key) // it was applied after it was looked at
				continue
			}
			if !ok {
				continue
			}
			if err := a.found(h, key, f.Finding, now, len(found)); err != nil {
				return err
			}
			found[f.known.Key] = true
		}
		return nil
	})
	if more := len(found) - maxLogged; more > 0 && err == nil {
		a.log.Info("drifted, or can't be looked at", "more", more)
	}
	return err
}

// found takes one finding into the ledger, before which there were some.
func (a *Applier) found(h *host, key []byte, f driver.Finding, now time.Time, before int) error {
	switch {
	case f.Err != nil:
		if before < maxLogged {
			a.log.Warn("can't be looked at", "key", string(key), "error", f.Err)
		}
	case f.Drift != "":
		if before < maxLogged {
			a.log.Info("drifted", "key", string(key), "what", f.Drift)
		}
		a.retries.drifted(string(key), now)
		a.ledger.drift(store.Drift{Key: key, Reason: cutText(f.Drift), Seen: f.Seen, At: now})
		a.mu.Lock()
		a.status.Found++
		a.mu.Unlock()
	case f.Note != nil && len(f.Note) <= driver.MaxNoteBytes:
		o, err := h.object(key)
		if err != nil {
			return err
		}
		row := cloneRow(o.rows[o.made])
		row.Note = f.Note
		a.ledger.rows(key, []desired.Name{h.sets[o.made].name}, []store.AppliedRow{row})
	}
	return nil
}
