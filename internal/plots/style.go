package main

import (
	"bytes"
	"image/color"
	"math"
	"os"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The plots are drawn on white, so that they can be read on a dark page too.
// The colours are those of Okabe and Ito, which colour-blind readers can tell
// apart.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff},
	color.RGBA{0xd5, 0x5e, 0x00, 0xff},
	color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff},
	color.RGBA{0xe6, 0x9f, 0x00, 0xff},
	color.RGBA{0x56, 0xb4, 0xe9, 0xff},
}

var (
	blue = palette[0]
	red  = palette[1]
	ink  = color.Gray{0x33}
	rule = color.Gray{0xdd}
)

func init() {
	plot.DefaultFont = font.Font{Typeface: "Liberation", Variant: "Sans"}
	plotter.DefaultFont = plot.DefaultFont
}

const width = 520 * vg.Length(1)

// newPanel is an empty plot in our style.
func newPanel(title, x, y string) *plot.Plot {
	p := plot.New()
	p.BackgroundColor = color.White
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font.Size, p.Title.Padding = 11, 4
	p.Title.TextStyle.Color = ink
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		a.Label.TextStyle.Font.Size, a.Tick.Label.Font.Size = 9, 9
		a.Tick.Marker = plot.TickerFunc(ticks)
		a.Label.TextStyle.Color, a.Tick.Label.Color, a.LineStyle.Color, a.Tick.LineStyle.Color = ink, ink, ink, ink
	}
	p.Legend.TextStyle.Font.Size, p.Legend.TextStyle.Color = 9, ink
	p.Legend.Padding, p.Legend.ThumbnailWidth = 1, 14
	grid := plotter.NewGrid()
	grid.Horizontal.Color, grid.Vertical.Color = rule, rule
	p.Add(grid)
	return p
}

// addLine draws a line with a name, none where there is one line only.
func addLine(p *plot.Plot, name string, xys plotter.XYs, c color.Color) error {
	line, err := plotter.NewLine(xys)
	if err != nil {
		return err
	}
	line.Color, line.Width = c, 1.4
	p.Add(line)
	if name != "" {
		p.Legend.Add(name, line)
	}
	return nil
}

// addRule draws a dashed line that marks a goal.
func addRule(p *plot.Plot, from, to plotter.XY, c color.Color) error {
	line, err := plotter.NewLine(plotter.XYs{from, to})
	if err != nil {
		return err
	}
	line.Color, line.Width, line.Dashes = c, 1, []vg.Length{3, 2}
	p.Add(line)
	return nil
}

// writePanels writes panels under one another, with their axes in line.
func writePanels(path string, height vg.Length, panels ...*plot.Plot) error {
	const margin = 8
	all := height*vg.Length(len(panels)) + 2*margin
	svg := vgsvg.NewWith(vgsvg.UseWH(width, all))
	page := draw.New(svg)
	page.FillPolygon(color.White, []vg.Point{{}, {X: width}, {X: width, Y: all}, {Y: all}})
	tiles := draw.Tiles{Rows: len(panels), Cols: 1, PadTop: margin, PadBottom: margin, PadLeft: margin, PadRight: 2 * margin, PadY: margin}
	rows := make([][]*plot.Plot, len(panels))
	for i, p := range panels {
		rows[i] = []*plot.Plot{p}
	}
	for i, row := range plot.Align(rows, tiles, page) {
		panels[i].Draw(row[0])
	}
	var text bytes.Buffer
	if _, err := svg.WriteTo(&text); err != nil {
		return err
	}
	// Text stays text, in a font that the reader's machine has.
	const named = "font-family:Liberation Sans"
	out := strings.ReplaceAll(text.String(), named, named+",Arial,Helvetica,sans-serif")
	return os.WriteFile(path, []byte(out), 0o644)
}

// ticks are some five round numbers.
func ticks(lo, hi float64) (all []plot.Tick) {
	unit := math.Pow(10, math.Floor(math.Log10((hi-lo)/5)))
	step := unit
	for _, n := range []float64{2, 5, 10} {
		if (hi-lo)/step > 7 {
			step = n * unit
		}
	}
	for n := int(math.Ceil(lo/step - 1e-9)); float64(n)*step <= hi+1e-9*step; n++ {
		at := float64(n) * step
		all = append(all, plot.Tick{Value: at, Label: strconv.FormatFloat(at, 'g', 6, 64)})
	}
	return all
}
