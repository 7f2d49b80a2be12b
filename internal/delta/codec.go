package delta

import (
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Codec compresses and decompresses the columns of frames. It is safe for
// concurrent use, and worth sharing: it holds the compressor's tables.
type Codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

// NewCodec returns a Codec.
func NewCodec() *Codec {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false),
		zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(2*MaxFrameBytes),
		zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err)
	}
	return &Codec{enc: enc, dec: dec}
}

// pack returns src compressed if that saves at least a sixteenth of it.
func (c *Codec) pack(src []byte) ([]byte, bool) {
	if len(src) < 64 {
		return nil, false
	}
	packed := c.enc.EncodeAll(src, make([]byte, 0, len(src)))
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
