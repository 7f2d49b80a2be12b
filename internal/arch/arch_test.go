package arch_test

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the module's name, and so the first segment of our import paths.
const module = "espalier"

// maxLines bounds a file that people write and that is not a test.
const maxLines = 500

// floors says what each package may import, outside its tests: of ours, and of
// the walled libraries (in capitals); the rest of the world is free. What is
// not listed is forbidden. A package below one that has a row (agent/driver/file)
// belongs to that row, unless it has its own. Rows may precede their packages.
//
// Each row holds a decision. Widen one only together with section 8 of the
// design, and with depguard in .golangci.yml, which tells the same to editors.
const floors = `
	# Pure: no files, no network.
	merkle:            -
	internal/desired:  merkle
	internal/delta:    merkle internal/desired
	internal/fleet:    internal/desired internal/delta
	internal/pace:     -

	# The disk.
	internal/spool:    merkle internal/desired OS
	store:             merkle internal/desired internal/durable BBOLT OS

	# Who is who, and what was done.
	internal/durable:  OS
	internal/pki:      internal/desired internal/durable OS
	internal/audit:    OS

	# The wire: protobuf stops at wire, and at the handlers' first and last lines.
	proto/espalier/v1: GRPC PROTOBUF
	internal/wire:     merkle internal/desired internal/delta internal/fleet internal/spool internal/audit store proto/espalier/v1 GRPC PROTOBUF

	# What a host decides; an agent's network and disk are around it.
	internal/follow:   merkle internal/desired internal/delta internal/pace internal/wire store

	# What an orchestrator decides; a server's network and disk are around it.
	internal/lead:     merkle internal/desired internal/delta internal/fleet internal/pace internal/wire store

	# The suite that the store on a disk and the one in memory both pass.
	store/storetest:   merkle internal/desired internal/delta internal/follow store

	# Worlds for both of them, on disks in memory. It has messages cross a wire.
	internal/sim:      merkle internal/desired internal/delta internal/fleet internal/lead internal/follow internal/pace internal/wire store proto/espalier/v1 PROTOBUF

	# The two ends, which know of each other only what crosses the wire.
	server:            merkle internal/desired internal/delta internal/fleet internal/lead internal/pace internal/spool store internal/pki internal/audit internal/wire proto/espalier/v1 GRPC PROTOBUF OS
	agent:             merkle internal/desired internal/delta internal/follow internal/apply internal/onhost internal/durable internal/pki store internal/wire agent/driver proto/espalier/v1 GRPC PROTOBUF OS

	# What makes objects true on a host, and what decides what is made true, in which order.
	agent/driver:         merkle internal/desired
	agent/driver/file:    merkle internal/desired agent/driver OS
	agent/driver/process: merkle internal/desired internal/durable agent/driver OS
	agent/driver/exec:    merkle internal/desired agent/driver OS
	internal/apply:       merkle internal/desired internal/pace agent/driver store
	internal/onhost:       internal/desired internal/apply OS
	internal/config:      internal/desired internal/apply store agent agent/driver agent/driver/file agent/driver/process agent/driver/exec OS

	# The publisher's side of a commit.
	internal/publish:  merkle internal/desired internal/delta internal/spool store internal/wire proto/espalier/v1 GRPC OS

	# The programs. bench has bbolt for the baseline that it measures against.
	bench:             merkle internal/desired internal/delta internal/pace internal/pki internal/publish internal/wire internal/apply agent/driver agent/driver/file store server agent GRPC PROTOBUF BBOLT OS
	internal/cli:      internal/desired internal/delta internal/fleet internal/durable internal/pki internal/audit internal/pace internal/publish store internal/wire server agent agent/driver agent/driver/file agent/driver/process agent/driver/exec internal/apply internal/config internal/onhost bench proto/espalier/v1 GRPC PROTOBUF OS
	cmd/espalier:      internal/cli bench OS
	cmd/bench-report:  bench OS

	internal/arch:     -
`

// walled names the libraries that only some floors may know, with all below them.
var walled = map[string][]string{
	"OS":       {"os", "net", "syscall", "golang.org/x/sys"},
	"BBOLT":    {"go.etcd.io/bbolt"},
	"GRPC":     {"google.golang.org/grpc"},
	"PROTOBUF": {"google.golang.org/protobuf"},
}

func TestFloors(t *testing.T) {
	table := parseFloors(t)
	seen := map[string]bool{}
	for _, f := range sources(t) {
		room := table.room(f.dir)
		if room == "" {
			if !seen[f.dir] {
				t.Errorf("package %s has no row in the table: decide what it may import, and add one to floors", f.dir)
			}
			seen[f.dir] = true
			continue
		}
		seen[room] = true
		for _, imp := range f.imports {
			if !table.mayImport(room, imp) {
				t.Errorf("%s imports %s, which the row of %s does not allow", f.name, imp, room)
			}
		}
	}
	if !seen["internal/arch"] {
		t.Error("the walk did not see even internal/arch: it looks in the wrong place")
	}
}

func TestFileSize(t *testing.T) {
	for _, f := range sources(t) {
		if f.lines > maxLines && !f.generated {
			t.Errorf("%s has %d lines, want at most %d: which second question does it answer?", f.name, f.lines, maxLines)
		}
	}
}

// TestMayImport holds the table against the sentences of design.md, section 8.
func TestMayImport(t *testing.T) {
	table := parseFloors(t)
	for _, c := range []struct {
		room, imp string
		want      bool
	}{
		{"merkle", "espalier/internal/desired", false},
		{"merkle", "os", false},
		{"merkle", "net/http", false},
		{"merkle", "crypto/sha256", true},
		{"internal/desired", "espalier/merkle", true},
		{"internal/desired", "espalier/store", false},
		{"internal/delta", "espalier/store", false},
		{"internal/delta", "google.golang.org/grpc/codes", false},
		{"internal/pace", "espalier/internal/desired", false},
		{"internal/pace", "net", false},
		{"store", "go.etcd.io/bbolt", true},
		{"store", "espalier/proto/espalier/v1", false},
		{"server", "go.etcd.io/bbolt/errors", false},
		{"server", "espalier/agent", false},
		{"agent", "espalier/server", false},
		{"agent", "espalier/agent/driver", true},
		{"agent", "espalier/agent/driver/file", false},
		{"server", "espalier/agent/driver/file", false},
		{"server", "espalier/bench", false},
		{"internal/cli", "espalier/bench", true},
		{"internal/cli", "espalier/internal/sim", false},
		{"bench", "go.etcd.io/bbolt", true},
		{"bench", "espalier/proto/espalier/v1", false},
		{"server", "espalier/unheard/of", false},
		{"server", "github.com/klauspost/compress/zstd", true},
	} {
		if got := table.mayImport(c.room, c.imp); got != c.want {
			t.Errorf("mayImport(%s, %s) = %t, want %t", c.room, c.imp, got, c.want)
		}
	}
}

// table maps each row of floors to the rows and walls that it may import.
type table map[string][]string

func parseFloors(t *testing.T) table {
	t.Helper()
	rows := table{}
	for line := range strings.Lines(floors) {
		line, _, _ = strings.Cut(line, "#")
		room, allowed, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		if rows[room] != nil {
			t.Fatalf("the table has two rows for %s", room)
		}
		rows[room] = strings.Fields(allowed)
	}
	for room, allowed := range rows {
		for _, name := range allowed {
			if name != "-" && rows[name] == nil && walled[name] == nil {
				t.Fatalf("the row of %s allows %s, which is neither a row nor a walled library", room, name)
			}
		}
	}
	return rows
}

// room returns the row that the package in dir belongs to: its own, or that of
// the nearest folder above; "" if it has none.
func (rows table) room(dir string) string {
	for ; dir != "."; dir = path.Dir(dir) {
		if rows[dir] != nil {
			return dir
		}
	}
	return ""
}

// mayImport reports whether a package of the given room may import imp.
func (rows table) mayImport(room, imp string) bool {
	if dir, ours := strings.CutPrefix(imp, module+"/"); ours {
		target := rows.room(dir)
		return target == room || slices.Contains(rows[room], target)
	}
	for wall, libraries := range walled {
		for _, library := range libraries {
			if imp == library || strings.HasPrefix(imp, library+"/") {
				return slices.Contains(rows[room], wall)
			}
		}
	}
	return imp != module
}

// source is one Go file of the module, tests excepted. Names are relative to the
// module's root.
type source struct {
	name, dir string
	imports   []string
	lines     int
	generated bool
}

// sources reads the module's files itself, instead of asking `go list`: so it
// also sees files for other systems, and `go test` knows what a cached result
// depends on.
func sources(t *testing.T) []source {
	t.Helper()
	var found []source
	root := os.DirFS("../..")
	err := fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && name != "." && ignored(root, name):
			return fs.SkipDir
		case d.IsDir(), !strings.HasSuffix(name, ".go"), strings.HasSuffix(name, "_test.go"):
			return nil
		}
		found = append(found, readSource(t, root, name))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// ignored reports whether the go command ignores the folder too, or takes it for
// another module.
func ignored(root fs.FS, dir string) bool {
	base := path.Base(dir)
	if base == "testdata" || base == "vendor" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") {
		return true
	}
	_, err := fs.Stat(root, path.Join(dir, "go.mod"))
	return err == nil
}

func readSource(t *testing.T, root fs.FS, name string) source {
	t.Helper()
	text, err := fs.ReadFile(root, name)
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	s := source{
		name:      name,
		dir:       path.Dir(name),
		lines:     bytes.Count(text, []byte("\n")),
		generated: ast.IsGenerated(file),
	}
	for _, spec := range file.Imports {
		imp, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		s.imports = append(s.imports, imp)
	}
	return s
}
