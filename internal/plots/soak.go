package main

import (
	"encoding/csv"
	"fmt"
	"os"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
)

// soak draws the samples of a long run. The first line of the CSV names the
// columns, the first column is seconds. A column "PANEL:LINE" is a line in a
// panel with others, any other one has a panel of its own; an underscore is
// shown as a space, an empty cell is no sample.
func soak(from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	records, err := csv.NewReader(file).ReadAll()
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	if len(records) < 3 || len(records[0]) < 2 {
		return fmt.Errorf("%s needs a header, two columns and two samples at least", from)
	}
	panels, err := soakPanels(records)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return writePanels(to, 110, panels...)
}

func soakPanels(records [][]string) ([]*plot.Plot, error) {
	seconds, err := column(records, 0)
	if err != nil {
		return nil, err
	}
	unit, by := timeUnit(seconds[len(seconds)-1].Y)
	var (
		panels []*plot.Plot
		byName = map[string]*plot.Plot{}
		lines  = map[string]int{}
	)
	for n := 1; n < len(records[0]); n++ {
		name, line, _ := strings.Cut(readable(records[0][n]), ":")
		p := byName[name]
		if p == nil {
			p = newPanel(name, "", "")
			p.Y.Min, p.Legend.Left, p.Legend.Top = 0, true, true
			byName[name] = p
			panels = append(panels, p)
		}
		xys, err := column(records, n)
		if err != nil {
			return nil, err
		}
		for i := range xys {
			xys[i].X /= by
		}
		if len(xys) == 0 {
			continue
		}
		if err := addLine(p, line, thinned(xys), palette[lines[name]%len(palette)]); err != nil {
			return nil, err
		}
		lines[name]++
	}
	for _, p := range panels {
		p.X.Min, p.X.Max = seconds[0].Y/by, seconds[len(seconds)-1].Y/by
		p.Y.Max = max(p.Y.Max*1.1, 1e-9)
		if n := lines[p.Title.Text]; n > 1 {
			p.Y.Max *= 1 + 0.15*float64(n) // room for the legend
		}
	}
	panels[len(panels)-1].X.Label.Text = unit
	return panels, nil
}

func readable(name string) string { return strings.ReplaceAll(strings.TrimSpace(name), "_", " ") }

// column is a column's samples, over the seconds.
func column(records [][]string, n int) (plotter.XYs, error) {
	var xys plotter.XYs
	for i, r := range records[1:] {
		if r[n] == "" {
			continue
		}
		x, err := strconv.ParseFloat(r[0], 64)
		if err != nil {
			return nil, fmt.Errorf("line %d: the first column is no number of seconds: %q", i+2, r[0])
		}
		y, err := strconv.ParseFloat(r[n], 64)
		if err != nil {
			return nil, fmt.Errorf("line %d, column %s: %q is no number", i+2, records[0][n], r[n])
		}
		xys = append(xys, plotter.XY{X: x, Y: y})
	}
	if n == 0 && len(xys) == 0 {
		return nil, fmt.Errorf("the first column is empty")
	}
	return xys, nil
}

func timeUnit(seconds float64) (name string, by float64) {
	switch {
	case seconds > 3*3600:
		return "hours", 3600
	case seconds > 180:
		return "minutes", 60
	}
	return "seconds", 1
}

// thinned keeps the lowest and the highest sample of each of some hundred
// stretches of a long line: a file as large as the samples shows no more.
func thinned(xys plotter.XYs) plotter.XYs {
	const stretches = 300
	if len(xys) <= 2*stretches {
		return xys
	}
	var out plotter.XYs
	for i := range stretches {
		part := xys[i*len(xys)/stretches : (i+1)*len(xys)/stretches]
		lo, hi := 0, 0
		for n, xy := range part {
			if xy.Y < part[lo].Y {
				lo = n
			}
			if xy.Y > part[hi].Y {
				hi = n
			}
		}
		out = append(out, part[min(lo, hi)])
		if lo != hi {
			out = append(out, part[max(lo, hi)])
		}
	}
	return out
}
