package desired

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"unicode/utf8"
)

// Object is one object in its readable form.
type Object struct {
	Key   string
	Value []byte
	// Attributes are small facts beside the value, such as a file's mode; names
	// and texts are UTF-8.
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
	key := []byte(o.Key)
	if err := checkValue(key, o.Value); err != nil {
		return nil, err // before it is copied
	}
	head := encodeHead(o)
	env := make(Envelope, 0, uvarintLen(uint64(len(head)))+len(head)+len(o.Value))
	env = binary.AppendUvarint(env, uint64(len(head)))
	env = append(env, head...)
	env = append(env, o.Value...)
	if err := CheckEnvelope(key, env); err != nil {
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
	end := size + int(n)
	return e[size:end:end], e[end:], nil
}

// Object returns the readable form of the envelope under key; Value shares the
// envelope's memory. An envelope that is not canonical is an error that matches
// ErrInvalid.
func (e Envelope) Object(key []byte) (Object, error) {
	o := Object{Key: string(key)}
	value, err := e.decode(key, func(name, value []byte) {
		if o.Attributes == nil {
			o.Attributes = map[string]string{}
		}
		o.Attributes[string(name)] = string(value)
	}, func(key []byte) {
		o.After = append(o.After, string(key))
	})
	if err != nil {
		return Object{}, err
	}
	o.Value = value
	return o, nil
}

// After returns the keys that the object named key comes after, ascending, which
// share the envelope's memory. An envelope that is not canonical is an error that
// matches ErrInvalid, unless it has no head.
func (e Envelope) After(key []byte) (after [][]byte, err error) {
	if len(e) > 0 && e[0] == 0 {
		return nil, nil
	}
	_, err = e.decode(key, func(_, _ []byte) {}, func(k []byte) { after = append(after, k) })
	return after, err
}

// CheckEnvelope returns nil if e is a canonical envelope within the limits for
// an object named key, or an error that matches ErrInvalid. It allocates only
// for an error.
func CheckEnvelope(key []byte, e Envelope) error {
	_, err := e.decode(key, func(_, _ []byte) {}, func([]byte) {})
	return err
}

// decode hands what is in the head to attribute and after, in its order, and
// returns the value.
func (e Envelope) decode(self []byte, attribute func(name, value []byte), after func(key []byte)) ([]byte, error) {
	head, value, err := e.Split()
	if err != nil {
		return nil, err
	}
	if err := checkValue(self, value); err != nil {
		return nil, err
	}
	if len(head) == 0 {
		return value, nil
	}
	d := headDecoder{rest: head}
	n := d.attributes(attribute) + d.after(self, after)
	if d.err == nil && (len(d.rest) > 0 || n == 0) {
		d.fail("its head holds nothing, or has bytes left over")
	}
	if d.err != nil {
		return nil, fmt.Errorf("object %q: %w", self, d.err)
	}
	return value, nil
}

func checkValue(key, value []byte) error {
	if len(value) > MaxValueBytes {
		return fmt.Errorf("%w value of %q: %d bytes, at most %d are allowed", ErrInvalid, key, len(value), MaxValueBytes)
	}
	return nil
}

// headDecoder reads the fields of a head. After the first failure it reads
// zeros and keeps the error.
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

func (d *headDecoder) text(what string, most int) []byte {
	n := d.count(what, most)
	if n > len(d.rest) {
		d.fail("%s: cut short", what)
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *headDecoder) attributes(add func(name, value []byte)) int {
	n := d.count("attributes", MaxAttributes)
	var last []byte
	for range n {
		name := d.text("name of an attribute", MaxAttributeBytes)
		value := d.text("attribute", MaxAttributeBytes)
		switch {
		case bytes.Compare(name, last) <= 0:
			d.fail("attribute %q is empty or out of order", name)
		case !utf8.Valid(name), !utf8.Valid(value):
			d.fail("attribute %q: %q is not UTF-8", name, value)
		}
		if d.err != nil {
			return 0
		}
		add(name, value)
		last = name
	}
	return n
}

func (d *headDecoder) after(self []byte, add func(key []byte)) int {
	n := d.count("after", MaxAfter)
	var last []byte
	for range n {
		key := d.text("key in after", MaxKeyBytes)
		switch err := CheckKey(key); {
		case err != nil:
			d.fail("after: %v", err)
		case bytes.Compare(key, last) <= 0:
			d.fail("after names %q twice or out of order", key)
		case bytes.Equal(key, self):
			d.fail("the object comes after itself")
		}
		if d.err != nil {
			return 0
		}
		add(key)
		last = key
	}
	return n
}

func uvarintLen(n uint64) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}
