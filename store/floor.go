package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sys/unix"

	"espalier/internal/desired"
)

// The floor is the latest revision that a mirror ever held, in files of its
// own, so that losing the mirror doesn't lose it:
//
//	"floor" 1 (the version)  epoch 16  number 8  root 32  xxhash64 of all before 8
//
// Without a floor an agent that has lost its mirror would follow a server that
// went back. So there are two copies, written one after the other: whatever a
// crash or a bad block does to one of them, the other is whole, and it is the
// revision before at worst, which the mirror makes up for.
var floorSuffixes = [...]string{floorSuffix, floorSuffix2}

var floorMagic = []byte("floor\x01")

func encodeFloor(r desired.Revision) []byte {
	b := appendPosition(bytes.Clone(floorMagic), r.Position)
	b = append(b, r.Root[:]...)
	return binary.BigEndian.AppendUint64(b, xxhash.Sum64(b))
}

func decodeFloor(b []byte) (desired.Revision, error) {
	var r desired.Revision
	body := len(floorMagic) + positionBytes + digestBytes
	if len(b) != body+8 || binary.BigEndian.Uint64(b[body:]) != xxhash.Sum64(b[:body]) {
		return r, fmt.Errorf("%w: it does not match its checksum", ErrCorrupt)
	}
	if !bytes.HasPrefix(b, floorMagic) {
		return r, fmt.Errorf("%w %q", ErrFormat, b[:len(floorMagic)])
	}
	r.Position = decodePosition(b[len(floorMagic):])
	copy(r.Root[:], b[len(floorMagic)+positionBytes:])
	return r, nil
}

// floorCopies are what the files of a floor hold, and why one holds nothing:
// its error matches fs.ErrNotExist if there is no such file.
type floorCopies [len(floorSuffixes)]struct {
	held desired.Revision
	err  error
}

// readFloor reads the copies of the floor.
func (m *Mirror) readFloor() (all floorCopies) {
	for i, suffix := range floorSuffixes {
		c, path := &all[i], m.path(suffix)
		b, err := os.ReadFile(path)
		if err == nil {
			c.held, err = decodeFloor(b)
		}
		if err != nil {
			c.err = fmt.Errorf("floor file %s: %w", path, err)
		}
	}
	return all
}

// latest returns the later of the copies, zero if none can be read. Of two in
// different epochs it is the first: a crash came before the second was written,
// and an epoch may begin with a lower number than its forerunner had reached. The
// mirror says whether that is so; see settle.
func (all *floorCopies) latest() (floor desired.Revision) {
	for _, c := range all {
		if c.err == nil && (floor.Epoch.IsZero() || c.held.Epoch == floor.Epoch && c.held.Number > floor.Number) {
			floor = c.held
		}
	}
	return floor
}

// damage returns why those copies that are there can't be read.
func (all *floorCopies) damage() (err error) {
	for _, c := range all {
		switch {
		case c.err == nil, errors.Is(c.err, fs.ErrNotExist):
		case err == nil:
			err = c.err
		default:
			err = fmt.Errorf("%w, %w", err, c.err)
		}
	}
	return err
}

// settle holds the copies of the floor against each other and the mirror. Those
// that are lost, damaged or behind the other are reported and written anew.
func (m *Mirror) settle(all floorCopies) error {
	st, floor := *m.state.Load(), all.latest()
	if st.head.Epoch.IsZero() && floor.Epoch.IsZero() {
		if err := all.damage(); err != nil {
			return fmt.Errorf("%w; without a floor and without a mirror nothing says what this agent held. "+
				"Remove what can't be read to accept whatever the server has", err)
		}
		return nil // nothing was ever held
	}
	if a, b := all[0], all[1]; st.head.Epoch.IsZero() && a.err == nil && b.err == nil && a.held.Epoch != b.held.Epoch {
		return fmt.Errorf("%w: the copies of the floor, %s at %s and %s at %s, are of different epochs, and there is no mirror to say which is the later. "+
			"Remove the older", ErrCorrupt, m.path(floorSuffixes[0]), a.held.Position, m.path(floorSuffixes[1]), b.held.Position)
	}
	for i, c := range all {
		switch {
		case c.err != nil && floor.Epoch.IsZero():
			m.log.Error("the floor can't be read; it begins anew at the mirror", "set", m.name, "error", c.err)
		case c.err != nil:
			m.log.Error("a copy of the floor can't be read; it is written anew from the other", "set", m.name, "error", c.err)
		case c.held != floor:
			m.log.Warn("a copy of the floor is behind the other; it is written anew", "set", m.name,
				"file", m.path(floorSuffixes[i]), "floor", floor.Position, "copy", c.held.Position)
		default:
			continue
		}
		st.floorDue = true
	}
	if err := m.setState(st); err != nil { // the mirror, or the copy that is whole, says as much
		m.log.Error("the floor can't be written; it will be with the next revision", "set", m.name, "error", err)
	}
	return nil
}

// writeFloor replaces the copies, each durably before the next.
//
// A copy that is there is written over in place, in one write of less than a
// sector that waits for the disk: a file beside it, renamed, would wait twice, and
// for the file system's journal. Should the write be torn, the other copy is whole.
func (m *Mirror) writeFloor(r desired.Revision) error {
	b := encodeFloor(r)
	for _, suffix := range floorSuffixes {
		if writeOver(m.path(suffix), b) == nil {
			continue
		}
		if err := writeFile(m.path(suffix), b); err != nil {
			return err
		}
	}
	return nil
}

// writeOver writes over a file that has that length, durably.
func writeOver(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_DSYNC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Size() != int64(len(b)) {
		return errors.Join(err, fs.ErrInvalid)
	}
	_, err = f.WriteAt(b, 0)
	return err
}
