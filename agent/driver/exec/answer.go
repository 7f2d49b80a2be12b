package exec

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// answer is what the program said of one object.
type answer struct {
	id    string
	drift string // of what it looked at; empty: it is as it shall be
	note  string
	noted bool  // it said something of the note
	err   error // the program's; nil: it did what it was asked for
}

// answerLine is a line of the program's standard output.
type answerLine struct {
	ID    *string `json:"id"`
	OK    *bool   `json:"ok"`
	Error *string `json:"error"`
	Drift *string `json:"drift"`
	Note  *string `json:"note"`
}

// errProgram is what the program says that an object failed with.
type errProgram string

func (e errProgram) Error() string { return string(e) }

// decodeAnswer reads a line of the program's standard output.
func decodeAnswer(line []byte) (answer, error) {
	var l answerLine
	if err := json.Unmarshal(line, &l, json.RejectUnknownMembers(true)); err != nil {
		return answer{}, explain(err)
	}
	if l.ID == nil {
		return answer{}, errors.New("it has no id")
	}
	a := answer{id: *l.ID}
	said := 0
	for _, is := range []bool{l.OK != nil && *l.OK, l.Drift != nil, l.Error != nil} {
		if is {
			said++
		}
	}
	switch {
	case said > 1:
		return a, errors.New(`it says more than one of "ok":true, "drift" and "error"`)
	case l.Error != nil && strings.TrimSpace(*l.Error) != "":
		a.err = errProgram(cut(*l.Error, MaxTextBytes))
	case l.Error != nil, said == 0 && l.OK != nil:
		a.err = errors.New("the program says that it failed, and not why")
	case l.Drift != nil && strings.TrimSpace(*l.Drift) == "":
		return a, errors.New("its drift is empty")
	case l.Drift != nil:
		a.drift = cut(*l.Drift, MaxTextBytes)
	case said == 0:
		return a, errors.New(`it says neither "ok":true nor "error"`)
	}
	if l.Note != nil {
		a.note, a.noted = *l.Note, true
	}
	if len(a.note) > MaxNoteBytes {
		a.note, a.err = "", fmt.Errorf("the program's note has %d bytes, at most %d are kept", len(*l.Note), MaxNoteBytes)
	}
	return a, nil
}

// explain returns err, of the decoder, in fewer words.
func explain(err error) error {
	var s *jsontext.SyntacticError
	var m *json.SemanticError
	switch {
	case errors.As(err, &s):
		return fmt.Errorf("it is no JSON: %w, at byte %d", s.Err, s.ByteOffset+1)
	case errors.As(err, &m) && errors.Is(m.Err, json.ErrUnknownName):
		return fmt.Errorf("it has a field %.64q: there are id, ok, error, drift and note", m.JSONPointer.LastToken())
	case errors.As(err, &m) && m.JSONPointer != "":
		return fmt.Errorf("its field %.64q is of the wrong type", m.JSONPointer.LastToken())
	default:
		return errors.New("it is no JSON object")
	}
}

// cut returns at most limit bytes of a text, as UTF-8.
func cut(text string, limit int) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) <= limit {
		return text
	}
	end := limit - len("…")
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// take reads a line of the program's standard output. What is wrong with one is
// no reason not to listen to the next.
func (b *batch) take(line []byte) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	a, err := decodeAnswer(line)
	if err != nil {
		b.blame(fmt.Errorf("its answer %s: %w", quoted(line), err))
		return
	}
	i, ok := b.byID[a.id]
	if !ok {
		b.blame(fmt.Errorf("it answered for an id that it was not given: %s", quoted([]byte(a.id))))
		return
	}
	q := &b.asked[i]
	if a.drift != "" && q.request.Op != opCheck {
		a.err = fmt.Errorf("the program was to %s, and answered with a drift", q.request.Op)
	}
	if !q.answered {
		q.answered, q.answer = true, a
		b.left--
		return
	}
	b.blame(fmt.Errorf("it answered for %q more than once", q.request.Key))
	if a.err != nil && q.answer.err == nil { // of two answers the worse is believed
		q.answer = a
	}
}

// blame keeps the first fault of the answers.
func (b *batch) blame(err error) {
	if b.fault == nil {
		b.fault = err
	}
}

// quoted returns the beginning of a text for a message.
func quoted(text []byte) string {
	const most = 80
	if len(text) > most {
		return fmt.Sprintf("%q…", text[:most])
	}
	return fmt.Sprintf("%q", text)
}
