package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cespare/xxhash/v2"

	"espalier/internal/desired"
)

// The floor is the latest revision that a mirror ever held, in a file of its
// own, so that losing the mirror doesn't lose it:
//
//	"floor" 1 (the version)  epoch 16  number 8  root 32  xxhash64 of all before 8

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

// readFloor returns the floor in the file at path; zero if there is none.
func readFloor(path string) (desired.Revision, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return desired.Revision{}, nil
	}
	if err != nil {
		return desired.Revision{}, fmt.Errorf("read floor: %w", err)
	}
	r, err := decodeFloor(b)
	if err != nil {
		return desired.Revision{}, fmt.Errorf("floor file %s: %w", path, err)
	}
	return r, nil
}

// writeFloor replaces the file at path, durably.
func writeFloor(path string, r desired.Revision) error {
	return writeFile(path, encodeFloor(r))
}
