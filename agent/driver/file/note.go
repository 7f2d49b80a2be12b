package file

import (
	"encoding/binary"
	"errors"
)

// kind is what an object is on the disk.
type kind byte

const (
	regular kind = 1
	symlink kind = 2
)

// note is what is kept of an object that was made true: what a stat of it says,
// so that one tells whether anything has happened to it since. The device is not
// in it: its number may be another after a boot.
type note struct {
	kind kind
	// group says that the object has its group by an attribute; else the group is
	// nobody's business.
	group bool
	// made is how many folders right above were made for the object where none can
	// bear the mark.
	made         uint16
	mode         uint16 // permission bits
	uid, gid     uint32
	size         int64
	ino          uint64
	mtime, ctime int64 // nanoseconds
}

// noteVersion is a note's first byte, noteBytes how many it has.
const (
	noteVersion = 1
	noteBytes   = 1 + 1 + 1 + 2 + 2 + 4 + 4 + 8 + 8 + 8 + 8
)

var errNote = errors.New("the note is not one of this driver's")

// encode returns, all numbers being big endian:
//
//	1 version, 1 kind, 1 group, 2 made, 2 mode, 4 uid, 4 gid, 8 size, 8 inode, 8 mtime, 8 ctime
func (n note) encode() []byte {
	b := make([]byte, 0, noteBytes)
	group := byte(0)
	if n.group {
		group = 1
	}
	b = append(b, noteVersion, byte(n.kind), group)
	b = binary.BigEndian.AppendUint16(b, n.made)
	b = binary.BigEndian.AppendUint16(b, n.mode)
	b = binary.BigEndian.AppendUint32(b, n.uid)
	b = binary.BigEndian.AppendUint32(b, n.gid)
	for _, v := range [...]uint64{uint64(n.size), n.ino, uint64(n.mtime), uint64(n.ctime)} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return b
}

// decodeNote is the reverse of encode; what encode does not return is an error.
func decodeNote(b []byte) (note, error) {
	if len(b) != noteBytes || b[0] != noteVersion || b[2] > 1 {
		return note{}, errNote
	}
	n := note{
		kind: kind(b[1]), group: b[2] == 1,
		made: binary.BigEndian.Uint16(b[3:]), mode: binary.BigEndian.Uint16(b[5:]),
		uid: binary.BigEndian.Uint32(b[7:]), gid: binary.BigEndian.Uint32(b[11:]),
		size: int64(binary.BigEndian.Uint64(b[15:])), ino: binary.BigEndian.Uint64(b[23:]),
		mtime: int64(binary.BigEndian.Uint64(b[31:])), ctime: int64(binary.BigEndian.Uint64(b[39:])),
	}
	if n.kind != regular && n.kind != symlink || n.mode > 0o777 || n.size < 0 {
		return note{}, errNote
	}
	return n, nil
}
