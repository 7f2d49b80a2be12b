package config

import (
	"cmp"
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// field is one that an object may have.
type field struct {
	name string
	read func(*yaml.Node)
}

// object reads an object's fields, and returns the lines of those that are there.
func (r *reader) object(n *yaml.Node, what string, fields ...field) map[string]int {
	byName := make(map[string]field, len(fields))
	names := make([]string, len(fields))
	for i, f := range fields {
		byName[f.name], names[i] = f, f.name
		if r.known != nil {
			r.known(what, f.name)
		}
	}
	lines := map[string]int{}
	for name, value := range r.pairs(n, what) {
		f, ok := byName[name.Value]
		if !ok {
			r.problem(name.Line, "unknown field %.64q of %s: there are %s", name.Value, what, strings.Join(names, ", "))
			continue
		}
		lines[f.name] = name.Line
		f.read(value)
	}
	return lines
}

// pairs returns the names and values of an object, each name once.
func (r *reader) pairs(n *yaml.Node, what string) func(func(name, value *yaml.Node) bool) {
	return func(yield func(name, value *yaml.Node) bool) {
		if n.Kind != yaml.MappingNode {
			r.unwanted(n, what, "an object of fields")
			return
		}
		first := map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i], n.Content[i+1]
			if tag := name.ShortTag(); name.Kind != yaml.ScalarNode || tag != "!!str" && tag != "!!merge" {
				r.unwanted(name, "the name of a field of "+what, "a text")
				continue
			}
			if line, ok := first[name.Value]; ok {
				r.problem(name.Line, "field %.64q of %s is there already, on line %d", name.Value, what, line)
				continue
			}
			first[name.Value] = name.Line
			if !yield(name, value) {
				return
			}
		}
	}
}

// unwanted tells that a node is not what it should be.
func (r *reader) unwanted(n *yaml.Node, what, want string) {
	found := "a list"
	switch n.Kind {
	case yaml.AliasNode:
		r.problem(n.Line, "%s: aliases are not supported: write out what *%.64s stands for", what, n.Value)
		return
	case yaml.MappingNode:
		found = "an object"
	case yaml.ScalarNode:
		found = fmt.Sprintf("%.64q", n.Value)
		if isNull(n) {
			found = "nothing; leave the field out if nothing is meant"
		}
	}
	r.problem(n.Line, "%s: want %s, found %s", what, want, found)
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// list calls fn with each element of a list of at most limit.
func (r *reader) list(n *yaml.Node, what string, limit int, fn func(*yaml.Node)) {
	if n.Kind != yaml.SequenceNode {
		r.unwanted(n, what, "a list")
		return
	}
	if len(n.Content) > limit {
		r.problem(n.Line, "%s: %d, at most %d are allowed", what, len(n.Content), limit)
		return
	}
	for _, e := range n.Content {
		fn(e)
	}
}

// text reads a text that is not empty.
func (r *reader) text(n *yaml.Node, what string) (string, bool) {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.unwanted(n, what, "a text")
		return "", false
	}
	switch {
	case n.ShortTag() != "!!str":
		r.problem(n.Line, "%s: want a text, found %.64s: put it in quotes, %.64q", what, n.Value, n.Value)
		return "", false
	case n.Value == "":
		r.problem(n.Line, "%s: it is empty", what)
		return "", false
	case strings.ContainsRune(n.Value, 0):
		r.problem(n.Line, "%s: it contains a NUL", what)
		return "", false
	}
	return n.Value, true
}

// absolute reads an absolute path, and returns it without detours.
func (r *reader) absolute(n *yaml.Node, what string) (string, bool) {
	text, ok := r.text(n, what)
	switch {
	case !ok:
		return "", false
	case len(text) > maxPathBytes:
		r.problem(n.Line, "%s: a path of %d bytes, at most %d are allowed", what, len(text), maxPathBytes)
	case !filepath.IsAbs(text):
		r.problem(n.Line, "%s: %q is relative, want an absolute path", what, text)
	default:
		return filepath.Clean(text), true
	}
	return "", false
}

// truth reads true or false.
func (r *reader) truth(n *yaml.Node, what string, to *bool) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" {
		r.unwanted(n, what, "true or false")
		return
	}
	*to = strings.EqualFold(n.Value, "true")
}

// number reads a whole number.
func (r *reader) number(n *yaml.Node, what string, least, most int, to *int) {
	v, err := strconv.Atoi(n.Value)
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || v < least || v > most {
		r.unwanted(n, what, fmt.Sprintf("a whole number from %d to %d", least, most))
		return
	}
	*to = v
}

// rate reads how many there may be a second.
func (r *reader) rate(n *yaml.Node, what string, to *float64) {
	v, err := strconv.ParseFloat(n.Value, 64)
	tag := n.ShortTag()
	if n.Kind != yaml.ScalarNode || tag != "!!int" && tag != "!!float" || err != nil || math.IsNaN(v) || v <= 0 || v > maxRate {
		r.unwanted(n, what, "a number above 0, up to a billion")
		return
	}
	*to = v
}

// duration reads a time with its unit.
func (r *reader) duration(n *yaml.Node, what string, least, most time.Duration, to *time.Duration) {
	v, err := time.ParseDuration(n.Value)
	if n.Kind != yaml.ScalarNode || err != nil || v < least || v > most {
		r.unwanted(n, what, fmt.Sprintf("a time with a unit, as 30s, 5m or 1h30m, from %s to %s", brief(least), brief(most)))
		return
	}
	*to = v
}

// interval is duration, or the word none.
func (r *reader) interval(n *yaml.Node, what string, to *time.Duration) {
	if n.Kind == yaml.ScalarNode && n.Value == "none" {
		*to = -1
		return
	}
	r.duration(n, what, minInterval, maxInterval, to)
}

// brief returns a duration without units that are 0.
func brief(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

var sizeForm = regexp.MustCompile(`^([0-9]{1,15})(?:\.([0-9]{1,3}))? ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?$`)

var sizeUnits = map[string]float64{
	"B": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
}

// size reads a number of bytes.
func (r *reader) size(n *yaml.Node, what string, least, most float64, to *float64) {
	m := sizeForm.FindStringSubmatch(n.Value)
	v := -1.0
	if m != nil {
		v, _ = strconv.ParseFloat(m[1]+"."+cmp.Or(m[2], "0"), 64)
		v = math.Trunc(v * sizeUnits[cmp.Or(m[3], "B")])
	}
	if n.Kind != yaml.ScalarNode || v < least || v > most {
		r.unwanted(n, what, fmt.Sprintf("bytes, as 65536, 64KiB or 10MB, from %.0f to %.0f", least, most))
		return
	}
	*to = v
}
