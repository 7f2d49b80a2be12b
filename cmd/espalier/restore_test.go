package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

type restored struct {
	commit
	Backup, Replaced struct {
		Set, Epoch string
		Revision   uint64
	}
	DryRun bool `json:"dry_run"`
}

// TestRestore restores backups where they don't belong and where they would
// delete too much: over a server, and on its folder.
func TestRestore(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	server := serve(t, data)
	must(t, nil, "", server.at("apply", "web-01", "-f", write(t, dir, 100, 1))...)
	must(t, nil, "", server.at("apply", "web-02", "-f", write(t, dir, 60, 1))...)
	backup := filepath.Join(dir, "web-02.backup")
	must(t, nil, "", server.at("backup", "web-02", backup)...)
	var before commit
	must(t, &before, "", server.at("head", "web-01")...)

	for _, place := range []struct {
		name string
		at   func(args ...string) []string
	}{
		{"server", server.at},
		{"folder", func(args ...string) []string { return append(args, "--data", data) }},
	} {
		if place.name == "folder" {
			server.kill(syscall.SIGTERM)
		}
		restore := func(args ...string) []string {
			return place.at(append([]string{"restore", "web-01", backup}, args...)...)
		}
		refused := func(says string, args ...string) result {
			t.Helper()
			r := espalier(t, "", restore(args...)...)
			if r.status != 3 || !strings.Contains(r.stderr, says) {
				t.Errorf("%s: restore %s: %+v, want status 3 and %q", place.name, args, r, says)
			}
			return r
		}
		refused("web-02, not of web-01")
		refused("web-02, not of web-03", "--from", "web-03")
		refused("40 of 100 objects, at most 10", "--from", "web-02")
		refused("40 of 100 objects, at most 3", "--from", "web-02", "--max-delete", "3")
		refused("revision", "--from", "web-02", "--max-delete", "40", "--expect", "17")
		refused("40 of 100", "--from", "web-02", "--dry-run")
		var dry restored
		r := refused("40 of 100", "--from", "web-02", "--dry-run", "-o", "json")
		if err := json.Unmarshal([]byte(r.stdout), &dry); err != nil {
			t.Fatal(err)
		}
		if !dry.DryRun || dry.Deleted != 40 || dry.Updated+dry.Unchanged != 60 || dry.Revision != before.Revision ||
			dry.Replaced.Revision != before.Revision || dry.Backup.Set != "web-02" || dry.Backup.Revision != 1 {
			t.Errorf("%s: dry run: %+v", place.name, dry)
		}
		must(t, &dry, "", restore("--from", "web-02", "--max-delete", "40%", "--dry-run")...)
		var done restored
		must(t, &done, "", restore("--from", "web-02", "--max-delete", "40%", "--expect", fmt.Sprintf("%s:%d", before.Epoch, before.Revision))...)
		if done.Objects != 60 || done.Deleted != 40 || done.Revision <= before.Revision || done.Epoch == before.Epoch ||
			done.Replaced.Epoch != before.Epoch {
			t.Errorf("%s: restored: %+v", place.name, done)
		}
		if r := must(t, nil, "", place.at("restore", "new-"+place.name, backup, "--from", "web-02", "--expect", "0")...); !strings.Contains(r.stdout, "60 created") {
			t.Errorf("%s: restored to a new set: %s", place.name, r.stdout)
		}
		if place.name == "server" { // and the folder finds 100 objects again
			must(t, nil, "", server.at("apply", "web-01", "-f", write(t, dir, 100, 1), "--max-delete", "100%", "--prune")...)
			must(t, &before, "", server.at("head", "web-01")...)
		}
	}
}

// TestBackupLeftOver backs up where a backup was killed: what it left goes.
func TestBackupLeftOver(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "server")
	server := serve(t, data)
	must(t, nil, "", server.at("apply", "s", "-f", write(t, dir, 100, 1))...)
	backup := func(name string, place ...string) {
		t.Helper()
		folder := filepath.Join(dir, name)
		scratch := filepath.Join(folder, ".espalier-backup-file")
		left := filepath.Join(scratch, "new", "sets")
		for _, dir := range []string{left, filepath.Join(scratch, "sets")} { // as a killed backup leaves it
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		for _, f := range []string{"s.db", "s.db.floor", "s.db.staging"} {
			if err := os.WriteFile(filepath.Join(left, f), []byte("half of it"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		var head commit
		must(t, &head, "", append([]string{"backup", "s", filepath.Join(folder, "file")}, place...)...)
		if files, err := os.ReadDir(folder); err != nil || len(files) != 1 || head.Objects != 100 {
			t.Errorf("%s: %+v, %v, %v, want the backup alone", name, head, files, err)
		}
	}
	backup("online", server.at()...)
	server.kill(syscall.SIGTERM)
	backup("offline", "--data", data)
	r := espalier(t, "", "backup", "s", filepath.Join(dir, "nowhere", "file"), "--data", data)
	if r.status != 1 || !strings.Contains(r.stderr, "no such file") {
		t.Errorf("backup to no folder: %+v", r)
	}
}
