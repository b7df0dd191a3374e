package bearmq

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Finished jobs are kept as long as their retention, each kind its own, with
// all that belongs to them; others are never deleted.
func TestRetention(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		done, failed time.Duration // the options
		age          time.Duration // of the jobs
		left         []string      // of done, failed
	}{
		"default, young":     {0, 0, 24*time.Hour - time.Minute, []string{"done", "failed"}},
		"default, old":       {0, 0, 24*time.Hour + time.Second, nil},
		"failed as others":   {time.Hour, 0, 61 * time.Minute, nil},
		"failed longer":      {time.Hour, 3 * time.Hour, 2 * time.Hour, []string{"failed"}},
		"failed shorter":     {3 * time.Hour, time.Hour, 2 * time.Hour, []string{"done"}},
		"none":               {NoRetention, 0, 0, nil},
		"none of the done":   {NoRetention, time.Hour, 0, []string{"failed"}},
		"none of the failed": {time.Hour, NoRetention, 0, []string{"done"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{Retention: test.done, RetentionFailed: test.failed})
			events := listen(t, mq)
			handled(t, mq, Define(Spec[int]{Name: "done"}), func(context.Context, *Job[int]) error { return nil })
			handled(t, mq, Define(Spec[int]{Name: "failed"}), func(context.Context, *Job[int]) error { return errBoom })
			for _, job := range []string{"done", "failed"} {
				_, err := mq.EnqueueRaw(t.Context(), job, []byte("1"))
				require.NoError(t, err)
			}
			drain(t, mq, WorkerOptions{})
			waiting, err := mq.EnqueueRaw(t.Context(), "done", []byte("2"), Delay(time.Hour))
			require.NoError(t, err)
			queued, err := mq.EnqueueRaw(t.Context(), "failed", []byte("2"))
			require.NoError(t, err)
			exec(t, mq, "UPDATE bearmq.outcome SET finished_at = finished_at - $1::interval", test.age)
			exec(t, mq, "UPDATE bearmq.job SET created_at = created_at - $1::interval", test.age)

			d := &deleter{daemon: &daemon{mq: mq, name: "test"}}
			for range 2 {
				_, err := d.tick(t.Context())
				require.NoError(t, err)
			}
			var left []string
			for _, job := range jobs(t, mq) {
				if job.ID != waiting && job.ID != queued {
					left = append(left, job.Name)
				}
			}
			require.Equal(t, test.left, left)
			require.Len(t, jobs(t, mq), 2+len(left))
			require.Equal(t, len(left), value[int](t, mq, "SELECT count(*) FROM bearmq.outcome"))
			deleted := seen[JobsDeleted](events)
			if len(left) == 2 {
				require.Empty(t, deleted)
				return
			}
			require.Len(t, deleted, 1)
			require.EqualValues(t, 2-len(left), deleted[0].Count)
			drain(t, mq, WorkerOptions{}) // what is left runs
			require.Equal(t, StateFailed, recordOf(t, mq, queued).State)
			_, err = d.tick(t.Context())
			require.NoError(t, err)
		})
	}
}

// More than one batch is deleted in one tick.
func TestRetentionOfMany(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{Retention: NoRetention})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	_, err := numbers.EnqueueMany(t.Context(), mq, upTo(2*deleteBatch+10))
	require.NoError(t, err)
	drain(t, mq, WorkerOptions{})
	events := listen(t, mq)
	_, err = (&deleter{daemon: &daemon{mq: mq, name: "test"}}).tick(t.Context())
	require.NoError(t, err)
	require.Zero(t, value[int](t, mq, "SELECT (SELECT count(*) FROM bearmq.job) + (SELECT count(*) FROM bearmq.outcome)"))
	require.EqualValues(t, 2*deleteBatch+10, seen[JobsDeleted](events)[0].Count)
}

// The engine's own leftovers are swept: finished leases, intervals, sessions
// that died long ago; the cursor of a lane never is.
func TestSweep(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	for range 5 {
		enqueued(t, mq, numbers, 1)
		drain(t, mq, WorkerOptions{})
	}
	s := &sweeper{&daemon{mq: mq, name: "test"}}
	require.NoError(t, second(s.tick(t.Context())))
	require.Equal(t, 1, value[int](t, mq, "SELECT count(*) FROM bearmq.lease"))
	require.Equal(t, 1, value[int](t, mq, "SELECT count(*) FROM bearmq.log_interval"))
	require.Equal(t, 5, value[int](t, mq, "SELECT count(*) FROM bearmq.session"))
	exec(t, mq, "INSERT INTO bearmq.sleeper SELECT id FROM bearmq.session")
	exec(t, mq, "UPDATE bearmq.session SET started_at = started_at - interval '2 h', expires_at = clock_timestamp() - interval '61 minutes', dead = true")
	require.NoError(t, second(s.tick(t.Context())))
	require.Zero(t, value[int](t, mq, "SELECT (SELECT count(*) FROM bearmq.session) + (SELECT count(*) FROM bearmq.sleeper)"))
	enqueued(t, mq, numbers, 1)
	drain(t, mq, WorkerOptions{})
	require.Equal(t, 6, value[int](t, mq, "SELECT count(*) FROM bearmq.outcome"))
}

func second[T any](_ T, err error) error { return err }

// A loop that fails reports it, waits, and goes on; the others do not notice.
func TestAFailingLoopGoesOn(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	var calls atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := &daemon{mq: mq, name: "test"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.repeat(ctx, loop{"broken", time.Millisecond, func(context.Context) (time.Duration, error) {
			if calls.Add(1) <= 4 {
				return 0, errBoom
			}
			return 0, nil
		}})
	}()
	failing := await[DaemonFailing](t, events, 4)
	until(t, "it goes on", func() bool { return calls.Load() > 10 })
	cancel()
	soon(t, "the loop's end", done)
	require.Len(t, seen[DaemonFailing](events), 4)
	for i, e := range failing {
		assert.Equal(t, "test", e.Daemon)
		assert.Equal(t, "broken", e.Loop)
		assert.ErrorIs(t, e.Err, errBoom)
		assert.GreaterOrEqual(t, e.RetryIn, 25*time.Millisecond<<i)
		assert.LessOrEqual(t, e.RetryIn, 5*time.Second)
	}
}

// An orchestrator whose database refuses one of its loops runs the others.
func TestOrchestratorThroughErrors(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{Retention: NoRetention})
	events := listen(t, mq)
	handled(t, mq, numbers, func(context.Context, *Job[int]) error { return nil })
	enqueued(t, mq, numbers, 1)
	drain(t, mq, WorkerOptions{})
	exec(t, mq, "ALTER TABLE bearmq.schedule RENAME TO away")
	o := launch(t, NewOrchestrator(mq, OrchestratorOptions{Name: "o", SchedulePoll: 10 * time.Millisecond, CleanPoll: 20 * time.Millisecond, RecoverPoll: 10 * time.Millisecond}))
	e := await[DaemonFailing](t, events, 2)[1]
	require.Equal(t, "o", e.Daemon)
	require.Equal(t, "schedule", e.Loop)
	await[JobsDeleted](t, events, 1)
	exec(t, mq, "ALTER TABLE bearmq.away RENAME TO schedule")
	require.NoError(t, mq.Register(Define(Spec[None]{Name: "tick"}).Repeat(Every(time.Second))))
	await[JobScheduled](t, events, 1)
	require.NoError(t, o.stop(t))
}

// After a time in which this process could not reach the database, or when the
// database's clock has jumped, nobody is declared dead for one TTL.
func TestRecoveryWaitsAfterAnOutage(t *testing.T) {
	t.Parallel()
	for name, upset := range map[string]func(*recoverer){
		"outage":         func(r *recoverer) { r.answered = r.answered.Add(-time.Hour) },
		"clock forward":  func(r *recoverer) { r.clockDB = r.clockDB.Add(-time.Hour) },
		"clock backward": func(r *recoverer) { r.clockDB = r.clockDB.Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mq := quiet(t, Options{SessionTTL: 3 * time.Second})
			leaves(t, mq)
			events := listen(t, mq)
			handled(t, mq, numbers, func(ctx context.Context, _ *Job[int]) error { <-ctx.Done(); return ctx.Err() })
			enqueued(t, mq, numbers, 1)
			w := work(t, mq, WorkerOptions{})
			await[JobStarted](t, events, 1)
			r := &recoverer{daemon: &daemon{mq: mq, name: "test"}, every: time.Hour}
			require.NoError(t, second(r.tick(t.Context())))
			r.every = time.Second
			kill(t, mq)
			w.cancel()
			upset(r)
			wait, err := r.tick(t.Context())
			require.NoError(t, err)
			require.Positive(t, wait)
			require.LessOrEqual(t, wait, mq.opts.SessionTTL)
			require.Empty(t, seen[JobRecovered](events))
			r.grace = time.Time{} // it is over
			require.NoError(t, second(r.tick(t.Context())))
			require.Len(t, seen[JobRecovered](events), 1)
		})
	}
}

// Two orchestrators recover a job once.
func TestRecoveryIsDoneOnce(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{SessionTTL: 3 * time.Second})
	leaves(t, mq)
	events := listen(t, mq)
	handled(t, mq, numbers, func(ctx context.Context, _ *Job[int]) error { <-ctx.Done(); return ctx.Err() })
	ids, err := numbers.EnqueueMany(t.Context(), mq, upTo(20))
	require.NoError(t, err)
	w := work(t, mq, WorkerOptions{})
	await[JobStarted](t, events, 20)
	kill(t, mq)
	w.cancel()
	errs := make(chan error, 5)
	for range 5 {
		go func() {
			errs <- second((&recoverer{daemon: &daemon{mq: mq, name: "test"}, every: time.Second}).tick(context.Background()))
		}()
	}
	var all []error
	for range 5 {
		all = append(all, soon(t, "a tick", errs))
	}
	require.NoError(t, errors.Join(all...))
	require.Len(t, seen[JobRecovered](events), 20)
	for _, id := range ids {
		require.Equal(t, 1, recordOf(t, mq, id).Losses)
	}
}

// NoGroupUnlock leaves the loop out.
func TestNoGroupUnlock(t *testing.T) {
	t.Parallel()
	names := func(opts Options) (all []string) {
		o := NewOrchestrator(offline(t, opts), OrchestratorOptions{})
		for _, l := range o.loops(&daemon{mq: o.mq}, o.opts) {
			all = append(all, l.name)
		}
		return all
	}
	require.Contains(t, names(Options{}), "unlock groups")
	require.NotContains(t, names(Options{GroupUnlock: NoGroupUnlock}), "unlock groups")
}
