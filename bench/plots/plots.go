// Package plots answers how a report of package pattern looks: as pictures (SVG), a
// page of tables, CSV and JSON, in a folder.
package plots

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"espalier/bench/pattern"
)

// Files returns the files of a report of the default grid, by name. The same report
// gives the same bytes.
func Files(r pattern.Report) (map[string][]byte, error) {
	files := map[string][]byte{}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"tables.md":   func(b *bytes.Buffer) error { return r.WriteMarkdown(b) },
		"report.csv":  func(b *bytes.Buffer) error { return r.WriteCSV(b) },
		"report.json": func(b *bytes.Buffer) error { return r.WriteJSON(b) },
		"cost.svg":    func(b *bytes.Buffer) error { return drawCost(b, r) },
		"rate.svg":    func(b *bytes.Buffer) error { return drawRate(b, r) },
		"wrong.svg":   func(b *bytes.Buffer) error { return drawWrong(b, r) },
		"behind.svg":  func(b *bytes.Buffer) error { return drawBehind(b, r) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		files[name] = b.Bytes()
	}
	return files, nil
}

// Write writes the files of a report into a folder, which it makes if need be, and
// a README.md that says what was run.
func Write(dir string, r pattern.Report, readme []byte) error {
	files, err := Files(r)
	if err != nil {
		return err
	}
	files["README.md"] = readme
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("folder of the report: %w", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
	return nil
}

// sound returns the names of the patterns that get there.
func sound() (names []string) {
	for _, p := range pattern.All() {
		if p.Sound {
			names = append(names, p.Name)
		}
	}
	return names
}

// drawCost shows what a change costs as states grow, where everything goes wrong.
func drawCost(b *bytes.Buffer, r pattern.Report) error {
	lines := along(r, sound(), func(row pattern.Row) (float64, bool) {
		want := pattern.WorstPoint()
		want.Objects = row.Objects
		return float64(row.Objects), row.Point == want
	}, func(row pattern.Row) float64 { return row.Ratio })
	p := newPlot("Bytes on the wire for each byte that changed: 10 objects change a minute, networks and machines fail", "objects in the state")
	if err := drawLines(p, lines, grouped); err != nil {
		return err
	}
	return save(b, p)
}

// drawRate shows what a change costs as changes become rare.
func drawRate(b *bytes.Buffer, r pattern.Report) error {
	lines := along(r, sound(), func(row pattern.Row) (float64, bool) {
		want := pattern.BasePoint()
		want.EverySeconds = row.EverySeconds
		return row.EverySeconds, row.Point == want
	}, func(row pattern.Row) float64 { return row.Ratio })
	p := newPlot("Bytes on the wire for each byte that changed: 10 of 100,000 objects at a time, nothing fails", "time between changes")
	tick := func(x float64) string {
		if x >= 60 {
			return fmt.Sprintf("%g min", x/60)
		}
		return fmt.Sprintf("%g s", x)
	}
	if err := drawLines(p, lines, tick); err != nil {
		return err
	}
	return save(b, p)
}

// drawWrong shows how many agents are wrong in the end.
func drawWrong(b *bytes.Buffer, r pattern.Report) error {
	return drawMatrix(b, r, "Agents that hold a wrong state in the end, 10 minutes after the last change and the last fault",
		func(row pattern.Row) (string, float64) {
			if row.WrongAgents == 0 {
				return "0", 0
			}
			share := float64(row.WrongAgents) / float64(row.Agents)
			return fmt.Sprintf("%.0f%%", 100*share), 0.25 + 0.75*share
		})
}

// drawBehind shows for how long agents are behind.
func drawBehind(b *bytes.Buffer, r pattern.Report) error {
	return drawMatrix(b, r, "The part of their time in which agents don't hold the latest state",
		func(row pattern.Row) (string, float64) {
			percent := 100 * row.BehindShare
			shade := (math.Log10(max(percent, 0.01)) + 2) / 4
			if percent < 1 {
				return fmt.Sprintf("%.2f%%", percent), shade
			}
			return fmt.Sprintf("%.0f%%", percent), shade
		})
}

func drawMatrix(b *bytes.Buffer, r pattern.Report, title string, cell func(pattern.Row) (string, float64)) error {
	with := func(change func(*pattern.Point)) pattern.Point {
		p := pattern.BasePoint()
		change(&p)
		return p
	}
	p := newPlot(title, "")
	p.HideAxes()
	p.Add(matrix{rows: pattern.Names(), report: r, cell: cell, columns: []column{
		{[]string{"nothing", "fails"}, pattern.BasePoint()},
		{[]string{"1% lost"}, with(func(p *pattern.Point) { p.Loss = 0.01 })},
		{[]string{"5% lost"}, with(func(p *pattern.Point) { p.Loss = 0.05 })},
		{[]string{"connections", "cut"}, with(func(p *pattern.Point) { p.Faults = pattern.Cuts })},
		{[]string{"restarts"}, with(func(p *pattern.Point) { p.Faults = pattern.Restarts })},
		{[]string{"partitions"}, with(func(p *pattern.Point) { p.Faults = pattern.Partitions })},
		{[]string{"partitions,", "a commit", "a second"}, with(func(p *pattern.Point) { p.Faults, p.EverySeconds = pattern.Partitions, 1 })},
		{[]string{"all of these", "(0.1% lost)"}, pattern.WorstPoint()},
		{[]string{"disks", "rolled back"}, with(func(p *pattern.Point) { p.Faults = pattern.Rollbacks })},
	}})
	return save(b, p)
}

// save draws a plot as SVG.
func save(b *bytes.Buffer, p *plot.Plot) error {
	c := vgsvg.New(width, height)
	p.Draw(draw.Crop(draw.New(c), 10, -14, 8, -8))
	var drawn bytes.Buffer
	if _, err := c.WriteTo(&drawn); err != nil {
		return fmt.Errorf("draw %q: %w", p.Title.Text, err)
	}
	// Where the font is missing, one of the same widths.
	b.Write(bytes.ReplaceAll(drawn.Bytes(), []byte("font-family:Liberation Sans"), []byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif")))
	return nil
}
