package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"espalier/internal/desired"
)

// Problem is what is wrong with a file.
type Problem struct {
	Path string
	Line int // from 1
	Text string
}

func (p Problem) String() string { return fmt.Sprintf("%s:%d: %s", p.Path, p.Line, p.Text) }

// Problems are all that is wrong with a file, by line: an error that matches
// desired.ErrInvalid.
type Problems []Problem

// Error returns a line for each.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// Is implements errors.Is.
func (p Problems) Is(target error) bool { return target == desired.ErrInvalid }

// Load reads a file. It returns Problems for one that is not as it should be.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		return nil, err
	}
	return Parse(path, text)
}

// Parse is Load of a file's text; the path is for what it has to say.
func Parse(path string, text []byte) (*Config, error) {
	r := &reader{path: path}
	if len(text) > MaxFileBytes {
		r.problem(1, "it has more than the %d bytes that are allowed", MaxFileBytes)
		return nil, r.problems
	}
	root := r.parse(text)
	c := &Config{}
	if root != nil {
		r.config(root, c)
	}
	if len(r.problems) == 0 {
		return c, nil
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	if len(r.problems) > maxProblems {
		rest := len(r.problems) - maxProblems
		r.problems = r.problems[:maxProblems]
		r.problem(r.problems[maxProblems-1].Line, "%d more problems are left out", rest)
	}
	return nil, r.problems
}

// reader turns nodes of YAML into a Config, and collects what is wrong with them.
type reader struct {
	path     string
	problems Problems
	known    func(what, field string) // for tests: is called for each field that an object may have
}

func (r *reader) problem(line int, format string, args ...any) {
	r.problems = append(r.problems, Problem{r.path, max(line, 1), fmt.Sprintf(format, args...)})
}

// parse returns the document of a file; nil: there is none.
func (r *reader) parse(text []byte) *yaml.Node {
	var document, second yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	err := d.Decode(&document)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		if err = d.Decode(&second); err == nil {
			r.problem(second.Line, "there is a second document: want one")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		r.malformed(err)
		return nil
	}
	if document.Kind != yaml.DocumentNode || len(document.Content) != 1 {
		r.problem(document.Line, "it is no document of YAML")
		return nil
	}
	root := document.Content[0]
	if isNull(root) {
		return nil
	}
	return root
}

var yamlError = regexp.MustCompile(`(?s)^yaml: (?:line (\d+): )?(.*)$`)

// malformed tells of an error of the YAML library's, whose own way it is to say
// where.
func (r *reader) malformed(err error) {
	line, text := 1, err.Error()
	if m := yamlError.FindStringSubmatch(text); m != nil {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
		text = m[2]
	}
	r.problem(line, "it is no YAML: %s", text)
}
