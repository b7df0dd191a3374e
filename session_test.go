package bearmq

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// kill makes the database think all sessions dead.
func kill(t *testing.T, mq *Context) {
	t.Helper()
	require.Positive(t, exec(t, mq, dead))
}

// recoverAll is one tick of an orchestrator's recovery.
func recoverAll(t *testing.T, mq *Context) {
	t.Helper()
	_, err := (&recoverer{daemon: &daemon{mq: mq, name: "test"}, every: time.Second}).tick(t.Context())
	require.NoError(t, err)
}

// A worker whose session died ends its handlers' contexts, says so, takes a
// new session and goes on. What the handlers return is not written.
func TestLostSession(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(t *testing.T, mq *Context){
		"expired in the database": func(t *testing.T, mq *Context) { kill(t, mq) },
		"deleted":                 func(t *testing.T, mq *Context) { exec(t, mq, "DELETE FROM bearmq.session") },
		"cannot be renewed": func(t *testing.T, mq *Context) {
			tx, err := mq.pool.Begin(t.Context())
			require.NoError(t, err)
			t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
			_, err = tx.Exec(t.Context(), inSchema(mq, "SELECT FROM bearmq.session FOR UPDATE"))
			require.NoError(t, err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{SessionTTL: 3 * time.Second})
			if leaves(t, mq); name == "deleted" {
				t.Cleanup(func() { // for the recovery, which goes by sessions
					_, err := mq.pool.Exec(context.Background(), inSchema(mq, `INSERT INTO bearmq.session (id, started_at, expires_at, ttl, pid, host)
						SELECT DISTINCT session_id, now(), now(), interval '1 us', 0, '' FROM bearmq.lease WHERE NOT finished`))
					assert.NoError(t, err)
				})
			}
			events := listen(t, mq)
			job := Define(Spec[int]{Name: "j", Attempts: 3})
			started, causes := make(chan JobID, 10), make(chan error, 10)
			handled(t, mq, job, func(ctx context.Context, j *Job[int]) error {
				if j.Payload == 1 {
					return nil
				}
				started <- j.ID
				<-ctx.Done()
				causes <- context.Cause(ctx)
				return ctx.Err()
			})
			id := enqueued(t, mq, job, 0)
			w := work(t, mq, WorkerOptions{Name: "w"})
			require.Equal(t, id, soon(t, "the handler", started))
			lose(t, mq)
			require.ErrorIs(t, soon(t, "the context's end", causes), ErrLeaseLost)
			lost := await[LeaseLost](t, events, 1)[0]
			assert.Equal(t, []JobID{id}, lost.Jobs)
			assert.Equal(t, "w", lost.Worker)

			enqueued(t, mq, job, 1)
			await[JobSucceeded](t, events, 1) // in a new session
			require.NoError(t, w.stop(t))
			require.Equal(t, StateRunning, recordOf(t, mq, id).State, "nothing was written of it, it waits for its recovery")
			require.Empty(t, attemptErrors(t, mq, id))
			require.Empty(t, seen[JobErrored](events))
		})
	}
}

// A session is renewed in time and ends with its worker.
func TestSessionLivesAsLongAsItsWorker(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second})
	events := listen(t, mq)
	let := make(chan struct{})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { <-let; return nil })
	enqueued(t, mq, numbers, 0)
	w := work(t, mq, WorkerOptions{})
	await[JobStarted](t, events, 1)
	first := value[time.Time](t, mq, "SELECT expires_at FROM bearmq.session")
	for range 2 {
		until(t, "a renewal", func() bool {
			return value[bool](t, mq, "SELECT expires_at > $1 AND expires_at > clock_timestamp() FROM bearmq.session", first)
		})
		first = value[time.Time](t, mq, "SELECT expires_at FROM bearmq.session")
	}
	close(let)
	await[JobSucceeded](t, events, 1)
	require.NoError(t, w.stop(t))
	require.Equal(t, 1, value[int](t, mq, "SELECT count(*) FROM bearmq.session WHERE expires_at <= clock_timestamp()"))
	require.Zero(t, value[int](t, mq, "SELECT count(*) FROM bearmq.sleeper"))
}

// Success that comes after the loss is not thrown away while nobody has taken
// the job; once somebody has, it is refused.
func TestSuccessAfterTheSessionWasLost(t *testing.T) {
	t.Parallel()
	for _, recovered := range []bool{false, true} {
		mq := quiet(t, Options{SessionTTL: 3 * time.Second})
		events := listen(t, mq)
		started, let := make(chan struct{}, 10), make(chan struct{})
		handled(t, mq, numbers, func(context.Context, *Job[int]) error { started <- struct{}{}; <-let; return nil })
		id := enqueued(t, mq, numbers, 0, InGroup("g"))
		w := work(t, mq, WorkerOptions{Concurrency: 1})
		soon(t, "the handler", started)
		kill(t, mq)
		await[LeaseLost](t, events, 1)
		if recovered {
			recoverAll(t, mq)
			require.Equal(t, 1, recordOf(t, mq, id).Losses)
		}
		close(let)
		if recovered {
			again := await[LeaseLost](t, events, 2)[1]
			assert.Equal(t, []JobID{id}, again.Jobs, "the stale finish is refused")
		}
		e := await[JobSucceeded](t, events, 1)
		require.NoError(t, w.stop(t))
		require.Len(t, e, 1)
		require.Len(t, seen[JobSucceeded](events), 1)
		require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
		runs := len(seen[JobStarted](events))
		require.Equal(t, map[bool]int{false: 1, true: 2}[recovered], runs)
	}
}

// A stopped worker waits for the handlers of a session that it has lost.
func TestStopAfterTheSessionWasLost(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second})
	leaves(t, mq)
	events := listen(t, mq)
	let := make(chan struct{})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { <-let; return nil })
	id := enqueued(t, mq, numbers, 0)
	// Its only slot is busy, so it needs no other session.
	r := work(t, mq, WorkerOptions{Concurrency: 1, StopGrace: NoStopGrace})
	await[JobStarted](t, events, 1)
	kill(t, mq)
	await[LeaseLost](t, events, 1)
	var ignored *StopError
	require.ErrorAs(t, r.stop(t), &ignored)
	require.Equal(t, []JobID{id}, ignored.Jobs)
	close(let)
}

// A job that holds its group for longer than GroupUnlock loses it.
func TestGroupUnlock(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second, GroupUnlock: time.Minute})
	events := listen(t, mq)
	job := Define(Spec[int]{Name: "j", Attempts: 2})
	var order notebook[int]
	started, causes, let := make(chan int, 10), make(chan error, 10), make(chan struct{})
	hang := true
	handled(t, mq, job, func(ctx context.Context, j *Job[int]) error {
		order.add(j.Payload)
		if j.Payload == 0 && hang {
			hang = false
			started <- 0
			<-ctx.Done()
			causes <- context.Cause(ctx)
			<-let
			return errors.New("late")
		}
		return nil
	})
	ids, err := job.EnqueueMany(t.Context(), mq, upTo(3), InGroup("g"))
	require.NoError(t, err)
	bystander := enqueued(t, mq, job, 9)
	unlocker := &groupUnlocker{&daemon{mq: mq, name: "test"}}

	w := work(t, mq, WorkerOptions{Concurrency: 2})
	soon(t, "the handler", started)
	_, err = unlocker.tick(t.Context())
	require.NoError(t, err)
	require.Empty(t, seen[GroupUnlocked](events), "not before its time")

	exec(t, mq, "UPDATE bearmq.lease SET created_at = created_at - interval '61 seconds' WHERE NOT finished")
	_, err = unlocker.tick(t.Context())
	require.NoError(t, err)
	unlocked := seen[GroupUnlocked](events)
	require.Len(t, unlocked, 1)
	assert.Equal(t, ids[0], unlocked[0].JobID)
	assert.Equal(t, "g", unlocked[0].Group)
	assert.InDelta(t, 61, unlocked[0].HeldFor.Seconds(), patience.Seconds())
	require.ErrorIs(t, soon(t, "the context's end", causes), ErrLeaseLost)

	// The group goes on, from the same job, which has counted a loss.
	await[JobSucceeded](t, events, 4)
	assert.Equal(t, []int{0, 0, 1, 2}, without(order.all(), 9))
	close(let)
	lost := await[LeaseLost](t, events, 1)
	require.NoError(t, w.stop(t))
	for _, id := range append(ids, bystander) {
		require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
		require.Empty(t, attemptErrors(t, mq, id), "what it did after that is refused")
	}
	require.Contains(t, lost[0].Jobs, ids[0])
	_, err = unlocker.tick(t.Context())
	require.NoError(t, err)
	require.Len(t, seen[GroupUnlocked](events), 1)
}

func without(all []int, n int) (rest []int) {
	for _, i := range all {
		if i != n {
			rest = append(rest, i)
		}
	}
	return rest
}

// The job counts a loss for it, and fails at the last.
func TestGroupUnlockCountsALoss(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second, GroupUnlock: time.Minute, MaxLosses: 2})
	events := listen(t, mq)
	handled(t, mq, numbers, func(ctx context.Context, j *Job[int]) error {
		if j.Payload == 0 {
			<-ctx.Done()
		}
		return ctx.Err()
	})
	id := enqueued(t, mq, numbers, 0, InGroup("g"))
	next := enqueued(t, mq, numbers, 1, InGroup("g"))
	work(t, mq, WorkerOptions{})
	unlocker := &groupUnlocker{&daemon{mq: mq, name: "test"}}
	for n := range 2 {
		await[JobStarted](t, events, n+1)
		if n == 1 {
			require.Equal(t, 1, recordOf(t, mq, id).Losses)
		}
		exec(t, mq, "UPDATE bearmq.lease SET created_at = created_at - interval '61 seconds' WHERE NOT finished")
		_, err := unlocker.tick(t.Context())
		require.NoError(t, err)
	}
	await[JobSucceeded](t, events, 1)
	r := recordOf(t, mq, id)
	require.Equal(t, StateFailed, r.State)
	require.Contains(t, *r.Error, "held its group for too long")
	require.Equal(t, StateCompleted, recordOf(t, mq, next).State)
	require.Len(t, seen[GroupUnlocked](events), 2)
	expired := seen[JobExpired](events)
	require.Len(t, expired, 1)
	require.Equal(t, id, expired[0].JobID)
	require.Equal(t, 2, expired[0].Losses)
}

// A process that dies in the middle of jobs: they run again, without a failed
// attempt, in the order of their groups; a job that is there at each death
// fails at the last.
func TestLosses(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second})
	job := Define(Spec[int]{Name: "j", Attempts: 2, Backoff: Constant(0)})
	dead := sibling(t, mq)
	ids := make([]JobID, 0, 6)
	for i := range 6 {
		ids = append(ids, enqueued(t, mq, job, i, InGroup([]string{"", "g"}[i%2])))
	}
	hang := func(ctx context.Context, _ *Job[int]) error { <-ctx.Done(); return ctx.Err() }
	require.NoError(t, dead.Register(job.Handle(hang)))
	events := listen(t, mq)

	for losses := 1; losses <= 3; losses++ {
		started := listen(t, dead)
		w := work(t, dead, WorkerOptions{})
		// The first time all run that can; with one loss left, only one at a time of
		// those that may be what kills it.
		await[JobStarted](t, started, map[int]int{1: 4, 2: 4, 3: 1}[losses])
		kill(t, mq)
		w.cancel()
		await[LeaseLost](t, started, 1)
		require.NoError(t, w.stop(t))
		recoverAll(t, mq)
		recovered := seen[JobRecovered](events)
		require.Len(t, recovered, map[int]int{1: 4, 2: 8, 3: 9}[losses])
		for _, e := range recovered {
			require.Equal(t, 1, e.Attempt)
		}
	}
	expired := seen[JobExpired](events)
	require.Len(t, expired, 1)
	require.Equal(t, 3, expired[0].Losses)
	gone := expired[0].JobID
	r := recordOf(t, mq, gone)
	require.Equal(t, StateFailed, r.State)
	require.Contains(t, *r.Error, "lost 3 times")

	var order notebook[int]
	handled(t, mq, job, func(_ context.Context, j *Job[int]) error { order.add(j.Payload); return nil })
	drain(t, mq, WorkerOptions{})
	var group []int
	for _, n := range order.all() {
		if n%2 == 1 {
			group = append(group, n)
		}
	}
	require.IsIncreasing(t, group)
	require.Len(t, order.all(), 5)
	for _, id := range ids {
		if id != gone {
			require.Equal(t, StateCompleted, recordOf(t, mq, id).State)
		}
	}
}

// A job that may be what kills its process runs on a worker without another
// one of that kind, and as soon as that one has ended.
func TestJobsAtTheirLastLossRunAlone(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	var busy, most, plain notebook[int]
	events := listen(t, mq)
	alone := make(chan struct{}, 1)
	handled(t, mq, numbers, func(_ context.Context, j *Job[int]) error {
		if j.Payload == 100 {
			plain.add(1)
			return nil
		}
		select {
		case alone <- struct{}{}:
		default:
			most.add(1)
		}
		busy.add(j.Payload)
		<-alone
		return nil
	})
	_, err := numbers.EnqueueMany(t.Context(), mq, upTo(20), Delay(time.Hour))
	require.NoError(t, err)
	exec(t, mq, "UPDATE bearmq.ticket SET run_at = clock_timestamp(), losses = 2, alone = true")
	_, err = numbers.EnqueueMany(t.Context(), mq, []int{100, 100, 100})
	require.NoError(t, err)
	work(t, mq, WorkerOptions{PollInterval: time.Hour})
	await[JobSucceeded](t, events, 23)
	require.Empty(t, most.all(), "two of them at once")
	require.Len(t, busy.all(), 20)
	require.Len(t, plain.all(), 3)
}

// A process that was stopped runs again before its timers do: no job starts by then.
func TestSessionIsOverBeforeItsTimerGoesOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &session{born: time.Now(), ctx: ctx, cancel: cancel}
	s.trusted.Store(int64(time.Minute))
	require.False(t, s.over(s.born.Add(time.Minute)))
	require.NoError(t, ctx.Err())
	require.True(t, s.over(s.born.Add(time.Minute+1)))
	require.ErrorIs(t, context.Cause(ctx), ErrLeaseLost)
	s.trusted.Store(int64(time.Hour))
	require.True(t, s.over(s.born), "it never revives")
}
