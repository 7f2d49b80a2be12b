package exec

import (
	"cmp"
	"context"
	"fmt"

	"espalier/agent/driver"
)

// Scan implements driver.Scanner by runs of the program, one after the other.
// Where contents are not asked for, it is told what it may remember by, and not
// what shall be.
func (c *checker) Scan(ctx context.Context, s driver.Scan) error {
	l := look{checker: c, scan: s}
	l.reset()
	for k, err := range s.Objects {
		if err != nil {
			return err
		}
		if err := l.add(ctx, k); err != nil {
			return err
		}
		if len(l.batch.asked) < c.options.Batch && l.bytes < batchBytes {
			continue
		}
		if err := l.ask(ctx); err != nil {
			return err
		}
	}
	return l.ask(ctx)
}

// look is a scan that is under way.
type look struct {
	*checker
	scan  driver.Scan
	batch *batch
	known []driver.Known // of the batch
	bytes int
}

func (l *look) reset() {
	l.batch, l.known, l.bytes = newBatch(l.options.Batch), l.known[:0], 0
}

// add appends an object to the batch. What can't be asked is reported.
func (l *look) add(ctx context.Context, k driver.Known) error {
	id, note, ok := decodeNote(k.Note)
	if !ok {
		l.scan.Report(k, driver.Finding{Drift: "made true by another driver"})
		return nil
	}
	q := request{ID: id, Op: opCheck, Key: k.Key, Name: k.Name, Note: &note}
	if l.scan.Contents {
		o, err := l.scan.Load(k.Key)
		if err != nil {
			l.scan.Report(k, driver.Finding{Err: err})
			return nil
		}
		if o == nil {
			return nil // it is about to go
		}
		q.show(o)
		l.bytes += len(o.Value)
	}
	if err := l.scan.Spend(ctx, 1, len(q.value)); err != nil {
		return err
	}
	if err := l.batch.add(q, len(l.known)); err != nil {
		l.scan.Report(k, driver.Finding{Err: err})
		return nil
	}
	l.known = append(l.known, k)
	return nil
}

// ask runs the program for the batch, and reports what it found.
func (l *look) ask(ctx context.Context) error {
	if len(l.batch.asked) == 0 {
		return nil
	}
	limited, cancel := withTimeout(ctx, cmp.Or(l.options.Timeout, DefaultTimeout))
	defer cancel()
	err := l.run(limited, l.batch)
	if ctx.Err() != nil { // what was not looked at is nobody's fault
		return fmt.Errorf("scan: %w", context.Cause(ctx))
	}
	for _, a := range l.batch.asked {
		if f, ok := findingOf(a, err); ok {
			l.scan.Report(l.known[a.index], f)
		}
	}
	l.reset()
	return nil
}

// findingOf returns what is to be reported of an object; err is why there is no
// answer, if there is none.
func findingOf(a asked, err error) (f driver.Finding, ok bool) {
	switch {
	case !a.answered:
		return driver.Finding{Err: err}, true
	case a.answer.err != nil:
		return driver.Finding{Err: a.answer.err}, true
	case a.answer.drift != "":
		f.Drift = a.answer.drift
	}
	if a.answer.noted && a.answer.note != *a.request.Note {
		f.Note = encodeNote(a.request.ID, a.answer.note)
	}
	return f, f.Drift != "" || f.Note != nil
}
