package publish

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

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
// The lines may come in any order, and some may be blank. An error that is
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
	invalid error // why there are no more changes
}

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
	next = &chunk{line: c.line, parsed: make(chan struct{})}
	buf, err := c.grow(ctx, next, c.rest, chunkBytes)
	end := 0
	for end == 0 {
		if err == nil && len(buf) == cap(buf) {
			buf, err = c.grow(ctx, next, buf, 4*len(buf))
		}
		n := len(buf)
		if err == nil {
			n, err = io.ReadFull(c.from, buf[n:cap(buf)])
			n, buf = len(buf), buf[:len(buf)+n]
		}
		switch {
		case ctx.Err() != nil:
			return nil, true
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			next.text = buf
			return next, true
		case err != nil:
			next.err = fmt.Errorf("read the input: %w", err)
			return next, true
		}
		end = n + 1 + bytes.LastIndexByte(buf[n:], '\n')
		if end == n {
			end = 0
		}
		if end == 0 && len(buf) > maxLineBytes {
			next.err = tooLong(c.line)
			return next, true
		}
	}
	next.text, c.rest = buf[:end:end], buf[end:]
	c.line += bytes.Count(next.text, []byte{'\n'})
	return next, false
}

// grow returns b in memory of size bytes, or of as many as a chunk may have,
// once there is room for it, and for what will be parsed from it.
func (c *chunker) grow(ctx context.Context, next *chunk, b []byte, size int) ([]byte, error) {
	size = max(len(b)+chunkBytes, min(size, maxLineBytes+chunkBytes))
	if more := min(2*int64(size), maxParsing) - next.weight; more > 0 {
		if err := c.room.Acquire(ctx, more); err != nil {
			return nil, err
		}
		next.weight += more
	}
	return append(make([]byte, 0, size), b...), nil
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
	p.arena = make([]byte, 0, min(len(c.text), chunkBytes))
	line := c.line - 1
	for text := range bytes.Lines(c.text) {
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
			if c.room.Release(next.weight); next.weight >= largeChunk {
				*next = chunk{}
				runtime.GC() // rather than let another as large come on top of it
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
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
