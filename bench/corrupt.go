package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"espalier/internal/desired"
	"espalier/store"
)

// corrupt flips a byte in some values of the mirror's file, as a bad disk does,
// and lets the agent find and mend them.
func (t *transfer) corrupt(ctx context.Context) (TransferRow, error) {
	keys, err := t.workload.Sample(min(flippedValues, MostChanges(t.options.Objects)))
	if err != nil {
		return TransferRow{}, err
	}
	damaged, err := t.world.damage(keys)
	if err != nil {
		return TransferRow{}, err
	}
	if err := t.world.warm(ctx); err != nil { // the poll sees only roots
		return TransferRow{}, err
	}
	found, err := t.world.agent.Check(ctx)
	if err != nil {
		return TransferRow{}, err
	}
	if found < len(keys) {
		return TransferRow{}, fmt.Errorf("the check found %d of %d values that were flipped", found, len(keys))
	}
	synced, err := t.world.sync(ctx)
	if err != nil {
		return TransferRow{}, err
	}
	if synced.report.Upserts != uint64(len(keys)) {
		return TransferRow{}, fmt.Errorf("%d objects were fetched to mend %d", synced.report.Upserts, len(keys))
	}
	row := synced.row(fmt.Sprintf("%s values flipped on disk", grouped(len(keys))))
	row.Changed, row.Payload = uint64(len(keys)), damaged
	return row, nil
}

// damage flips a byte in the value of each key in the mirror's file, while the
// agent is down, and returns what their keys and values add up to.
func (w *world) damage(keys [][]byte) (payload uint64, err error) {
	rows := make([][]byte, len(keys))
	err = w.agent.View(setName, func(s *store.Snapshot) error {
		for i, key := range keys {
			c, ok, err := s.Get(key)
			if err == nil && !ok {
				err = fmt.Errorf("the mirror lacks %q", key)
			}
			if err != nil {
				return err
			}
			rows[i] = startOfRow(c)
			payload += uint64(c.PayloadBytes())
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	path, err := w.agent.MirrorPath(setName)
	if err != nil {
		return 0, err
	}
	if err := w.closeAgent(); err != nil {
		return 0, err
	}
	if err := flipLast(path, rows); err != nil {
		return 0, err
	}
	return payload, w.openAgent(nil)
}

// startOfRow returns the start of an object's row in a store's file: its digest,
// and the first of its envelope, some of its value included.
func startOfRow(c desired.Change) []byte {
	return append(c.Digest[:], c.Envelope[:min(len(c.Envelope), MinValueBytes+1)]...)
}

// flipLast flips the last byte of each of the patterns wherever it stands in the
// file: in its row, and in pages that are free by now.
func flipLast(path string, patterns [][]byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("damage the mirror: %w", err)
	}
	defer f.Close()
	buf := make([]byte, 4<<20)
	overlap := len(patterns[0]) - 1
	for at := int64(0); ; at += int64(len(buf) - overlap) {
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("damage the mirror: %w", err)
		}
		for _, pattern := range patterns {
			for from := 0; ; {
				i := bytes.Index(buf[from:n], pattern)
				if i < 0 {
					break
				}
				from += i + len(pattern)
				last := []byte{^pattern[len(pattern)-1]}
				if _, err := f.WriteAt(last, at+int64(from)-1); err != nil {
					return fmt.Errorf("damage the mirror: %w", err)
				}
			}
		}
		if n < len(buf) {
			return f.Sync()
		}
	}
}
