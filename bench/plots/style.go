package plots

import (
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The colours are those of Okabe and Ito, "Color Universal Design" (2008), which
// people with any kind of colour vision tell apart; shapes and dashes say the same.
var (
	orange     = color.RGBA{0xe6, 0x9f, 0x00, 0xff}
	sky        = color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	green      = color.RGBA{0x00, 0x9e, 0x73, 0xff}
	blue       = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	vermillion = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	purple     = color.RGBA{0xcc, 0x79, 0xa7, 0xff}
	grey       = color.RGBA{0x66, 0x66, 0x66, 0xff}
	pale       = color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
)

// look is how a pattern is drawn.
type look struct {
	color color.Color
	shape draw.GlyphDrawer
	dash  []vg.Length
	width vg.Length
}

var (
	dashed = []vg.Length{5, 3}
	dotted = []vg.Length{1.5, 2.5}
)

// looks are by pattern: a colour for each family.
var looks = map[string]look{
	"command":          {vermillion, draw.SquareGlyph{}, nil, 1.2},
	"poll":             {orange, draw.CircleGlyph{}, nil, 1.2},
	"interrupt":        {orange, draw.CrossGlyph{}, dotted, 1.2},
	"interrupt-poll":   {orange, draw.TriangleGlyph{}, dashed, 1.2},
	"delta":            {grey, draw.CrossGlyph{}, dotted, 1.2},
	"delta-stream":     {grey, draw.PlusGlyph{}, dotted, 1.2},
	"delta-numbered":   {blue, draw.TriangleGlyph{}, nil, 1.2},
	"queue-once":       {sky, draw.CrossGlyph{}, dotted, 1.2},
	"queue-lasting":    {sky, draw.SquareGlyph{}, nil, 1.2},
	"queue-bounded":    {sky, draw.BoxGlyph{}, dashed, 1.2},
	"informer":         {purple, draw.CircleGlyph{}, nil, 1.2},
	"informer-relist":  {purple, draw.PyramidGlyph{}, dashed, 1.2},
	"espalier":         {green, draw.CircleGlyph{}, nil, 2.4},
	"espalier-held":    {green, draw.SquareGlyph{}, dashed, 2.4},
	"espalier-descent": {green, draw.TriangleGlyph{}, dotted, 2.4},
}

// The sizes of a figure and of its letters.
const (
	width     = 9.5 * vg.Inch
	height    = 5.2 * vg.Inch
	textSize  = 11
	titleSize = 13
)

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}

// newPlot returns an empty plot. The title says what goes upwards: a label that
// stands on end is hard to read.
func newPlot(title, x string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text = title, x
	p.Title.TextStyle.Font, p.Title.Padding = sans(titleSize), 8
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font, a.Tick.Label.Font = sans(textSize), sans(textSize-1)
		a.Padding = 4
	}
	return p
}
