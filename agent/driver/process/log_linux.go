package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// output takes a program's output from a pipe into its log. Reading and writing
// go on side by side, so that a disk that hangs stops the program for a moment
// only.
type output struct {
	pipe   *os.File
	log    *rotatedLog
	chunks chan chunk
	done   chan struct{} // closed once all is written
	tail   []byte        // the end of the output; for read alone
}

// chunk is output, after so many bytes that were dropped for want of room.
type chunk struct {
	dropped int64
	text    []byte
}

func newOutput(pipe *os.File, log *rotatedLog) *output {
	return &output{pipe: pipe, log: log, chunks: make(chan chunk, outputChunks), done: make(chan struct{})}
}

// run reads until nobody holds the pipe's other end any more, or its read deadline
// is over. Then done is closed as soon as everything is written.
func (o *output) run() {
	go func() {
		defer close(o.done)
		for c := range o.chunks {
			o.log.lose(c.dropped, errSlow)
			o.log.write(c.text)
		}
		o.log.close()
	}()
	o.read()
	close(o.chunks)
}

// errSlow is why output is dropped that the disk doesn't take in time.
var errSlow = errors.New("the disk is too slow")

func (o *output) read() {
	buf := make([]byte, outputChunk)
	patience := outputPatience
	var dropped int64
	for {
		n, err := o.pipe.Read(buf)
		if n > 0 {
			o.follow(buf[:n])
			c := chunk{dropped, bytes.Clone(buf[:n])}
			if o.offer(c, patience) {
				dropped, patience = 0, outputPatience
			} else {
				dropped, patience = dropped+int64(n), 0
			}
		}
		if err != nil {
			if dropped > 0 {
				o.offer(chunk{dropped, nil}, outputPatience)
			}
			return
		}
	}
}

// offer hands c on, unless there is no room for as long as patience.
func (o *output) offer(c chunk, patience time.Duration) bool {
	select {
	case o.chunks <- c:
		return true
	default:
	}
	if patience == 0 {
		return false
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case o.chunks <- c:
		return true
	case <-timer.C:
		return false
	}
}

// follow remembers the end of the output.
func (o *output) follow(text []byte) {
	const most = 4 * maxTailBytes
	o.tail = append(o.tail, text[max(0, len(text)-most):]...)
	o.tail = append(o.tail[:0], o.tail[max(0, len(o.tail)-most):]...)
}

// lastLine returns the last line of the output that is not blank, or what fits of
// it. It is for after run.
func (o *output) lastLine() string {
	text := bytes.TrimSpace(o.tail)
	return clip(string(bytes.TrimSpace(text[bytes.LastIndexByte(text, '\n')+1:])), maxTailBytes)
}

// rotatedLog is a log file of a bounded size, with some older ones. Nothing that
// happens to it is an error: what can't be written is counted, and the count is
// written as soon as that is possible again.
type rotatedLog struct {
	path string
	most int64 // bytes of one file
	olds int   // older files that are kept

	file    *os.File // nil: not open
	size    int64
	midline bool // what was written last doesn't end a line
	lost    int64
	why     error
}

// lose counts bytes that are lost.
func (l *rotatedLog) lose(n int64, why error) {
	if n > 0 {
		l.lost, l.why = l.lost+n, why
	}
}

func (l *rotatedLog) close() {
	if l.lost > 0 {
		_ = l.ready() // a last attempt to say so
	}
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}

func (l *rotatedLog) write(b []byte) {
	for len(b) > 0 {
		if err := l.ready(); err != nil {
			l.lose(int64(len(b)), err)
			return
		}
		n := l.room(b)
		if n == 0 {
			if err := l.rotate(); err != nil {
				l.lose(int64(len(b)), err)
				return
			}
			continue
		}
		written, err := l.put(b[:n])
		if err != nil {
			l.lose(int64(len(b)-written), err)
			return
		}
		b = b[n:]
	}
}

// room returns how much of b goes into the current file: whole lines, if
// possible.
func (l *rotatedLog) room(b []byte) int {
	free := l.most - l.size
	if int64(len(b)) <= free {
		return len(b)
	}
	if free > 0 {
		if end := bytes.LastIndexByte(b[:free], '\n'); end >= 0 {
			return end + 1
		}
	}
	if l.midline {
		end := bytes.IndexByte(b, '\n')
		if end >= 0 && int64(end) < free+maxLineSlack {
			return end + 1
		}
	}
	if l.size == 0 {
		return int(max(1, free))
	}
	return 0
}

// ready opens the file, and says what was lost.
func (l *rotatedLog) ready() error {
	if l.file == nil {
		f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return err
		}
		facts, err := f.Stat()
		if err == nil && !facts.Mode().IsRegular() {
			err = errors.New("it is no regular file")
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
		l.file, l.size = f, facts.Size()
	}
	if l.lost == 0 {
		return nil
	}
	note := fmt.Sprintf("espalier: %d bytes of output were lost: %v\n", l.lost, l.why)
	if l.midline {
		note = "\n" + note
	}
	if _, err := l.put([]byte(note)); err != nil {
		return err
	}
	l.lost, l.why = 0, nil
	return nil
}

// put writes b; after an error the file is opened anew.
func (l *rotatedLog) put(b []byte) (int, error) {
	n, err := l.file.Write(b)
	l.size += int64(n)
	if n > 0 {
		l.midline = b[n-1] != '\n'
	}
	if err != nil {
		_ = l.file.Close()
		l.file = nil
	}
	return n, err
}

// rotate makes the current file the first of the older ones.
func (l *rotatedLog) rotate() error {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
	name := func(i int) string {
		if i == 0 {
			return l.path
		}
		return fmt.Sprintf("%s.%d", l.path, i)
	}
	if err := os.Remove(name(l.olds)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for i := l.olds - 1; i >= 0; i-- {
		if err := os.Rename(name(i), name(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	l.size, l.midline = 0, false
	return nil
}
