package cli

import (
	"context"
	"io"
)

// out is a command's standard output. A write that fails, also one whose error
// nobody looks at, ends the command. It is for one goroutine.
type out struct {
	to  io.Writer
	end context.CancelCauseFunc // of the command
	err error                   // of the first write that failed
}

func (o *out) Write(text []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.to.Write(text)
	if err != nil {
		o.err = err
		o.end(err)
	}
	return n, err
}
