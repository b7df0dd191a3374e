package bearmq

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// A running handler may go on when its worker stops, and is done.
func TestStopWaitsForHandlers(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	let := make(chan struct{})
	handled(t, mq, numbers, func(ctx context.Context, _ *Job[int]) error { <-let; return ctx.Err() })
	id := enqueued(t, mq, numbers, 0)
	w := work(t, mq, WorkerOptions{})
	await[JobStarted](t, events, 1)
	w.cancel()
	later := enqueued(t, mq, numbers, 1)
	close(let)
	require.NoError(t, w.stop(t))
	require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
	require.Equal(t, StateQueued, recordOf(t, mq, later).State, "nothing is claimed any more")
	stopped := seen[DaemonStopped](events)
	require.Len(t, stopped, 1)
	require.NoError(t, stopped[0].Err)
}

// What was claimed and has not started is given back at once, as it was and in
// its order; an attempt that shutdown ended is not counted.
func TestStopGivesBack(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"", "g"} {
		for name, give := range map[string]func(ctx context.Context) error{
			"the context's error": func(ctx context.Context) error { return ctx.Err() },
			"the cause":           context.Cause,
			"another error":       func(context.Context) error { return errBoom },
		} {
			t.Run(name+" in group "+group, func(t *testing.T) {
				t.Parallel()
				mq := quiet(t, Options{})
				events := listen(t, mq)
				job := Define(Spec[int]{Name: "j", GroupOrder: Strict})
				var order notebook[int]
				slow := true
				handled(t, mq, job, func(ctx context.Context, j *Job[int]) error {
					if assert.Equal(t, 1, j.Attempt); !slow || j.Payload < 50 {
						order.add(j.Payload)
						return nil
					}
					<-ctx.Done() // of the worker's grace
					assert.ErrorIs(t, context.Cause(ctx), ErrShutdown)
					return give(ctx)
				})
				// Fast ones first, so that it claims ahead.
				ids, err := job.EnqueueMany(t.Context(), mq, upTo(200), InGroup(group))
				require.NoError(t, err)
				w := work(t, mq, WorkerOptions{Concurrency: 1, StopGrace: NoStopGrace})
				await[JobStarted](t, events, 51)
				require.Greater(t, len(seen[JobDequeued](events)), 51, "there is something to give back")
				require.NoError(t, w.stop(t))
				for _, id := range ids[50:] {
					r := recordOf(t, mq, id)
					require.Contains(t, []State{StateQueued, StateScheduled, StateBlocked}, r.State)
					require.Equal(t, 1, r.Attempt)
					require.Zero(t, r.Losses)
				}
				require.Zero(t, value[int](t, mq, "SELECT count(*) FROM bearmq.lease WHERE NOT finished"))
				require.Empty(t, seen[JobErrored](events))
				require.Zero(t, value[int](t, mq, "SELECT count(*) FROM bearmq.attempt_error"))

				slow = false
				drain(t, mq, WorkerOptions{Concurrency: 1})
				require.ElementsMatch(t, upTo(200), order.all())
				if group != "" {
					require.Equal(t, upTo(200), order.all())
				}
			})
		}
	}
}

// A handler that takes no notice is named. What it returns is not written, and
// it runs again where a worker is alive.
func TestStopNamesHandlersThatIgnoreIt(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second})
	leaves(t, mq)
	events := listen(t, mq)
	deaf := Define(Spec[int]{Name: "deaf"})
	let, returned := make(chan struct{}), make(chan struct{}, 2)
	defer close(let)
	handled(t, mq, deaf, func(context.Context, *Job[int]) error { <-let; returned <- struct{}{}; return nil })
	handled(t, mq, numbers, func(ctx context.Context, _ *Job[int]) error { <-ctx.Done(); return ctx.Err() })
	ids, err := deaf.EnqueueMany(t.Context(), mq, upTo(2))
	require.NoError(t, err)
	good := enqueued(t, mq, numbers, 0)
	w := work(t, mq, WorkerOptions{Name: "w", StopGrace: time.Millisecond})
	await[JobStarted](t, events, 3)
	err = w.stop(t)
	var ignored *StopError
	require.ErrorAs(t, err, &ignored)
	require.Equal(t, StopError{Jobs: ids, Definitions: []string{"deaf"}}, *ignored)
	require.Contains(t, err.Error(), ids[1].String())
	require.Equal(t, err, seen[DaemonStopped](events)[0].Err)
	require.Equal(t, StateScheduled, recordOf(t, mq, good).State)
	require.Equal(t, 1, recordOf(t, mq, good).Attempt)

	// Its session is not ended but expires, and then they run elsewhere.
	require.Equal(t, 2, value[int](t, mq, "SELECT count(*) FROM bearmq.lease l JOIN bearmq.session s ON s.id = l.session_id, bearmq.job j WHERE NOT l.finished AND s.expires_at > clock_timestamp() - interval '3 seconds' AND j.name = 'deaf' AND NOT EXISTS (SELECT FROM bearmq.outcome o WHERE o.job_id = j.id)"))
	kill(t, mq)
	recoverAll(t, mq)
	for _, id := range ids {
		require.Equal(t, 1, recordOf(t, mq, id).Losses)
	}
	require.Len(t, seen[JobRecovered](events), 2)
}

// Run returns when the last handler has ended, and then nothing of it is left:
// no goroutine and no connection.
func TestNothingIsLeftAfterRun(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	require.NoError(t, err)
	config.MaxConns = 3
	schema := pgtest.Schema(t)
	config.ConnConfig.RuntimeParams["application_name"] = schema
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	defer pool.Close()
	watch := pgtest.DB(t)
	mq, err := New(pool, Options{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.NoError(t, mq.Migrate(t.Context()))
	events := listen(t, mq)

	// All goroutines that are started in here carry the label.
	pprof.Do(t.Context(), pprof.Labels("bearmq_test", schema), func(ctx context.Context) {
		handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error {
			switch j.Payload % 3 {
			case 1:
				panic("no")
			case 2:
				return errors.New("no")
			}
			return nil
		})
		for range 2 {
			ran, cancel := context.WithCancel(ctx)
			w1, w2, o := NewWorker(mq, WorkerOptions{}), NewWorker(mq, WorkerOptions{Channels: []string{"default"}}), NewOrchestrator(mq, OrchestratorOptions{})
			done := make(chan error, 1)
			go func() { done <- Run(ran, w1, w2, o) }()
			before := len(seen[JobSucceeded](events))
			_, err = numbers.EnqueueMany(t.Context(), mq, upTo(300))
			require.NoError(t, err)
			await[JobSucceeded](t, events, before+100)
			cancel()
			require.NoError(t, soon(t, "the daemons' end", done))
		}
	})
	pool.Reset() // its own idle connections
	until(t, "no connection is left", func() bool {
		var n int
		require.NoError(t, watch.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", schema).Scan(&n))
		return n == 0
	})
	left := ""
	assert.Eventually(t, func() bool {
		left = ""
		var stacks bytes.Buffer
		require.NoError(t, pprof.Lookup("goroutine").WriteTo(&stacks, 1))
		for stack := range strings.SplitSeq(stacks.String(), "\n\n") {
			// The pool's are the caller's, and this one is the test's.
			if strings.Contains(stack, schema) && !strings.Contains(stack, "pgxpool") && !strings.Contains(stack, "tRunner") {
				left += stack + "\n\n"
			}
		}
		return left == ""
	}, patience, 20*time.Millisecond)
	require.Empty(t, left)
}

// The daemons live through errors: whatever connections break, the work goes
// on, and no attempt is burnt.
func TestWorkGoesOnThroughBrokenConnections(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	require.NoError(t, err)
	config.MaxConns = 4
	schema := pgtest.Schema(t)
	config.ConnConfig.RuntimeParams["application_name"] = schema
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	admin := quiet(t, Options{}) // for its pool
	mq, err := New(pool, Options{Schema: schema, Logger: admin.log})
	require.NoError(t, err)
	require.NoError(t, mq.Migrate(t.Context()))
	events := listen(t, mq)
	job := Define(Spec[int]{Name: "j", Group: func(n int) string { return []string{"", "a", "b"}[n%3] }})
	ran := make(chan int, 10_000)
	handled(t, mq, job, func(_ context.Context, j *Job[int]) error { ran <- j.Payload; return nil })
	w := work(t, mq, WorkerOptions{Concurrency: 4})
	launch(t, NewOrchestrator(mq, OrchestratorOptions{RecoverPoll: 50 * time.Millisecond}))
	const rounds, each = 10, 30
	producer, err := New(admin.pool, Options{Schema: schema, Logger: admin.log})
	require.NoError(t, err)
	for i := range rounds {
		all := make([]int, each)
		for n := range all {
			all[n] = i*each + n
		}
		_, err := job.EnqueueMany(t.Context(), producer, all)
		require.NoError(t, err)
		soon(t, "a job", ran)
		_, err = admin.pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", schema)
		require.NoError(t, err)
	}
	until(t, "all jobs are done", func() bool {
		return value[int](t, producer, "SELECT count(*) FROM bearmq.job_state WHERE state = 'completed'") == rounds*each
	})
	require.Zero(t, value[int](t, producer, "SELECT count(*) FROM bearmq.attempt_error"))
	require.Zero(t, value[int](t, producer, "SELECT count(*) FROM bearmq.job_state WHERE attempt <> 1 OR losses <> 0"))
	require.NotEmpty(t, seen[DaemonFailing](events))
	require.Empty(t, seen[JobErrored](events))
	require.NoError(t, w.stop(t))
}
