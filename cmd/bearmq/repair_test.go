package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/invariant"
	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// A site is one cluster, with the application on it.
type site struct {
	*testing.T
	server *pgserver.Server
	pool   *pgxpool.Pool
	mq     *bearmq.Context

	mu   sync.Mutex
	fail bool
	ran  []string        // the payloads, in the order of the starts
	hold <-chan struct{} // what jobs named hold wait for
}

var (
	work = bearmq.Define(bearmq.Spec[string]{Name: "work", Attempts: 2, Backoff: bearmq.Constant(time.Hour), GroupOrder: bearmq.Strict,
		Group: func(p string) string { group, _, _ := strings.Cut(p, "/"); return group }})
	hold = bearmq.Define(bearmq.Spec[string]{Name: "hold"})
)

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, server: pgtest.Start(t, pgserver.Options{})}
	s.connect(s.server.URL())
	return s
}

func (s *site) connect(url string) {
	s.Helper()
	var err error
	s.pool, err = pgxpool.New(s.Context(), url)
	require.NoError(s, err)
	s.Cleanup(s.pool.Close)
	s.mq, err = bearmq.New(s.pool, bearmq.Options{SessionTTL: time.Second})
	require.NoError(s, err)
	require.NoError(s, s.mq.Register(
		work.Handle(func(_ context.Context, job *bearmq.Job[string]) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.ran = append(s.ran, job.Payload)
			if s.fail && strings.HasSuffix(job.Payload, "flaky") {
				return errors.New("on purpose")
			}
			return nil
		}),
		hold.Handle(func(_ context.Context, job *bearmq.Job[string]) error {
			s.mu.Lock()
			s.ran = append(s.ran, job.Payload)
			s.mu.Unlock()
			<-s.hold
			return nil
		})))
}

// age puts transactions behind the cluster.
func (s *site) age(transactions int) {
	s.Helper()
	_, err := s.pool.Exec(s.Context(), fmt.Sprintf("DO $$ BEGIN FOR i IN 1..%d LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$", transactions))
	require.NoError(s, err)
}

// states counts the jobs of each state.
func (s *site) states() map[string]int {
	s.Helper()
	rows, err := s.pool.Query(s.Context(), "SELECT state, count(*) FROM bearmq.job_state GROUP BY state")
	require.NoError(s, err)
	defer rows.Close()
	states := map[string]int{}
	for rows.Next() {
		var state string
		var n int
		require.NoError(s, rows.Scan(&state, &n))
		states[state] = n
	}
	require.NoError(s, rows.Err())
	return states
}

// program runs one of PostgreSQL's programs, of the server's version.
func (s *site) program(name string, args ...string) {
	s.Helper()
	path := filepath.Join(s.server.BinDir(), name)
	require.FileExists(s, path, "this test needs PostgreSQL's client programs beside its server (Debian and Ubuntu: apt-get install postgresql-client)")
	out, err := exec.CommandContext(s.Context(), path, args...).CombinedOutput()
	require.NoError(s, err, "%s: %s", name, out)
}

// migrate calls bearmq migrate.
func (s *site) migrate(input string, args ...string) result {
	return callWith(s.Context(), input, append([]string{"migrate", "--database", s.server.URL()}, args...)...)
}

// A dump of a database in full work goes to another cluster, with fewer or with more transactions behind it: it is refused
// there until it is repaired, and then all that was not over runs, in its order.
func TestADumpIsRestoredInAnotherClusterAndRepaired(t *testing.T) {
	t.Parallel()
	for name, ages := range map[string][2]int{"with fewer transactions": {5000, 0}, "with more transactions": {0, 5000}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dump := filepath.Join(t.TempDir(), "dump")
			before, after := newSite(t), newSite(t)
			before.age(ages[0])
			after.age(ages[1])
			busy(before, func() {
				before.program("pg_dump", "--format=custom", "--file="+dump, "--dbname="+before.server.URL())
			})
			after.program("pg_restore", "--exit-on-error", "--dbname="+after.server.URL(), dump)
			found := after.states()
			for _, state := range []string{"queued", "blocked", "scheduled", "retrying", "running", "completed", "failed"} {
				require.NotZero(t, found[state], "%s in %v", state, found)
			}

			// Nothing runs, and everybody says what to do.
			require.ErrorIs(t, bearmq.NewWorker(after.mq, bearmq.WorkerOptions{}).Run(t.Context()), bearmq.ErrRestored)
			_, err := work.Enqueue(t.Context(), after.mq, "new")
			require.ErrorIs(t, err, bearmq.ErrRestored)
			require.Contains(t, after.migrate("", "status").out, "run bearmq migrate repair")
			var status versions
			require.NoError(t, json.Unmarshal([]byte(after.migrate("", "status", "--json").out), &status))
			require.True(t, status.Restored)
			r := after.migrate("", "up")
			require.Equal(t, exitFailed, r.code)
			require.Contains(t, r.err, "bearmq migrate repair")
			r = after.migrate("no\n", "repair")
			require.Equal(t, exitFailed, r.code)
			require.Contains(t, r.err, "they run there too")
			require.Contains(t, r.err, "nothing was repaired")
			require.Equal(t, found, after.states())

			// The session that was alive in the dump has to end first.
			require.Eventually(t, func() bool {
				r = after.migrate("", "repair", "--yes", "--json")
				return r.code == exitOK || !strings.Contains(r.out, "may still be running")
			}, 20*time.Second, 50*time.Millisecond)
			require.Equal(t, exitOK, r.code, r.out)
			var done repaired
			require.NoError(t, json.Unmarshal([]byte(r.out), &done))
			require.Equal(t, repaired{"bearmq", true, found["queued"], found["blocked"] + found["scheduled"] + found["retrying"] + found["running"],
				found["running"], 0}, done)
			require.Contains(t, after.migrate("", "repair").out, "needs no repair")
			require.Contains(t, after.migrate("", "status").out, "up to date")
			require.NoError(t, invariant.Check(t.Context(), after.pool, "bearmq"))

			var want []string
			rows, err := after.pool.Query(t.Context(), "SELECT payload #>> '{}' FROM bearmq.job_state WHERE finished_at IS NULL ORDER BY id")
			require.NoError(t, err)
			for rows.Next() {
				var payload string
				require.NoError(t, rows.Scan(&payload))
				want = append(want, payload)
			}
			require.NoError(t, rows.Err())
			_, err = work.Enqueue(t.Context(), after.mq, "strict/new")
			require.NoError(t, err)
			_, err = after.pool.Exec(t.Context(), "UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE state = 'd'")
			require.NoError(t, err)
			open := make(chan struct{})
			close(open)
			after.hold = open
			require.NoError(t, bearmq.NewWorker(after.mq, bearmq.WorkerOptions{}).Drain(t.Context()))
			require.ElementsMatch(t, append(want, "strict/new"), after.ran, "each once")
			for _, group := range []string{"strict", "g0", "g1"} {
				of := func(all []string) []string {
					return slices.DeleteFunc(slices.Clone(all), func(p string) bool { return !strings.HasPrefix(p, group+"/") })
				}
				require.Equal(t, of(append(want, "strict/new")), of(after.ran), "group %s", group)
			}
			require.Equal(t, map[string]int{"completed": len(want) + 1 + found["completed"], "failed": found["failed"]}, after.states())
			require.NoError(t, invariant.Check(t.Context(), after.pool, "bearmq"))
		})
	}
}

// The ids of the same cluster mean in another database what they meant in the first.
func TestADumpIsRestoredInAnotherDatabaseOfItsCluster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dump := filepath.Join(t.TempDir(), "dump")
	busy(s, func() {
		s.program("pg_dump", "--format=custom", "--file="+dump, "--dbname="+s.server.URL())
	})
	_, err := s.pool.Exec(t.Context(), "CREATE DATABASE other")
	require.NoError(t, err)
	url := strings.Replace(s.server.URL(), "/postgres?", "/other?", 1)
	s.program("pg_restore", "--exit-on-error", "--dbname="+url, dump)

	require.Contains(t, call(t, "migrate", "status", "--database", url).out, "up to date")
	require.Contains(t, call(t, "migrate", "repair", "--database", url).out, "needs no repair")
	other := &site{T: t}
	other.connect(url)
	found := other.states()
	require.NoError(t, bearmq.NewWorker(other.mq, bearmq.WorkerOptions{}).Drain(t.Context()))
	require.Len(t, other.ran, found["queued"], "what was running waits for an orchestrator")
	require.Zero(t, other.states()["queued"])
	require.NoError(t, invariant.CheckRunning(t.Context(), other.pool, "bearmq"))
}

// busy fills a site with jobs in all states, calls do while a worker runs, and stops the worker.
func busy(s *site, do func()) {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	release := make(chan struct{})
	s.hold, s.fail = release, true
	require.NoError(s, s.mq.Migrate(ctx))
	enqueue := func(d *bearmq.JobDefinition[string], payload string, opts ...bearmq.EnqueueOption) {
		_, err := d.Enqueue(ctx, s.mq, payload, opts...)
		require.NoError(s, err)
	}
	for i := range 20 {
		enqueue(work, fmt.Sprintf("g%d/done %d", i%3, i))
	}
	enqueue(work, "/flaky", bearmq.Attempts(1))
	enqueue(work, "strict/flaky")
	enqueue(work, "strict/1")
	enqueue(work, "strict/2")
	enqueue(work, "later", bearmq.Delay(time.Hour))
	enqueue(hold, "hold 1")
	enqueue(hold, "hold 2")
	// In a channel of no worker: from transactions that overlap, and are committed in another order than they began.
	for i := range 20 {
		tx, err := s.pool.Begin(ctx)
		require.NoError(s, err)
		_, err = tx.Exec(ctx, "SELECT pg_current_xact_id()")
		require.NoError(s, err)
		_, err = work.EnqueueMany(ctx, s.mq, []string{fmt.Sprintf("g%d/queued %d", i%2, 2*i), fmt.Sprintf("g%d/queued %d", i%2, 2*i+1)}, bearmq.InChannel("closed"))
		require.NoError(s, err)
		_, err = work.Enqueue(ctx, s.mq.In(tx), fmt.Sprintf("early %d", i), bearmq.InChannel("closed"))
		require.NoError(s, err)
		require.NoError(s, tx.Commit(ctx))
	}

	ended := make(chan error)
	run, stop := context.WithCancel(s.Context())
	go func() {
		ended <- bearmq.NewWorker(s.mq, bearmq.WorkerOptions{Channels: []string{"default"}, Concurrency: 4}).Run(run)
	}()
	require.Eventually(s, func() bool {
		n := s.states()
		return n["running"] == 2 && n["completed"] == 20 && n["failed"] == 1 && n["retrying"] == 1 && n["blocked"] == 2
	}, time.Minute, 20*time.Millisecond)
	do()
	close(release)
	stop()
	require.NoError(s, <-ended)
}
