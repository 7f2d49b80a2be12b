package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"espalier/internal/desired"
	"espalier/store/internal/boltfile"
)

// Repair verifies the structure of the mirror's file, and recomputes the mirror
// from its objects. Where that finds damage it rewrites the file so that the
// tree describes honestly what is stored: an object whose content doesn't match
// its digest gets the digest of what it is now, one that can't be read or isn't
// an object any more is dropped, and every node is built anew. A descent then
// fetches exactly what is wrong. It returns how many rows were damaged.
//
// Head stays what was verified, and Damaged and TreeRoot tell how what is
// stored compares to it. A mirror of which nothing can be read is put aside:
// Head is zero then.
func (m *Mirror) Repair(ctx context.Context) (damaged int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h, err := m.borrow()
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer h.release()
	if err = verifyFile(h.name()); err == nil { // else bbolt may crash on it, or go in circles
		var report Report
		if report, err = checkHandle(ctx, h, nil); err == nil && report.Found == 0 {
			return 0, nil
		}
		if damaged = int(report.Found); damaged > 0 {
			err = fmt.Errorf("%w: %v", ErrCorrupt, report.Problems[0])
		}
	}
	if errors.Is(err, ErrCorrupt) {
		return max(damaged, 1), m.rescue(ctx, h.breakDown(err))
	}
	return 0, fmt.Errorf("mirror of %s: %w", m.name, err)
}

// rescue makes a mirror of what can be read of one that is damaged, or puts it
// aside. What has it open can't use it any more.
func (m *Mirror) rescue(ctx context.Context, why error) error {
	s := salvager{m: m, state: *m.state.Load(), rows: map[string][]byte{}}
	h, err := s.run(ctx)
	switch {
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrFormat):
		return m.putAside(why)
	case err != nil:
		return fmt.Errorf("mirror of %s: %w", m.name, err)
	}
	m.log.Warn("the mirror was damaged; what can be read of it is kept, and the rest will be fetched again", "set", m.name, "error", why)
	return m.replaceNew(h, s.state)
}

// salvager writes a new file of what can be read of a mirror's, whatever it has
// become. It reads the file without bbolt, which trusts what it reads.
type salvager struct {
	m     *Mirror
	state mirrorState       // of the new file
	rows  map[string][]byte // of the bucket meta
	meta  meta
	l     *loader // nil: no object was read yet

	hasher desired.Hasher
	n      int
}

// run returns the new file.
func (s *salvager) run(ctx context.Context) (*handle, error) {
	path := s.m.path(setSuffix)
	defer func() {
		if s.l != nil {
			s.l.abort()
		}
	}()
	err := boltfile.Salvage(path, func(bucket, key, value []byte) error {
		if s.n++; s.n%1024 == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch {
		case bytes.Equal(bucket, bucketMeta):
			s.rows[string(key)] = bytes.Clone(value)
		case bytes.Equal(bucket, bucketObjects):
			return s.object(key, value)
		}
		return nil
	})
	if err != nil {
		return nil, fileError(path, err)
	}
	if s.l == nil {
		return nil, fmt.Errorf("%w: no object can be read", ErrCorrupt)
	}
	return s.l.finish(s.seal)
}

// object takes over an object, with the digest of what it is.
func (s *salvager) object(key, row []byte) error {
	if s.l == nil { // all rows of meta have come: it is the bucket before
		if err := s.begin(); err != nil {
			return err
		}
	}
	c, err := decodeObject(key, row)
	if err != nil || desired.CheckKey(key) != nil || desired.CheckEnvelope(key, c.Envelope) != nil {
		return nil //nolint:nilerror // it is no object any more
	}
	c.Digest = s.hasher.Sum(key, c.Envelope)
	return s.l.add(&c)
}

// begin begins the new file with what the old one says of itself.
func (s *salvager) begin() error {
	get := func(key []byte) []byte { return s.rows[string(key)] }
	err := checkVersion(get(metaFormat))
	if err == nil {
		s.meta, err = decodeMeta(get)
	}
	if err != nil {
		return err
	}
	if s.meta.name != s.m.name {
		return fmt.Errorf("%w: it mirrors the set %q", ErrCorrupt, s.meta.name)
	}
	s.l, err = newLoader(s.m.opener, s.m.path(newSuffix), s.m.name, s.meta.salt)
	return err
}

// seal makes what was read the old file's revision, and says how it differs.
func (s *salvager) seal(e *edit) error {
	held := e.held
	s.state.head, s.state.tree = s.meta.head, held.root
	if err := e.rebase(s.meta.head, "", ""); err != nil {
		return err
	}
	if v := s.rows[string(metaDelivered)]; len(v) == positionBytes {
		s.state.delivered = decodePosition(v)
		if err := e.tx.Bucket(bucketMeta).Put(metaDelivered, v); err != nil {
			return err
		}
	}
	e.held = held
	return e.meta.write(e.tx)
}
