package publish

import (
	"iter"

	"espalier/internal/desired"
)

// The bounds that tests go to.
const (
	MaxLineBytes = maxLineBytes
	MaxAttempts  = maxAttempts
	Retries      = retries
)

// Objects returns the objects of an input.
func Objects(in *Input) iter.Seq2[desired.Change, error] { return in.objects.All() }

// ParseLine parses one line.
func ParseLine(prefix string, line []byte) (c desired.Change, ok bool, err error) {
	return newLineParser(prefix).parse(line)
}
