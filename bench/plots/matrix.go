package plots

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"espalier/bench/pattern"
)

// column is a point of a matrix, with what it is called there.
type column struct {
	name  []string // by line
	point pattern.Point
}

// matrix draws a cell for each pattern and point: its text, on a shade between
// white, 0, and the darkest, 1.
type matrix struct {
	rows    []string
	columns []column
	cell    func(pattern.Row) (text string, shade float64)
	report  pattern.Report
}

// Plot implements plot.Plotter.
func (m matrix) Plot(c draw.Canvas, p *plot.Plot) {
	const left, head = 112, 46
	wide := (c.Max.X - c.Min.X - left) / vg.Length(len(m.columns))
	high := (c.Max.Y - c.Min.Y - head) / vg.Length(len(m.rows))
	style := p.X.Tick.Label
	style.Font, style.YAlign = sans(textSize-1), draw.YCenter
	text := func(x, y vg.Length, align float64, ink color.Color, s string) {
		style := style
		style.Color, style.XAlign = ink, align2(align)
		c.FillText(style, vg.Point{X: x, Y: y}, s)
	}
	for j, col := range m.columns {
		x := c.Min.X + left + (vg.Length(j)+0.5)*wide
		for i, line := range col.name {
			text(x, c.Max.Y-8-vg.Length(i)*(textSize+2), 0.5, color.Black, line)
		}
	}
	for i, name := range m.rows {
		y := c.Max.Y - head - (vg.Length(i)+0.5)*high
		text(c.Min.X, y, 0, color.Black, name)
		for j, col := range m.columns {
			row, ok := find(m.report, name, col.point)
			if !ok {
				continue
			}
			label, shade := m.cell(row)
			x := c.Min.X + left + vg.Length(j)*wide
			c.FillPolygon(shadeOf(shade), []vg.Point{
				{X: x + 1, Y: y - high/2 + 1},
				{X: x + wide - 1, Y: y - high/2 + 1},
				{X: x + wide - 1, Y: y + high/2 - 1},
				{X: x + 1, Y: y + high/2 - 1},
			})
			ink := color.Color(color.Black)
			if shade > 0.55 {
				ink = color.White
			}
			text(x+wide/2, y, 0.5, ink, label)
		}
	}
}

func align2(part float64) draw.XAlignment { return draw.XAlignment(-part) }

// shadeOf returns a colour from near white to a dark vermillion: darker is more, in
// greys as well.
func shadeOf(shade float64) color.Color {
	mix := func(light, dark float64) uint8 { return uint8(light + (dark-light)*min(max(shade, 0), 1)) }
	return color.RGBA{mix(0xf4, 0xa0), mix(0xf4, 0x3a), mix(0xf4, 0x00), 0xff}
}

// find returns a pattern's row at a point.
func find(r pattern.Report, name string, p pattern.Point) (pattern.Row, bool) {
	for _, row := range r.Rows {
		if row.Pattern == name && row.Point == p {
			return row, true
		}
	}
	return pattern.Row{}, false
}
