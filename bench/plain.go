package bench

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// plainBatch is how many rows one transaction of a load writes: as many as those
// of package store do.
const plainBatch = 5000

// plainFill is how full a load leaves the pages: as full as package store does.
const plainFill = 0.9

var plainBucket = []byte("objects")

// What goes before the value in a row of a plain file.
var (
	// keysAndValues is the least that holds the objects.
	keysAndValues []byte
	// objectRows makes rows as long as those of package store, which hold a digest
	// and an envelope: what a commit takes beyond them is for tree and journal.
	objectRows = make([]byte, len(desired.Digest{})+1)
)

// plain is a bbolt file with a row for each object and nothing else: what our
// store is held against.
type plain struct {
	db   *bolt.DB
	path string
	head []byte // of each row
}

// loadPlain writes objects, which ascend by key, to a new file in dir, in rows
// that begin with head, and returns once they are durable.
func loadPlain(dir string, head []byte, objects iter.Seq2[desired.Change, error]) (*plain, error) {
	path := filepath.Join(dir, "plain.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		NoSync: true, NoGrowSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType, NoStatistics: true,
	})
	if err != nil {
		return nil, fmt.Errorf("plain bbolt file: %w", err)
	}
	p := &plain{db: db, path: path, head: head}
	if err := p.load(objects); err != nil {
		_ = p.remove()
		return nil, fmt.Errorf("plain bbolt load: %w", err)
	}
	return p, nil
}

func (p *plain) load(objects iter.Seq2[desired.Change, error]) error {
	var tx *bolt.Tx
	var bucket *bolt.Bucket
	var values []byte // of the transaction, which refers to them until it ends
	rows := 0
	for c, err := range objects {
		if err == nil && rows%plainBatch == 0 {
			if tx, bucket, err = p.next(tx); err == nil {
				values = values[:0]
			}
		}
		if err == nil {
			at := len(values)
			values = append(append(values, p.head...), c.Envelope[1:]...)
			err = bucket.Put(c.Key, values[at:len(values):len(values)])
		}
		if err != nil {
			if tx != nil {
				_ = tx.Rollback()
			}
			return err
		}
		rows++
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	p.db.NoSync, p.db.NoGrowSync = false, false
	return p.db.Sync()
}

// next commits tx, if there is one, and begins another.
func (p *plain) next(tx *bolt.Tx) (*bolt.Tx, *bolt.Bucket, error) {
	if tx != nil {
		if err := tx.Commit(); err != nil {
			return nil, nil, err
		}
	}
	tx, err := p.db.Begin(true)
	if err != nil {
		return nil, nil, err
	}
	bucket, err := tx.CreateBucketIfNotExists(plainBucket)
	if err != nil {
		return tx, nil, err
	}
	bucket.FillPercent = plainFill
	return tx, bucket, nil
}

// put makes changes in one transaction, as durable as any.
func (p *plain) put(changes iter.Seq2[desired.Change, error]) (c CommitCost, err error) {
	stop := watch()
	tx, err := p.db.Begin(true)
	if err != nil {
		return c, fmt.Errorf("plain bbolt commit: %w", err)
	}
	bucket := tx.Bucket(plainBucket)
	for change, failed := range changes {
		switch err = failed; {
		case err != nil:
		case change.Deleted():
			err = bucket.Delete(change.Key)
		default:
			err = bucket.Put(change.Key, slices.Concat(p.head, change.Envelope[1:]))
		}
		if err != nil {
			_ = tx.Rollback()
			return c, fmt.Errorf("plain bbolt commit: %w", err)
		}
	}
	if err := tx.Commit(); err != nil {
		return c, fmt.Errorf("plain bbolt commit: %w", err)
	}
	took, stats := stop(), tx.Stats()
	pageSize := uint64(p.db.Info().PageSize)
	return CommitCost{
		Seconds: took.wall.Seconds(), CPUSeconds: took.cpu.Seconds(),
		Pages: uint64(stats.GetPageCount()) + 1, Bytes: uint64(stats.GetPageAlloc()) + pageSize, // and the meta page
	}, nil
}

func (p *plain) remove() error {
	if err := p.db.Close(); err != nil {
		return fmt.Errorf("plain bbolt file: %w", err)
	}
	return os.Remove(p.path)
}
