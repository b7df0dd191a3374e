package main

import (
	"fmt"
	"image/color"
	"io"
	"path/filepath"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// performance draws what is in dir, and brings the document up to date.
func performance(dir, doc string, stdout io.Writer) error {
	results, err := readResults(dir)
	if err != nil {
		return err
	}
	for _, p := range []struct {
		file   string
		height vg.Length
		draw   func(map[string]*result) ([]*plot.Plot, error)
	}{
		{"flat.svg", 210, flatPanels},
		{"stream.svg", 170, streamPanels},
		{"latency.svg", 120, latencyPanels},
		{"ratios.svg", 360, ratioPanels},
	} {
		panels, err := p.draw(results)
		if err != nil {
			return fmt.Errorf("drawing %s: %w", p.file, err)
		}
		if len(panels) == 0 {
			continue // nothing of it was measured
		}
		if err := writePanels(filepath.Join(dir, p.file), p.height, panels...); err != nil {
			return err
		}
	}
	fmt.Fprint(stdout, table(results))
	return updateDoc(doc, results)
}

// flatPanels show the rate in each tenth of long runs.
func flatPanels(results map[string]*result) ([]*plot.Plot, error) {
	p := newPanel("3,000,000 jobs", "tenth of the jobs", "1,000 jobs/s")
	p.Legend.Left, p.X.Min, p.Y.Min = true, 1, 0
	any := false
	for i, row := range []struct{ name, is string }{
		{"drain-3m", "drain"}, {"drain-3m-snapshot", "drain under a held snapshot"}, {"stream-3m", "streaming in"},
	} {
		res := results[row.name]
		if res == nil {
			continue
		}
		any = true
		xys := make(plotter.XYs, len(res.Tenths))
		for n, rate := range res.Tenths {
			xys[n] = plotter.XY{X: float64(n + 1), Y: rate / 1000}
		}
		if err := addLine(p, row.is, xys, palette[i]); err != nil {
			return nil, err
		}
	}
	if !any {
		return nil, nil
	}
	return []*plot.Plot{p}, nil
}

// streamPanels show rate and table sizes over the time of a stream.
func streamPanels(results map[string]*result) ([]*plot.Plot, error) {
	res := results["stream-10m"]
	if res == nil || len(res.Sizes) < 2 {
		return nil, nil
	}
	const tables = 4 // the largest at the end have a line each
	rates := newPanel("Jobs run, 20,000/s enqueued", "", "1,000 jobs/s")
	mb := newPanel("Tables with their indexes, finished jobs kept for 60 s", "minutes", "MB")
	rates.Y.Min, mb.Y.Min = 0, 0
	mb.Legend.Left, mb.Legend.Top = true, true
	var ran, total plotter.XYs
	last := res.Sizes[len(res.Sizes)-1]
	largest := sortedKeys(last.MB)
	slices.SortStableFunc(largest, func(a, b string) int { return int(1e3 * (last.MB[b] - last.MB[a])) })
	largest = largest[:min(tables, len(largest))]
	lines := make([]plotter.XYs, len(largest))
	var before sizes
	for _, s := range res.Sizes {
		if dt := s.Seconds - before.Seconds; dt > 0 {
			ran = append(ran, plotter.XY{X: s.Seconds / 60, Y: float64(s.Ran-before.Ran) / dt / 1000})
		}
		before = s
		total = append(total, plotter.XY{X: s.Seconds / 60, Y: s.TotalMB})
		for i, table := range largest {
			lines[i] = append(lines[i], plotter.XY{X: s.Seconds / 60, Y: s.MB[table]})
		}
	}
	if err := addLine(rates, "", ran, blue); err != nil {
		return nil, err
	}
	if err := addLine(mb, "all", total, ink); err != nil {
		return nil, err
	}
	for i, table := range largest {
		if err := addLine(mb, table, lines[i], palette[i]); err != nil {
			return nil, err
		}
	}
	for _, p := range []*plot.Plot{rates, mb} {
		p.Y.Max *= 1.1
	}
	mb.Y.Max *= 1.4 // room for the legend
	return []*plot.Plot{rates, mb}, nil
}

// latencyPanels show percentiles beside the goals for p50 and p99.
func latencyPanels(results map[string]*result) ([]*plot.Plot, error) {
	inCommits, err := percentilePanel(results, "Enqueue to start of the handler", "times of a single-row commit", []percentileRow{
		{"latency-tx", "in a transaction"}, {"latency", "enqueue"},
	}, func(r round) percentiles { return r.LatencyCommits }, 6, 16)
	if err != nil {
		return nil, err
	}
	late, err := percentilePanel(results, "Lateness of 10,000 jobs due in one second", "ms", []percentileRow{
		{"delayed", "delayed"},
	}, func(r round) percentiles { return r.Latency }, 0, 250)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc([]*plot.Plot{inCommits, late}, func(p *plot.Plot) bool { return p == nil }), nil
}

type percentileRow struct{ row, is string }

// percentilePanel has a row of three points each; nil where none was measured.
func percentilePanel(results map[string]*result, title, unit string, rows []percentileRow, of func(round) percentiles, goal50, goal99 float64) (*plot.Plot, error) {
	p := newPanel(title, unit, "")
	names := make([]string, len(rows))
	points := make([]plotter.XYs, 3)
	for y, row := range rows {
		names[y] = row.is
		res := results[row.row]
		if res == nil {
			continue
		}
		for i, figure := range []func(percentiles) float64{
			func(p percentiles) float64 { return p.P50 }, func(p percentiles) float64 { return p.P95 }, func(p percentiles) float64 { return p.P99 },
		} {
			values := make([]float64, len(res.EachRound))
			for n, r := range res.EachRound {
				values[n] = figure(of(r))
			}
			points[i] = append(points[i], plotter.XY{X: spreadOf(values).median, Y: float64(y)})
		}
	}
	if len(points[0]) == 0 {
		return nil, nil
	}
	colours := []color.Color{blue, palette[2], red}
	for i, name := range []string{"p50", "p95", "p99"} {
		s, err := plotter.NewScatter(points[i])
		if err != nil {
			return nil, err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: colours[i], Radius: 4, Shape: draw.CircleGlyph{}}
		p.Add(s)
		p.Legend.Add(name, s)
	}
	top := float64(len(rows)) - 0.5
	for _, g := range []struct {
		at float64
		c  color.Color
	}{{goal50, colours[0]}, {goal99, colours[2]}} {
		if g.at > 0 {
			if err := addRule(p, plotter.XY{X: g.at, Y: -0.5}, plotter.XY{X: g.at, Y: top}, g.c); err != nil {
				return nil, err
			}
		}
	}
	p.NominalY(names...)
	p.X.Min, p.Y.Min, p.Y.Max = 0, -0.5, top
	p.X.Max *= 1.15 // room for the legend
	return p, nil
}

// ratioPanels show all goals that are at least a share of something.
func ratioPanels(results map[string]*result) ([]*plot.Plot, error) {
	var (
		names  []string
		met    plotter.Values
		missed plotter.Values
		labels plotter.XYLabels
		marks  []float64
	)
	for _, g := range slices.Backward(goals) { // the first one is on top
		s, ok := g.measured(results)
		if !ok || g.unit != share || g.bound != atLeast {
			continue
		}
		labels.XYs = append(labels.XYs, plotter.XY{X: s.median, Y: float64(len(names))})
		labels.Labels = append(labels.Labels, " "+g.print(s.median))
		names = append(names, g.row)
		marks = append(marks, g.value)
		if g.met(s) {
			met, missed = append(met, s.median), append(missed, 0)
		} else {
			met, missed = append(met, 0), append(missed, s.median)
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	p := newPanel("Shares; the goals are the dashed lines", "", "")
	p.X.Max = max(slices.Max(met), slices.Max(missed), 1) * 1.08
	for i, goal := range marks { // no line through a number
		if at := &labels.XYs[i].X; *at < goal && goal < *at+0.07*p.X.Max {
			*at = goal
		}
	}
	for _, b := range []struct {
		values plotter.Values
		c      color.Color
	}{{met, blue}, {missed, red}} {
		bars, err := plotter.NewBarChart(b.values, 11)
		if err != nil {
			return nil, err
		}
		bars.Horizontal, bars.Color, bars.LineStyle.Width = true, b.c, 0
		p.Add(bars)
	}
	text, err := plotter.NewLabels(labels)
	if err != nil {
		return nil, err
	}
	for i := range text.TextStyle {
		text.TextStyle[i].Font.Size, text.TextStyle[i].YAlign, text.TextStyle[i].Color = 9, -0.35, ink
	}
	p.Add(text)
	for y, goal := range marks {
		if err := addRule(p, plotter.XY{X: goal, Y: float64(y) - 0.45}, plotter.XY{X: goal, Y: float64(y) + 0.45}, ink); err != nil {
			return nil, err
		}
	}
	p.NominalY(names...)
	p.X.Min = 0
	return []*plot.Plot{p}, nil
}
