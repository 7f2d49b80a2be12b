package store_test

import (
	"os"
	"path/filepath"
	"testing"

	"espalier/internal/desired"
	"espalier/store"
)

// TestListsCopyCatchesUp cuts the power between the two copies of a list: the one
// that was written must not stay the only one.
func TestListsCopyCatchesUp(t *testing.T) {
	dir := t.TempDir()
	older := desired.List{Version: 1, Sets: []desired.Name{"a", "b"}}
	if err := store.WriteList(dir, older); err != nil {
		t.Fatal(err)
	}
	behind, err := os.ReadFile(filepath.Join(dir, "list2"))
	if err != nil {
		t.Fatal(err)
	}
	later := older.Next(0, []desired.Name{"a"})
	if err := store.WriteList(dir, later); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "list2"), behind, 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := store.ReadList(dir); err != nil || l.Version != 2 {
		t.Fatalf("ReadList = %v, %v, want version 2", l, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte("damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := store.ReadList(dir); err != nil || l.Version != 2 {
		t.Errorf("ReadList once the first copy is damaged = %v, %v, want version 2", l, err)
	}
}
