package bench

import (
	"bytes"
	"compress/flate"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTenthsAreRatesOfTenthsOfTheJobs(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	at := func(s float64) int64 { return began.Add(time.Duration(s * float64(time.Second))).UnixNano() }
	var line timeline
	line.add(at(1), 500) // 500/s
	line.add(at(6), 500) // 100/s
	tenths := line.tenths(began, began.Add(6*time.Second))
	require.Len(t, tenths, 10)
	for i, rate := range tenths {
		want := 500.0
		if i >= 5 {
			want = 100
		}
		require.InDelta(t, want, rate, 0.1, "tenth %d", i)
	}
}

func TestTenthsOfOneReportAreEven(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	var line timeline
	line.add(began.Add(time.Second).UnixNano(), 100)
	require.InDeltaSlice(t, []float64{100, 100, 100, 100, 100, 100, 100, 100, 100, 100}, line.tenths(began, began.Add(time.Second)), 0.1)
}

func TestSpansAreRatesOfTenthsOfTheTime(t *testing.T) {
	t.Parallel()
	began := time.Unix(1000, 0)
	var line timeline
	for i := range 10 {
		line.add(began.Add(time.Duration(i)*time.Second+time.Millisecond).UnixNano(), 10*(i+1))
	}
	require.InDeltaSlice(t, []float64{10, 20, 30, 40, 50, 60, 70, 80, 90, 100}, line.spans(began, began.Add(10*time.Second)), 0.01)
}

func TestPercentilesAndSpread(t *testing.T) {
	t.Parallel()
	var took []time.Duration
	for i := 100; i > 0; i-- {
		took = append(took, time.Duration(i)*time.Millisecond)
	}
	require.Equal(t, percentiles{51, 96, 100}, percentilesOf(took))
	require.Equal(t, spread{2, 1, 9}, spreadOf([]float64{9, 1, 2}))
	require.Equal(t, spread{3, 1, 9}, spreadOf([]float64{9, 1, 2, 4}))
}

func TestNumbersAsPeopleReadThem(t *testing.T) {
	t.Parallel()
	require.Equal(t, "1,234,567", thousands(1234567))
	require.Equal(t, "-123", thousands(-123))
	require.Equal(t, "12", thousands(12))
	require.Equal(t, "0.25", number(0.25))
	require.Equal(t, "2 processes", plural(2, "process"))
	require.Equal(t, "▁▅█", sparkline([]float64{0, 5, 10}))
}

func TestPayloadHasTheSizeThatWasAskedFor(t *testing.T) {
	t.Parallel()
	for _, size := range []int{50, 500, 20_000} {
		for _, i := range []int{0, 7, 123_456} {
			require.Len(t, shape{PayloadBytes: size}.json(i), size)
		}
	}
}

func TestPayloadCannotBeCompressed(t *testing.T) {
	t.Parallel()
	for _, size := range []int{20_000, 3 << 20} {
		require.Len(t, padding(1, size), size)
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestSpeed)
	require.NoError(t, err)
	_, err = w.Write(shape{PayloadBytes: 20_000}.json(7))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	require.Greater(t, packed.Len(), 14_000, "six bits a letter are left")
	require.NotEqual(t, padding(1, 30), padding(2, 30))
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	get := func(args ...string) *options {
		o, err := parse(args, &bytes.Buffer{})
		require.NoError(t, err)
		return o
	}
	o := get()
	require.Equal(t, "drain", o.work.name)
	require.Equal(t, "bearmq bench", o.command)
	require.Equal(t, "bearmq bench --jobs 20 drain", get("--jobs", "20", "--json", "drain").command)
	require.Equal(t, 500_000, o.jobs)
	require.Equal(t, 3, o.rounds)

	o = get("--groups", "each", "bulk", "--json")
	require.Equal(t, "bulk", o.work.name)
	require.Equal(t, each, o.groups)
	require.True(t, o.json)

	o = get("stream", "--rate", "100", "--duration", "8s")
	require.Equal(t, 800, o.jobs)
	require.Equal(t, 2*time.Second, o.retention)

	require.Equal(t, 10_000, get("latency", "--delayed").jobs)
	require.Equal(t, 100, get("idle", "--channels", "100").jobs)
	require.Equal(t, 16, get("enqueue").connections)

	for _, wrong := range [][]string{
		{"fly"}, {"--jobs", "0"}, {"--groups", "-2"}, {"--groups", "many"}, {"--retention", "-1s"}, {"latency", "--rate", "0"}, {"--processes", "0"},
	} {
		var said bytes.Buffer
		require.Equal(t, 2, Main(t.Context(), wrong, &said, &said), "%v", wrong)
	}
	var help bytes.Buffer
	require.Zero(t, Main(t.Context(), []string{"--help"}, &help, &help))
	for _, w := range works {
		require.Contains(t, help.String(), w.what)
	}
}

// scripts/figures has the command lines of docs/performance.md.
func TestRowsOfTheScriptAreCommandLines(t *testing.T) {
	t.Parallel()
	for _, quick := range []string{"", "1"} {
		list := exec.CommandContext(t.Context(), "../../../../scripts/figures", "--list")
		list.Env = append(os.Environ(), "FIGURES_QUICK="+quick)
		out, err := list.Output()
		require.NoError(t, err)
		for line := range strings.Lines(string(out)) {
			_, args, found := strings.Cut(line, " bearmq bench ")
			require.True(t, found, line)
			o, err := parse(strings.Fields(args), &bytes.Buffer{})
			require.NoError(t, err, line)
			if quick != "" {
				require.Equal(t, 1, o.rounds, line)
				require.LessOrEqual(t, o.jobs, 600_000, line)
			}
		}
	}
}
