package store

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"espalier/internal/desired"
)

// check returns nil if u can be carried out, as far as that can be told without
// the record.
func (u *AppliedUpdate) check() error {
	for i := range u.Rows {
		if err := u.Rows[i].check(); err != nil {
			return fmt.Errorf("set %s: %w", u.Rows[i].Set, err)
		}
	}
	for i := range u.Drifted {
		if err := u.Drifted[i].check(); err != nil {
			return err
		}
	}
	for _, b := range u.Begun {
		if err := ascend(b.Keys); err != nil {
			return fmt.Errorf("batch %d: %w", b.ID, err)
		}
	}
	for name, v := range u.State {
		if len(name) == 0 || len(name) > MaxStateNameBytes || len(v) > MaxStateBytes {
			return fmt.Errorf("%w state %.40q: name and value have %d and %d bytes, at most %d and %d are allowed",
				desired.ErrInvalid, name, len(name), len(v), MaxStateNameBytes, MaxStateBytes)
		}
	}
	return nil
}

func (r *AppliedRows) check() error {
	deletes := r.Delete
	if err := ascend(deletes); err != nil {
		return err
	}
	var last []byte
	for i := range r.Put {
		row := &r.Put[i]
		if err := row.check(); err != nil {
			return err
		}
		if bytes.Compare(row.Key, last) <= 0 {
			return fmt.Errorf("%w rows: %q comes after %q; they must ascend", desired.ErrInvalid, row.Key, last)
		}
		last = row.Key
		for len(deletes) > 0 && bytes.Compare(deletes[0], row.Key) < 0 {
			deletes = deletes[1:]
		}
		if len(deletes) > 0 && bytes.Equal(deletes[0], row.Key) {
			return fmt.Errorf("%w rows: %q is put and deleted", desired.ErrInvalid, row.Key)
		}
	}
	return nil
}

// update carries u out, which was checked.
func (r *record) update(u *AppliedUpdate) error {
	for i := range u.Rows {
		if err := r.updateRows(&u.Rows[i]); err != nil {
			return fmt.Errorf("set %s: %w", u.Rows[i].Set, err)
		}
	}
	if err := r.updateDrifts(u); err != nil {
		return err
	}
	if err := r.updateBatches(u); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(u.State)) {
		if err := r.putState(name, u.State[name]); err != nil {
			return err
		}
	}
	return r.forget(u.Forgotten)
}

func (r *record) forget(sets []desired.Name) error {
	if len(sets) == 0 {
		return nil
	}
	for _, name := range sets {
		key := recordSetKey(name)
		if r.tx.Bucket(key) == nil {
			continue
		}
		if err := r.tx.DeleteBucket(key); err != nil {
			return err
		}
		r.count.sets--
	}
	return r.writeCounts()
}

func (r *record) updateRows(rows *AppliedRows) error {
	s, err := openRecordSet(r.tx, rows.Set)
	if err != nil {
		return err
	}
	if s == nil {
		return fmt.Errorf("%w in the record: it was not begun; Reshape begins it", ErrNotFound)
	}
	e := recordEdit{recordSet: s}
	return e.apply(rows)
}

func (r *record) updateDrifts(u *AppliedUpdate) error {
	if len(u.Settled)+len(u.Drifted) == 0 {
		return nil
	}
	for _, key := range u.Settled {
		if r.drifts.Get(key) == nil {
			continue
		}
		r.count.drifts--
		if err := r.drifts.Delete(key); err != nil {
			return err
		}
	}
	for i := range u.Drifted {
		if err := r.putDrift(&u.Drifted[i]); err != nil {
			return err
		}
	}
	return r.writeCounts()
}

// putDrift writes a drift and counts it.
func (r *record) putDrift(d *Drift) error {
	if r.drifts.Get(d.Key) == nil {
		r.count.drifts++
	}
	return r.drifts.Put(d.Key, d.encode())
}

func (r *record) updateBatches(u *AppliedUpdate) error {
	for _, id := range u.Ended {
		prefix := journalKey(id)
		c := r.batches.Cursor()
		var rows [][]byte
		for key, _ := c.Seek(prefix); bytes.HasPrefix(key, prefix); key, _ = c.Next() {
			rows = append(rows, bytes.Clone(key))
		}
		for _, key := range rows {
			if err := r.batches.Delete(key); err != nil {
				return err
			}
		}
	}
	for i := range u.Begun {
		b := &u.Begun[i]
		if r.batches.Get(batchKey(b.ID, 0)) != nil {
			return fmt.Errorf("%w batch %d: it has begun already", desired.ErrInvalid, b.ID)
		}
		if err := encodeBatch(b, r.batches.Put); err != nil {
			return err
		}
	}
	return nil
}

func (r *record) putState(name string, v []byte) error {
	key := []byte(name)
	if v == nil {
		return r.state.Delete(key)
	}
	return r.state.Put(key, sealRow(key, bytes.Clone(v)))
}
