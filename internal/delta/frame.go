package delta

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"espalier/internal/desired"
)

// A frame is a self-contained run of changes in key order. Keys and lengths
// travel as columns, prefix-coded and then compressed; values lie one after the
// other, compressed where that pays.
//
//	byte     flags: 1 the columns are compressed, 2 the values are
//	uvarint  changes
//	uvarint  bytes of the columns, as they are once decompressed
//	uvarint  bytes of the columns here; only with flag 1
//	columns
//	uvarint  bytes of the values once decompressed; only with flag 2
//	values   the rest
//
// The columns, one after the other; n changes, m of them not deletions:
//
//	n uvarints  bytes shared with the key before, times 2, plus 1 for a deletion
//	n uvarints  bytes of the rest of the key
//	m uvarints  bytes of the envelope's head
//	m uvarints  bytes of the value
//	the rests of the keys, then the heads
const (
	flagColumns = 1
	flagValues  = 2
)

// FrameWriter gathers changes into a frame.
type FrameWriter struct {
	codec  *Codec
	last   []byte // the key before
	n      int
	shared []byte
	rest   []byte
	heads  []byte // lengths
	sizes  []byte
	keys   []byte
	texts  []byte // heads
	values []byte
	whole  int  // bytes of the whole keys
	dense  bool // the last frame's values did not compress
}

// NewFrameWriter returns an empty FrameWriter.
func NewFrameWriter(codec *Codec) *FrameWriter {
	return &FrameWriter{codec: codec}
}

// Len returns the number of changes gathered.
func (w *FrameWriter) Len() int { return w.n }

// Full reports whether the frame should be closed before more is added.
func (w *FrameWriter) Full() bool {
	return len(w.values)+len(w.keys)+len(w.texts)+4*w.n >= FrameBytes ||
		w.n >= MaxFrameChanges || w.whole >= MaxFrameKeyBytes-desired.MaxKeyBytes
}

// Add copies a change into the frame; its key has to be above the one before.
// Its envelope is canonical, since it comes from a store or from Encode.
func (w *FrameWriter) Add(c desired.Change) error {
	head, value := []byte(nil), []byte(nil)
	deleted := uint64(1)
	if !c.Deleted() {
		var err error
		if head, value, err = c.Envelope.Split(); err != nil {
			return fmt.Errorf("object %q: %w", c.Key, err)
		}
		deleted = 0
		w.heads = binary.AppendUvarint(w.heads, uint64(len(head)))
		w.sizes = binary.AppendUvarint(w.sizes, uint64(len(value)))
		w.texts = append(w.texts, head...)
		w.values = append(w.values, value...)
	}
	shared := commonPrefix(w.last, c.Key)
	w.shared = binary.AppendUvarint(w.shared, uint64(shared)<<1|deleted)
	w.rest = binary.AppendUvarint(w.rest, uint64(len(c.Key)-shared))
	w.keys = append(w.keys, c.Key[shared:]...)
	w.last = append(w.last[:0], c.Key...)
	w.whole += len(c.Key)
	w.n++
	return nil
}

// Frame returns the changes gathered as a frame and starts the next one.
func (w *FrameWriter) Frame() []byte {
	columns := bytes.Join([][]byte{w.shared, w.rest, w.heads, w.sizes, w.keys, w.texts}, nil)
	packedColumns, isPacked := w.codec.pack(columns)
	packedValues, valuesPacked := w.packValues()

	frame := make([]byte, 1, 32+len(columns)+len(w.values))
	frame = binary.AppendUvarint(frame, uint64(w.n))
	frame = binary.AppendUvarint(frame, uint64(len(columns)))
	if isPacked {
		frame[0] |= flagColumns
		frame = binary.AppendUvarint(frame, uint64(len(packedColumns)))
		columns = packedColumns
	}
	frame = append(frame, columns...)
	if valuesPacked {
		frame[0] |= flagValues
		frame = binary.AppendUvarint(frame, uint64(len(w.values)))
		frame = append(frame, packedValues...)
	} else {
		frame = append(frame, w.values...)
	}
	*w = FrameWriter{
		codec: w.codec, dense: w.dense, last: w.last[:0], shared: w.shared[:0], rest: w.rest[:0],
		heads: w.heads[:0], sizes: w.sizes[:0], keys: w.keys[:0], texts: w.texts[:0], values: w.values[:0],
	}
	return frame
}

// packValues compresses the values if that pays. After values that did not
// compress, a sample has to before more is tried.
func (w *FrameWriter) packValues() ([]byte, bool) {
	const sample = 4 << 10
	if w.dense && len(w.values) > 4*sample {
		mid := len(w.values)/2 - sample/2
		if _, ok := w.codec.pack(w.values[mid : mid+sample]); !ok {
			return nil, false
		}
	}
	packed, ok := w.codec.pack(w.values)
	w.dense = !ok
	return packed, ok
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// DecodeFrame returns the changes of a frame, without digests, in memory of
// their own. Keys are valid and ascend, envelopes are canonical; otherwise, and
// for anything malformed, it returns an error that matches ErrProtocol.
func (c *Codec) DecodeFrame(frame []byte) ([]desired.Change, error) {
	if len(frame) > MaxFrameBytes {
		return nil, fmt.Errorf("%w: a frame of %d bytes, at most %d are allowed", ErrProtocol, len(frame), MaxFrameBytes)
	}
	d := frameDecoder{codec: c}
	changes, err := d.decode(frame)
	if err != nil {
		return nil, fmt.Errorf("frame: %w", err)
	}
	return changes, nil
}

type frameDecoder struct {
	codec  *Codec
	n      int
	fields []uint64 // the columns of uvarints, one after the other
	upsert int      // changes that are not deletions
	texts  []byte   // the columns of bytes
	values []byte
}

func (d *frameDecoder) decode(frame []byte) ([]desired.Change, error) {
	columns, err := d.split(frame)
	if err != nil {
		return nil, err
	}
	if err := d.readFields(columns); err != nil {
		return nil, err
	}
	keyBytes, headBytes, valueBytes, err := d.sums()
	if err != nil {
		return nil, err
	}
	if valueBytes != len(d.values) || headBytes > len(d.texts) {
		return nil, fmt.Errorf("%w: lengths do not add up", ErrProtocol)
	}
	return d.changes(keyBytes, headBytes)
}

// split returns the decompressed columns, and leaves the values in d.
func (d *frameDecoder) split(frame []byte) (columns []byte, err error) {
	r := reader{rest: frame}
	flags := r.byte()
	d.n = r.uvarint(MaxFrameChanges)
	size := r.uvarint(MaxFrameBytes)
	packed := size
	if flags&flagColumns != 0 {
		packed = r.uvarint(MaxFrameBytes)
	}
	columns = r.bytes(packed)
	d.values = r.rest
	if flags&flagValues != 0 {
		raw := r.uvarint(MaxFrameBytes)
		if r.err == nil {
			d.values, r.err = d.codec.unpack(r.rest, raw)
		}
	}
	if r.err == nil && flags&flagColumns != 0 {
		columns, r.err = d.codec.unpack(columns, size)
	}
	if flags > flagColumns|flagValues {
		r.fail("unknown flags %#x", flags)
	}
	return columns, r.err
}

func (d *frameDecoder) readFields(columns []byte) error {
	r := reader{rest: columns}
	if 2*d.n > len(columns) {
		r.fail("%d changes in %d bytes of columns", d.n, len(columns))
	}
	d.fields = make([]uint64, 0, 4*min(d.n, len(columns)))
	for range d.n {
		shared := uint64(r.uvarint(2*desired.MaxKeyBytes + 1))
		d.upsert += 1 - int(shared&1)
		d.fields = append(d.fields, shared)
	}
	for range d.n {
		d.fields = append(d.fields, uint64(r.uvarint(desired.MaxKeyBytes)))
	}
	for range d.upsert {
		d.fields = append(d.fields, uint64(r.uvarint(desired.MaxHeadBytes)))
	}
	for range d.upsert {
		d.fields = append(d.fields, uint64(r.uvarint(desired.MaxValueBytes)))
	}
	d.texts = r.rest
	return r.err
}

// sums returns the bytes of the whole keys, of the heads with their lengths,
// and of the values; and checks that the texts add up.
func (d *frameDecoder) sums() (keys, heads, values int, err error) {
	rests := 0
	for i := range d.n {
		keys += int(d.fields[i]>>1) + int(d.fields[d.n+i])
		rests += int(d.fields[d.n+i])
	}
	for i := range d.upsert {
		heads += int(d.fields[2*d.n+i])
		values += int(d.fields[2*d.n+d.upsert+i])
	}
	if rests+heads != len(d.texts) {
		return 0, 0, 0, fmt.Errorf("%w: lengths of keys do not add up", ErrProtocol)
	}
	if keys > MaxFrameKeyBytes {
		return 0, 0, 0, fmt.Errorf("%w: %d bytes of keys", ErrProtocol, keys)
	}
	return keys, heads, values, nil
}

// changes puts the columns together. All keys share one block of memory, and
// all envelopes another.
func (d *frameDecoder) changes(keyBytes, headBytes int) ([]desired.Change, error) {
	keys := make([]byte, 0, keyBytes)
	envelopes := make([]byte, 0, headBytes+len(d.values)+5*d.upsert)
	rests, heads := d.texts[:len(d.texts)-headBytes], d.texts[len(d.texts)-headBytes:]
	values, m := d.values, 0
	all := make([]desired.Change, d.n)
	var last []byte
	for i := range all {
		shared, rest := int(d.fields[i]>>1), int(d.fields[d.n+i])
		if shared > len(last) {
			return nil, fmt.Errorf("%w: a key shares %d bytes with one of %d", ErrProtocol, shared, len(last))
		}
		start := len(keys)
		keys = append(append(keys, last[:shared]...), rests[:rest]...)
		rests = rests[rest:]
		key := keys[start:len(keys):len(keys)]
		if bytes.Compare(key, last) <= 0 {
			return nil, fmt.Errorf("%w: key %q does not come after %q", ErrProtocol, key, last)
		}
		if err := desired.CheckKey(key); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		all[i].Key, last = key, key
		if d.fields[i]&1 != 0 {
			continue
		}
		head, size := int(d.fields[2*d.n+m]), int(d.fields[2*d.n+d.upsert+m])
		m++
		start = len(envelopes)
		envelopes = binary.AppendUvarint(envelopes, uint64(head))
		envelopes = append(append(envelopes, heads[:head]...), values[:size]...)
		heads, values = heads[head:], values[size:]
		all[i].Envelope = envelopes[start:len(envelopes):len(envelopes)]
		if err := desired.CheckEnvelope(key, all[i].Envelope); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
	}
	return all, nil
}
