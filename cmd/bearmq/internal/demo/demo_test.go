package demo

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/cmd/bearmq/internal/orders"
)

func TestPaymentsFailForSomeAttemptsAndNeverForTheLast(t *testing.T) {
	t.Parallel()
	failed := map[int]int{} // by attempt
	for _, o := range orders.Generate() {
		for attempt := 1; attempt <= 5; attempt++ {
			if declined(o.Number, attempt) {
				failed[attempt]++
			}
		}
	}
	require.InDelta(t, 400, failed[1], 40)
	require.InDelta(t, 100, failed[2], 20)
	require.Len(t, failed, 2, "two attempts of five")
}

func TestPercentileIsTheSmallestThatSoManyDoNotExceed(t *testing.T) {
	t.Parallel()
	var all []time.Duration
	require.Zero(t, percentile(all, 50))
	for ms := range 200 {
		all = append(all, time.Duration(ms+1)*time.Millisecond)
	}
	require.Equal(t, 100.0, percentile(all, 50))
	require.Equal(t, 190.0, percentile(all, 95))
	require.Equal(t, 198.0, percentile(all, 99))
	require.Equal(t, 1.0, percentile(all[:1], 99))
}

func TestSummaryCountsWhatTheLedgerSays(t *testing.T) {
	t.Parallel()
	var s Summary
	s.tell([]entry{
		{Channel: express, Attempt: 1, Latency: 2 * time.Millisecond},
		{Channel: defaultChannel, Attempt: 3, Latency: 4 * time.Millisecond},
		{Channel: defaultChannel, Attempt: 1, Latency: 6 * time.Millisecond},
	})
	require.Equal(t, 3, s.Jobs)
	require.Equal(t, 5, s.Attempts)
	require.Equal(t, 2, s.FailedAttempts)
	require.Equal(t, Latency{Jobs: 3, P50: 4, P95: 6, P99: 6}, s.Latency["all"])
	require.Equal(t, Latency{Jobs: 1, P50: 2, P95: 2, P99: 2}, s.Latency[express])
}

func TestSummaryShowsTheFirstDifferences(t *testing.T) {
	t.Parallel()
	s := Summary{}
	for range 12 {
		s.Differences = append(s.Differences, "customer 1: the balance is 2.00, not 1.00")
	}
	var out bytes.Buffer
	s.Print(&out)
	require.Contains(t, out.String(), "WRONG: 12 differences")
	require.Contains(t, out.String(), "and 2 more")
	require.NotContains(t, out.String(), "OK")
}

func TestNumbersAreWrittenForReaders(t *testing.T) {
	t.Parallel()
	require.Equal(t, "0", thousands(0))
	require.Equal(t, "999", thousands(999))
	require.Equal(t, "1,000", thousands(1000))
	require.Equal(t, "-12,345,678", thousands(-12345678))
	require.Equal(t, "0.05", money(5))
	require.Equal(t, "-1,234.50", money(-123450))
	require.Equal(t, "999.9 ms", milliseconds(999.9))
	require.Equal(t, "1.50 s", milliseconds(1500))
}

func TestScreenRewritesOneLineOfATerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := newScreen(&out, true)
	s.progress("1 of 2")
	s.progress("2 of 2")
	s.line("a report")
	s.done()
	require.Equal(t, clearLine+"   0.0 s  1 of 2"+clearLine+"   0.0 s  2 of 2"+
		clearLine+"   0.0 s  a report\n   0.0 s  2 of 2"+clearLine, out.String())
}

func TestScreenWritesProgressSeldomWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := newScreen(&out, false)
	for range 100 {
		s.progress("working")
	}
	s.line("a report")
	s.done()
	require.Equal(t, "   0.0 s  working\n   0.0 s  a report\n", out.String())
}

func TestReadOrdersTellsWhatIsWrongWithTheFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	head := "order,customer,shipping,cents\n"
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"missing":  {Config{File: filepath.Join(dir, "none")}, "no such file"},
		"bad line": {Config{File: file("bad", head+"1,2,slow,3\n")}, "line 2: shipping"},
		"no order": {Config{File: file("empty", head)}, "holds none"},
		"too few":  {Config{File: file("few", head+"1,2,express,3\n"), Orders: 2}, "there are 1 orders, not 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, _, err := readOrders(c.config)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestReadOrdersGeneratesTheDefaultFileWhereItIsNot(t *testing.T) {
	t.Parallel()
	all, source, err := readOrders(Config{File: DefaultFile, Orders: 3})
	require.NoError(t, err)
	require.Equal(t, orders.Generate()[:3], all)
	require.Contains(t, source, "generated")
}
