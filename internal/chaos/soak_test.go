//go:build unix

package main

import (
	"encoding/csv"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/stress"
)

// A soak of some seconds keeps every promise, and samples everything. Whether it
// is flat says nothing after so short a time.
func TestSoak(t *testing.T) {
	t.Parallel()
	_, noProc := os.Stat("/proc/self/statm")
	file := filepath.Join(t.TempDir(), "soak.csv")
	var out, log strings.Builder
	code := run([]string{"-seed", "1", "-duration", "6s", "-soak", file, "-json"}, &out, &log)
	var r struct {
		Acknowledged int   `json:"acknowledged"`
		Violations   []any `json:"violations"`
		Soak         struct {
			Samples int     `json:"samples"`
			Peak    float64 `json:"peak"`
			Growths []struct {
				Figure string `json:"figure"`
				Flat   bool   `json:"flat"`
			} `json:"growths"`
		} `json:"soak"`
	}
	require.NoError(t, json.Unmarshal([]byte(out.String()), &r), "%s%s", &log, &out)
	require.Empty(t, r.Violations)
	require.GreaterOrEqual(t, r.Acknowledged, 6*soakJobsPerSecond-soakJobsPerSecond/10)
	require.Positive(t, r.Soak.Peak)
	flat := true
	for _, g := range r.Soak.Growths {
		flat = flat && g.Flat
	}
	require.Equal(t, map[bool]int{true: kept, false: broken}[flat], code)

	text, err := os.Open(file)
	require.NoError(t, err)
	defer text.Close()
	lines, err := csv.NewReader(text).ReadAll()
	require.NoError(t, err)
	require.Len(t, lines, 1+r.Soak.Samples)
	require.Len(t, lines[0], 1+len(r.Soak.Growths))
	require.Equal(t, "seconds", lines[0][0])
	for column, name := range lines[0] {
		if strings.HasPrefix(name, "live_heap_MB:") || strings.HasPrefix(name, "memory_MB:") && noProc != nil {
			continue // there may have been no collection yet
		}
		highest := -1.
		for _, line := range lines[1:] {
			if line[column] != "" {
				value, err := strconv.ParseFloat(line[column], 64)
				require.NoError(t, err, name)
				highest = max(highest, value)
			}
		}
		require.GreaterOrEqual(t, highest, 0., "%s was never sampled", name)
		for _, always := range []string{"memory_MB:", "goroutines:", "connections:", "enqueue_to_start_ms:", "call_of_a_claim_ms:", "jobs_without", "rows:job", "rows:outcome"} {
			if strings.HasPrefix(name, always) {
				require.Positive(t, highest, name)
			}
		}
	}
}

// What grows by more than the tolerance and its slack is found, one that only
// has a fault now and then is not.
func TestGrowths(t *testing.T) {
	t.Parallel()
	all := []figure{{name: "even", slack: 1}, {name: "leak", slack: 1}, {name: "slack", slack: 8}, {name: "falls", slack: 1}, {name: "fault", slack: 1}, {name: "missing", slack: 1}, {name: "late", slack: 1}}
	var rows []reading
	for i := range 110 {
		x := float64(i)
		fault, late := 10., 10.
		if i%3 == 0 {
			fault = 10 * x
		}
		if i > 50 {
			late = absent
		}
		rows = append(rows, reading{time.Duration(i) * time.Second, []float64{10, 10 + x/10, 10 + x/20, 10 - x/20, fault, absent, late}})
	}
	rows[0].values[0] = 1 // before the samples count
	got := map[string]growth{}
	for _, g := range growths(all, rows, 10*time.Second) {
		got[g.Figure] = g
	}
	require.Equal(t, growth{Figure: "even", First: 10, Last: 10, Most: 12.5, Flat: true}, got["even"])
	require.InDelta(t, 11.5, float64(got["leak"].First), 0.1)
	require.InDelta(t, 20.5, float64(got["leak"].Last), 0.1)
	flat := map[string]bool{}
	for name, g := range got {
		flat[name] = g.Flat
	}
	require.Equal(t, map[string]bool{"even": true, "leak": false, "slack": true, "falls": true, "fault": true, "missing": false, "late": false}, flat)

	for _, g := range growths(all, nil, 0) {
		require.False(t, g.Flat, "nothing was sampled")
	}
}

func TestGrowthsInPrint(t *testing.T) {
	t.Parallel()
	s := &soaked{File: "soak.csv", Samples: 720, Warm: 180, Peak: 2300, Growths: []growth{
		{Figure: "memory_MB:worker", First: 20, Last: 30.26, Most: 28},
		{Figure: "rows:job", First: 12000, Last: 12100, Most: 15000, Flat: true},
		{Figure: "call_of_a_claim_ms:p50", First: number(absent), Last: 1, Most: number(absent)},
	}}
	require.False(t, s.flat())
	var out strings.Builder
	require.NoError(t, s.print(&out))
	require.Equal(t, `
720 samples in soak.csv, those after 180 s by their medians:
  first tenth  last tenth     at most
         20.0        30.3        28.0  NOT FLAT  memory MB, worker
        12000       12100       15000  flat  rows, job
            -         1.0           -  NOT SAMPLED  call of a claim ms, p50
the coordinator had 2300 MB at most, for the check of the history
`, out.String())
	text, err := json.Marshal(s.Growths[2])
	require.NoError(t, err)
	require.JSONEq(t, `{"figure": "call_of_a_claim_ms:p50", "first": null, "last": 1, "most": null, "flat": false}`, string(text))

	r := &result{Soak: s}
	require.Equal(t, broken, r.code())
	s.Growths = s.Growths[1:2]
	require.Equal(t, kept, r.code())
}

// Tables that are not named are counted all the same.
func TestSizeOfOtherTables(t *testing.T) {
	t.Parallel()
	s := stress.Sample{Tables: map[string]stress.Table{"job": {Live: 1}, "session": {Live: 2}, "meta": {Live: 4}, "new": {Live: 8}}}
	live := func(t stress.Table) float64 { return float64(t.Live) }
	require.Equal(t, 1., size(s, "job", live))
	require.Equal(t, 12., size(s, others, live))
	require.NotEqual(t, size(s, "ticket", live), size(s, "ticket", live), "NaN: it is not there")
}
