package delta

import (
	"encoding/binary"
	"fmt"
)

// reader reads packed fields. After the first failure it returns zeros and
// keeps the error.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
	r.rest = nil
}

func (r *reader) byte() byte {
	b := r.bytes(1)
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// uvarint reads an integer of at most most.
func (r *reader) uvarint(most int) int {
	n := r.uint64()
	if n > uint64(most) {
		r.fail("%d where at most %d is allowed", n, most)
		return 0
	}
	return int(n)
}

// uint64 reads an integer of any size.
func (r *reader) uint64() uint64 {
	n, size := binary.Uvarint(r.rest)
	if size <= 0 {
		r.fail("cut short")
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

// bytes reads n bytes, which share the memory that is read.
func (r *reader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.fail("cut short")
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}
