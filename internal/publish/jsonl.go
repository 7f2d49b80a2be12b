package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"espalier/internal/desired"
	"espalier/internal/spool"
)

// ReadJSONL reads an input of one JSON object a line:
//
//	{"key":"…","value":"…"}
//	{"key":"…","value_base64":"…","attributes":{"name":"text"},"after":["key"]}
//
// The lines may come in any order, and some may be blank; before the first there
// may be a byte order mark. An error that is
// about a line names it, and matches desired.ErrInvalid; one about a key that
// two lines have is a *spool.DuplicateError.
//
// The file is cut into chunks of whole lines, which goroutines parse; what they
// make of them is spooled in the order of the lines. All have ended when
// ReadJSONL returns, unless a Read of r hasn't returned by then, as that of a
// pipe may not; what it brings is dropped.
func ReadJSONL(ctx context.Context, r io.Reader, o ReadOptions) (*Input, error) {
	w := spool.New(o.TempDir, spool.Options{})
	defer w.Close()
	group, ctx := errgroup.WithContext(ctx)
	c := &chunker{
		from: r, room: semaphore.NewWeighted(maxParsing),
		toParse: make(chan *chunk), inOrder: make(chan *chunk, 2*maxParsers),
	}
	go c.run(ctx)
	for range min(maxParsers, runtime.GOMAXPROCS(0)) {
		group.Go(func() error { return parseChunks(ctx, c.toParse, o.KeyPrefix) })
	}
	group.Go(func() error { return c.spool(ctx, w, o) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return newInput(w, o)
}

// chunk is a piece of the input.
type chunk struct {
	text   []byte // whole lines
	line   int    // the number of the first
	weight int64  // of its memory
	err    error  // why it is the last; nil at the end of the input too
	parsed chan struct{}

	changes []desired.Change
	lines   []int
	arena   []byte // of the changes
	invalid error  // why there are no more changes
}

// chunks are used over and over.
var chunks = sync.Pool{New: func() any {
	return &chunk{text: make([]byte, 0, chunkBytes), arena: make([]byte, 0, chunkBytes)}
}}

// chunker cuts the input into chunks. It hands each to both channels, and closes
// them after the last.
type chunker struct {
	from    io.Reader
	room    *semaphore.Weighted
	toParse chan *chunk
	inOrder chan *chunk
	rest    []byte // of a line
	line    int
}

func (c *chunker) run(ctx context.Context) {
	defer close(c.toParse)
	defer close(c.inOrder)
	c.line = 1
	for {
		next, last := c.cut(ctx)
		if next == nil {
			return
		}
		for _, to := range []chan *chunk{c.inOrder, c.toParse} {
			select {
			case to <- next:
			case <-ctx.Done():
				return
			}
		}
		if last {
			return
		}
	}
}

// cut reads the next chunk; nil: ctx is done.
func (c *chunker) cut(ctx context.Context) (next *chunk, last bool) {
	next = chunks.Get().(*chunk)
	next.line, next.weight, next.parsed = c.line, 2*chunkBytes, make(chan struct{})
	if c.room.Acquire(ctx, next.weight) != nil {
		return nil, true
	}
	buf, whole := append(next.text[:0], c.rest...), 0 // whole lines
	for whole == 0 && next.err == nil {
		if len(buf) == cap(buf) {
			if buf = c.grow(ctx, next, buf); buf == nil {
				return nil, true
			}
		}
		old := len(buf)
		n, err := fill(c.from, buf[old:cap(buf)])
		buf = buf[:old+n]
		if at := bytes.LastIndexByte(buf[old:], '\n'); at >= 0 {
			whole = old + at + 1
		}
		switch {
		case errors.Is(err, io.EOF):
			next.text = buf
			return next, true
		case err != nil:
			next.err = fmt.Errorf("read the input: %w", err)
		case whole == 0 && len(buf) > maxLineBytes:
			next.err = tooLong(c.line)
		}
	}
	next.text = buf[:whole]
	c.rest = append(c.rest[:0], buf[whole:]...)
	c.line += bytes.Count(next.text, []byte{'\n'})
	return next, next.err != nil
}

// fill reads until b is full, or r ends: unlike io.ReadFull, so that r's own
// io.ErrUnexpectedEOF is not taken for its end.
func fill(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var more int
		more, err = r.Read(b[n:])
		n += more
	}
	return n, err
}

// grow returns b in more memory, once there is room for it, and for what will be
// parsed from it; nil: ctx is done.
func (c *chunker) grow(ctx context.Context, next *chunk, b []byte) []byte {
	size := max(len(b)+chunkBytes, min(4*len(b), maxLineBytes+chunkBytes))
	if more := min(2*int64(size), maxParsing) - next.weight; more > 0 {
		if c.room.Acquire(ctx, more) != nil {
			return nil
		}
		next.weight += more
	}
	return append(make([]byte, 0, size), b...)
}

func tooLong(line int) error {
	return fmt.Errorf("line %d: %w line: it has more than %d bytes", line, desired.ErrInvalid, maxLineBytes)
}

// parseChunks parses chunks until there are no more.
func parseChunks(ctx context.Context, chunks <-chan *chunk, prefix string) error {
	p := newLineParser(prefix)
	for {
		select {
		case c, ok := <-chunks:
			if !ok {
				return nil
			}
			c.parse(p)
			close(c.parsed)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *chunk) parse(p *lineParser) {
	p.arena = c.arena
	defer p.forget()
	line, text := c.line-1, c.text
	if line == 0 {
		text = bytes.TrimPrefix(text, []byte("\ufeff"))
	}
	for text := range bytes.Lines(text) {
		if line++; len(text) > maxLineBytes {
			c.invalid = tooLong(line)
			return
		}
		change, ok, err := p.parse(text)
		if err != nil {
			c.invalid = fmt.Errorf("line %d: %w", line, err)
			return
		}
		if ok {
			c.changes = append(c.changes, change)
			c.lines = append(c.lines, line)
		}
	}
}

// spool adds what was parsed to w, in the order of the lines.
func (c *chunker) spool(ctx context.Context, w *spool.Writer, o ReadOptions) error {
	done := uint64(0)
	for {
		select {
		case next, ok := <-c.inOrder:
			if !ok {
				return ctx.Err()
			}
			if err := next.spool(ctx, w); err != nil {
				return err
			}
			done += uint64(len(next.text))
			o.Progress.report(PhaseRead, done, o.total)
			c.room.Release(next.free())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// free gives the chunk's memory back and returns its weight.
func (c *chunk) free() (weight int64) {
	weight = c.weight
	if weight == 2*chunkBytes {
		clear(c.changes) // they may hold memory of their own
		*c = chunk{text: c.text, arena: c.arena, changes: c.changes[:0], lines: c.lines[:0]}
		chunks.Put(c)
		return weight
	}
	if *c = (chunk{}); weight >= largeChunk {
		runtime.GC() // rather than let another as large come on top of it
	}
	return weight
}

func (c *chunk) spool(ctx context.Context, w *spool.Writer) error {
	select {
	case <-c.parsed:
	case <-ctx.Done():
		return ctx.Err()
	}
	for i := range c.changes {
		if err := w.Add(c.changes[i], c.lines[i]); err != nil {
			return err
		}
	}
	if c.invalid != nil {
		return c.invalid
	}
	return c.err
}
