package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot/plotter"
)

const page = "before\n<!-- figures -->\nold\n<!-- /figures -->\nbetween\n<!-- machine -->\n<!-- /machine -->\nafter\n"

// drawn copies the fixture, draws it, and returns directory, page and output.
func drawn(t *testing.T) (dir, doc, table string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "performance")
	require.NoError(t, os.CopyFS(dir, os.DirFS("testdata/performance")))
	doc = dir + ".md"
	require.NoError(t, os.WriteFile(doc, []byte(page), 0o644))
	var out, said bytes.Buffer
	require.Zero(t, run([]string{"performance", dir, doc}, &out, &said), "%s", &said)
	return dir, doc, out.String()
}

func TestTableSaysWhatIsMet(t *testing.T) {
	t.Parallel()
	_, doc, table := drawn(t)
	for _, line := range []string{
		"| `drain-1m` | drain of 1,000,000 jobs, of claim-and-delete | ≥ 0.35 | 0.40 | 0.36 … 0.52 | yes | `bearmq bench drain --jobs 50000 --rounds 1` |",
		"|  | of claim-and-delete by ctid, the fastest form that we know |  | 0.50 | 0.38 … 0.50 |  |  |",
		"| `drain-3m` | drain of 3,000,000: last tenth / first | ≥ 0.90 | 0.89 | 0.85 … 0.93 | **no** | ",             // 0.8999
		"| `groups-each` | 1,000,000 jobs in 1,000,000 groups, of ungrouped | ≥ 0.25 | 0.24 | 0.20 … 0.25 | **no** |", // 48 of 200
		"| `stream-10m` | 10 minutes at 20,000/s, kept 60 s: last minute / first | ≥ 0.90 | 1.00 | one round | yes | ",
		"|  | its tables: largest in the last minute / in the fourth | ≤ 1.10 | 1.05 | one round | yes |  |",
		"| ≤ 6.0 | 4.0 | 3.0 … 5.0 | yes |",
		"| ≤ 5.0 ms | 3.0 ms | 2.5 ms … 7.0 ms | yes |",
		"|  | its looks for work over all channels: p99 |  | 120 ms | 12.0 ms … 1,300 ms |  |  |",
		"| `bulk` | bulk enqueue, of COPY | ≥ 0.40 | not measured | |  |  |",
	} {
		require.Contains(t, table, line)
	}
	text, err := os.ReadFile(doc)
	require.NoError(t, err)
	require.Contains(t, string(text), "before\n<!-- figures -->\n"+table+"<!-- /figures -->\nbetween\n<!-- machine -->\nOn 2026-01-02:\n\n- ")
	require.True(t, strings.HasSuffix(string(text), "<!-- /machine -->\nafter\n"))
	require.NotContains(t, string(text), "old")
	require.Contains(t, string(text), "- latency: 4 cores (A processor), linux/amd64, go1.25.0, PostgreSQL 15")
	require.Contains(t, string(text), "- channels-1000, drain-1m, drain-3m, groups-each, stream-10m: 2 cores")
}

func TestPlotsAreSVGWithText(t *testing.T) {
	t.Parallel()
	dir, _, _ := drawn(t)
	for file, texts := range map[string][]string{
		"flat.svg":    {"3,000,000 jobs", "drain", "1,000 jobs/s"},
		"stream.svg":  {"20,000/s enqueued", "minutes", "MB", "outcome", "all"},
		"latency.svg": {"times of a single-row commit", "p50", "p99", "enqueue"},
		"ratios.svg":  {"drain-1m", "groups-each", "0.40", "0.24"},
	} {
		svg, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		require.NoError(t, wellFormed(svg), file)
		for _, text := range texts {
			require.Contains(t, string(svg), text, file)
		}
		require.Contains(t, string(svg), "sans-serif")
		require.NotContains(t, string(svg), "NaN")
	}
}

func wellFormed(text []byte) error {
	for d := xml.NewDecoder(bytes.NewReader(text)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Running it again changes nothing.
func TestOutputIsTheSameEachTime(t *testing.T) {
	t.Parallel()
	dir, doc, _ := drawn(t)
	read := func() map[string]string {
		all := map[string]string{}
		files, err := filepath.Glob(dir + "/*.svg")
		require.NoError(t, err)
		for _, file := range append(files, doc) {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			all[file] = string(text)
		}
		return all
	}
	before := read()
	require.Len(t, before, 5)
	var out, said bytes.Buffer
	require.Zero(t, run([]string{"performance", dir, doc}, &out, &said), "%s", &said)
	require.Equal(t, before, read())
}

func TestWhatIsWrongWithTheInputIsSaid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ doc, json, says string }{
		"no marker":    {"nothing\n", "", "no marker <!-- figures -->"},
		"no end":       {"<!-- figures -->\n", "", "no marker <!-- /figures -->"},
		"not JSON":     {page, "{", "unexpected end of JSON"},
		"of old bench": {page, `{"work":"drain"}`, "measure it again"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			doc := filepath.Join(dir, "doc.md")
			require.NoError(t, os.WriteFile(doc, []byte(c.doc), 0o644))
			if c.json != "" {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "row.json"), []byte(c.json), 0o644))
			}
			var said bytes.Buffer
			require.Equal(t, 1, run([]string{"performance", dir, doc}, io.Discard, &said))
			require.Contains(t, said.String(), c.says)
		})
	}
	require.Equal(t, 2, run([]string{"fly"}, io.Discard, io.Discard))
}

// Each row of scripts/figures has a goal, and each goal a row.
func TestGoalsAreThoseOfTheScript(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "../../scripts/figures", "--list").Output()
	require.NoError(t, err)
	rows := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		rows[strings.Fields(line)[0]] = true
	}
	wanted := map[string]bool{}
	for _, g := range goals {
		wanted[g.row] = true
		if g.of != "" {
			wanted[g.of] = true
		}
	}
	require.Equal(t, wanted, rows)
}

func TestSoakDrawsAPanelAColumn(t *testing.T) {
	t.Parallel()
	svg := soaked(t, "seconds,goroutines,memory_MB,tables_MB:job,tables_MB:outcome\n0,10,50,1,1\n60,11,51,2,\n240,10,52,3,2\n")
	require.NoError(t, wellFormed([]byte(svg)))
	for _, text := range []string{">goroutines<", ">memory MB<", ">tables MB<", ">job<", ">outcome<", ">minutes<"} {
		require.Contains(t, svg, text)
	}
	require.Equal(t, 1, strings.Count(svg, ">tables MB<"))
	require.Contains(t, soaked(t, "seconds,zero\n0,0\n9,0\n"), ">seconds<", "a flat line can be drawn")
}

func soaked(t *testing.T, text string) string {
	t.Helper()
	from, to := filepath.Join(t.TempDir(), "in.csv"), filepath.Join(t.TempDir(), "out.svg")
	require.NoError(t, os.WriteFile(from, []byte(text), 0o644))
	var said bytes.Buffer
	require.Zero(t, run([]string{"soak", from, to}, io.Discard, &said), "%s", &said)
	svg, err := os.ReadFile(to)
	require.NoError(t, err)
	return string(svg)
}

func TestSoakNamesTheLineThatIsNoNumber(t *testing.T) {
	t.Parallel()
	from := filepath.Join(t.TempDir(), "in.csv")
	for text, says := range map[string]string{
		"s,a\n0,1\n1,many\n": `line 3, column a: "many" is no number`,
		"s,a\n0,1\nx,2\n":    `line 3: the first column is no number of seconds: "x"`,
		"s,a\n":              "needs a header",
	} {
		require.NoError(t, os.WriteFile(from, []byte(text), 0o644))
		require.ErrorContains(t, soak(from, from+".svg"), says)
	}
}

func TestThinnedKeepsTheSpikes(t *testing.T) {
	t.Parallel()
	xys := make(plotter.XYs, 10_000)
	for i := range xys {
		xys[i] = plotter.XY{X: float64(i), Y: float64(i % 7)}
	}
	xys[4321].Y, xys[8765].Y = 1000, -1000
	out := thinned(xys)
	require.LessOrEqual(t, len(out), 600)
	require.Contains(t, out, plotter.XY{X: 4321, Y: 1000})
	require.Contains(t, out, plotter.XY{X: 8765, Y: -1000})
	for i := range out[1:] {
		require.Less(t, out[i].X, out[i+1].X)
	}
	require.Len(t, thinned(xys[:600]), 600)
}

func TestTicksAreRoundNumbers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lo, hi float64
		want   string
	}{{0, 27, "0 5 10 15 20 25"}, {0, 10, "0 2 4 6 8 10"}, {0.03, 0.5, "0.1 0.2 0.3 0.4 0.5"}, {1, 10, "2 4 6 8 10"}, {0, 1e-9, ""}, {-3, 3, "-3 -2 -1 0 1 2 3"}} {
		var labels []string
		for _, tick := range ticks(c.lo, c.hi) {
			labels = append(labels, tick.Label)
		}
		if c.want == "" {
			require.NotEmpty(t, labels)
			continue
		}
		require.Equal(t, c.want, strings.Join(labels, " "))
	}
}

func TestThousands(t *testing.T) {
	t.Parallel()
	for v, want := range map[float64]string{0: "0", 999.6: "1,000", 1234567: "1,234,567", 12: "12"} {
		require.Equal(t, want, thousands(v), strconv.FormatFloat(v, 'g', -1, 64))
	}
}
