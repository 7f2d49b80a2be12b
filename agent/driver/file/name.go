package file

import (
	"fmt"
	"path"
	"strings"

	"espalier/internal/desired"
)

// tempPrefix is what the names of temporary files begin with; sixteen hexadecimal
// digits follow.
const tempPrefix = ".espalier-"

// checkName returns nil if name can be that of a file below the root.
func checkName(name string) error {
	if strings.HasPrefix(name, "/") {
		return fmt.Errorf("%w name %q: it is absolute; names are relative to the driver's root", desired.ErrInvalid, name)
	}
	if err := desired.CheckKey([]byte(name)); err != nil {
		return fmt.Errorf("name of a file: %w", err)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if len(segment) > maxNameBytes {
			return fmt.Errorf("%w name %q: a segment has %d bytes, at most %d are allowed in the name of a file or folder",
				desired.ErrInvalid, name, len(segment), maxNameBytes)
		}
		if isTemp(segment) {
			return fmt.Errorf("%w name %q: %q is kept for the driver's temporary files; use another", desired.ErrInvalid, name, segment)
		}
	}
	return nil
}

// isTemp reports whether a name is one that temporary files are given.
func isTemp(base string) bool {
	digits, ok := strings.CutPrefix(base, tempPrefix)
	return ok && len(digits) == 16 && strings.Trim(digits, "0123456789abcdef") == ""
}

// split returns a name's folder, which is "" for the root, and what it is in it.
func split(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}

// join is the reverse of split.
func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// patterns are names that are left alone.
type patterns [][]string

func parsePatterns(list []string) (patterns, error) {
	if len(list) > MaxPatterns {
		return nil, fmt.Errorf("%w patterns of unmanaged names: %d, at most %d are allowed", desired.ErrInvalid, len(list), MaxPatterns)
	}
	var p patterns
	for _, text := range list {
		segments := strings.Split(text, "/")
		for i, segment := range segments {
			if _, err := path.Match(segment, ""); err != nil || segment == "" {
				return nil, fmt.Errorf("%w pattern %q of unmanaged names: segment %q is malformed; see path.Match of Go",
					desired.ErrInvalid, text, segment)
			}
			if segment == "**" && i > 0 && segments[i-1] == "**" {
				return nil, fmt.Errorf(`%w pattern %q of unmanaged names: one "**" after the other`, desired.ErrInvalid, text)
			}
		}
		p = append(p, segments)
	}
	return p, nil
}

// match reports whether a pattern matches the name, or a folder that it is in.
func (p patterns) match(name string) bool {
	if len(p) == 0 {
		return false
	}
	segments := strings.Split(name, "/")
	for _, pattern := range p {
		if matchSegments(pattern, segments) {
			return true
		}
	}
	return false
}

// matchSegments walks the pattern once, and goes back to the last "**" alone, as
// is right for wildcards: no later match is lost by taking the earliest.
func matchSegments(pattern, name []string) bool {
	p, n, star, resume := 0, 0, -1, 0
	for p < len(pattern) {
		switch {
		case pattern[p] == "**":
			star, resume = p, n
			p++
		case n < len(name) && matchSegment(pattern[p], name[n]):
			p, n = p+1, n+1
		case star >= 0 && resume < len(name):
			resume++
			p, n = star+1, resume
		default:
			return false
		}
	}
	return true // what is left of the name is below what matched
}

func matchSegment(pattern, segment string) bool {
	ok, err := path.Match(pattern, segment)
	return ok && err == nil
}
