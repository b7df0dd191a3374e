package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// The test binary is its own worker process.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildCommand {
		os.Exit(ChildMain(context.Background(), os.Stdin, os.Stdout, os.Stderr))
	}
	_ = os.Unsetenv("DATABASE_URL") // the bench crashes its own server; pgtest.Start gives the tests theirs
	os.Exit(pgtest.Run(m))
}

// small are the settings of a private server for tests. In less wal_buffers than
// a probe fills, PostgreSQL writes what nobody waits for.
var small = map[string]string{"shared_buffers": "96MB", "wal_buffers": "16MB", "max_wal_size": "256MB", "min_wal_size": "80MB"}

// command runs the bench with a command line on a small server.
func command(t *testing.T, args string) (stdout string) {
	t.Helper()
	var out, progress bytes.Buffer
	o, err := parse(strings.Fields(args), &progress)
	require.NoError(t, err)
	if o.database == "" {
		o.settings = small
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	require.Zero(t, run(ctx, o, &out, &progress), "%s", &progress)
	return out.String()
}

func inJSON(t *testing.T, args string) *report {
	t.Helper()
	text := command(t, args+" --json")
	var fields map[string]json.RawMessage
	require.NoError(t, json.Unmarshal([]byte(text), &fields))
	for _, name := range []string{"work", "jobs", "rate_per_s", "tenths", "floor_per_s", "ratio", "wal_bytes_per_job", "latency_ms", "machine"} {
		require.Contains(t, fields, name)
	}
	var r report
	require.NoError(t, json.Unmarshal([]byte(text), &r))
	require.Positive(t, r.Rate)
	require.Positive(t, r.Floor)
	require.Positive(t, r.Ratio)
	require.Positive(t, r.Machine.Cores)
	require.Equal(t, "bearmq bench "+args, r.Command)
	_, err := time.Parse(time.RFC3339, r.Date)
	require.NoError(t, err)
	require.Len(t, r.EachRound, r.Rounds)
	require.Equal(t, "on", r.Machine.Settings["fsync"])
	require.Equal(t, "on", r.Machine.Settings["synchronous_commit"])
	require.Equal(t, "on", r.Machine.Settings["full_page_writes"])
	return &r
}

func TestBulkMeasuresEnqueueingMany(t *testing.T) {
	t.Parallel()
	r := inJSON(t, "bulk --jobs 25000 --rounds 2 --connections 2")
	require.Equal(t, 25_000, r.Jobs)
	require.Len(t, r.Tenths, 10)
	require.Positive(t, r.Latency.P99)
	require.InDelta(t, 250, r.WAL, 150)
	require.Contains(t, r.Check, "all jobs are durably enqueued")
	require.Contains(t, r.SQL["floor_copy"], "COPY floor")
}

func TestEnqueueMeasuresSingleEnqueues(t *testing.T) {
	t.Parallel()
	r := inJSON(t, "enqueue --jobs 1000 --connections 4 --rounds 1")
	require.Len(t, r.Tenths, 10)
	require.Positive(t, r.Latency.P50)
	require.Contains(t, r.Check, "all jobs are durably enqueued")
}

func TestDrainPrintsATableThatIsUnderstoodAtOnce(t *testing.T) {
	t.Parallel()
	text := command(t, "drain --jobs 5000 --rounds 2 --retention 0s")
	for _, part := range []string{
		"bearmq bench drain: 5,000 jobs of 50 bytes, 1 worker process",
		"highest of 2 rounds", "jobs/s", "floor", "ratio", "WAL bytes a job", "enqueue ", "run ", "delete ",
		"deleted afterwards", "jobs/s in each tenth of the jobs", "last / first:",
		"every job ran exactly once", "after a crash of the server all jobs are durably finished",
		"FOR UPDATE SKIP LOCKED", "shared_buffers 96MB",
	} {
		require.Contains(t, text, part)
	}
}

func TestDrainWithGroupsBacklogSnapshotAndProcesses(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{
		"--groups 10 --processes 2",
		"--groups each --hold-snapshot",
		"--backlog 500 --slots 10 --handler 1ms --jobs 500",
		"--disjoint --processes 2 --channels 3",
	} {
		t.Run(flags, func(t *testing.T) {
			t.Parallel()
			r := inJSON(t, "drain --rounds 1 --jobs 2000 "+flags)
			require.Len(t, r.Tenths, 10)
			require.Positive(t, r.FirstStartMS)
			require.Greater(t, r.StartedRate, r.Rate)
			require.Contains(t, r.Check, "every job ran exactly once")
			if strings.Contains(flags, "--handler") {
				require.Positive(t, r.Occupancy)
			}
		})
	}
}

func TestStreamSamplesTheTablesWhileJobsComeIn(t *testing.T) {
	t.Parallel()
	r := inJSON(t, "stream --rate 1000 --duration 4s --retention 1s")
	require.Equal(t, 4000, r.Jobs)
	require.Len(t, r.Tenths, 10)
	require.Positive(t, r.Latency.P50)
	require.Greater(t, len(r.Sizes), 10)
	require.Contains(t, r.Sizes[0].MB, "job")
	require.InDelta(t, 1000, r.Rate, 500)
	for i, s := range r.Sizes[1:] {
		require.GreaterOrEqual(t, s.Ran, r.Sizes[i].Ran)
	}
	require.Positive(t, r.Sizes[len(r.Sizes)-1].Ran)
}

func TestStreamInChannelsMeasuresTheWorkersCalls(t *testing.T) {
	t.Parallel()
	r := inJSON(t, "stream --rate 200 --duration 2s --channels 40")
	for _, name := range []string{"claim", "look", "finish"} {
		c := r.Calls[name]
		require.Positive(t, c.Calls, name)
		require.Positive(t, c.P50, name)
		require.GreaterOrEqual(t, c.P99, c.P50, name)
		require.GreaterOrEqual(t, c.Max, c.P99, name)
		require.Equal(t, c, r.EachRound[0].Calls[name])
	}
	require.GreaterOrEqual(t, r.Calls["claim"].Calls, 40, "one a channel at least")
}

func TestStreamWithoutARateGoesAsFastAsItCan(t *testing.T) {
	t.Parallel()
	r := inJSON(t, "stream --rate 0 --jobs 5000")
	require.Equal(t, 5000, r.Jobs)
	require.Len(t, r.Tenths, 10)
}

func TestLatencyIsInCommitsToo(t *testing.T) {
	t.Parallel()
	for _, flags := range []string{"--jobs 50", "--jobs 50 --in-tx", "--jobs 1000 --delayed"} {
		t.Run(flags, func(t *testing.T) {
			t.Parallel()
			r := inJSON(t, "latency --rounds 1 "+flags)
			require.Positive(t, r.Latency.P50)
			require.GreaterOrEqual(t, r.Latency.P99, r.Latency.P50)
			require.InDelta(t, r.Latency.P50/r.CommitMS, r.LatencyCommits.P50, 1e-9)
		})
	}
}

func TestIdleCountsQueries(t *testing.T) {
	t.Parallel()
	r := inJSON(t, "idle --duration 4s --channels 3")
	require.Positive(t, r.Queries)
	require.GreaterOrEqual(t, r.Transactions, 1.0)
}

// Somebody's server is left as it was found.
func TestBenchOnSomebodysServer(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Options{Settings: small})
	pid := server.PID()
	for _, args := range []string{"drain --jobs 3000 --rounds 1", "enqueue --jobs 200 --connections 2 --rounds 1"} {
		r := inJSON(t, args+" --database "+server.URL())
		require.Contains(t, r.Check, "the WAL was on disk when the engine said so")
	}
	require.Equal(t, pid, server.PID(), "not crashed")
	pool, err := openPool(t.Context(), server.URL(), "postgres", 1, nil)
	require.NoError(t, err)
	defer pool.Close()
	var left int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname LIKE 'bearmq%'").Scan(&left))
	require.Zero(t, left)
}

// An interrupted bench leaves nothing running.
func TestInterruptedBenchCleansUp(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Options{Settings: small})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o, err := parse(strings.Fields("drain --jobs 1000 --slots 1 --handler 1h --rounds 1 --database "+server.URL()), &bytes.Buffer{})
	require.NoError(t, err)
	// The first checkpoint to the end: it is interrupted while the workers run.
	progress := &watcher{look: "enqueued 1,000 jobs", found: cancel}
	require.Equal(t, 130, run(ctx, o, &bytes.Buffer{}, progress))
	pool, err := openPool(t.Context(), server.URL(), "postgres", 1, nil)
	require.NoError(t, err)
	defer pool.Close()
	var left int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_database WHERE datname LIKE 'bearmq%'").Scan(&left))
	require.Zero(t, left)
}

// A watcher calls found at a line of progress.
type watcher struct {
	look  string
	found func()
}

func (w *watcher) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.look) {
		w.found()
	}
	return len(p), nil
}
