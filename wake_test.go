package bearmq

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// asleep waits until a worker is listed as asleep, and is so in truth.
func asleep(t *testing.T, mq *Context, n int) {
	t.Helper()
	until(t, "the worker sleeps", func() bool { return value[int](t, mq, "SELECT count(*) FROM bearmq.sleeper") == n })
}

// prompt is how fast a sleeping worker is to start: on an idle machine it
// takes a few milliseconds.
const prompt = 5 * time.Second

// A worker that sleeps, and polls once an hour, is woken by what another
// process does.
func TestWakeAcrossProcesses(t *testing.T) {
	t.Parallel()
	for name, enqueue := range map[string]func(t *testing.T, mq *Context){
		"enqueue":     func(t *testing.T, mq *Context) { enqueued(t, mq, numbers, 1) },
		"in a group":  func(t *testing.T, mq *Context) { enqueued(t, mq, numbers, 1, InGroup("g")) },
		"new channel": func(t *testing.T, mq *Context) { enqueued(t, mq, numbers, 1, InChannel("new")) },
		"many": func(t *testing.T, mq *Context) {
			_, err := numbers.EnqueueMany(t.Context(), mq, upTo(500))
			require.NoError(t, err)
		},
		"raw": func(t *testing.T, mq *Context) {
			_, err := mq.EnqueueRaw(t.Context(), "numbers", json.RawMessage("1"))
			require.NoError(t, err)
		},
		"transaction": func(t *testing.T, mq *Context) {
			tx, err := mq.pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			enqueued(t, mq.In(tx), numbers, 1)
			require.NoError(t, tx.Commit(t.Context()))
		},
		"delayed": func(t *testing.T, mq *Context) { enqueued(t, mq, numbers, 1, Delay(300*time.Millisecond)) },
		"delayed, many": func(t *testing.T, mq *Context) {
			_, err := numbers.EnqueueMany(t.Context(), mq, upTo(100), Delay(300*time.Millisecond))
			require.NoError(t, err)
		},
		"a resumed channel": func(t *testing.T, mq *Context) {
			require.NoError(t, mq.Pause(t.Context(), "default"))
			enqueued(t, mq, numbers, 1)
			require.NoError(t, mq.Resume(t.Context(), "default"))
		},
		"a tick of a schedule": func(t *testing.T, mq *Context) {
			require.NoError(t, mq.Register(Define(Spec[int]{Name: "numbers"}).RepeatWith(Every(time.Second), func(time.Time) int { return 1 })))
			launch(t, NewOrchestrator(mq, OrchestratorOptions{}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			producer := sibling(t, mq)
			started := make(chan time.Time, 2000)
			handled(t, mq, numbers, func(context.Context, *Job[int]) error { started <- time.Now(); return nil })
			work(t, mq, WorkerOptions{PollInterval: time.Hour})
			asleep(t, mq, 1)
			for range 3 {
				began := time.Now()
				if name == "a tick of a schedule" && len(producer.registry.schedules()) > 0 {
					soon(t, "the handler", started)
					continue
				}
				enqueue(t, producer)
				assert.Less(t, soon(t, "the handler", started).Sub(began), prompt)
			}
		})
	}
}

// A group that becomes free on one worker goes on on another, which sleeps.
func TestWakeOfAFreedGroup(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	other := sibling(t, mq)
	started, let := make(chan struct{}, 1), make(chan struct{})
	handled(t, mq, Define(Spec[int]{Name: "first"}), func(context.Context, *Job[int]) error { started <- struct{}{}; <-let; return nil })
	second := make(chan struct{}, 1)
	handled(t, other, Define(Spec[int]{Name: "second"}), func(context.Context, *Job[int]) error { second <- struct{}{}; return nil })
	for _, name := range []string{"first", "second"} {
		_, err := mq.EnqueueRaw(t.Context(), name, json.RawMessage("1"), InGroup("g"), InChannel(name))
		require.NoError(t, err)
		if name == "first" {
			work(t, mq, WorkerOptions{Channels: []string{"first"}, PollInterval: time.Hour})
			soon(t, "the first job", started)
			work(t, other, WorkerOptions{Channels: []string{"second"}, PollInterval: time.Hour})
			until(t, "the other worker sleeps", func() bool {
				return value[int](t, mq, "SELECT count(*) FROM bearmq.sleeper WHERE 'second' = ANY (channels)") == 1
			})
		}
	}
	until(t, "the second is blocked", func() bool { return value[int](t, mq, "SELECT count(*) FROM bearmq.ticket WHERE state = 'b'") == 1 })
	close(let)
	soon(t, "the second job", second)
}

// Retries and snoozes come at their time, without a poll.
func TestWakeForARetry(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	job := Define(Spec[int]{Name: "j", Attempts: 2, Backoff: Constant(200 * time.Millisecond)})
	snoozed := false
	handled(t, mq, job, func(_ context.Context, j *Job[int]) error {
		switch {
		case j.Attempt == 1:
			return errBoom
		case !snoozed:
			snoozed = true
			return Snooze(200 * time.Millisecond)
		}
		return nil
	})
	work(t, mq, WorkerOptions{PollInterval: time.Hour})
	asleep(t, mq, 1)
	enqueued(t, mq, job, 1, InGroup("g"))
	await[JobSucceeded](t, events, 1)
	require.Len(t, seen[JobStarted](events), 3)
}

// Without NOTIFY a worker finds everything by polling.
func TestPollingAlone(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	producer := sibling(t, mq)
	done := make(chan int, 1000)
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error { done <- j.Payload; return nil })
	// Somebody takes the listener's place, and never listens.
	mq.wakes.stop, mq.wakes.deaf = func() {}, true
	mq.wakes.done = make(chan struct{})
	close(mq.wakes.done)
	work(t, mq, WorkerOptions{PollInterval: 20 * time.Millisecond})
	for i := range 5 {
		enqueued(t, producer, numbers, i)
		require.Equal(t, i, soon(t, "the handler", done))
	}
	enqueued(t, producer, numbers, 5, Delay(50*time.Millisecond))
	enqueued(t, producer, numbers, 6, InChannel("new"))
	require.ElementsMatch(t, []int{5, 6}, []int{soon(t, "the handler", done), soon(t, "the handler", done)})
	require.Zero(t, value[int](t, mq, "SELECT count(*) FROM bearmq.sleeper"), "it does not ask to be notified")
}

// A listener whose connection breaks comes back, and what happened meanwhile
// is looked for.
func TestListenerComesBack(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	producer := sibling(t, mq)
	events := listen(t, mq)
	done := make(chan int, 1000)
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error { done <- j.Payload; return nil })
	work(t, mq, WorkerOptions{PollInterval: time.Hour})
	for i := range 3 {
		asleep(t, mq, 1)
		until(t, "it listens", mq.wakes.hears)
		n := value[int](t, mq, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query = $1",
			"LISTEN "+pgx.Identifier{mq.store.WakeChannel()}.Sanitize())
		require.Equal(t, 1, n)
		enqueued(t, producer, numbers, i)
		require.Equal(t, i, soon(t, "the handler", done))
	}
	require.Equal(t, "listen", await[DaemonFailing](t, events, 1)[0].Loop)
}

// counter counts the statements of a pool.
type counter struct{ n atomic.Int64 }

func (c *counter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.n.Add(1)
	return ctx
}
func (c *counter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A worker that has nothing to do, or cannot have what is there because
// another transaction holds it, does not ask all the time.
func TestAnIdleWorkerIsQuiet(t *testing.T) {
	t.Parallel()
	for name, locked := range map[string]bool{"nothing to do": false, "a due job that is locked": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			config, err := pgxpool.ParseConfig(pgtest.URL(t))
			require.NoError(t, err)
			statements := &counter{}
			config.ConnConfig.Tracer = statements
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			require.NoError(t, err)
			defer pool.Close()
			mine, err := New(pool, mq.opts)
			require.NoError(t, err)
			done := make(chan struct{}, 1)
			handled(t, mine, numbers, func(context.Context, *Job[int]) error { done <- struct{}{}; return nil })
			tx, err := mq.pool.Begin(t.Context())
			require.NoError(t, err)
			defer tx.Rollback(t.Context())
			if locked {
				enqueued(t, mq, numbers, 1, Delay(time.Nanosecond))
				_, err = tx.Exec(t.Context(), inSchema(mq, "SELECT FROM bearmq.ticket FOR UPDATE"))
				require.NoError(t, err)
			}
			w := work(t, mine, WorkerOptions{})
			_, err = tx.Exec(t.Context(), "SELECT pg_sleep(2)")
			require.NoError(t, err)
			assert.Less(t, statements.n.Load(), int64(300))
			require.NoError(t, tx.Rollback(t.Context()))
			if locked {
				soon(t, "the job", done)
			}
			require.NoError(t, w.stop(t))
		})
	}
}
