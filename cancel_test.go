package bearmq

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func cancelled(t *testing.T, mq interface {
	Cancel(context.Context, JobID) (State, error)
}, id JobID) State {
	t.Helper()
	state, err := mq.Cancel(t.Context(), id)
	require.NoError(t, err)
	return state
}

// requireCancelled wants a job to be over, cancelled, and that nothing is left to do of it.
func requireCancelled(t *testing.T, mq *Context, id JobID) {
	t.Helper()
	r := recordOf(t, mq, id)
	require.Equal(t, StateCancelled, r.State)
	require.True(t, r.Finished)
	require.Zero(t, value[int](t, mq, "SELECT count(*) FROM bearmq.cancellation WHERE job_id = $1", id))
	require.Equal(t, StateCancelled, cancelled(t, mq, id), "once more")
	var failed *JobFailedError
	require.ErrorAs(t, mq.Await(t.Context(), id), &failed)
	require.Equal(t, StateCancelled, failed.State)
}

// A job that has not started never starts, whatever it waits for.
func TestCancelBeforeTheStart(t *testing.T) {
	t.Parallel()
	grouped := Define(Spec[int]{Name: "grouped", Group: func(int) string { return "g" }})
	for name, test := range map[string]struct {
		enqueue func(t *testing.T, mq *Context) JobID
		ended   bool // at once
	}{
		"queued":  {func(t *testing.T, mq *Context) JobID { return enqueued(t, mq, numbers, 1) }, false},
		"delayed": {func(t *testing.T, mq *Context) JobID { return enqueued(t, mq, numbers, 1, Delay(time.Hour)) }, true},
		"delayed, with a group": {func(t *testing.T, mq *Context) JobID {
			return enqueued(t, mq, grouped, 1, Delay(time.Hour))
		}, true},
		"due": {func(t *testing.T, mq *Context) JobID { return enqueued(t, mq, numbers, 1, RunAt(time.Unix(1, 0))) }, true},
		"paused": {func(t *testing.T, mq *Context) JobID {
			require.NoError(t, mq.Pause(t.Context(), "default"))
			t.Cleanup(func() { assert.NoError(t, mq.Resume(context.Background(), "default")) })
			return enqueued(t, mq, numbers, 1, Delay(time.Nanosecond))
		}, true},
		"blocked": {func(t *testing.T, mq *Context) JobID {
			enqueued(t, mq, grouped, 0, InChannel("first"))
			id := enqueued(t, mq, grouped, 1)
			hold := launch(t, NewWorker(mq, WorkerOptions{Channels: []string{"first"}, Concurrency: 1}))
			until(t, "the first one runs", func() bool {
				return value[int](t, mq, "SELECT count(*) FROM bearmq.job_state WHERE state = 'running'") == 1
			})
			drain(t, mq, WorkerOptions{Channels: []string{"default"}})
			require.Equal(t, StateBlocked, recordOf(t, mq, id).State)
			t.Cleanup(func() { assert.NoError(t, hold.stop(t)) })
			return id
		}, false},
		"parked": {func(t *testing.T, mq *Context) JobID {
			id, err := mq.EnqueueRaw(t.Context(), "nobody knows", []byte("1"))
			require.NoError(t, err)
			drain(t, mq, WorkerOptions{})
			require.Equal(t, StateParked, recordOf(t, mq, id).State)
			return id
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{})
			events := listen(t, mq)
			goOn := make(chan bool)
			handled(t, mq, numbers, func(context.Context, *Job[int]) error { t.Error("it starts"); return nil })
			handled(t, mq, grouped, func(_ context.Context, j *Job[int]) error {
				if j.Payload > 0 {
					t.Error("it starts")
				}
				<-goOn
				return nil
			})
			id := test.enqueue(t, mq)
			require.Equal(t, StateCancelled, cancelled(t, mq, id))
			require.Equal(t, StateCancelled, recordOf(t, mq, id).State)
			require.Equal(t, test.ended, recordOf(t, mq, id).Finished)
			var failed *JobFailedError
			require.ErrorAs(t, mq.Await(t.Context(), id), &failed, "nobody waits until its turn comes")
			close(goOn)
			if !test.ended {
				work(t, mq, WorkerOptions{Name: "w"})
				until(t, "a worker ends it", func() bool { return recordOf(t, mq, id).Finished })
			}
			requireCancelled(t, mq, id)
			told := await[JobCancelled](t, events, 1)
			require.Len(t, told, 1)
			require.Equal(t, id, told[0].JobID)
			require.Equal(t, test.ended, told[0].Worker == "")
		})
	}
}

// The context of a job that runs ends, also in another process; its handler decides.
func TestCancelWhileItRuns(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	started, causes := make(chan JobID), make(chan error, 10)
	job := Define(Spec[string]{Name: "job", Attempts: 3, Backoff: Constant(time.Millisecond)})
	handled(t, mq, job, func(ctx context.Context, j *Job[string]) error {
		started <- j.ID
		<-ctx.Done()
		causes <- context.Cause(ctx)
		switch j.Payload {
		case "completes all the same":
			return nil
		case "fails for good":
			return Permanent(errors.New("bad"))
		case "snoozes":
			return Snooze(time.Millisecond)
		}
		return ctx.Err()
	})
	work(t, mq, WorkerOptions{Name: "w"})
	until(t, "it listens", mq.wakes.hears)
	other := sibling(t, mq)
	for i, payload := range []string{"gives up", "completes all the same", "fails for good", "snoozes"} {
		id := enqueued(t, mq, job, payload)
		require.Equal(t, id, soon(t, "the handler", started))
		by := mq
		if i%2 == 0 {
			by = other
		}
		require.Equal(t, StateRunning, cancelled(t, by, id))
		require.ErrorIs(t, soon(t, "the end of its context", causes), ErrCancelled)
		if payload == "completes all the same" {
			require.NoError(t, mq.Await(t.Context(), id))
			require.Equal(t, StateCompleted, cancelled(t, mq, id), "too late")
			continue
		}
		until(t, "it is over", func() bool { return recordOf(t, mq, id).Finished })
		requireCancelled(t, mq, id)
	}
	require.Len(t, await[JobCancelled](t, events, 3), 3)
	require.Empty(t, seen[JobErrored](events))
}

// It happens with the transaction, or not at all.
func TestCancelInATransaction(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var ran notebook[int]
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error { ran.add(j.Payload); return nil })
	var ids []JobID
	for i := range 4 {
		ids = append(ids, enqueued(t, mq, numbers, i, Delay(time.Duration(i%2)*50*time.Millisecond)))
	}
	undone, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	done, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	for i, id := range ids {
		tx := undone
		if i >= 2 {
			tx = done
		}
		require.Equal(t, StateCancelled, cancelled(t, mq.In(tx), id))
	}
	require.Equal(t, StateQueued, recordOf(t, mq, ids[2]).State, "not committed")
	require.NoError(t, undone.Rollback(t.Context()))
	require.NoError(t, done.Commit(t.Context()))
	work(t, mq, WorkerOptions{})
	for i, id := range ids {
		until(t, "it is over", func() bool { return recordOf(t, mq, id).Finished })
		if i >= 2 {
			requireCancelled(t, mq, id)
		}
	}
	require.ElementsMatch(t, []int{0, 1}, ran.all())
}

// A transaction that has cancelled jobs and stays open holds nobody up.
func TestCancelInAnOpenTransactionHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var ran notebook[int]
	grouped := Define(Spec[int]{Name: "grouped", Group: func(int) string { return "g" }})
	for _, d := range []*JobDefinition[int]{numbers, grouped} {
		handled(t, mq, d, func(_ context.Context, j *Job[int]) error { ran.add(j.Payload); return nil })
	}
	tx, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.Background()) }()
	for _, id := range []JobID{enqueued(t, mq, numbers, 1), enqueued(t, mq, grouped, 2), enqueued(t, mq, numbers, 3, Delay(time.Millisecond))} {
		cancelled(t, mq.In(tx), id)
	}
	enqueued(t, mq, numbers, 4)
	enqueued(t, mq, grouped, 5)
	enqueued(t, mq, numbers, 6, Delay(time.Millisecond))
	work(t, mq, WorkerOptions{})
	until(t, "the others run, and those that are not cancelled yet", func() bool { return len(ran.all()) >= 5 })
	require.NotContains(t, ran.all(), 3, "its ticket is the transaction's")
}

// A Strict job that waits to be tried again holds its group: cancelled, it lets go at once.
func TestCancelFreesAStrictGroup(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	strict := Define(Spec[int]{Name: "strict", Attempts: 3, Backoff: Constant(time.Hour), GroupOrder: Strict, Group: func(int) string { return "g" }})
	ran := make(chan int, 10)
	handled(t, mq, strict, func(_ context.Context, j *Job[int]) error {
		ran <- j.Payload
		if j.Payload == 1 {
			return errors.New("later")
		}
		return nil
	})
	first, second := enqueued(t, mq, strict, 1), enqueued(t, mq, strict, 2)
	work(t, mq, WorkerOptions{})
	require.Equal(t, 1, soon(t, "the first job", ran))
	until(t, "it waits", func() bool { return recordOf(t, mq, first).State == StateRetrying })
	require.Equal(t, StateBlocked, recordOf(t, mq, second).State)
	require.Equal(t, StateCancelled, cancelled(t, mq, first))
	require.Equal(t, 2, soon(t, "the second job", ran))
	require.NoError(t, mq.Await(t.Context(), second))
	requireCancelled(t, mq, first)
}

// Where the process dies that has the job, it does not start again.
func TestCancelOutlivesTheWorker(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	id := enqueued(t, mq, numbers, 1)
	started, goOn := make(chan int, 10), make(chan bool)
	handled(t, mq, numbers, func(context.Context, *Job[int]) error {
		started <- 1
		<-goOn // takes no notice
		return errors.New("too late")
	})
	w := work(t, mq, WorkerOptions{})
	soon(t, "its start", started)
	require.Equal(t, StateRunning, cancelled(t, mq, id))
	kill(t, mq)
	recoverAll(t, mq)
	require.Equal(t, StateCancelled, recordOf(t, mq, id).State)
	until(t, "another session ends it", func() bool { return recordOf(t, mq, id).Finished })
	close(goOn)
	require.NoError(t, w.stop(t))
	requireCancelled(t, mq, id)
	require.Empty(t, started)
}

func TestCancelWhatIsOver(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error {
		if j.Payload == 0 {
			return nil
		}
		return Permanent(errors.New("bad"))
	})
	good, bad := enqueued(t, mq, numbers, 0), enqueued(t, mq, numbers, 1)
	drain(t, mq, WorkerOptions{})
	require.Equal(t, StateCompleted, cancelled(t, mq, good))
	require.Equal(t, StateFailed, cancelled(t, mq, bad))
	_, err := mq.Cancel(t.Context(), bad+1000)
	require.ErrorIs(t, err, ErrJobNotFound)
	_, err = mq.In(nil).Cancel(t.Context(), good)
	requireRefused(t, err, "In")
}

// A request that comes when its job ends, or that nobody needed, does not stay.
func TestCancellationsAreSwept(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	id := enqueued(t, mq, numbers, 0)
	drain(t, mq, WorkerOptions{})
	waits := enqueued(t, mq, numbers, 1)
	exec(t, mq, "INSERT INTO bearmq.cancellation (job_id) VALUES ($1), ($2), ($3)", id, waits, waits+1000)
	exec(t, mq, "SELECT bearmq.sweep_v1()")
	require.Equal(t, []JobID{waits}, column[JobID](t, mq, "SELECT job_id FROM bearmq.cancellation"))
}

// Two that cancel the same jobs in open transactions wait for nobody, in whatever order.
func TestCancelTwiceInOpenTransactions(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	a, b := enqueued(t, mq, numbers, 1), enqueued(t, mq, numbers, 2)
	for _, order := range [][]JobID{{a, b}, {b, a}} {
		tx, err := mq.pool.Begin(t.Context())
		require.NoError(t, err)
		defer func() { _ = tx.Commit(context.Background()) }()
		for _, id := range order {
			cancelled(t, mq.In(tx), id)
		}
	}
	require.Equal(t, StateCancelled, cancelled(t, mq, a))
	drain(t, mq, WorkerOptions{})
	require.Equal(t, StateCancelled, recordOf(t, mq, a).State)
}

// A job that holds its group and that nobody has a handler for is ended by any worker.
func TestCancelFreesTheGroupOfAParkedJob(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	ran := make(chan int, 1)
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error { ran <- j.Payload; return nil })
	parked, err := mq.EnqueueRaw(t.Context(), "nobody knows", []byte("1"), InGroup("g"))
	require.NoError(t, err)
	enqueued(t, mq, numbers, 2, InGroup("g"))
	work(t, mq, WorkerOptions{})
	until(t, "it is parked", func() bool { return recordOf(t, mq, parked).State == StateParked })
	require.Empty(t, ran)
	cancelled(t, mq, parked)
	require.Equal(t, 2, soon(t, "the next of the group", ran))
	requireCancelled(t, mq, parked)
}
