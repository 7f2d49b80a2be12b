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
	limit  int  // of size, at which the frame is closed
	dense  bool // the last frame's values did not compress

	columns       []byte // scratch of Frame, as are these:
	packedColumns []byte
	packedValues  []byte
}

// NewFrameWriter returns an empty FrameWriter.
func NewFrameWriter(codec *Codec) *FrameWriter {
	return &FrameWriter{codec: codec, limit: codec.frame}
}

// Len returns the number of changes gathered.
func (w *FrameWriter) Len() int { return w.n }

// Full reports whether the frame has to be closed before more is added: a frame
// that takes one more change while it isn't full keeps all bounds.
func (w *FrameWriter) Full() bool {
	return w.size() >= w.limit || w.n >= MaxFrameChanges || w.whole > MaxFrameKeyBytes-desired.MaxKeyBytes
}

// size returns the bytes gathered, before compression.
func (w *FrameWriter) size() int {
	return len(w.shared) + len(w.rest) + len(w.heads) + len(w.sizes) + len(w.keys) + len(w.texts) + len(w.values)
}

// Add copies a change into the frame; its key has to be above the one before.
// Its envelope is canonical, since it comes from a store or from Encode.
func (w *FrameWriter) Add(c desired.Change) error {
	deleted := uint64(1)
	if !c.Deleted() {
		head, value, err := c.Envelope.Split()
		if err != nil {
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

// Frame returns the changes gathered as a frame, in memory of its own, and
// starts the next one.
func (w *FrameWriter) Frame() []byte {
	columns := w.columns[:0]
	for _, c := range [][]byte{w.shared, w.rest, w.heads, w.sizes, w.keys, w.texts} {
		columns = append(columns, c...)
	}
	w.columns = columns
	values, flags, size := w.values, byte(0), len(columns)
	if w.packColumns() {
		columns, flags = w.packedColumns, flagColumns
	}
	if w.packValues() {
		values, flags = w.packedValues, flags|flagValues
	}

	frame := make([]byte, 0, 1+4*binary.MaxVarintLen32+len(columns)+len(values))
	frame = append(frame, flags)
	frame = binary.AppendUvarint(frame, uint64(w.n))
	frame = binary.AppendUvarint(frame, uint64(size))
	if flags&flagColumns != 0 {
		frame = binary.AppendUvarint(frame, uint64(len(columns)))
	}
	frame = append(frame, columns...)
	if flags&flagValues != 0 {
		frame = binary.AppendUvarint(frame, uint64(len(w.values)))
	}
	frame = append(frame, values...)
	w.reset()
	return frame
}

func (w *FrameWriter) reset() {
	w.n, w.whole, w.last, w.limit = 0, 0, w.last[:0], min(2*w.limit, w.codec.frame)
	w.shared, w.rest, w.heads, w.sizes = w.shared[:0], w.rest[:0], w.heads[:0], w.sizes[:0]
	w.keys, w.texts, w.values = w.keys[:0], w.texts[:0], w.values[:0]
}

func (w *FrameWriter) packColumns() (ok bool) {
	w.packedColumns, ok = w.codec.pack(w.packedColumns, w.columns)
	return ok
}

// packValues compresses the values if that pays. After values that did not
// compress, a sample has to before more is tried.
func (w *FrameWriter) packValues() (ok bool) {
	const sample = 4 << 10
	if w.dense && len(w.values) > 4*sample {
		mid := len(w.values)/2 - sample/2
		if w.packedValues, ok = w.codec.pack(w.packedValues, w.values[mid:mid+sample]); !ok {
			return false
		}
	}
	w.packedValues, ok = w.codec.pack(w.packedValues, w.values)
	w.dense = !ok
	return ok
}

func commonPrefix(a, b []byte) int {
	n := 0
	for n+8 <= len(a) && n+8 <= len(b) && binary.NativeEndian.Uint64(a[n:]) == binary.NativeEndian.Uint64(b[n:]) {
		n += 8
	}
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// DecodeFrame returns the changes of a frame, without digests, in memory of
// their own: all keys share one block of it, and all envelopes another. Keys
// are valid and ascend, envelopes are canonical; otherwise, and for anything
// malformed, it returns an error that matches ErrProtocol.
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
	codec *Codec
	n     int

	// The columns of uvarints; shared still holds the deletions' bit.
	fields                     []uint32 // their memory
	shared, rest, heads, sizes []uint32

	// The columns of bytes, and where they go.
	keyTexts, headTexts, values []byte
	keys, envelopes             []byte
}

func (d *frameDecoder) decode(frame []byte) ([]desired.Change, error) {
	columns, err := d.split(frame)
	if err != nil {
		return nil, err
	}
	if err := d.readColumns(columns); err != nil {
		return nil, err
	}
	return d.changes()
}

// split returns the decompressed columns, and leaves the values in d.
func (d *frameDecoder) split(frame []byte) (columns []byte, err error) {
	r := reader{rest: frame}
	flags := r.byte()
	if flags > flagColumns|flagValues {
		r.fail("unknown flags %#x", flags)
	}
	d.n = r.uvarint(MaxFrameChanges)
	size := r.uvarint(MaxFrameBytes)
	packed := size
	if flags&flagColumns != 0 {
		packed = r.uvarint(MaxFrameBytes)
	}
	columns = r.bytes(packed)
	valueSize := 0
	if flags&flagValues != 0 {
		valueSize = r.uvarint(MaxFrameBytes)
	}
	if r.err != nil {
		return nil, r.err
	}
	if flags&flagColumns != 0 {
		if columns, err = d.codec.unpack(columns, size); err != nil {
			return nil, err
		}
	}
	d.values = r.rest
	if flags&flagValues != 0 {
		d.values, err = d.codec.unpack(r.rest, valueSize)
	}
	return columns, err
}

// readColumns reads the columns and checks that their lengths add up.
func (d *frameDecoder) readColumns(columns []byte) error {
	if 2*d.n > len(columns) {
		return fmt.Errorf("%w: %d changes in %d bytes of columns", ErrProtocol, d.n, len(columns))
	}
	r := reader{rest: columns}
	d.fields = make([]uint32, 0, 4*d.n)
	d.shared = d.column(&r, d.n, 2*desired.MaxKeyBytes+1)
	d.rest = d.column(&r, d.n, desired.MaxKeyBytes)
	upserts := d.n
	for _, s := range d.shared {
		upserts -= int(s & 1)
	}
	d.heads = d.column(&r, upserts, desired.MaxHeadBytes)
	d.sizes = d.column(&r, upserts, desired.MaxValueBytes)
	if r.err != nil {
		return r.err
	}
	keyBytes, headBytes := sum(d.rest), sum(d.heads)
	if keyBytes+headBytes != len(r.rest) || sum(d.sizes) != len(d.values) {
		return fmt.Errorf("%w: lengths do not add up", ErrProtocol)
	}
	d.keyTexts, d.headTexts = r.rest[:keyBytes], r.rest[keyBytes:]
	for _, s := range d.shared {
		keyBytes += int(s >> 1)
	}
	if keyBytes > MaxFrameKeyBytes {
		return fmt.Errorf("%w: %d bytes of keys, at most %d are allowed", ErrProtocol, keyBytes, MaxFrameKeyBytes)
	}
	d.keys = make([]byte, 0, keyBytes)
	d.envelopes = make([]byte, 0, headBytes+len(d.values)+3*upserts) // a head's length has 3 bytes at most
	return nil
}

// column reads the next n fields, none above most.
func (d *frameDecoder) column(r *reader, n, most int) []uint32 {
	start := len(d.fields)
	for range n {
		d.fields = append(d.fields, uint32(r.uvarint(most)))
	}
	return d.fields[start:]
}

func sum(column []uint32) (total int) {
	for _, n := range column {
		total += int(n)
	}
	return total
}

// changes puts the columns together.
func (d *frameDecoder) changes() ([]desired.Change, error) {
	all := make([]desired.Change, d.n)
	var last []byte
	m := 0 // changes so far that are not deletions
	for i := range all {
		key, err := d.key(last, int(d.shared[i]>>1), int(d.rest[i]))
		if err != nil {
			return nil, err
		}
		all[i].Key, last = key, key
		if d.shared[i]&1 != 0 {
			continue
		}
		e := d.envelope(int(d.heads[m]), int(d.sizes[m]))
		if err := desired.CheckEnvelope(key, e); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		all[i].Envelope = e
		m++
	}
	return all, nil
}

// key returns the key of shared bytes of the last one and the next rest bytes.
func (d *frameDecoder) key(last []byte, shared, rest int) ([]byte, error) {
	if shared > len(last) {
		return nil, fmt.Errorf("%w: a key shares %d bytes with one of %d", ErrProtocol, shared, len(last))
	}
	start := len(d.keys)
	d.keys = append(append(d.keys, last[:shared]...), d.keyTexts[:rest]...)
	d.keyTexts = d.keyTexts[rest:]
	key := d.keys[start:len(d.keys):len(d.keys)]
	if bytes.Compare(key, last) <= 0 {
		return nil, fmt.Errorf("%w: key %q does not come after %q", ErrProtocol, key, last)
	}
	if err := desired.CheckKey(key); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return key, nil
}

// envelope returns the envelope of the next head bytes and the next size bytes
// of values.
func (d *frameDecoder) envelope(head, size int) desired.Envelope {
	start := len(d.envelopes)
	d.envelopes = binary.AppendUvarint(d.envelopes, uint64(head))
	d.envelopes = append(append(d.envelopes, d.headTexts[:head]...), d.values[:size]...)
	d.headTexts, d.values = d.headTexts[head:], d.values[size:]
	return d.envelopes[start:len(d.envelopes):len(d.envelopes)]
}
