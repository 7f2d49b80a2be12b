package plots_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"espalier/bench/pattern"
	"espalier/bench/plots"
)

// once is a report that is played once.
var once = sync.OnceValues(func() (pattern.Report, error) { return pattern.Run(context.Background(), options) })

var options = pattern.Options{Seed: 5, Duration: pattern.MinDuration, Patterns: names()}

// names returns the patterns to play.
func names() []string {
	if racing {
		return []string{"command", "delta", "espalier-held"}
	}
	return pattern.Names()
}

func played(t *testing.T) pattern.Report {
	t.Helper()
	r, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestFiles makes the report twice, from two runs: the same seed gives the same
// bytes.
func TestFiles(t *testing.T) {
	r := played(t)
	files, err := plots.Files(r)
	if err != nil {
		t.Fatal(err)
	}
	other, err := pattern.Run(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	again, err := plots.Files(other)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"behind.svg", "cost.svg", "rate.svg", "report.csv", "report.json", "tables.md", "wrong.svg"}; !slices.Equal(slices.Sorted(maps.Keys(files)), want) {
		t.Errorf("files %v, want %v", slices.Sorted(maps.Keys(files)), want)
	}
	for name, content := range files {
		if !bytes.Equal(content, again[name]) {
			t.Errorf("%s: the same seed gives other bytes", name)
		}
		if filepath.Ext(name) == ".svg" {
			checkPicture(t, name, content)
		}
	}
	var back pattern.Report
	if err := json.Unmarshal(files["report.json"], &back); err != nil || len(back.Rows) != len(r.Rows) || back.Seed != 5 {
		t.Errorf("report.json has %d rows of seed %d: %v", len(back.Rows), back.Seed, err)
	}
	records, err := csv.NewReader(bytes.NewReader(files["report.csv"])).ReadAll()
	if err != nil || len(records) != len(r.Rows)+1 || len(records[0]) != 33 {
		t.Errorf("report.csv has %d records of %d fields: %v", len(records), len(records[0]), err)
	}
	for i, row := range r.Rows {
		if records[i+1][slices.Index(records[0], "pattern")] != row.Pattern {
			t.Errorf("record %d of report.csv is not of %s", i+1, row.Pattern)
		}
	}
	if n := strings.Count(string(files["tables.md"]), "\n### "); n != len(pattern.DefaultGrid()) {
		t.Errorf("tables.md has %d tables, want one for each of %d points", n, len(pattern.DefaultGrid()))
	}
}

// checkPicture checks that a picture is XML, and names every pattern that it shows.
func checkPicture(t *testing.T, name string, svg []byte) {
	t.Helper()
	d, text := xml.NewDecoder(bytes.NewReader(svg)), ""
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if chars, ok := token.(xml.CharData); ok {
			text += string(chars) + "\n"
		}
	}
	for _, p := range pattern.All() {
		all := name == "wrong.svg" || name == "behind.svg"
		if shown := strings.Contains(text, "\n"+p.Name+"\n"); shown != (all || p.Sound && slices.Contains(names(), p.Name)) {
			t.Errorf("%s shows %s: %t", name, p.Name, shown)
		}
	}
}

func TestWrite(t *testing.T) {
	r := played(t)
	dir := filepath.Join(t.TempDir(), "new")
	if err := plots.Write(dir, r, []byte("what was run\n")); err != nil {
		t.Fatal(err)
	}
	files, err := plots.Files(r)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is not what Files returns: %v", name, err)
		}
	}
	if err := plots.Write(dir, pattern.Report{}, nil); err == nil {
		t.Error("a report without rows is drawn")
	}
}
