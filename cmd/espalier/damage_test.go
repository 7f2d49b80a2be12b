package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestDamagedFiles damages one of two sets' files, in each way that a disk or a
// careless hand can: the server names it and serves the other, and a restore
// brings it back.
func TestDamagedFiles(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, path string){
		"truncated": func(t *testing.T, path string) {
			if err := os.Truncate(path, 3*4096+17); err != nil {
				t.Fatal(err)
			}
		},
		"empty":   func(t *testing.T, path string) { overwrite(t, path, 0, nil) },
		"garbage": func(t *testing.T, path string) { overwrite(t, path, -1, []byte(strings.Repeat("garbage ", 5000))) },
		"a page":  func(t *testing.T, path string) { overwrite(t, path, 5*4096, make([]byte, 4096)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			data := filepath.Join(dir, "server")
			server := serve(t, data)
			must(t, nil, "", server.at("apply", "bad", "-f", write(t, dir, 3000, 1))...)
			must(t, nil, "", server.at("apply", "good", "-f", write(t, dir, 3000, 1))...)
			backup := filepath.Join(dir, "backup")
			must(t, nil, "", server.at("backup", "bad", backup)...)
			server.kill(syscall.SIGKILL) // an unclean stop: files are probed
			damage(t, filepath.Join(data, "sets", "bad.db"))

			server = serve(t, data)
			must(t, nil, "", server.at("check", "good")...)
			must(t, nil, "", server.at("set", "good", "a", "b")...)
			if r := espalier(t, "", server.at("check", "bad")...); r.status == 0 || !strings.Contains(r.stderr, "bad") {
				t.Errorf("check of the damaged set: %+v", r)
			}
			r := must(t, nil, "", server.at("sets")...)
			if rows := strings.Split(r.stdout, "\n"); !regexp.MustCompile(`^bad {2,}set bad is quarantined`).MatchString(rows[1]) ||
				!regexp.MustCompile(`^good +2 +3,001 +.* [0-9a-f]{16}$`).MatchString(rows[2]) {
				t.Errorf("sets:\n%s", r.stdout)
			}
			if r := espalier(t, "", server.at("sets", "delete", "bad")...); r.status != 3 || !strings.Contains(r.stderr, "--yes") {
				t.Errorf("sets delete of the damaged set: %+v", r)
			}
			if r := espalier(t, "", server.at("restore", "bad", backup)...); r.status != 3 || !strings.Contains(r.stderr, "100%") {
				t.Errorf("restore of what can't be counted: %+v", r)
			}
			must(t, nil, "", server.at("restore", "bad", backup, "--max-delete", "100%")...)
			must(t, nil, "", server.at("check", "bad")...)
			var s synced
			must(t, &s, "", server.at("agent", "--once", "--host", "bad", "--data", filepath.Join(dir, "agent"))...)
			if s.Sets[0].Objects != 3000 {
				t.Errorf("synced after the restore: %+v", s)
			}
		})
	}
}

// overwrite replaces a file at an offset, or the whole of it where that is 0 or
// less.
func overwrite(t *testing.T, path string, offset int64, with []byte) {
	t.Helper()
	if offset <= 0 {
		if err := os.WriteFile(path, with, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(with, offset); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedMirror flips a byte of what an agent has mirrored: the next run
// finds it where it is told to look everywhere, and otherwise in its time.
func TestDamagedMirror(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, filepath.Join(dir, "server"))
	must(t, nil, `{"key":"a/b","value":"a value that can be found"}`, server.at("apply", "web-01", "-f", "-")...)
	data := filepath.Join(dir, "agent")
	agent := server.at("agent", "--once", "--host", "web-01", "--data", data)
	must(t, nil, "", agent...)
	for _, more := range [][]string{{"--check"}, nil} { // of so few objects each scrub reads all
		path := filepath.Join(data, "sets", "web-01.db")
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file = bytes.ReplaceAll(file, []byte("can be found"), []byte("cAn be found"))
		overwrite(t, path, 0, file)
		var s synced
		r := must(t, &s, "", append(agent, more...)...)
		if s.Sets[0].Mode != "descent" || s.Sets[0].Upserts != 1 || !strings.Contains(r.stderr, "damaged") {
			t.Errorf("%q: %+v, %s", more, s, r.stderr)
		}
	}
}
