package desired

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// Object is one object in its readable form.
type Object struct {
	Key   string
	Value []byte
	// Attributes are small facts beside the value, such as a file's mode.
	Attributes map[string]string
	// After names the keys that this object is applied after.
	After []string
}

// Envelope is everything of an object but its key, in its one canonical
// encoding, so that equal content has equal bytes and so equal digests:
//
//	uvarint  length of the head; 0 where there are neither attributes nor after
//	head     uvarint attributes, each (uvarint length, name, uvarint length, value), names ascending;
//	         uvarint afters, each (uvarint length, key), ascending
//	value    the rest
//
// An Envelope is never empty; nil stands for "no object".
type Envelope []byte

// Encode returns the envelope of o. Attributes and After may come in any order.
// It returns an error that matches ErrInvalid if o exceeds a limit, names a key
// twice in After, or comes after itself. It does not check o.Key otherwise.
func Encode(o Object) (Envelope, error) {
	if len(o.Value) > MaxValueBytes {
		return nil, fmt.Errorf("%w value of %q: %d bytes, at most %d are allowed", ErrInvalid, o.Key, len(o.Value), MaxValueBytes)
	}
	head := encodeHead(o)
	env := make([]byte, 0, binary.MaxVarintLen32+len(head)+len(o.Value))
	env = binary.AppendUvarint(env, uint64(len(head)))
	env = append(env, head...)
	env = append(env, o.Value...)
	if len(head) == 0 {
		return env, nil
	}
	if err := CheckEnvelope([]byte(o.Key), env); err != nil {
		return nil, err
	}
	return env, nil
}

func encodeHead(o Object) []byte {
	if len(o.Attributes) == 0 && len(o.After) == 0 {
		return nil
	}
	head := binary.AppendUvarint(nil, uint64(len(o.Attributes)))
	for _, name := range slices.Sorted(maps.Keys(o.Attributes)) {
		head = appendString(head, name)
		head = appendString(head, o.Attributes[name])
	}
	head = binary.AppendUvarint(head, uint64(len(o.After)))
	for _, key := range slices.Sorted(slices.Values(o.After)) {
		head = appendString(head, key)
	}
	return head
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// Split returns the envelope's head and value, which share its memory, or an
// error that matches ErrInvalid if its lengths do not fit.
func (e Envelope) Split() (head, value []byte, err error) {
	n, size := binary.Uvarint(e)
	if size <= 0 || size != uvarintLen(n) || n > uint64(len(e)-size) {
		return nil, nil, fmt.Errorf("%w envelope: its head does not fit", ErrInvalid)
	}
	return e[size : size+int(n)], e[size+int(n):], nil
}

// Object returns the readable form of the envelope under key; Value shares the
// envelope's memory. An envelope that is not canonical is an error that matches
// ErrInvalid.
func (e Envelope) Object(key []byte) (Object, error) {
	o := Object{Key: string(key)}
	head, value, err := e.Split()
	if err != nil {
		return Object{}, err
	}
	if len(value) > MaxValueBytes {
		return Object{}, fmt.Errorf("%w value of %q: %d bytes, at most %d are allowed", ErrInvalid, key, len(value), MaxValueBytes)
	}
	o.Value = value
	if len(head) == 0 {
		return o, nil
	}
	d := headDecoder{rest: head}
	o.Attributes = d.attributes()
	o.After = d.after(key)
	if d.err == nil && (len(d.rest) > 0 || len(o.Attributes)+len(o.After) == 0) {
		d.fail("its head has bytes left over")
	}
	if d.err != nil {
		return Object{}, fmt.Errorf("object %q: %w", key, d.err)
	}
	return o, nil
}

// CheckEnvelope returns nil if e is a canonical envelope within the limits for
// an object named key, or an error that matches ErrInvalid.
func CheckEnvelope(key []byte, e Envelope) error {
	if len(e) > 0 && e[0] == 0 && len(e)-1 <= MaxValueBytes {
		return nil // no head: the common case costs nothing
	}
	_, err := e.Object(key)
	return err
}

type headDecoder struct {
	rest []byte
	err  error
}

func (d *headDecoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w envelope: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	d.rest = nil
}

func (d *headDecoder) count(what string, most int) int {
	n, size := binary.Uvarint(d.rest)
	switch {
	case d.err != nil:
		return 0
	case size <= 0 || size != uvarintLen(n):
		d.fail("%s: malformed count", what)
		return 0
	case n > uint64(most):
		d.fail("%s: %d, at most %d are allowed", what, n, most)
		return 0
	}
	d.rest = d.rest[size:]
	return int(n)
}

func (d *headDecoder) text(what string, most int) string {
	n := d.count(what, most)
	if n > len(d.rest) {
		d.fail("%s: cut short", what)
		return ""
	}
	s := string(d.rest[:n])
	d.rest = d.rest[n:]
	return s
}

func (d *headDecoder) attributes() map[string]string {
	n := d.count("attributes", MaxAttributes)
	if n == 0 {
		return nil
	}
	all := make(map[string]string, n)
	for last, i := "", 0; i < n && d.err == nil; i++ {
		name := d.text("name of an attribute", MaxAttributeBytes)
		if name <= last {
			d.fail("attribute %q is empty or out of order", name)
		}
		all[name] = d.text("attribute", MaxAttributeBytes)
		last = name
	}
	return all
}

func (d *headDecoder) after(self []byte) []string {
	n := d.count("after", MaxAfter)
	if n == 0 {
		return nil
	}
	all := make([]string, 0, n)
	for last := ""; len(all) < n && d.err == nil; {
		key := d.text("key in after", MaxKeyBytes)
		switch {
		case d.err != nil:
		case key <= last:
			d.fail("after names %q twice or out of order", key)
		case bytes.Equal([]byte(key), self):
			d.fail("the object comes after itself")
		default:
			if err := CheckKey([]byte(key)); err != nil {
				d.fail("after: %v", err)
			}
		}
		all = append(all, key)
		last = key
	}
	return all
}

func uvarintLen(n uint64) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
