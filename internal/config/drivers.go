package config

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"espalier/agent/driver/exec"
	"espalier/internal/desired"
)

// placed is a route, and where it is in the file.
type placed struct {
	Route
	line int
}

func (r *reader) drivers(n *yaml.Node) (all []placed) {
	r.list(n, "drivers", maxRoutes, func(e *yaml.Node) {
		if p, ok := r.route(e); ok {
			all = append(all, p)
		}
	})
	return all
}

// route reads a driver; ok is false if it can't be held against others.
func (r *reader) route(n *yaml.Node) (p placed, ok bool) {
	p.line = n.Line
	if n.Kind != yaml.MappingNode {
		r.unwanted(n, "a driver", "an object, as {prefix: files/, driver: file, root: /srv/site}")
		return p, false
	}
	kind := ""
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "driver" {
			kind, _ = r.text(n.Content[i+1], "driver")
			break
		}
	}
	common := []field{
		{"prefix", func(n *yaml.Node) { p.Prefix = r.prefix(n) }},
		{"driver", func(*yaml.Node) {}},
	}
	var lines map[string]int
	switch kind {
	case "file":
		p.Driver, lines = r.file(n, common)
	case "process":
		p.Driver, lines = r.process(n, common)
	case "exec":
		p.Driver, lines = r.exec(n, common)
	default:
		r.problem(n.Line, "unknown driver %.64q: there are file, process and exec", kind)
		return p, false
	}
	if _, ok := lines["prefix"]; !ok {
		r.problem(n.Line, `a driver has no prefix: want what its keys begin with, as files/, or "" for all`)
		return p, false
	}
	return p, true
}

// prefix reads what keys begin with.
func (r *reader) prefix(n *yaml.Node) string {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" && n.Value == "" {
		return ""
	}
	text, ok := r.text(n, "prefix")
	if !ok {
		return ""
	}
	if err := desired.CheckKey([]byte(text + "x")); err != nil {
		r.problem(n.Line, "prefix %.64q: no key begins with it: %v", text, err)
	} else if !strings.HasSuffix(text, "/") {
		r.problem(n.Line, "prefix %.64q: it has to end with a /, or %.64q would be among its keys", text, text+"-other")
	}
	return text
}

func (r *reader) file(n *yaml.Node, common []field) (*FileDriver, map[string]int) {
	d := &FileDriver{}
	lines := r.object(n, "driver file", append(common,
		field{"root", func(n *yaml.Node) { d.Root, _ = r.absolute(n, "root") }},
		field{"adopt", func(n *yaml.Node) { r.truth(n, "adopt", &d.Adopt) }},
		field{"unmanaged", func(n *yaml.Node) {
			r.list(n, "unmanaged", maxPatterns, func(e *yaml.Node) { r.pattern(e, d) })
		}},
		field{"cross_mounts", func(n *yaml.Node) { r.truth(n, "cross_mounts", &d.CrossMounts) }},
		field{"max_watches", func(n *yaml.Node) { r.number(n, "max_watches", 1, maxWatches, &d.MaxWatches) }},
	)...)
	if _, ok := lines["root"]; !ok {
		r.problem(n.Line, "driver file has no root: want the folder that its files are in")
	}
	return d, lines
}

// pattern reads a pattern of names, segment by segment.
func (r *reader) pattern(n *yaml.Node, d *FileDriver) {
	text, ok := r.text(n, "unmanaged")
	if !ok {
		return
	}
	for segment := range strings.SplitSeq(text, "/") {
		if _, err := path.Match(segment, ""); err != nil || segment == "" {
			r.problem(n.Line, "unmanaged: segment %.64q of pattern %.64q is malformed", segment, text)
			return
		}
	}
	d.Unmanaged = append(d.Unmanaged, text)
}

func (r *reader) process(n *yaml.Node, common []field) (*ProcessDriver, map[string]int) {
	d := &ProcessDriver{}
	return d, r.object(n, "driver process", append(common,
		field{"logs", func(n *yaml.Node) { d.Logs, _ = r.absolute(n, "logs") }},
		field{"log_bytes", func(n *yaml.Node) {
			var v float64
			r.size(n, "log_bytes", minLogBytes, maxLogBytes, &v)
			d.LogBytes = int64(v)
		}},
		field{"log_files", func(n *yaml.Node) { r.number(n, "log_files", 1, maxLogFiles, &d.LogFiles) }},
	)...)
}

func (r *reader) exec(n *yaml.Node, common []field) (*ExecDriver, map[string]int) {
	d := &ExecDriver{}
	lines := r.object(n, "driver exec", append(common,
		field{"command", func(n *yaml.Node) { r.command(n, d) }},
		field{"batch", func(n *yaml.Node) { r.number(n, "batch", 1, exec.MaxBatch, &d.Batch) }},
		field{"parallel", func(n *yaml.Node) { r.number(n, "parallel", 1, exec.MaxParallel, &d.Parallel) }},
		field{"timeout", func(n *yaml.Node) { r.duration(n, "timeout of driver exec", minInterval, exec.MaxTimeout, &d.Timeout) }},
		field{"check", func(n *yaml.Node) { r.truth(n, "check", &d.Check) }},
		field{"env", func(n *yaml.Node) { r.env(n, d) }},
		field{"dir", func(n *yaml.Node) { d.Dir, _ = r.absolute(n, "dir") }},
	)...)
	if _, ok := lines["command"]; !ok {
		r.problem(n.Line, "driver exec has no command: want a list, as [/usr/local/bin/hook]")
	}
	return d, lines
}

func (r *reader) command(n *yaml.Node, d *ExecDriver) {
	r.list(n, "command", maxWords, func(e *yaml.Node) {
		if len(d.Command) > 0 && e.Kind == yaml.ScalarNode && e.ShortTag() == "!!str" && e.Value == "" {
			d.Command = append(d.Command, "")
			return
		}
		read := r.text
		if len(d.Command) == 0 {
			read = r.absolute
		}
		word, _ := read(e, "command")
		d.Command = append(d.Command, word)
	})
	if n.Kind == yaml.SequenceNode && len(n.Content) == 0 {
		r.problem(n.Line, "command: the list is empty")
	}
}

func (r *reader) env(n *yaml.Node, d *ExecDriver) {
	for name, value := range r.pairs(n, "env") {
		switch {
		case len(d.Env) == maxWords:
			r.problem(name.Line, "env: more than the %d variables that are allowed", maxWords)
			return
		case name.Value == "" || strings.ContainsAny(name.Value, "=\x00"):
			r.problem(name.Line, "env: %.64q can't be the name of a variable", name.Value)
		case value.Kind == yaml.ScalarNode && value.ShortTag() == "!!str" && value.Value == "":
			d.Env = append(d.Env, name.Value+"=")
		default:
			if text, ok := r.text(value, fmt.Sprintf("env %.64s", name.Value)); ok {
				d.Env = append(d.Env, name.Value+"="+text)
			}
		}
	}
	slices.Sort(d.Env)
}

// together checks what routes must not have in common.
func (r *reader) together(routes []placed, data string) {
	for i, p := range routes {
		if f, ok := p.Driver.(*FileDriver); ok && f.Root != "" && data != "" && within(f.Root, data) {
			r.problem(p.line, "root %s is in the agent's own folder, %s", f.Root, data)
		}
		for _, other := range routes[:i] {
			r.apart(p, other)
		}
	}
}

// apart checks what a route must not have in common with an earlier one.
func (r *reader) apart(p, other placed) {
	if p.Prefix == other.Prefix {
		r.problem(p.line, "prefix %.64q is there already, on line %d", p.Prefix, other.line)
	}
	switch d := p.Driver.(type) {
	case *FileDriver:
		o, ok := other.Driver.(*FileDriver)
		switch {
		case !ok || d.Root == "" || o.Root == "":
		case d.Root == o.Root:
			r.problem(p.line, "root %s is there already, on line %d", d.Root, other.line)
		case within(d.Root, o.Root), within(o.Root, d.Root):
			r.problem(p.line, "root %s and root %s, on line %d, are one within the other: each would take the other's files for strangers'", d.Root, o.Root, other.line)
		}
	case *ProcessDriver:
		if o, ok := other.Driver.(*ProcessDriver); ok && d.Logs != "" && d.Logs == o.Logs {
			r.problem(p.line, "logs %s is there already, on line %d", d.Logs, other.line)
		}
	}
}

// within reports whether a path is, or is below, a folder.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}
