package delta

import (
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// Codec compresses and decompresses the columns of frames. It is safe for
// concurrent use, by as many at once as there are CPUs, up to maxCodecs; others
// wait. It is worth sharing: it holds the compressor's tables, 1.6 MiB for each.
type Codec struct {
	enc   *zstd.Encoder
	dec   *zstd.Decoder
	frame int // FrameBytes, but for WithFrames
}

// NewCodec returns a Codec.
func NewCodec() *Codec {
	most := min(runtime.GOMAXPROCS(0), maxCodecs)
	// The level was chosen on the columns of BenchmarkEncodeFrame's frames (klauspost
	// 1.20, 2 cores): SpeedFastest makes them 4.5% larger in 0.85 to 1.0 of the
	// time, SpeedBetterCompression as large in 1.2 to 1.5 of it. Values of JSON are
	// within 5% by either of the first two; random ones are passed over in a tenth
	// of the time that SpeedBetterCompression takes to find that out.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false),
		zstd.WithEncoderConcurrency(most), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(most), zstd.WithDecoderMaxMemory(2*MaxFrameBytes),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err)
	}
	return &Codec{enc: enc, dec: dec, frame: FrameBytes}
}

// WithFrames returns c as one that closes frames at so many bytes: in tests,
// small sets are to travel in many.
func (c *Codec) WithFrames(bytes int) *Codec {
	return &Codec{enc: c.enc, dec: c.dec, frame: min(bytes, FrameBytes)}
}

// pack returns src compressed, in the memory of scratch or of a larger one that
// replaces it, and whether that saves at least a sixteenth.
func (c *Codec) pack(scratch, src []byte) (packed []byte, ok bool) {
	if len(src) < 64 {
		return scratch, false
	}
	packed = c.enc.EncodeAll(src, scratch[:0])
	return packed, len(packed) < len(src)-len(src)/16
}

// unpack returns src decompressed, which has to give size bytes.
func (c *Codec) unpack(src []byte, size int) ([]byte, error) {
	raw, err := c.dec.DecodeAll(src, make([]byte, 0, size))
	if err != nil {
		return nil, fmt.Errorf("%w: compressed column: %w", ErrProtocol, err)
	}
	if len(raw) != size {
		return nil, fmt.Errorf("%w: compressed column gives %d bytes, not the %d it promised", ErrProtocol, len(raw), size)
	}
	return raw, nil
}
