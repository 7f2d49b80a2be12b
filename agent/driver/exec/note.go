package exec

import "encoding/binary"

// noteVersion is the first byte of each note: a driver's notes outlive programs
// that wrote them.
const noteVersion = 1

// encodeNote returns what is kept with an object: the id of the change that made
// it true, and what the program noted.
//
//	version  1
//	uvarint  length of the id, at most maxIDBytes
//	id
//	note     the rest, at most MaxNoteBytes
func encodeNote(id, note string) []byte {
	b := make([]byte, 0, 3+len(id)+len(note))
	b = append(b, noteVersion)
	b = binary.AppendUvarint(b, uint64(len(id)))
	b = append(b, id...)
	return append(b, note...)
}

// decodeNote is its inverse; ok is false for what it did not return.
func decodeNote(b []byte) (id, note string, ok bool) {
	if len(b) == 0 || b[0] != noteVersion {
		return "", "", false
	}
	n, size := binary.Uvarint(b[1:])
	if size <= 0 || n > uint64(len(b)-1-size) || n > maxIDBytes {
		return "", "", false
	}
	rest := b[1+size:]
	return string(rest[:n]), string(rest[n:]), true
}
