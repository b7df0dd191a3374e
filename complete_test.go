package bearmq

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// effects is a table of what handlers did.
func effects(t *testing.T, mq *Context) (count func() int) {
	t.Helper()
	exec(t, mq, "CREATE TABLE bearmq.effect (job_id bigint)")
	return func() int { return value[int](t, mq, "SELECT count(*) FROM bearmq.effect") }
}

// effect writes one and completes the job in tx.
func effect(ctx context.Context, mq *Context, tx pgx.Tx, job *RawJob) error {
	if _, err := tx.Exec(ctx, inSchema(mq, "INSERT INTO bearmq.effect VALUES ($1)"), job.ID); err != nil {
		return err
	}
	return job.CompleteTx(ctx, tx)
}

// The outcome of the transaction decides, not what the handler returns.
func TestCompleteTx(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		commit bool
		after  func() error
		done   bool
		text   string
	}{
		"committed":                       {true, func() error { return nil }, true, ""},
		"committed, then an error":        {true, func() error { return errBoom }, true, ""},
		"committed, then permanent":       {true, func() error { return Permanent(errBoom) }, true, ""},
		"committed, then a snooze":        {true, func() error { return Snooze(time.Hour) }, true, ""},
		"committed, then a panic":         {true, func() error { panic("no") }, true, ""},
		"rolled back, then nil":           {false, func() error { return nil }, false, errNotCommitted.Error()},
		"rolled back, then an error":      {false, func() error { return errBoom }, false, "boom"},
		"rolled back, then Goexit's like": {false, func() error { new(testing.T).FailNow(); return nil }, false, errExited.Error()},
	} {
		for _, group := range []string{"", "g"} {
			t.Run(name+" in group "+group, func(t *testing.T) {
				t.Parallel()
				mq := quiet(t, Options{})
				count := effects(t, mq)
				events := listen(t, mq)
				job := Define(Spec[int]{Name: "j", Attempts: 2, Backoff: Constant(time.Hour)})
				handled(t, mq, job, func(ctx context.Context, j *Job[int]) error {
					tx, err := mq.pool.Begin(ctx)
					if err != nil {
						return err
					}
					defer tx.Rollback(context.Background())
					if err := effect(ctx, mq, tx, j.RawJob); err != nil {
						return err
					}
					if test.commit {
						if err := tx.Commit(ctx); err != nil {
							return err
						}
					} else if err := tx.Rollback(ctx); err != nil {
						return err
					}
					return test.after()
				})
				id := enqueued(t, mq, job, 1, InGroup(group))
				behind := enqueued(t, mq, job, 2, InGroup(group))
				drain(t, mq, WorkerOptions{})
				for _, id := range []JobID{id, behind} {
					r := recordOf(t, mq, id)
					if test.done {
						require.Equal(t, StateCompleted, r.State)
						require.Empty(t, attemptErrors(t, mq, id))
					} else {
						require.Equal(t, StateRetrying, r.State)
						require.Equal(t, []string{"1 " + test.text}, attemptErrors(t, mq, id))
					}
				}
				if test.done {
					require.Equal(t, 2, count())
					require.Len(t, seen[JobSucceeded](events), 2)
					require.Empty(t, seen[JobErrored](events))
				} else {
					require.Zero(t, count())
					require.Len(t, seen[JobErrored](events), 2)
				}
			})
		}
	}
}

// A transaction that is still open when the handler returns is waited for: its
// end decides.
func TestCompleteTxStillOpen(t *testing.T) {
	t.Parallel()
	for _, commit := range []bool{true, false} {
		mq := quiet(t, Options{})
		count := effects(t, mq)
		events := listen(t, mq)
		open := make(chan pgx.Tx, 1)
		handled(t, mq, numbers, func(ctx context.Context, j *Job[int]) error {
			tx, err := mq.pool.Begin(context.Background())
			if err != nil {
				return err
			}
			open <- tx
			return effect(ctx, mq, tx, j.RawJob)
		})
		id := enqueued(t, mq, numbers, 1, InGroup("g"))
		w := work(t, mq, WorkerOptions{})
		tx := soon(t, "the transaction", open)
		until(t, "the worker waits for it", func() bool {
			return value[int](t, mq, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%' || $1 || '%completing%' AND wait_event_type = 'Lock'", mq.opts.Schema) == 1
		})
		require.Empty(t, seen[JobSucceeded](events))
		if commit {
			require.NoError(t, tx.Commit(t.Context()))
			await[JobSucceeded](t, events, 1)
		} else {
			require.NoError(t, tx.Rollback(t.Context()))
			require.ErrorIs(t, await[JobErrored](t, events, 1)[0].Err, errNotCommitted)
		}
		require.NoError(t, w.stop(t))
		require.Equal(t, map[bool]int{true: 1, false: 0}[commit], count())
		require.Equal(t, map[bool]State{true: StateCompleted, false: StateFailed}[commit], recordOf(t, mq, id).State)
	}
}

// Jobs of one lease complete at once, each in its own transaction.
func TestCompleteTxTwiceOnOneLease(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	count := effects(t, mq)
	events := listen(t, mq)
	both := make(chan struct{}, 2)
	commit := make(chan struct{})
	handled(t, mq, numbers, func(ctx context.Context, j *Job[int]) error {
		return pgx.BeginFunc(ctx, mq.pool, func(tx pgx.Tx) error {
			if err := effect(ctx, mq, tx, j.RawJob); err != nil {
				return err
			}
			both <- struct{}{}
			<-commit
			return nil
		})
	})
	_, err := numbers.EnqueueMany(t.Context(), mq, upTo(2))
	require.NoError(t, err)
	w := work(t, mq, WorkerOptions{})
	soon(t, "one", both)
	soon(t, "the other, while the first is open", both)
	require.Equal(t, 1, value[int](t, mq, "SELECT count(*) FROM bearmq.lease WHERE NOT finished"))
	close(commit)
	await[JobSucceeded](t, events, 2)
	require.Equal(t, 2, count())
	require.NoError(t, w.stop(t))
}

// Once the lease is lost CompleteTx refuses, and the effects are rolled back.
// The job's next run has them, exactly once.
func TestCompleteTxAfterTheLeaseWasLost(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]bool{"before the process knows": false, "when the process knows": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{SessionTTL: 3 * time.Second})
			gone := sibling(t, mq)
			count := effects(t, mq)
			started, let, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			complete := func(ctx context.Context, j *Job[int]) error {
				return pgx.BeginFunc(ctx, mq.pool, func(tx pgx.Tx) error { return effect(ctx, mq, tx, j.RawJob) })
			}
			handled(t, mq, numbers, complete)
			handled(t, gone, numbers, func(ctx context.Context, j *Job[int]) error {
				close(started)
				if late {
					<-ctx.Done()
				}
				<-let
				err := complete(context.WithoutCancel(ctx), j)
				result <- err
				return err
			})
			id := enqueued(t, mq, numbers, 1, InGroup("g"))
			w := work(t, gone, WorkerOptions{})
			soon(t, "the handler", started)
			require.NoError(t, mq.Pause(t.Context(), "default")) // or this worker takes the job again, with a new session
			kill(t, mq)
			recoverAll(t, mq)
			close(let)
			require.ErrorIs(t, soon(t, "CompleteTx", result), ErrLeaseLost)
			require.Zero(t, count())
			require.NoError(t, w.stop(t))
			require.NoError(t, mq.Resume(t.Context(), "default"))
			drain(t, mq, WorkerOptions{})
			require.Equal(t, 1, count())
			require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
			require.Empty(t, attemptErrors(t, mq, id))
		})
	}
}

// A transaction that completes a job may not idle for longer than the session
// lives without a sign.
func TestCompleteTxLimitsIdling(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 20 * time.Second})
	effects(t, mq)
	var limit int
	handled(t, mq, numbers, func(ctx context.Context, j *Job[int]) error {
		return pgx.BeginFunc(ctx, mq.pool, func(tx pgx.Tx) error {
			if err := effect(ctx, mq, tx, j.RawJob); err != nil {
				return err
			}
			return tx.QueryRow(ctx, "SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'").Scan(&limit)
		})
	})
	enqueued(t, mq, numbers, 1)
	drain(t, mq, WorkerOptions{})
	require.Positive(t, limit)
	require.LessOrEqual(t, limit, 20_000)
}

// Outside a worker, and with a transaction that has failed, it is an error.
func TestCompleteTxErrors(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	require.Error(t, (&RawJob{ID: 1}).CompleteTx(t.Context(), mq.pool))
	handled(t, mq, numbers, func(ctx context.Context, j *Job[int]) error {
		tx, err := mq.pool.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		if _, err := tx.Exec(ctx, "SELECT 1/0"); err == nil {
			return errors.New("no error")
		}
		err = j.CompleteTx(ctx, tx)
		assert.Error(t, err)
		assert.NotErrorIs(t, err, ErrLeaseLost)
		return err
	})
	id := enqueued(t, mq, numbers, 1)
	drain(t, mq, WorkerOptions{})
	require.Equal(t, StateFailed, recordOf(t, mq, id).State)
}
