package audit

import (
	"errors"
	"path/filepath"
	"testing"
)

// TestGoesOnAfterAFailedWrite: what a full disk has cut short goes, and the chain
// with what comes next holds.
func TestGoesOnAfterAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	l, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 3 {
		if err := l.Append(Record{What: "change"}); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			if _, err := l.f.WriteString(`{"number":3,"wh`); err != nil {
				t.Fatal(err)
			}
			l.failed = errors.New("no space left on the disk")
		}
	}
	n := 0
	err = Read(path, func([]byte, Record) error { n++; return nil })
	if err != nil || n != 3 {
		t.Errorf("Read = %d records, %v, want 3", n, err)
	}
}
