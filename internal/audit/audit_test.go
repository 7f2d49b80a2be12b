package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

func read(path string) (what []string, err error) {
	err = audit.Read(path, func(_ []byte, r audit.Record) error {
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
	if what, err := read(path); err != nil || len(what) != 5 || what[4] != "change 4" {
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
		"twice":    {lines[0], lines[0], lines[1], lines[2], lines[3]},
		"garbage":  {lines[0], []byte("garbage\n"), lines[2], lines[3], lines[4]},
		"too long": {lines[0], append(bytes.Repeat([]byte(" "), audit.MaxRecordBytes+1), '\n'), lines[2], lines[3], lines[4]},
	} {
		if err := os.WriteFile(path, bytes.Join(bad, nil), 0o600); err != nil {
			t.Fatal(err)
		}
		what, err := read(path)
		if !errors.Is(err, audit.ErrBroken) || what[len(what)-1] != map[bool]string{true: "change 3", false: "change 4"}[name == "twice"] {
			t.Errorf("%s: Read = %q, %v, want what is there, and %v", name, what, err, audit.ErrBroken)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Truncate(path, int64(len(whole)-len(lines[4]))); err != nil {
		t.Fatal(err)
	}
	if err := l.Read(func([]byte, audit.Record) error { return nil }); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("Read of a log that somebody has cut = %v, want %v", err, audit.ErrBroken)
	}
}

// TestGoesOnBehindWhatIsNone: a log that was tampered with is gone on with, and
// says so ever after; what comes next can be read.
func TestGoesOnBehindWhatIsNone(t *testing.T) {
	long := strings.Repeat("x", 3*audit.MaxRecordBytes)
	path := filepath.Join(t.TempDir(), "audit")
	for _, bad := range []string{"garbage\n", long, long + "\n", "{}\n{}\n", `{"number":7}` + "\n", "garbage\n" + `{"number":3,"what":"x"}` + "\n{}\n"} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			write(t, path, 2*i, 2*i+2)
		}
		what, err := read(path)
		if !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), "line 1 ") || !slices.Equal(what[len(what)-4:], []string{"change 0", "change 1", "change 2", "change 3"}) {
			t.Errorf("behind %.40q: Read = %q, %v", bad, what, err)
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
