package cli

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"

	"espalier/internal/desired"
)

// document prints v as one JSON document on one line.
func (a *app) document(v any) error {
	e := json.NewEncoder(a.Out)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// headDocument is a set's head for programs.
type headDocument struct {
	Set      desired.Name `json:"set"`
	Epoch    string       `json:"epoch"`
	Revision uint64       `json:"revision"`
	Root     string       `json:"root"`
	Objects  uint64       `json:"objects"`
	Bytes    uint64       `json:"bytes"`
}

func headOf(set desired.Name, h desired.Head) headDocument {
	return headDocument{
		Set: set, Epoch: h.Epoch.String(), Revision: h.Number, Root: h.Root.String(), Objects: h.Objects, Bytes: h.Bytes,
	}
}

// objectDocument is an object for programs: as `apply` reads it.
type objectDocument struct {
	Key         string            `json:"key"`
	Value       *string           `json:"value,omitempty"`
	ValueBase64 *string           `json:"value_base64,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	After       []string          `json:"after,omitempty"`
}

func documentOf(o desired.Object) objectDocument {
	d := objectDocument{Key: o.Key, Attributes: o.Attributes, After: o.After}
	if value := string(o.Value); utf8.ValidString(value) {
		d.Value = &value
	} else {
		encoded := base64.StdEncoding.EncodeToString(o.Value)
		d.ValueBase64 = &encoded
	}
	return d
}

// table returns an empty table that prints to Out.
func (a *app) table(header ...any) table.Writer {
	t := table.NewWriter()
	t.SetOutputMirror(a.Out)
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", "  "
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.AppendHeader(header)
	return t
}

// size returns n bytes for people.
func size(n uint64) string {
	const unit = 1000
	switch {
	case n < 10*unit:
		return fmt.Sprintf("%d B", n)
	case n < unit*unit:
		return fmt.Sprintf("%.1f KB", float64(n)/unit)
	case n < unit*unit*unit:
		return fmt.Sprintf("%.2f MB", float64(n)/unit/unit)
	default:
		return fmt.Sprintf("%.2f GB", float64(n)/unit/unit/unit)
	}
}

// counted returns how many there are of what: "1 object", "2,000 objects".
func counted(n uint64, what string) string {
	if n != 1 {
		what += "s"
	}
	return grouped(n) + " " + what
}

// grouped returns n with its thousands apart.
func grouped(n uint64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
