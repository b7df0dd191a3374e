package bearmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// doubled has a result, or fails for a payload below 0.
func doubled(t *testing.T, mq *Context) *ResultDefinition[int, int] {
	t.Helper()
	d := DefineResult[int, int](Spec[int]{Name: "double"})
	require.NoError(t, mq.Register(d.Handle(func(_ context.Context, j *Job[int]) (int, error) {
		if j.Payload < 0 {
			return 0, Permanent(errors.New("below zero"))
		}
		return 2 * j.Payload, nil
	})))
	return d
}

func TestAwait(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	double := doubled(t, mq)
	producer := sibling(t, mq) // another process
	work(t, mq, WorkerOptions{})

	id, err := double.Enqueue(t.Context(), producer, 21)
	require.NoError(t, err)
	for range 2 { // once more, when it is over
		got, err := double.Await(t.Context(), producer, id)
		require.NoError(t, err)
		require.Equal(t, 42, got)
		require.NoError(t, producer.Await(t.Context(), id), "of any definition")
	}

	id, err = double.Enqueue(t.Context(), producer, -1)
	require.NoError(t, err)
	_, err = double.Await(t.Context(), producer, id)
	var failed *JobFailedError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, JobFailedError{ID: id, State: StateFailed, Message: "below zero"}, *failed)

	err = producer.Await(t.Context(), id+1000)
	require.ErrorIs(t, err, ErrJobNotFound)
	require.ErrorContains(t, err, fmt.Sprintf("await job %v", id+1000))
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	id := enqueued(t, mq, numbers, 1)
	why := errors.New("no time")
	ctx, cancel := context.WithCancelCause(t.Context())
	waits := make(chan error)
	go func() { waits <- mq.Await(ctx, id) }()
	until(t, "it waits", func() bool {
		mq.awaits.mu.Lock()
		defer mq.awaits.mu.Unlock()
		return mq.awaits.hears && len(mq.awaits.waiting) == 1 && len(mq.awaits.ask) == 0
	})
	cancel(why)
	require.ErrorIs(t, soon(t, "its end", waits), why)
	require.Empty(t, mq.awaits.waiting)
	require.ErrorIs(t, mq.Await(ctx, id), why, "before it asks")
}

// Ten thousand wait on one connection, and none of the pool's; a process that dies meanwhile changes nothing.
func TestAwaitManyJobs(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	double := doubled(t, mq)
	producer := sibling(t, mq)
	const n = 10_000
	payloads := make([]int, n)
	for i := range payloads {
		payloads[i] = i
	}
	ids, err := double.EnqueueMany(t.Context(), producer, payloads)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			got, err := double.Await(t.Context(), producer, id)
			assert.NoError(t, err)
			assert.Equal(t, 2*i, got)
		})
	}
	until(t, "all wait", func() bool {
		producer.awaits.mu.Lock()
		defer producer.awaits.mu.Unlock()
		return producer.awaits.hears && len(producer.awaits.waiting) == n && len(producer.awaits.ask) == 0
	})
	require.Equal(t, 1, value[int](t, mq, "SELECT count(*) FROM pg_stat_activity WHERE query = $1",
		"LISTEN "+pgx.Identifier{mq.store.EndsChannel()}.Sanitize()))
	require.LessOrEqual(t, producer.pool.Stat().AcquiredConns(), int32(1))
	work(t, mq, WorkerOptions{})
	wg.Wait()
	require.Empty(t, producer.awaits.waiting)
}

// Nobody relies on notifications: not where none is sent, nor where the listener is cut off.
func TestAwaitWithoutNotifications(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, mq *Context){
		"not sent": func(t *testing.T, mq *Context) { require.Positive(t, exec(t, mq, "DELETE FROM bearmq.awaiter")) },
		"not heard": func(t *testing.T, mq *Context) {
			require.Equal(t, 1, value[int](t, mq, "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query = $1",
				"LISTEN "+pgx.Identifier{mq.store.EndsChannel()}.Sanitize()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			double := doubled(t, mq)
			id, err := double.Enqueue(t.Context(), mq, 4)
			require.NoError(t, err)
			results := make(chan int)
			go func() {
				got, err := double.Await(t.Context(), mq, id)
				assert.NoError(t, err)
				results <- got
			}()
			until(t, "it is listed", func() bool { return value[int](t, mq, "SELECT count(*) FROM bearmq.awaiter") == 1 })
			harm(t, mq)
			drain(t, mq, WorkerOptions{})
			require.Equal(t, 8, soon(t, "the result", results))
		})
	}
}

// When nobody waits any more, nothing is left running or listed, and the next one starts it anew.
func TestAwaitEnds(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	for range 2 {
		id := enqueued(t, mq, numbers, 1)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		require.ErrorIs(t, mq.Await(ctx, id), context.DeadlineExceeded)
		cancel()
		until(t, "nothing runs", func() bool {
			mq.awaits.mu.Lock()
			defer mq.awaits.mu.Unlock()
			return mq.awaits.kick == nil
		})
		until(t, "nobody is listed", func() bool { return value[int](t, mq, "SELECT count(*) FROM bearmq.awaiter") == 0 })
		require.Zero(t, value[int](t, mq, "SELECT count(*) FROM pg_stat_activity WHERE query = $1",
			"LISTEN "+pgx.Identifier{mq.store.EndsChannel()}.Sanitize()))
	}
}

// Where nobody can ever find out, it says so.
func TestAwaitInASchemaThatIsNotThere(t *testing.T) {
	t.Parallel()
	mq, err := New(pgtest.DB(t), Options{Schema: pgtest.Schema(t), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.ErrorIs(t, mq.Await(t.Context(), 1), ErrNotMigrated)
}
