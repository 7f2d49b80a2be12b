package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
)

// What the store keeps of trust, in fleet.db, it keeps without knowing what it
// means: tokens by the digest of their secret, and since when somebody's
// certificates are worth nothing.

// ErrNoToken says that there is no such token, any more or at all.
var ErrNoToken = errors.New("no such token: it was used, has expired, or never was one")

// PutToken keeps what a token grants, under the digest of its secret, until it
// is taken or expires.
func (s *Store) PutToken(hash desired.Digest, grant []byte, expires time.Time) error {
	if len(grant) > MaxGrantBytes {
		return fmt.Errorf("%w token: it grants %d bytes, at most %d are allowed", desired.ErrInvalid, len(grant), MaxGrantBytes)
	}
	return s.fleet.update(bucketTokens, func(b *bolt.Bucket) error {
		n, err := sweepTokens(b, time.Now())
		if err != nil {
			return err
		}
		if n >= MaxTokens {
			return fmt.Errorf("%w token: %d are waiting to be used, which is the most there may be", desired.ErrInvalid, n)
		}
		return b.Put(hash[:], append(binary.BigEndian.AppendUint64(nil, uint64(expires.UnixMilli())), grant...))
	})
}

// sweepTokens drops those that have expired, and returns how many are left.
func sweepTokens(b *bolt.Bucket, now time.Time) (left int, err error) {
	var old [][]byte
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if tokenGood(v, now) {
			left++
		} else {
			old = append(old, bytes.Clone(k))
		}
	}
	for _, k := range old {
		if err := b.Delete(k); err != nil {
			return 0, err
		}
	}
	return left, nil
}

func tokenGood(row []byte, now time.Time) bool {
	return len(row) >= 8 && now.UnixMilli() < int64(binary.BigEndian.Uint64(row))
}

// TakeToken hands what a token grants to take, which may refuse it by an error:
// that is returned, and the token stays. Else the token is gone, durably. It
// returns ErrNoToken to all but the first who take it.
func (s *Store) TakeToken(hash desired.Digest, take func(grant []byte) error) error {
	return s.fleet.update(bucketTokens, func(b *bolt.Bucket) error {
		row := b.Get(hash[:])
		if !tokenGood(row, time.Now()) {
			return ErrNoToken
		}
		if err := take(bytes.Clone(row[8:])); err != nil {
			return err
		}
		return b.Delete(hash[:])
	})
}

// Revoke notes that what was issued to who up to that time is worth nothing.
// Where a later time is noted already, it stays, unless it is in the future: then
// the clock was wrong.
func (s *Store) Revoke(who string, at time.Time) error {
	if who == "" || len(who) > MaxWhoBytes+16 {
		return fmt.Errorf("%w name: %d bytes", desired.ErrInvalid, len(who))
	}
	return s.fleet.update(bucketRevoked, func(b *bolt.Bucket) error {
		if v := b.Get([]byte(who)); len(v) == 8 && int64(binary.BigEndian.Uint64(v)) >= at.UnixMilli() {
			if noted := time.UnixMilli(int64(binary.BigEndian.Uint64(v))); !noted.After(time.Now()) {
				return nil
			}
		}
		return b.Put([]byte(who), binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli())))
	})
}

// Revoked returns what Revoke noted.
func (s *Store) Revoked() (map[string]time.Time, error) {
	if s.fleet.err != nil {
		return nil, s.fleet.err
	}
	all := map[string]time.Time{}
	err := s.fleet.h.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketRevoked)
		if b == nil {
			return nil
		}
		return b.ForEach(func(k, v []byte) error {
			if len(v) != 8 {
				return fmt.Errorf("%w: fleet row %q", ErrCorrupt, k)
			}
			all[string(k)] = time.UnixMilli(int64(binary.BigEndian.Uint64(v)))
			return nil
		})
	})
	return all, err
}

// update calls fn with a bucket, which it makes if need be, in a transaction.
func (f *fleet) update(bucket []byte, fn func(*bolt.Bucket) error) error {
	if f.err != nil {
		return f.err
	}
	_, err := f.h.update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucket)
		if err != nil {
			return err
		}
		return fn(b)
	})
	return err
}
