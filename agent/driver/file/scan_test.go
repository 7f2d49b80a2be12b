//go:build linux

package file_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/agent/driver"
	"espalier/agent/driver/file"
	"espalier/internal/desired"
)

// scan scans what the record says is true, and returns the findings by name.
func (h *host) scan(contents bool) map[string]driver.Finding {
	h.Helper()
	found, bytes, err := h.tryScan(h.Context(), contents, nil)
	if err != nil {
		h.Fatal(err)
	}
	if !contents && bytes > len(h.want)*desired.MaxValueBytes {
		h.Errorf("the scan spends %d bytes", bytes)
	}
	return found
}

func (h *host) tryScan(ctx context.Context, contents bool, spend func() error) (map[string]driver.Finding, int, error) {
	var mu sync.Mutex
	found, objects, bytes := map[string]driver.Finding{}, 0, 0
	notes := maps.Clone(h.notes)
	err := h.driver.Scan(ctx, driver.Scan{
		Objects: func(yield func(driver.Known, error) bool) {
			for _, name := range slices.Sorted(maps.Keys(notes)) {
				if !yield(driver.Known{Key: "files/" + name, Name: name, Note: notes[name]}, nil) {
					return
				}
			}
		},
		Contents: contents,
		Load:     func(key string) (*desired.Object, error) { return h.want[strings.TrimPrefix(key, "files/")], nil },
		Spend: func(_ context.Context, o, b int) error {
			objects, bytes = objects+o, bytes+b
			if spend != nil {
				return spend()
			}
			return nil
		},
		Report: func(k driver.Known, f driver.Finding) {
			mu.Lock()
			defer mu.Unlock()
			if _, twice := found[k.Name]; twice {
				h.Errorf("%s is reported twice", k.Name)
			}
			found[k.Name] = f
			if f.Note != nil {
				h.notes[k.Name] = f.Note
			}
		},
	})
	if err == nil && objects != len(h.notes) {
		h.Errorf("the scan spends %d objects, want %d", objects, len(h.notes))
	}
	return found, bytes, err
}

// drifts holds the drift of findings against what is wanted.
func (h *host) drifts(found map[string]driver.Finding, want map[string]string) {
	h.Helper()
	for name, f := range found {
		if f.Err != nil {
			h.Errorf("%s: %v", name, f.Err)
		}
		if f.Drift != want[name] {
			h.Errorf("drift of %s is %q, want %q", name, f.Drift, want[name])
		}
	}
	for name := range want {
		if _, ok := found[name]; !ok {
			h.Errorf("%s is not reported, want %q", name, want[name])
		}
	}
}

func (h *host) digest(name string, o *desired.Object) desired.Digest {
	h.Helper()
	env, err := desired.Encode(*o)
	if err != nil {
		h.Fatal(err)
	}
	var hasher desired.Hasher
	return hasher.Sum([]byte("files/"+name), env)
}

func TestScan(t *testing.T) {
	for name, variant := range variants {
		t.Run(name, func(t *testing.T) { testScan(t, variant) })
	}
}

func testScan(t *testing.T, variant func(*file.Driver) *file.Driver) {
	h := newHost(t, file.Options{})
	variant(h.driver)
	var changes []driver.Change
	for _, name := range []string{"same", "d/touched", "d/gone", "d/mode", "d/content", "d/size", "d/folder", "d/fifo", "swapped", "e/lost", "f/linked", "large"} {
		changes = append(changes, h.upsert(name, object("content of "+name, "colour", "red")))
	}
	changes = append(changes, h.upsert("link", object("", "symlink", "there")), h.upsert("big", object(strings.Repeat("big", 1<<20))))
	h.must(changes...)
	h.drifts(h.scan(false), nil)
	if found, bytes, err := h.tryScan(t.Context(), true, nil); len(found) > 0 || bytes < 3<<20 || bytes > 3<<20+1000 || err != nil {
		t.Errorf("a scan of contents finds %v, spends %d bytes, %v", found, bytes, err)
	}

	old := stat(t, h.path("d/content")).Mtim
	if err := errors.Join(
		os.Chtimes(h.path("d/touched"), longAgo, longAgo),
		os.Remove(h.path("d/gone")), unix.Chmod(h.path("d/mode"), 0o4600),
		os.WriteFile(h.path("d/content"), []byte("CONTENT of d/content"), 0o644),
		unix.UtimesNanoAt(unix.AT_FDCWD, h.path("d/content"), []unix.Timespec{old, old}, 0), // as if nothing had been
		os.WriteFile(h.path("d/size"), []byte("short"), 0o644),
		os.Remove(h.path("d/folder")), os.Mkdir(h.path("d/folder"), 0o755),
		os.Remove(h.path("d/fifo")), unix.Mkfifo(h.path("d/fifo"), 0o644),
		os.Remove(h.path("link")), os.Symlink("elsewhere", h.path("link")),
		os.Remove(h.path("swapped")), os.Symlink("same", h.path("swapped")),
		os.RemoveAll(h.path("e")), os.Rename(h.path("f"), h.path("g")), os.Symlink("g", h.path("f")),
		os.Truncate(h.path("large"), desired.MaxValueBytes+1),
	); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"d/touched": "", "d/gone": "missing", "d/mode": "mode 4600, not 0644", "d/content": "content",
		"d/size": "5 bytes, not 17", "d/folder": "a folder, not a file", "d/fifo": "a named pipe, not a file",
		"link": `target "elsewhere", not "there"`, "swapped": "a symbolic link, not a file",
		"e/lost": "missing, with its folder", "f/linked": "missing: a symbolic link is in the place of a folder",
		"large": "4194305 bytes, not 16",
	}
	touched := h.notes["d/touched"]
	found := h.scan(false)
	h.drifts(found, want)
	if f := found["d/touched"]; f.Note == nil || string(f.Note) == string(touched) {
		t.Error("a file that was touched does not get a fresh note")
	}
	seen := *h.want["d/content"]
	seen.Value = []byte("CONTENT of d/content")
	if f := found["d/content"]; f.Seen != h.digest("d/content", &seen) {
		t.Errorf("what is seen of d/content is %v, want the digest of what is there", f.Seen)
	}
	delete(want, "d/touched") // by its fresh note
	found = h.scan(true)
	h.drifts(found, want)
	seen = *h.want["d/size"]
	seen.Value = []byte("short")
	if f := found["d/size"]; f.Seen != h.digest("d/size", &seen) {
		t.Errorf("what is seen of d/size is %v, want the digest of what is there", f.Seen)
	}
	h.repair(found)
}

// repair corrects drift, but where only a person can.
func (h *host) repair(found map[string]driver.Finding) {
	h.Helper()
	hopeless := map[string]string{}
	for name, f := range found {
		c := h.upsert(name, h.want[name])
		c.Doubt = true
		if err := h.apply(c)[0]; err != nil {
			hopeless[name] = f.Drift
		}
	}
	if got := strings.Join(slices.Sorted(maps.Keys(hopeless)), " "); got != "d/fifo d/folder f/linked" {
		h.Errorf("what can't be repaired is %q", got)
	}
	h.drifts(h.scan(true), hopeless)
}

var longAgo = time.Unix(1_000_000_000, 0)

// TestScanOwner finds owners that changed, but no groups that nobody asked for.
func TestScanOwner(t *testing.T) {
	needRoot(t)
	h := newHost(t, file.Options{})
	h.must(h.upsert("a", object("x")), h.upsert("b", object("x", "owner", "1:2")), h.upsert("c", object("x")))
	if err := errors.Join(os.Lchown(h.path("a"), 3, 4), os.Lchown(h.path("b"), 1, 4), os.Lchown(h.path("c"), 0, 4)); err != nil {
		t.Fatal(err)
	}
	found := h.scan(false)
	h.drifts(found, map[string]string{"a": "owner 3, not 0", "b": "owner 1:4, not 1:2", "c": ""})
	seen := *h.want["b"]
	seen.Attributes = map[string]string{"owner": "1:4"}
	if f := found["b"]; f.Seen != h.digest("b", &seen) {
		t.Errorf("what is seen of b is %v", f.Seen)
	}
}

// TestScanEnds ends scans from all sides.
func TestScanEnds(t *testing.T) {
	h := newHost(t, file.Options{})
	var changes []driver.Change
	for i := range 3000 {
		changes = append(changes, h.upsert(fmt.Sprintf("d%d/f%d", i%7, i), object("x")))
	}
	h.must(changes...)
	enough := errors.New("enough")
	if _, _, err := h.tryScan(t.Context(), true, func() error { return enough }); !errors.Is(err, enough) {
		t.Errorf("Scan = %v, want %v", err, enough)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	calls := 0
	_, _, err := h.tryScan(ctx, true, func() error {
		if calls++; calls == 100 {
			stop(enough)
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Errorf("Scan = %v, want %v", err, enough)
	}
	err = h.driver.Scan(t.Context(), driver.Scan{Objects: func(yield func(driver.Known, error) bool) {
		yield(driver.Known{}, enough)
	}})
	if !errors.Is(err, enough) {
		t.Errorf("Scan = %v, want %v", err, enough)
	}
	// A note that is none of ours means a closer look, and a fresh one.
	h.notes["d0/f0"] = []byte("?")
	found := h.scan(false)
	if f := found["d0/f0"]; len(found) != 1 || f.Note == nil || f.Drift != "" {
		t.Errorf("findings %v, want a fresh note", found)
	}
	if err := os.RemoveAll(h.root); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.tryScan(t.Context(), false, nil); err == nil || !strings.Contains(err.Error(), "create it, or mount") {
		t.Errorf("Scan = %v, want an error about the root", err)
	}
	if err := h.apply(h.upsert("a", object("x")))[0]; err == nil || !strings.Contains(err.Error(), "create it, or mount") {
		t.Errorf("Apply = %v, want an error about the root", err)
	}
}

// TestRandom holds the driver, over random histories of changes and of drift,
// against a map of what shall be.
func TestRandom(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	h := newHost(t, file.Options{})
	for step := range 60 {
		batch := map[string]driver.Change{}
		for range 1 + r.IntN(40) {
			name := randomName(r)
			switch {
			case r.IntN(3) == 0:
				batch[name] = h.remove(name)
			case r.IntN(6) == 0:
				batch[name] = h.upsert(name, object("", "symlink", fmt.Sprint("to", r.IntN(9))))
			default:
				batch[name] = h.upsert(name, object(fmt.Sprint(step, name), "mode", fmt.Sprintf("%04o", 0o600|r.IntN(0o200))))
			}
		}
		h.apply(slices.Collect(maps.Values(batch))...) // some fail: a file can't be in a file
		if r.IntN(2) == 0 {
			h.drift(r)
		}
		for name := range h.scan(r.IntN(2) == 0) {
			c := h.upsert(name, h.want[name])
			c.Doubt = r.IntN(2) == 0
			h.must(c)
		}
		h.matches(step)
	}
	var all []driver.Change
	for name := range h.notes {
		all = append(all, h.remove(name))
	}
	h.must(all...)
	if left, err := os.ReadDir(h.root); len(left) > 0 || err != nil {
		t.Errorf("in the end %v is left, %v", left, err)
	}
}

func randomName(r *rand.Rand) string {
	parts := make([]string, 1+r.IntN(4))
	for i := range parts {
		parts[i] = string(rune('a' + r.IntN(4)))
	}
	return strings.Join(parts, "/")
}

// drift does something to one of the files.
func (h *host) drift(r *rand.Rand) {
	for name := range h.notes {
		switch r.IntN(3) {
		case 0:
			os.Remove(h.path(name))
		case 1:
			os.Chmod(h.path(name), 0o7) // of a link it is that of nothing
		default:
			os.Remove(h.path(name))
			h.write(name, "drifted")
		}
		return
	}
}

// matches fails unless the disk holds what shall be, and no more.
func (h *host) matches(step int) {
	h.Helper()
	there := 0
	err := filepath.WalkDir(h.root, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		there++
		name, err := filepath.Rel(h.root, path)
		if err != nil {
			return err
		}
		o := h.want[name]
		switch {
		case o == nil:
			h.Errorf("step %d: %s is there, want nothing", step, name)
		case o.Attributes["symlink"] != "":
			if target, err := os.Readlink(path); target != o.Attributes["symlink"] {
				h.Errorf("step %d: %s points to %q, %v, want %q", step, name, target, err, o.Attributes["symlink"])
			}
		default:
			var mode os.FileMode
			fmt.Sscanf(o.Attributes["mode"], "%o", &mode)
			h.holds(name, string(o.Value), mode)
		}
		return nil
	})
	if err != nil || there != len(h.want) {
		h.Fatalf("step %d: %d files are there, %v, want %d", step, there, err, len(h.want))
	}
}
