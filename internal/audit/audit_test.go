package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"espalier/internal/audit"
)

func write(t *testing.T, path string, from, to int) {
	t.Helper()
	l, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := from; i < to; i++ {
		if err := l.Append(audit.Record{Who: "admin/root", What: fmt.Sprint("change ", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func read(path string, last uint64) (what []string, err error) {
	err = audit.Read(path, last, func(_ []byte, r audit.Record) error {
		what = append(what, r.What)
		return nil
	})
	return what, err
}

// TestChain writes in several runs, one of them cut short, and then changes
// what was written in each way.
func TestChain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	write(t, path, 0, 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cut := append(bytes.Clone(whole), `{"number":4,"ti`...)
	if err := os.WriteFile(path, cut, 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, path, 3, 5)
	if what, err := read(path, 5); err != nil || len(what) != 5 || what[4] != "change 4" {
		t.Fatalf("Read = %q, %v", what, err)
	}
	if whole, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))[:5]
	for name, bad := range map[string][][]byte{
		"changed":  {lines[0], bytes.Replace(lines[1], []byte("change 1"), []byte("change 7"), 1), lines[2], lines[3], lines[4]},
		"missing":  slices.Delete(slices.Clone(lines), 2, 3),
		"swapped":  {lines[0], lines[2], lines[1], lines[3], lines[4]},
		"the last": lines[:4],
		"twice":    {lines[0], lines[0], lines[1], lines[2], lines[3]},
		"garbage":  {lines[0], []byte("garbage\n"), lines[2], lines[3], lines[4]},
		"too long": {lines[0], append(bytes.Repeat([]byte(" "), audit.MaxRecordBytes+1), '\n'), lines[2], lines[3], lines[4]},
	} {
		if err := os.WriteFile(path, bytes.Join(bad, nil), 0o600); err != nil {
			t.Fatal(err)
		}
		if what, err := read(path, 5); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("%s: Read = %q, %v, want %v", name, what, err, audit.ErrBroken)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	for _, bad := range []string{"garbage\n", string(bytes.Repeat([]byte("x"), 3*audit.MaxRecordBytes))} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Open(path); !errors.Is(err, audit.ErrBroken) {
			t.Errorf("Open of %.20q = %v, want %v", bad, err, audit.ErrBroken)
		}
	}
}

func TestAppendTooMuch(t *testing.T) {
	l, err := audit.Open(filepath.Join(t.TempDir(), "audit"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Append(audit.Record{Why: string(make([]byte, audit.MaxRecordBytes))}); err == nil {
		t.Error("a record of too many bytes was written")
	}
	if err := l.Append(audit.Record{What: "small"}); err != nil || l.Last() != 1 {
		t.Errorf("Append = %v, last %d", err, l.Last())
	}
}
