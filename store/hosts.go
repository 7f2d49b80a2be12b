package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cespare/xxhash/v2"
	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// PutList makes a list a host's, durably.
func (s *Store) PutList(host desired.Name, l desired.List) error {
	if _, err := desired.ParseName(string(host)); err != nil {
		return err
	}
	if err := l.Check(); err != nil {
		return err
	}
	return s.fleet.update(bucketLists, func(b *bolt.Bucket) error { return b.Put([]byte(host), seal(l.Encode())) })
}

// Lists returns the lists of all hosts for which one was put. It returns an error
// that matches ErrCorrupt if one can't be read: hosts would be told that sets
// have left.
func (s *Store) Lists() (map[desired.Name]desired.List, error) {
	all := map[desired.Name]desired.List{}
	err := s.fleet.each(bucketLists, func(host desired.Name, row []byte) error {
		body, err := unseal(row)
		if err == nil {
			all[host], err = desired.DecodeList(body)
		}
		if err != nil {
			return fmt.Errorf("%w: list of sets of host %q: %w", ErrCorrupt, host, err)
		}
		return nil
	})
	return all, err
}

// PutSeen keeps rows that say how hosts fared.
func (s *Store) PutSeen(rows map[desired.Name][]byte) error {
	if len(rows) == 0 {
		return nil
	}
	return s.fleet.update(bucketSeen, func(b *bolt.Bucket) error {
		for host, row := range rows {
			if err := b.Put([]byte(host), row); err != nil {
				return err
			}
		}
		return nil
	})
}

// Seen returns the rows that were put.
func (s *Store) Seen() (map[desired.Name][]byte, error) {
	all := map[desired.Name][]byte{}
	err := s.fleet.each(bucketSeen, func(host desired.Name, row []byte) error {
		all[host] = bytes.Clone(row)
		return nil
	})
	return all, err
}

// each calls fn with each row of a bucket of hosts.
func (f *fleet) each(bucket []byte, fn func(host desired.Name, row []byte) error) error {
	if f.err != nil {
		return f.err
	}
	return f.h.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			host, err := desired.ParseName(string(k))
			if err != nil {
				return fmt.Errorf("%w: fleet row: %w", ErrCorrupt, err)
			}
			return fn(host, v)
		})
	})
}

// seal returns b and its checksum.
func seal(b []byte) []byte { return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b)) }

var errSum = errors.New("it does not match its checksum")

func unseal(b []byte) ([]byte, error) {
	body := len(b) - 8
	if body < 0 || binary.BigEndian.Uint64(b[body:]) != xxhash.Sum64(b[:body]) {
		return nil, errSum
	}
	return b[:body], nil
}

// An agent's list of sets is at the same time the floor of its versions. It lies
// beside the mirrors, twice, as their floors do:
//
//	"list" 1 (the version)  the list, as desired.List encodes it  xxhash64 of all before 8
var (
	listFiles = [...]string{"list", "list2"}
	listMagic = []byte("list\x01")
)

// ReadList returns the list of sets that the agent whose data folder is dir was
// last told of; zero if it never was. Of two copies it is the later, and the other
// is written anew, unless that fails: else a host would go back to it if the later
// one was damaged. It returns an error that matches ErrCorrupt if no copy can be
// read, and there are some.
func ReadList(dir string) (desired.List, error) {
	var copies [len(listFiles)]desired.List
	var latest desired.List
	var damage error
	for i, name := range listFiles {
		var err error
		copies[i], err = readListFile(filepath.Join(dir, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			damage = errors.Join(damage, err)
		case copies[i].Version > latest.Version:
			latest = copies[i]
		}
	}
	if latest.Version == 0 && damage != nil {
		return latest, fmt.Errorf("%w; without it nothing says which sets this host had. "+
			"Remove what can't be read to accept whatever the server says", damage)
	}
	for i := range copies {
		if copies[i].Version != latest.Version {
			_ = WriteList(dir, latest) // it is with the next list at the latest
			break
		}
	}
	return latest, nil
}

func readListFile(path string) (desired.List, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return desired.List{}, err
	}
	body, err := unseal(b)
	if err == nil {
		rest, ok := bytes.CutPrefix(body, listMagic)
		if !ok {
			return desired.List{}, fmt.Errorf("file %s: %w", path, ErrFormat)
		}
		var l desired.List
		if l, err = desired.DecodeList(rest); err == nil {
			return l, nil
		}
	}
	return desired.List{}, fmt.Errorf("file %s: %w: %w", path, ErrCorrupt, err)
}

// WriteList makes l what ReadList returns, each copy durably before the next.
func WriteList(dir string, l desired.List) error {
	for _, name := range listFiles {
		if err := writeFile(filepath.Join(dir, name), seal(append(bytes.Clone(listMagic), l.Encode()...))); err != nil {
			return err
		}
	}
	return nil
}
