//go:build unix

package main

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/history"
	"github.com/bearmq/bearmq/internal/stress"
)

func TestMain(m *testing.M) {
	if is, code := stress.Child(); is {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// A run of some seconds, from the options to the JSON: the hours are for those
// who ask for them.
func TestChaos(t *testing.T) {
	t.Parallel()
	var out, log strings.Builder
	code := run([]string{"-seed", "1", "-duration", "5s", "-json"}, &out, &log)
	require.Equal(t, kept, code, "%s%s", &log, &out)
	var r struct {
		Seed         uint64         `json:"seed"`
		Acknowledged int            `json:"acknowledged"`
		Runs         int            `json:"runs"`
		Faults       map[string]int `json:"faults"`
		Violations   []any          `json:"violations"`
		History      string         `json:"history"`
	}
	require.NoError(t, json.Unmarshal([]byte(out.String()), &r))
	require.EqualValues(t, 1, r.Seed)
	require.Positive(t, r.Acknowledged)
	require.GreaterOrEqual(t, r.Runs, r.Acknowledged)
	require.NotEmpty(t, r.Faults)
	require.Empty(t, r.Violations)
	require.Empty(t, r.History)
	_, dir, _ := strings.Cut(log.String(), "the history is in ")
	dir, _, _ = strings.Cut(dir, "\n")
	require.NotEmpty(t, dir)
	require.NoDirExists(t, dir, "nobody needs it")
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, wrong := range [][]string{{"-duration", "0s"}, {"-duration", "soon"}, {"-kills", "-1"}, {"-kills", "5", "-soak", "x.csv"}, {"-seed", "x"}, {"more"}, {"-unknown"}} {
		var out, log strings.Builder
		require.Equal(t, failed, run(wrong, &out, &log), "%v", wrong)
		require.NotEmpty(t, log.String())
		require.Empty(t, out.String())
	}
	var log strings.Builder
	require.Equal(t, kept, run([]string{"-help"}, &log, &log))
	require.Contains(t, log.String(), "-duration")

	o, err := parse(nil, &log)
	require.NoError(t, err)
	require.NotZero(t, o.seed, "a new one")
	require.Equal(t, time.Minute, o.duration)
}

// What repeats a run is its seed and its size.
func TestCommandRepeatsTheRun(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"-seed 7 -duration 1m30s", "-seed 8 -kills 50", "-seed 9 -duration 1h0m0s -soak some.csv"} {
		o, err := parse(strings.Fields(args), new(strings.Builder))
		require.NoError(t, err)
		require.Equal(t, "go run ./internal/chaos "+args, o.command())
		again, err := parse(strings.Fields(o.command())[3:], new(strings.Builder))
		require.NoError(t, err)
		require.Equal(t, o.config(), again.config())
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	r := &result{
		Seed: 7, Command: "go run ./internal/chaos -seed 7 -duration 1m0s", Bound: 6 * time.Second, History: "/var/tmp/history",
		Summary: history.Summary{
			Acknowledged: 100, RolledBack: 20, Unknown: 3, Slots: 60, Runs: 130, Reruns: 30, Failures: 15, Losses: 8, Takeovers: 9, Groups: 40, Zombies: 1, Pairs: 500,
			Faults: map[string]int{"SIGKILL of a worker": 3, "server down": 1},
			Restarts: []history.Restarted{
				{Process: "worker1", Jobs: 2, After: 4 * time.Second}, {Process: "worker2", Jobs: 1, After: 3 * time.Second}, {Process: "worker3", Jobs: 5, Alone: 1, After: 5500 * time.Millisecond},
				{Process: "worker4", Jobs: 5, After: 20 * time.Second, Slow: true}, {Process: "worker5", Alone: 3},
			},
		},
		Violations: []history.Violation{{Class: history.Lost, Text: "job 1 has no end"}},
	}
	var out strings.Builder
	require.NoError(t, r.print(&out, false))
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	require.Equal(t, []string{
		"faults                 4",
		"  SIGKILL of a worker  3",
		"  server down          1",
		"jobs                   100    acknowledged; 20 rolled back, 3 of which the answer was lost",
		"jobs of a schedule     60",
		"groups                 40",
		"pairs in order         500",
		"runs                   130    30 again, 15 failed",
		"losses                 8",
		"takeovers              9      1 while the old run went on in vain",
		"time to recover        4.0 s  the median of 3 kills; min 3.0 s, p90 5.5 s, max 5.5 s, 8 jobs; the bound is 6s without other faults",
		"                              not among them: 4 jobs that were lost again and wait to run alone, 1 kills while the machine was slow",
		"violations             1",
		"  lost: job 1 has no end",
		"the history is in /var/tmp/history",
		"to repeat it: go run ./internal/chaos -seed 7 -duration 1m0s",
	}, lines)
}
