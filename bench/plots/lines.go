package plots

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"espalier/bench/pattern"
)

// line is a pattern's figure along an axis.
type line struct {
	name string
	xys  plotter.XYs
}

// along returns a line for each of the patterns: the figure of those rows that lie
// on the axis, by what they have there.
func along(r pattern.Report, names []string, on func(pattern.Row) (x float64, ok bool), figure func(pattern.Row) float64) []line {
	var lines []line
	for _, name := range names {
		l := line{name: name}
		for _, row := range r.Rows {
			if x, ok := on(row); ok && row.Pattern == name {
				l.xys = append(l.xys, plotter.XY{X: x, Y: figure(row)})
			}
		}
		slices.SortFunc(l.xys, func(a, b plotter.XY) int { return cmp.Compare(a.X, b.X) })
		if len(l.xys) > 0 {
			lines = append(lines, l)
		}
	}
	return lines
}

// drawLines adds lines to a plot with logarithmic axes, each with its name at its
// end.
func drawLines(p *plot.Plot, lines []line, tick func(float64) string) error {
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	var xs, ys []float64
	for _, l := range lines {
		for _, xy := range l.xys {
			xs, ys = append(xs, xy.X), append(ys, xy.Y)
		}
	}
	if len(xs) == 0 {
		return fmt.Errorf("plot %q: there are no rows for it", p.Title.Text)
	}
	slices.Sort(xs)
	xs = slices.Compact(xs)
	var xticks, yticks plot.ConstantTicks
	for _, x := range xs {
		xticks = append(xticks, plot.Tick{Value: x, Label: tick(x)})
	}
	bottom, top := math.Floor(math.Log10(slices.Min(ys))), math.Ceil(math.Log10(slices.Max(ys)))
	for e := bottom; e <= top; e++ {
		y := math.Pow(10, e)
		yticks = append(yticks, plot.Tick{Value: y, Label: grouped(y)})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = xticks, yticks
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = nil, pale
	p.Add(grid)
	for _, l := range lines {
		look := looks[l.name]
		line, points, err := plotter.NewLinePoints(l.xys)
		if err != nil {
			return fmt.Errorf("plot %s: %w", l.name, err)
		}
		line.Color, line.Width, line.Dashes = look.color, look.width, look.dash
		points.Color, points.Shape, points.Radius = look.color, look.shape, 3.2
		p.Add(line, points)
	}
	p.Add(names{lines})
	first, last := xs[0], xs[len(xs)-1]
	p.X.Min, p.X.Max = first, last*math.Pow(last/first, nameShare)
	p.Y.Min, p.Y.Max = math.Pow(10, bottom), math.Pow(10, top)
	return nil
}

// nameShare is the room for names at the right, as a part of the axis.
const nameShare = 0.28

// names draws the lines' names at their ends, moved apart where they would meet.
type names struct{ lines []line }

// Plot implements plot.Plotter.
func (n names) Plot(c draw.Canvas, p *plot.Plot) {
	trX, trY := p.Transforms(&c)
	type name struct {
		line line
		at   vg.Length // of the line's end
		y    vg.Length
	}
	all := make([]name, len(n.lines))
	for i, l := range n.lines {
		at := trY(l.xys[len(l.xys)-1].Y)
		all[i] = name{line: l, at: at, y: at}
	}
	slices.SortStableFunc(all, func(a, b name) int { return cmp.Compare(a.at, b.at) })
	const apart = textSize + 2.5
	for range 200 {
		for i := 1; i < len(all); i++ {
			if short := apart - (all[i].y - all[i-1].y); short > 0 {
				all[i].y += short / 2
				all[i-1].y -= short / 2
			}
		}
		if low := c.Min.Y + apart/2; all[0].y < low {
			all[0].y = low
		}
	}
	for _, l := range all {
		look, x := looks[l.line.name], trX(l.line.xys[len(l.line.xys)-1].X)
		c.StrokeLine2(draw.LineStyle{Color: look.color, Width: 1.2}, x+6, l.at, x+20, l.y)
		style := p.X.Tick.Label
		style.Font, style.XAlign, style.YAlign = sans(textSize), draw.XLeft, draw.YCenter
		c.FillText(style, vg.Point{X: x + 23, Y: l.y}, l.line.name)
	}
}

// grouped shows a number with its thousands apart.
func grouped(x float64) string {
	if x < 1000 {
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	s := strconv.FormatFloat(x, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
