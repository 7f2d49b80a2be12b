package exec

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"strings"
)

// readLines calls fn with each line that r reads, without its end, until there is
// nothing more to read. A line of more than limit bytes is cut, and what is cut
// off is passed over. The line is valid until fn returns.
func readLines(r io.Reader, limit int, fn func(line []byte, cut bool)) {
	b := bufio.NewReaderSize(r, limit+1)
	for rest := false; ; {
		line, err := b.ReadSlice('\n')
		full := errors.Is(err, bufio.ErrBufferFull)
		if !rest && len(line) > 0 {
			fn(bytes.TrimSuffix(line[:min(len(line), limit)], []byte{'\n'}), full)
		}
		if err != nil && !full {
			return
		}
		rest = full
	}
}

// meter reads up to a number of bytes.
type meter struct {
	io.Reader
	left int
	over func() // is called when there are more
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left < 0 {
		return 0, io.EOF
	}
	n, err := m.Reader.Read(p)
	if m.left -= n; m.left < 0 {
		m.over()
	}
	return n, err
}

// words are what a program says on its standard error.
type words struct {
	log    *slog.Logger
	logged int
	tail   []string // the last lines
}

// take logs a line.
func (w *words) take(line []byte, _ bool) {
	text := cut(strings.TrimRight(string(line), "\r"), maxLogBytes)
	if strings.TrimSpace(text) == "" {
		return
	}
	switch w.logged++; {
	case w.logged <= maxLogLines:
		w.log.Info("the program says", "text", text)
	case w.logged == maxLogLines+1:
		w.log.Warn("the program says more than is logged of one run", "lines", maxLogLines)
	}
	if w.tail = append(w.tail, text); len(w.tail) > lastWords {
		w.tail = append(w.tail[:0], w.tail[1:]...)
	}
}

// last returns the end of what was said.
func (w *words) last() string {
	text := strings.Join(w.tail, "\n")
	if len(text) <= lastWordsBytes {
		return text
	}
	return strings.ToValidUTF8("…"+text[len(text)-lastWordsBytes:], "")
}
