package exec_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"

	"espalier/agent/driver"
	"espalier/agent/driver/exec"
	"espalier/internal/desired"
)

// scanned runs a scan over what changes made true, and returns what was found,
// and what was spent.
func scanned(t *testing.T, d driver.Driver, known []driver.Known, s driver.Scan) (found map[string]driver.Finding, objects, bytes int, err error) {
	t.Helper()
	found = map[string]driver.Finding{}
	s.Objects = func(yield func(driver.Known, error) bool) {
		for _, k := range known {
			if !yield(k, nil) {
				return
			}
		}
	}
	s.Report = func(k driver.Known, f driver.Finding) { found[k.Name] = f }
	if s.Spend == nil {
		s.Spend = func(_ context.Context, o, b int) error {
			objects += o
			bytes += b
			return nil
		}
	}
	err = d.(driver.Scanner).Scan(t.Context(), s)
	return found, objects, bytes, err
}

func knowns(names ...string) []driver.Known {
	var all []driver.Known
	for _, name := range names {
		all = append(all, driver.Known{Key: "hook/" + name, Name: name, Note: append([]byte{1, byte(len("id-" + name))}, "id-"+name+"note"...)})
	}
	return all
}

// TestScan shows what becomes of the answers to a look.
func TestScan(t *testing.T) {
	d, _ := open(t, "look", exec.Options{Check: true, Batch: 3})
	known := knowns("fine", "gone", "noted", "refused", "forgotten", "unreadable", "vanished")
	known = append(known, driver.Known{Key: "hook/foreign", Name: "foreign", Note: []byte("x")})
	load := func(key string) (*desired.Object, error) {
		switch key {
		case "hook/unreadable":
			return nil, errors.New("damaged")
		case "hook/vanished":
			return nil, nil
		}
		return &desired.Object{Key: key, Value: []byte("0123456789")}, nil
	}
	found, objects, bytes, err := scanned(t, d, known, driver.Scan{Contents: true, Load: load})
	if err != nil {
		t.Fatal(err)
	}
	if objects != 5 || bytes != 50 {
		t.Errorf("%d objects and %d bytes were spent, want 5 and 50", objects, bytes)
	}
	for name, want := range map[string]string{
		"gone":       `{"missing" "" <nil>}`,
		"noted":      `{"" "\x01\bid-notedanew" <nil>}`,
		"refused":    `{"" "" can't look}`,
		"unreadable": `{"" "" damaged}`,
		"foreign":    `{"made true by another driver" "" <nil>}`,
	} {
		f, ok := found[name]
		if got := fmt.Sprintf("{%q %q %v}", f.Drift, f.Note, f.Err); !ok || got != want {
			t.Errorf("of %s was reported %s, want %s", name, got, want)
		}
	}
	if f := found["forgotten"]; f.Err == nil || !strings.Contains(f.Err.Error(), "no answer from") {
		t.Errorf("of forgotten was reported %v, want that there is no answer", f)
	}
	if len(found) != 6 {
		t.Errorf("reported were %v, want 6", found)
	}
}

// TestScanRequests shows what a program is told that looks: without contents, what
// it may remember by; with them, what shall be.
func TestScanRequests(t *testing.T) {
	for _, c := range []struct {
		contents driver.Scan
		want     string
	}{
		{driver.Scan{}, `{"id":"id-a","op":"check","key":"hook/a","name":"a","doubt":false,"note":"note","value":null,"value_base64":null,"attributes":null,"after":null}`},
		{
			driver.Scan{Contents: true, Load: func(key string) (*desired.Object, error) {
				return &desired.Object{Key: key, Value: []byte("v"), After: []string{"x"}}, nil
			}},
			`{"id":"id-a","op":"check","key":"hook/a","name":"a","doubt":false,"note":"note","value":"v","value_base64":null,"attributes":null,"after":["x"]}`,
		},
	} {
		d, s := open(t, "record", exec.Options{Check: true})
		if _, _, _, err := scanned(t, d, knowns("a"), c.contents); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.lines, []string{c.want}) {
			t.Errorf("the program was told %q, want %q", s.lines, c.want)
		}
	}
}

// TestScanEnds shows what ends a scan: nothing is said of objects that nobody
// looked at.
func TestScanEnds(t *testing.T) {
	d, s := open(t, "deaf", exec.Options{Check: true})
	enough := errors.New("enough")
	if found, _, _, err := scanned(t, d, knowns("a"), driver.Scan{
		Spend: func(context.Context, int, int) error { return enough },
	}); !errors.Is(err, enough) || len(found) > 0 {
		t.Errorf("Scan = %v and %v, want %v", err, found, enough)
	}
	broken := errors.New("broken")
	if err := d.(driver.Scanner).Scan(t.Context(), driver.Scan{Objects: iter.Seq2[driver.Known, error](
		func(yield func(driver.Known, error) bool) { yield(driver.Known{}, broken) },
	)}); !errors.Is(err, broken) {
		t.Errorf("Scan = %v, want %v", err, broken)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s.hear = func(string) { cancel() }
	err := d.(driver.Scanner).Scan(ctx, driver.Scan{
		Objects: func(yield func(driver.Known, error) bool) { yield(knowns("a")[0], nil) },
		Spend:   func(context.Context, int, int) error { return nil },
		Report:  func(k driver.Known, f driver.Finding) { t.Errorf("of %s was reported %v", k.Name, f) },
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Scan = %v, want %v", err, context.Canceled)
	}
}
