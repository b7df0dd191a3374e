package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/cmd/bearmq/internal/demo"
	"github.com/bearmq/bearmq/internal/pgtest"
)

const ordersFile = "../../testdata/orders.csv"

func TestDemoBooksEveryOrderAlthoughAWorkerIsKilled(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	r := call(t, "demo", "--orders", "600", "--rate", "300", "--file", ordersFile, "--database", m.url, "--schema", m.schema, "--json")
	require.Equal(t, exitOK, r.code, r.err)

	var s demo.Summary
	require.NoError(t, json.Unmarshal([]byte(r.out), &s))
	require.True(t, s.OK)
	require.Empty(t, s.Differences)
	require.Equal(t, 600, s.Jobs)
	require.Equal(t, s.Jobs+s.FailedAttempts, s.Attempts)
	require.NotZero(t, s.FailedAttempts)
	require.NotZero(t, s.LossesRecovered, "the killed worker was in the middle of payments")
	require.NotZero(t, s.RecoverSeconds)
	require.Equal(t, s.Customers, s.Checked.Balances)
	require.Greater(t, s.Checked.Sequences, s.Checked.Balances)
	require.Equal(t, 600, s.Latency["all"].Jobs)
	require.NotZero(t, s.Latency["HIGH"].Jobs)

	require.Contains(t, r.err, "worker 2 was killed")
	require.Contains(t, r.err, "report: ")
	require.False(t, m.exists())
	m.schema += "_shop"
	require.False(t, m.exists())
}

func TestDemoShowsASummary(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	r := call(t, "demo", "--orders", "3", "--file", ordersFile, "--database", m.url, "--schema", m.schema)
	require.Equal(t, exitOK, r.code, r.err)
	require.Empty(t, r.err)
	require.Regexp(t, `(?m)^  jobs +3  of 3 customers`, r.out)
	require.Contains(t, r.out, "OK: 3 balances and 3 sequences")
}

func TestDemoRefusesASecondOneInItsSchema(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	conn, err := pgtest.DB(t).Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	_, err = conn.Exec(t.Context(), "SELECT pg_advisory_lock(hashtextextended('bearmq demo ' || $1, 0))", m.schema)
	require.NoError(t, err)
	defer func() { _, _ = conn.Exec(context.Background(), "SELECT pg_advisory_unlock_all()") }()
	r := call(t, "demo", "--orders", "3", "--file", ordersFile, "--database", m.url, "--schema", m.schema)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "another demo runs")
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out watched
	out.when("report: ", cancel)
	code := run(ctx, []string{"demo", "--rate", "100", "--file", ordersFile, "--database", m.url, "--schema", m.schema},
		streams{in: strings.NewReader(""), out: &out, err: &out})
	require.Equal(t, exitInterrupted, code, out.String())
	require.Contains(t, out.String(), "bearmq: interrupted")
	require.False(t, m.exists())
	m.schema += "_shop"
	require.False(t, m.exists())
	pids := regexp.MustCompile(`\(process (\d+)\)`).FindAllStringSubmatch(out.String(), -1)
	require.Len(t, pids, 2)
	for _, pid := range pids {
		n, err := strconv.Atoi(pid[1])
		require.NoError(t, err)
		p, err := os.FindProcess(n)
		require.NoError(t, err)
		require.Error(t, p.Signal(syscall.Signal(0)), "worker process %d is still there", n)
	}
}

func TestDemoKeepsItsDataWhereItIsAskedTo(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	base, err := os.MkdirTemp("", "bearmq-demo-test-")
	require.NoError(t, err)
	defer func() { require.NoError(t, os.RemoveAll(base)) }()
	require.NoError(t, os.Chmod(base, 0o755)) // for root the server runs as somebody else
	dir := filepath.Join(base, "data")
	for range 2 { // the second run finds what the first has left
		r := call(t, "demo", "--orders", "3", "--file", ordersFile, "--data", dir)
		require.Equal(t, exitOK, r.code, r.err+r.out)
		require.Contains(t, r.out, dir)
		require.FileExists(t, dir+"/PG_VERSION")
		require.NoFileExists(t, dir+"/postmaster.pid", "its server is stopped")
	}
}

func TestDemoSaysWhatIsWrongWithItsFile(t *testing.T) {
	t.Parallel()
	r := call(t, "demo", "--file", "no-such-file.csv")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "bearmq: the file of orders: open no-such-file.csv")
}

func TestWorkerProcessEndsWithItsParent(t *testing.T) {
	t.Parallel()
	program, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	worker := exec.CommandContext(ctx, program, demo.WorkerCommand) // with an input that has ended, as if its parent had
	require.NoError(t, worker.Run())
}

// watched keeps what is written and looks out for a text.
type watched struct {
	mu   sync.Mutex
	text strings.Builder
	want string
	then func()
}

func (w *watched) when(want string, then func()) { w.want, w.then = want, then }

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if w.then != nil && strings.Contains(string(p), w.want) {
		w.then()
		w.then = nil
	}
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}
