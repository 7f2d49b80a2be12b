package spool

import (
	"bytes"
	"slices"
)

// merge merges the runs to as few as one pass can make of them.
func (w *Writer) merge() error {
	to := &storage{dir: w.rows.dir, limit: w.rows.limit}
	merged, err := mergeRuns(w.rows, w.runs, to, w.limits.fanIn)
	if err == nil {
		err = to.flush()
	}
	if err != nil {
		to.close() //nolint:errcheck // the first error is the one to tell
		return err
	}
	if err := w.rows.close(); err != nil {
		to.close() //nolint:errcheck // the first error is the one to tell
		return err
	}
	w.rows, w.runs = to, merged
	return nil
}

func mergeRuns(from *storage, runs []run, to *storage, fanIn int) ([]run, error) {
	var merged []run
	out := runWriter{to: to}
	for group := range slices.Chunk(runs, fanIn) {
		if len(runs) <= fanIn {
			out.begin(newIndex())
		} else {
			out.begin(nil)
		}
		if err := mergeGroup(from, group, &out); err != nil {
			return nil, err
		}
		r, err := out.finish()
		if err != nil {
			return nil, err
		}
		merged = append(merged, r)
	}
	return merged, nil
}

// mergeGroup adds the records of the runs to out, in order.
func mergeGroup(from *storage, runs []run, out *runWriter) error {
	var h heap
	for i := range runs {
		c := newCursor(from, &runs[i])
		ok, err := c.advance()
		if err != nil {
			return err
		}
		if ok {
			h = append(h, c)
		}
	}
	for i := len(h) - 1; i >= 0; i-- {
		h.down(i)
	}
	for len(h) > 0 {
		c := h[0]
		if err := out.add(c.rec.key, c.rec.number, c.rec.raw); err != nil {
			return err
		}
		ok, err := c.advance()
		if err != nil {
			return err
		}
		if !ok {
			h[0] = h[len(h)-1]
			h = h[:len(h)-1]
		}
		h.down(0)
	}
	return nil
}

// heap orders cursors by their records' keys, the least first. It is written
// out since container/heap would cost as much as the comparisons.
type heap []*cursor

func (h heap) down(i int) {
	for {
		least := 2*i + 1
		if least >= len(h) {
			return
		}
		if right := least + 1; right < len(h) && bytes.Compare(h[right].rec.key, h[least].rec.key) < 0 {
			least = right
		}
		if bytes.Compare(h[i].rec.key, h[least].rec.key) <= 0 {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}
