package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"espalier/internal/desired"
	"espalier/internal/durable"
	"espalier/merkle"
)

// errMoved ends an attempt at a backup: the set moved further than its journal
// tells.
var errMoved = errors.New("the set moved on too fast")

// Backup writes a copy of the set to a new file at path, readable by OpenFile,
// and returns the revision that it holds. It returns an error that matches
// ErrExists if there is something at path.
//
// It is a pull: the objects are read in chunks, checked against their digests,
// and what was touched meanwhile is read again until the copy's root is the
// set's. So it keeps no reader open, and proves itself. Only if the set keeps
// moving too far between two looks does it hold up the set's commits.
func (s *Store) Backup(ctx context.Context, name desired.Name, path string) (desired.Head, error) {
	if _, err := os.Lstat(path); err == nil {
		return desired.Head{}, fmt.Errorf("backup to %s: %w", path, ErrExists)
	}
	set, err := s.use(name)
	if err != nil {
		return desired.Head{}, err
	}
	defer s.letGo(set)
	b := backup{Store: s, set: set, temp: fmt.Sprintf("%s.%016x.new", path, newSalt())}
	defer b.abort()
	for attempt := 1; ; attempt++ {
		if attempt == backupAttempts {
			if err := set.lock(ctx); err != nil {
				return desired.Head{}, err
			}
			defer set.unlock()
		}
		err := b.copy(ctx)
		if err == nil {
			return b.head, b.publish(path)
		}
		b.abort()
		if !errors.Is(err, errMoved) || attempt == backupAttempts {
			return desired.Head{}, fmt.Errorf("backup of %s: %w", name, err)
		}
	}
}

// backup is a copy of a set in the making.
type backup struct {
	*Store
	set  *set
	temp string
	file *handle      // nil: none yet
	head desired.Head // what the copy includes, and perhaps some of what came later
}

func (b *backup) abort() {
	if b.file != nil {
		b.file.drop()
		b.file = nil
	}
}

// copy makes the file hold the set's head.
func (b *backup) copy(ctx context.Context) error {
	if err := b.load(ctx); err != nil {
		return err
	}
	for range backupAttempts {
		before := b.head
		if err := b.catchUp(ctx); err != nil {
			return err
		}
		if b.head.Position == before.Position {
			return b.seal()
		}
	}
	return errMoved
}

// load copies all objects, chunk by chunk.
func (b *backup) load(ctx context.Context) error {
	var salt uint64
	err := b.read(b.set, func(snap *Snapshot) error {
		b.head, salt = snap.Head(), snap.meta.salt
		return nil
	})
	if err != nil {
		return err
	}
	if err := needRoom(filepath.Dir(b.temp), fileBytes(b.head)); err != nil {
		return err
	}
	l, err := newLoader(b.opener, b.temp, b.set.name, salt)
	if err != nil {
		return err
	}
	defer l.abort()
	for from := []byte{}; from != nil; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		var some batch
		err := b.readSame(func(snap *Snapshot) (err error) {
			from, err = b.opener.chunk.read(snap, from, func(c desired.Change) { some.add(c.Key, c.Digest, c.Envelope) })
			return err
		})
		if err != nil {
			return err
		}
		for _, p := range some.changes {
			if err := l.addRow(p.key, p.row); err != nil {
				return err
			}
		}
	}
	b.file, err = l.finish(func(*edit) error { return nil })
	return err
}

// readSame is read of a set that is still in the epoch of the copy.
func (b *backup) readSame(fn func(*Snapshot) error) error {
	if _, err := b.set.head(); err != nil {
		return err
	}
	return b.read(b.set, func(snap *Snapshot) error {
		if snap.Head().Epoch != b.head.Epoch {
			return errMoved
		}
		return fn(snap)
	})
}

// catchUp reads again what was touched after b.head, and moves b.head on.
func (b *backup) catchUp(ctx context.Context) error {
	var touched Touched
	head := b.head
	err := b.readSame(func(snap *Snapshot) error {
		var ok bool
		var err error
		head = snap.Head()
		touched, ok, err = snap.Touched(b.head.Number, b.opener.inPlace.rows)
		if err == nil && !ok {
			err = errMoved
		}
		return err
	})
	if err != nil {
		return err
	}
	for keys := touched.Keys; len(keys) > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if keys, err = b.copyKeys(keys); err != nil {
			return err
		}
	}
	b.head = head
	return nil
}

// copyKeys copies the present state of some of the keys, and returns the rest.
func (b *backup) copyKeys(keys [][]byte) (rest [][]byte, err error) {
	var some batch
	err = b.readSame(func(snap *Snapshot) error {
		for len(keys) > 0 && !b.opener.chunk.exceeded(len(some.changes)+1, some.bytes) {
			c, _, err := snap.Get(keys[0])
			if err != nil {
				return err
			}
			some.add(keys[0], c.Digest, c.Envelope)
			keys = keys[1:]
		}
		return nil
	})
	if err == nil {
		err = b.apply(&some)
	}
	return keys, err
}

// apply applies what was read to the file.
func (b *backup) apply(some *batch) error {
	_, err := b.file.update(func(tx *bolt.Tx) error {
		e, err := openEdit(tx)
		if err != nil {
			return err
		}
		p, err := e.compare(some)
		if err != nil {
			return err
		}
		if err := e.grow(p, merkle.Shape{Salt: e.salt}); err != nil {
			return err
		}
		if err := e.write(p); err != nil {
			return err
		}
		return e.setHead(p.held.on(e.head))
	})
	return err
}

// seal makes b.head, which the file must hold, the file's revision.
func (b *backup) seal() error {
	b.file.db.NoSync = false
	_, err := b.file.update(func(tx *bolt.Tx) error {
		e, err := openEdit(tx)
		if err != nil {
			return err
		}
		if err := e.held.is(b.head); err != nil {
			return err
		}
		return e.rebase(b.head, "", "backup")
	})
	if err != nil {
		return err
	}
	return b.file.sync()
}

// publish gives the file its name, unless that was taken meanwhile.
func (b *backup) publish(path string) error {
	b.file.retire() // with its freelist in it, so that it opens fast
	b.file = nil
	defer os.Remove(b.temp)
	if err := os.Link(b.temp, path); err != nil {
		if errors.Is(err, os.ErrExist) {
			err = ErrExists
		}
		return fmt.Errorf("backup to %s: %w", path, err)
	}
	return durable.SyncFolder(filepath.Dir(path))
}

// read hands objects of snap from a key on to fn, as far as the bounds allow but
// at least one, and returns the key to go on from, nil at the end.
func (b bounds) read(snap *Snapshot, from []byte, fn func(desired.Change)) (next []byte, err error) {
	rows, bytes := 0, 0
	for c, err := range snap.Objects(from, nil) {
		if err != nil {
			return nil, err
		}
		if rows > 0 && b.exceeded(rows+1, bytes+len(c.Envelope)) {
			return append([]byte{}, c.Key...), nil
		}
		fn(c)
		rows++
		bytes += len(c.Key) + len(c.Envelope)
	}
	return nil, nil
}
