package publish

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"espalier/internal/desired"
)

// lineParser turns lines of JSON into changes. It is for one goroutine.
type lineParser struct {
	prefix  string
	text    bytes.Buffer // the line; the decoder reads right from its memory
	decoder *jsontext.Decoder
	hasher  desired.Hasher
	scratch []byte

	// arena holds the keys and envelopes that parse returned; the caller takes
	// it away with them.
	arena []byte

	object parsedObject
}

// parsedObject is what a line has told so far.
type parsedObject struct {
	key        []byte // with the prefix
	envelope   []byte // without a head
	attributes map[string]string
	after      []string
	source     string // the field that the value is from
}

func newLineParser(prefix string) *lineParser {
	p := &lineParser{prefix: prefix}
	p.decoder = jsontext.NewDecoder(&p.text)
	return p
}

// parse returns the object of a line; ok is false for one that is blank. Its
// errors match desired.ErrInvalid.
func (p *lineParser) parse(line []byte) (c desired.Change, ok bool, err error) {
	const space = " \t\r\n"
	if len(bytes.TrimLeft(line, space)) == 0 {
		return desired.Change{}, false, nil
	}
	line = bytes.TrimRight(line, space)
	p.text = *bytes.NewBuffer(line[:len(line):len(line)])
	p.decoder.Reset(&p.text)
	p.object = parsedObject{}
	if err := p.readObject(); err != nil {
		return desired.Change{}, false, err
	}
	c, err = p.change()
	return c, err == nil, err
}

// forget lets go of the memory of lines and objects.
func (p *lineParser) forget() {
	p.arena, p.object, p.text = nil, parsedObject{}, bytes.Buffer{}
	p.decoder.Reset(&p.text)
}

func (p *lineParser) readObject() error {
	if err := p.readStart("line", '{'); err != nil {
		return err
	}
	for p.decoder.PeekKind() != '}' {
		if err := p.readField(); err != nil {
			return err
		}
	}
	if _, err := p.decoder.ReadToken(); err != nil {
		return explainJSON(err)
	}
	if _, err := p.decoder.ReadToken(); err == nil {
		return fmt.Errorf("%w line: more than one JSON value", desired.ErrInvalid)
	} else if !errors.Is(err, io.EOF) {
		return explainJSON(err)
	}
	return nil
}

// readStart reads the beginning of an object or array.
func (p *lineParser) readStart(field string, want jsontext.Kind) error {
	token, err := p.decoder.ReadToken()
	if err != nil {
		return explainJSON(err)
	}
	if token.Kind() != want {
		return unwanted(field, want, token.Kind())
	}
	return nil
}

func unwanted(field string, want, found jsontext.Kind) error {
	return fmt.Errorf("%w %s: want %s, found %s", desired.ErrInvalid, field, nameOf(want), nameOf(found))
}

// readField reads a field's name and value. That a field is there twice is the
// decoder's to notice.
func (p *lineParser) readField() error {
	raw, err := p.decoder.ReadValue()
	if err != nil {
		return explainJSON(err)
	}
	name := raw[1 : len(raw)-1]
	if bytes.IndexByte(name, '\\') >= 0 {
		if name, err = jsontext.AppendUnquote(nil, raw); err != nil {
			return explainJSON(err)
		}
	}
	o := &p.object
	switch string(name) {
	case "key":
		o.key, err = p.readKey("key")
		return err
	case "value":
		if err := o.valueFrom("value"); err != nil {
			return err
		}
		o.envelope, err = p.readString("value", []byte{0})
		return err
	case "value_base64":
		if err := o.valueFrom("value_base64"); err != nil {
			return err
		}
		return p.readBase64()
	case "attributes":
		return p.readAttributes()
	case "after":
		return p.readAfter()
	default:
		return fmt.Errorf("%w field %q: there are key, value, value_base64, attributes and after", desired.ErrInvalid, name)
	}
}

// readKey returns a key, behind the prefix.
func (p *lineParser) readKey(field string) ([]byte, error) {
	key, err := p.readString(field, []byte(p.prefix))
	if err == nil && len(key) == len(p.prefix) {
		return nil, fmt.Errorf("%w %s: it is empty", desired.ErrInvalid, field)
	}
	return key, err
}

func (o *parsedObject) valueFrom(field string) error {
	if o.source != "" {
		return fmt.Errorf("%w object: it has both value and value_base64", desired.ErrInvalid)
	}
	o.source = field
	return nil
}

// readRaw reads a string as it is written, quotes and escapes included.
func (p *lineParser) readRaw(field string) (jsontext.Value, error) {
	raw, err := p.decoder.ReadValue()
	if err != nil {
		return nil, explainJSON(err)
	}
	if raw.Kind() != '"' {
		return nil, unwanted(field, '"', raw.Kind())
	}
	return raw, nil
}

// leastUnquoted returns a lower bound of the bytes that a raw string stands for:
// an escape has 6 bytes at most, and stands for one at least. Below enough bytes
// it does not look.
func leastUnquoted(raw []byte, enough int) int {
	if len(raw) <= enough {
		return 0
	}
	return len(raw) - 2 - 5*bytes.Count(raw, []byte{'\\'})
}

// readString returns start and the string behind it, in the arena.
func (p *lineParser) readString(field string, start []byte) ([]byte, error) {
	raw, err := p.readRaw(field)
	if err != nil {
		return nil, err
	}
	if least := leastUnquoted(raw, desired.MaxValueBytes); least > desired.MaxValueBytes {
		return nil, fmt.Errorf("%w %s: %d bytes or more, at most %d are allowed",
			desired.ErrInvalid, field, least, desired.MaxValueBytes)
	}
	at := len(p.arena)
	p.arena = append(slices.Grow(p.arena, len(start)+len(raw)), start...)
	if p.arena, err = jsontext.AppendUnquote(p.arena, raw); err != nil {
		return nil, explainJSON(err)
	}
	return p.arena[at:len(p.arena):len(p.arena)], nil
}

func (p *lineParser) readBase64() error {
	raw, err := p.readRaw("value_base64")
	if err != nil {
		return err
	}
	if leastUnquoted(raw, maxBase64Bytes) > maxBase64Bytes {
		return fmt.Errorf("%w value_base64: it stands for more than the %d bytes that are allowed",
			desired.ErrInvalid, desired.MaxValueBytes)
	}
	if p.scratch, err = jsontext.AppendUnquote(p.scratch[:0], raw); err != nil {
		return explainJSON(err)
	}
	at := len(p.arena)
	p.arena = append(slices.Grow(p.arena, 1+base64.StdEncoding.DecodedLen(len(p.scratch))), 0)
	if p.arena, err = base64.StdEncoding.AppendDecode(p.arena, p.scratch); err != nil {
		return fmt.Errorf("%w value_base64: %w", desired.ErrInvalid, err)
	}
	p.object.envelope = p.arena[at:len(p.arena):len(p.arena)]
	return nil
}

func (p *lineParser) readAttributes() error {
	if err := p.readStart("attributes", '{'); err != nil {
		return err
	}
	p.object.attributes = map[string]string{}
	for p.decoder.PeekKind() != '}' {
		name, err := p.readString("attribute", nil)
		if err != nil {
			return err
		}
		text, err := p.readString("attribute", nil)
		if err != nil {
			return err
		}
		if p.object.attributes[string(name)] = string(text); len(p.object.attributes) > desired.MaxAttributes {
			return fmt.Errorf("%w attributes: more than the %d that are allowed", desired.ErrInvalid, desired.MaxAttributes)
		}
	}
	_, err := p.decoder.ReadToken()
	return explainJSON(err)
}

func (p *lineParser) readAfter() error {
	if err := p.readStart("after", '['); err != nil {
		return err
	}
	for p.decoder.PeekKind() != ']' {
		key, err := p.readKey("key in after")
		if err != nil {
			return err
		}
		if p.object.after = append(p.object.after, string(key)); len(p.object.after) > desired.MaxAfter {
			return fmt.Errorf("%w after: more than the %d keys that are allowed", desired.ErrInvalid, desired.MaxAfter)
		}
	}
	_, err := p.decoder.ReadToken()
	return explainJSON(err)
}

// change returns what was read as a change.
func (p *lineParser) change() (desired.Change, error) {
	o := &p.object
	switch {
	case o.key == nil:
		return desired.Change{}, fmt.Errorf("%w object: it has no key", desired.ErrInvalid)
	case o.source == "":
		return desired.Change{}, fmt.Errorf("%w object %q: it has neither value nor value_base64", desired.ErrInvalid, o.key)
	}
	if err := desired.CheckKey(o.key); err != nil {
		return desired.Change{}, err
	}
	c := desired.Change{Key: o.key, Envelope: o.envelope}
	value := o.envelope[1:]
	if len(o.attributes) > 0 || len(o.after) > 0 || len(value) > desired.MaxValueBytes {
		var err error
		c.Envelope, err = desired.Encode(desired.Object{
			Key: string(o.key), Value: value, Attributes: o.attributes, After: o.after,
		})
		if err != nil {
			return desired.Change{}, err
		}
	}
	c.Digest = p.hasher.Sum(c.Key, c.Envelope)
	return c, nil
}

// explainJSON returns err, of the decoder, for a person.
func explainJSON(err error) error {
	var s *jsontext.SyntacticError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &s) && errors.Is(s.Err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w JSON: the line ends too early", desired.ErrInvalid)
	case errors.As(err, &s) && errors.Is(s.Err, jsontext.ErrDuplicateName):
		return fmt.Errorf("%w JSON: %q is there twice", desired.ErrInvalid, s.JSONPointer.LastToken())
	case errors.As(err, &s):
		return fmt.Errorf("%w JSON: %w, at byte %d of the line", desired.ErrInvalid, s.Err, s.ByteOffset+1)
	default:
		return fmt.Errorf("%w JSON: %w", desired.ErrInvalid, err)
	}
}

// nameOf returns the word for a kind of value.
func nameOf(kind jsontext.Kind) string {
	switch kind {
	case 'n':
		return "null"
	case 't', 'f':
		return "a truth value"
	case '"':
		return "a string"
	case '0':
		return "a number"
	case '{':
		return "an object"
	case '[':
		return "an array"
	default:
		return "something else"
	}
}
