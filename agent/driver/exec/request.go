package exec

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"espalier/agent/driver"
	"espalier/internal/desired"
)

// op is what a line asks the program for.
type op string

const (
	opApply  op = "apply"
	opDelete op = "delete"
	opCheck  op = "check"
)

// request is a line of the program's standard input. The order of its fields is
// a promise to programs that don't know JSON.
type request struct {
	ID          string            `json:"id"`
	Op          op                `json:"op"`
	Key         string            `json:"key"`
	Name        string            `json:"name"`
	Doubt       bool              `json:"doubt,omitempty"`
	Note        *string           `json:"note,omitempty"`
	Value       *string           `json:"value,omitempty"`
	ValueBase64 *string           `json:"value_base64,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	After       []string          `json:"after,omitempty"`

	// value is what Value or ValueBase64 say, which are made as the line is written:
	// a batch is held once, not twice.
	value    []byte
	hasValue bool
}

// requestOf returns what the program is told of a change.
func requestOf(c driver.Change) request {
	q := request{ID: plainID(c.ID), Op: opDelete, Key: c.Key, Name: c.Name, Doubt: c.Doubt}
	if c.Note != nil {
		_, note, _ := decodeNote(c.Note)
		q.Note = &note
	}
	if !c.Deleted() {
		q.Op = opApply
		q.show(c.Object)
	}
	return q
}

// show has the line tell what shall be.
func (q *request) show(o *desired.Object) {
	q.value, q.hasValue = o.Value, true
	q.Attributes, q.After = o.Attributes, o.After
}

// plainID returns id, or a hash of one that is long or would have to be escaped
// anywhere: programs use it in shells and as a file's name.
func plainID(id string) string {
	if id != "" && len(id) <= maxIDBytes && strings.IndexFunc(id, special) < 0 {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

func special(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
		return false
	}
	return true
}

// batch is what one run of the program is asked, and what it answered. It is
// filled before the run, and read after it.
type batch struct {
	asked []asked
	byID  map[string]int // in asked
	left  int            // that are not answered
	fault error          // the first thing that was wrong with the answers; nil: nothing
}

// asked is a line for the program, and its answer.
type asked struct {
	request  request
	index    int // the caller's
	answered bool
	answer   answer
}

func newBatch(size int) *batch {
	return &batch{asked: make([]asked, 0, size), byID: make(map[string]int, size)}
}

// add appends a request.
func (b *batch) add(q request, index int) error {
	if other, ok := b.byID[q.ID]; ok {
		return fmt.Errorf("id %s is that of %q already: the program could not tell them apart", q.ID, b.asked[other].request.Key)
	}
	b.byID[q.ID] = len(b.asked)
	b.asked = append(b.asked, asked{request: q, index: index})
	b.left++
	return nil
}

// write writes the requests, a line each.
func (b *batch) write(to io.Writer) error {
	w := bufio.NewWriterSize(to, 64<<10)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	for i := range b.asked {
		q := b.asked[i].request // a copy, which lets go of the text
		if q.hasValue {
			if text := string(q.value); utf8.ValidString(text) {
				q.Value = &text
			} else {
				text = base64.StdEncoding.EncodeToString(q.value)
				q.ValueBase64 = &text
			}
		}
		if err := e.Encode(q); err != nil {
			return err
		}
	}
	return w.Flush()
}
