package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// fleet is the file of what concerns more than one set; for now, the epochs
// that sets had. It is asked only when a set begins, ends or is restored, so a
// damaged one leaves what exists in service.
type fleet struct {
	h   *handle
	err error // why there is no handle
}

func openFleet(dir string, o opener) *fleet {
	path := filepath.Join(dir, fleetFile)
	h, err := o.open(path)
	if errors.Is(err, fs.ErrNotExist) {
		h, err = createFleet(path, o)
	}
	if err != nil {
		return &fleet{err: err}
	}
	err = h.view(func(tx *bolt.Tx) error { return checkFormat(tx.Bucket(bucketMeta)) })
	if err != nil {
		h.retire()
		return &fleet{err: fmt.Errorf("file %s: %w", path, err)}
	}
	return &fleet{h: h}
}

// createFleet creates the file, whole or not at all.
func createFleet(path string, o opener) (*handle, error) {
	temp := path + ".new"
	if err := removeFile(temp); err != nil {
		return nil, err
	}
	h, err := o.created(temp)
	if err != nil {
		return nil, err
	}
	_, err = h.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketLineages); err != nil {
			return err
		}
		return b.Put(metaFormat, binary.AppendUvarint(nil, formatVersion))
	})
	if err == nil {
		err = h.sync()
	}
	if err == nil {
		err = h.moveTo(path)
	}
	if err != nil {
		h.drop()
		return nil, err
	}
	return h, nil
}

func (f *fleet) close() {
	if f.h != nil {
		f.h.retire()
	}
}

// lineage returns the epochs that sets of that name had, the latest first.
func (f *fleet) lineage(name desired.Name) ([]desired.Position, error) {
	if f.err != nil {
		return nil, f.err
	}
	var all []desired.Position
	err := f.h.view(func(tx *bolt.Tx) (err error) {
		all, err = decodePositions(tx.Bucket(bucketLineages).Get([]byte(name)))
		return err
	})
	return all, err
}

// note makes those the epochs of the name. It is called with a new epoch before
// the epoch's file exists, and with the last position of an epoch before its
// file goes, so that no crash can lose an epoch that somebody saw.
func (f *fleet) note(name desired.Name, lineage []desired.Position) error {
	if f.err != nil {
		return f.err
	}
	_, err := f.h.update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketLineages).Put([]byte(name), encodePositions(lineage))
	})
	return err
}

// begin returns the first head of a new epoch that follows all that are known.
// It has a number above theirs, so that a number, too, never goes back.
func (f *fleet) begin(name desired.Name, known ...[]desired.Position) (desired.Head, error) {
	retired, err := f.lineage(name)
	if err != nil {
		return desired.Head{}, fmt.Errorf("begin an epoch of %s: %w", name, err)
	}
	var h desired.Head
	for _, p := range slices.Concat(slices.Concat(known...), retired) {
		h.Number = max(h.Number, p.Number)
		if !slices.ContainsFunc(h.Lineage, func(q desired.Position) bool { return q.Epoch == p.Epoch }) {
			h.Lineage = append(h.Lineage, p)
		}
	}
	h.Lineage = h.Lineage[:min(len(h.Lineage), desired.MaxLineage)]
	h.Epoch = desired.NewEpoch()
	h.Number++
	if err := f.note(name, epochsOf(h)); err != nil {
		return desired.Head{}, fmt.Errorf("begin an epoch of %s: %w", name, err)
	}
	return h, nil
}

// epochsOf returns h's own epoch and those that it follows.
func epochsOf(h desired.Head) []desired.Position {
	all := slices.Concat([]desired.Position{h.Position}, h.Lineage)
	return all[:min(len(all), desired.MaxLineage)]
}
