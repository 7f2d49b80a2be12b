package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/internal/durable"
)

// Applied is a host's durable record of what was made true on it, and of what
// is there otherwise. It is safe for concurrent use.
type Applied struct {
	path   string
	host   desired.Name
	log    *slog.Logger
	opener opener
	slot   slot
	// overlay is maxOverlay, less only in tests.
	overlay int
}

// doubtReason is why an object drifted whose batch did not end.
const doubtReason = "a change was under way when the agent ended"

// OpenApplied opens the record of the host in the data folder dir, which the
// caller has locked with LockDir; it is made if need be. One that is damaged is
// put aside, as applied.db.damaged, with an error in the log, and a new one
// begun, so that everything is applied anew. A record of another host is an error
// that matches ErrForeign, one that another version of the program wrote is one
// that matches ErrFormat.
//
// Of the keys of batches that began and did not end, drifts in doubt are made.
func OpenApplied(dir string, host desired.Name, o Options) (*Applied, error) {
	if _, err := desired.ParseName(string(host)); err != nil {
		return nil, err
	}
	if err := makeFolders(dir); err != nil {
		return nil, err
	}
	opener := newOpener(o)
	a := &Applied{path: filepath.Join(dir, appliedFile), host: host, log: opener.log, opener: opener, overlay: maxOverlay}
	if o.small > 0 {
		a.overlay = o.small
	}
	err := a.open()
	if errors.Is(err, ErrCorrupt) {
		if err := a.putAside(err); err != nil {
			return nil, err
		}
		err = fs.ErrNotExist
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = a.create()
	}
	if err != nil {
		return nil, fmt.Errorf("record of %s: %w", host, err)
	}
	return a, nil
}

// open opens the file and makes drifts of what is in doubt.
func (a *Applied) open() error {
	if err := verifyFile(a.path); err != nil { // or bbolt may go in circles on it, for good
		return err
	}
	h, err := a.opener.open(a.path)
	if err != nil {
		return err
	}
	doubt := false
	err = h.view(func(tx *bolt.Tx) error {
		r, err := openRecord(tx)
		if err != nil {
			return err
		}
		if r.host != a.host {
			return fmt.Errorf("%w: file %s is that of the host %s; move it away to begin anew", ErrForeign, a.path, r.host)
		}
		key, _ := r.batches.Cursor().First()
		doubt = key != nil
		_, err = r.sets()
		return err
	})
	if err == nil && doubt {
		_, err = h.update(func(tx *bolt.Tx) error {
			r, err := openRecord(tx)
			if err != nil {
				return err
			}
			return r.doubt(time.Now())
		})
	}
	if err != nil {
		h.retire()
		return err
	}
	a.slot.swap(h)
	return nil
}

// create creates the file, whole or not at all.
func (a *Applied) create() error {
	temp := a.path + newExtension
	if err := removeFile(temp); err != nil {
		return err
	}
	h, err := a.opener.created(temp)
	if err != nil {
		return err
	}
	_, err = h.update(func(tx *bolt.Tx) error { return createRecord(tx, a.host) })
	if err == nil {
		err = h.sync()
	}
	if err == nil {
		err = h.moveTo(a.path)
	}
	if err != nil {
		h.drop()
		return err
	}
	a.slot.swap(h)
	return nil
}

// putAside moves a record that can't be read out of the way.
func (a *Applied) putAside(why error) error {
	kept := a.path + damagedExtension
	a.log.Error("the record of what was applied can't be read: all will be applied anew", "host", a.host, "error", why, "kept", kept)
	return durable.Rename(a.path, kept)
}

// Close closes the record, once the views have ended. Where damage was found, it
// puts the record aside, so that the next OpenApplied begins a new one.
func (a *Applied) Close() error {
	h := a.slot.give()
	if h == nil {
		return ErrClosed
	}
	why := h.usable()
	h.retire()
	if errors.Is(why, ErrCorrupt) {
		return a.putAside(why)
	}
	return nil
}

func (a *Applied) borrow() (*handle, error) {
	return a.slot.borrow(func() (*handle, error) { return nil, fmt.Errorf("record of %s: %w", a.host, ErrClosed) })
}

// spoil says what err means, with which a use of h ended: after damage the record
// can't be used any more.
func (a *Applied) spoil(h *handle, err error) error {
	if errors.Is(err, ErrCorrupt) {
		_ = h.breakDown(err) // it is err
	}
	if err != nil {
		err = fmt.Errorf("record of %s: %w", a.host, err)
	}
	return err
}

// View calls fn with a view of the record, which is valid until fn returns. If
// that comes upon damage, it returns an error that matches ErrCorrupt, and so does
// every later call: then it is time to close the record and to open it anew. fn
// must not change the record, and what is slow does not belong in it.
func (a *Applied) View(fn func(*AppliedView) error) error {
	h, err := a.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	var own, damage error
	err = h.view(func(tx *bolt.Tx) error {
		r, err := openRecord(tx)
		if err != nil {
			return err
		}
		v := &AppliedView{tx: tx, record: r, overlay: a.overlay}
		own = fn(v)
		damage = v.damage
		return nil
	})
	if err == nil {
		err = damage
	}
	if err = a.spoil(h, err); own != nil {
		return own
	}
	return err
}

// Update changes the record in one transaction, which is durable when it returns.
// If u can't be carried out, an error says why and nothing has changed; rows of a
// set that was never begun are one that matches ErrNotFound.
func (a *Applied) Update(u AppliedUpdate) error {
	if err := u.check(); err != nil {
		return fmt.Errorf("record of %s: %w", a.host, err)
	}
	return a.update(func(r *record) error { return r.update(&u) })
}

// Reshape gives the set's tree that salt: it is built anew from its rows if it
// has rows, and another salt. A set that isn't in the record is begun.
func (a *Applied) Reshape(ctx context.Context, set desired.Name, salt uint64) error {
	if _, err := desired.ParseName(string(set)); err != nil {
		return err
	}
	err := a.update(func(r *record) error {
		s, err := openRecordSet(r.tx, set)
		switch {
		case err != nil:
			return err
		case s == nil:
			return r.begin(set, salt)
		case s.head.salt == salt:
			return errUnchanged
		}
		return s.reshape(ctx, salt)
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// update calls fn with a write transaction.
func (a *Applied) update(fn func(*record) error) error {
	h, err := a.borrow()
	if err != nil {
		return err
	}
	defer h.release()
	_, err = h.update(func(tx *bolt.Tx) error {
		r, err := openRecord(tx)
		if err != nil {
			return err
		}
		return fn(r)
	})
	return a.spoil(h, err)
}

// record is what a transaction sees of a record.
type record struct {
	tx                     *bolt.Tx
	meta                   *bolt.Bucket
	drifts, batches, state *bolt.Bucket

	host  desired.Name
	count struct{ drifts, sets uint64 }
}

func openRecord(tx *bolt.Tx) (*record, error) {
	r := &record{
		tx: tx, meta: tx.Bucket(bucketMeta),
		drifts: tx.Bucket(bucketDrifts), batches: tx.Bucket(bucketBatches), state: tx.Bucket(bucketState),
	}
	if r.meta == nil {
		return nil, fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
	}
	format, err := unsealRow(metaFormat, r.meta.Get(metaFormat))
	if err != nil {
		return nil, err
	}
	if version, _ := binary.Uvarint(format); version != recordVersion {
		return nil, fmt.Errorf("%w %d: this program writes version %d; use the program that wrote it", ErrFormat, version, recordVersion)
	}
	if r.drifts == nil || r.batches == nil || r.state == nil {
		return nil, fmt.Errorf("%w: a bucket is missing", ErrCorrupt)
	}
	host, err := unsealRow(metaHost, r.meta.Get(metaHost))
	if err != nil {
		return nil, err
	}
	r.host = desired.Name(host)
	count, err := unsealRow(metaCounts, r.meta.Get(metaCounts))
	if err == nil && len(count) != 16 {
		err = malformed(metaCounts)
	}
	if err != nil {
		return nil, err
	}
	r.count.drifts, r.count.sets = binary.BigEndian.Uint64(count), binary.BigEndian.Uint64(count[8:])
	return r, nil
}

// createRecord writes the record of a host of which nothing is known.
func createRecord(tx *bolt.Tx, host desired.Name) error {
	for _, name := range [][]byte{bucketDrifts, bucketBatches, bucketState} {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	meta, err := tx.CreateBucket(bucketMeta)
	if err != nil {
		return err
	}
	if err := meta.Put(metaFormat, sealRow(metaFormat, binary.AppendUvarint(nil, recordVersion))); err != nil {
		return err
	}
	if err := meta.Put(metaHost, sealRow(metaHost, []byte(host))); err != nil {
		return err
	}
	r := &record{meta: meta}
	return r.writeCounts()
}

func (r *record) writeCounts() error {
	v := binary.BigEndian.AppendUint64(nil, r.count.drifts)
	v = binary.BigEndian.AppendUint64(v, r.count.sets)
	return r.meta.Put(metaCounts, sealRow(metaCounts, v))
}

// sets returns the names of the sets, ascending.
func (r *record) sets() ([]desired.Name, error) {
	var names []desired.Name
	c := r.tx.Cursor()
	key, _, err := seek(c, prefixSet)
	for ; err == nil && bytes.HasPrefix(key, prefixSet); key, _, err = next(c) {
		names = append(names, desired.Name(key[len(prefixSet):]))
	}
	if err == nil && uint64(len(names)) != r.count.sets {
		err = fmt.Errorf("%w: there are %d sets, of %d", ErrCorrupt, len(names), r.count.sets)
	}
	return names, err
}

// doubt makes drifts of the batches that didn't end.
func (r *record) doubt(now time.Time) error {
	var keys, rows [][]byte
	c := r.batches.Cursor()
	for key, v := c.First(); key != nil; key, v = c.Next() {
		rows = append(rows, bytes.Clone(key))
		if err := decodeBatch(key, v, func(key []byte) { keys = append(keys, key) }); err != nil {
			return err
		}
	}
	for _, key := range keys {
		d := Drift{Key: key, Reason: doubtReason, At: now}
		if v := r.drifts.Get(key); v != nil {
			var err error
			if d, err = decodeDrift(key, v); err != nil {
				return err
			}
		}
		d.Doubt = true
		if err := r.putDrift(&d); err != nil {
			return err
		}
	}
	for _, row := range rows {
		if err := r.batches.Delete(row); err != nil {
			return err
		}
	}
	return r.writeCounts()
}
