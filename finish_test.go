package bearmq

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A job that was taken away may have been claimed again by the same worker, and
// both of its attempts may have ended: what the database refuses of the first
// must not hit the second.
func TestTwoAttemptsAtAJobAreWrittenApart(t *testing.T) {
	t.Parallel()
	end := func(id JobID) report {
		return report{ends: []ending{{attempt: &attempt{job: &RawJob{ID: id, Group: "g"}}}}}
	}
	f := &finisher{pending: []report{end(1), end(2), end(3), end(3), end(4), end(1)}, jobs: 6}
	var batches [][]JobID
	for b := f.take(); len(b) > 0; b = f.take() {
		var ids []JobID
		for _, rep := range b {
			ids = append(ids, rep.ends[0].job.ID)
		}
		batches = append(batches, ids)
	}
	require.Equal(t, [][]JobID{{1, 2, 3}, {3, 4, 1}}, batches)
	require.Zero(t, f.jobs)
}

// What the database refuses to write fails its job, and frees its group.
func TestARefusedEndFreesItsGroup(t *testing.T) {
	t.Parallel()
	mq := quiet(t, Options{})
	events := listen(t, mq)
	exec(t, mq, "ALTER TABLE bearmq.attempt_error ADD CHECK (error NOT LIKE '%poison%')")
	strict := Define(Spec[string]{Name: "strict", Attempts: 3, GroupOrder: Strict, Group: func(string) string { return "g" }})
	var ran notebook[string]
	handled(t, mq, strict, func(_ context.Context, job *Job[string]) error {
		ran.add(job.Payload)
		if job.Payload == "first" {
			return errors.New("poison")
		}
		return nil
	})
	id := enqueued(t, mq, strict, "first")
	enqueued(t, mq, strict, "second")
	drain(t, mq, WorkerOptions{})
	require.Equal(t, []string{"first", "second"}, ran.all())
	require.Equal(t, StateFailed, recordOf(t, mq, id).State)
	require.ErrorIs(t, await[JobExpired](t, events, 1)[0].Err, errRefused)
}

// What cannot be written at all is told once, and left to recovery.
func TestAnEndThatCannotBeWrittenIsToldOnce(t *testing.T) {
	t.Parallel()
	var told atomic.Int64
	mq := quiet(t, Options{SessionTTL: time.Second, Logger: slog.New(counting{slog.DiscardHandler, &told})})
	exec(t, mq, "ALTER TABLE bearmq.ticket ADD CONSTRAINT never CHECK (state <> 'n')")
	id, err := mq.EnqueueRaw(t.Context(), "unknown", []byte("{}"))
	require.NoError(t, err)
	w := launch(t, NewWorker(mq, WorkerOptions{}))
	until(t, "the end is refused", func() bool { return told.Load() > 0 })
	require.NoError(t, w.stop(t))
	require.EqualValues(t, 1, told.Load())

	exec(t, mq, "ALTER TABLE bearmq.ticket DROP CONSTRAINT never")
	handled(t, mq, Define(Spec[None]{Name: "unknown"}), func(context.Context, *Job[None]) error { return nil })
	launch(t, NewOrchestrator(mq, OrchestratorOptions{RecoverPoll: 50 * time.Millisecond}))
	launch(t, NewWorker(mq, WorkerOptions{}))
	until(t, "the job is recovered and done", func() bool { return recordOf(t, mq, id).State == StateCompleted })
}

// counting counts the errors that are logged.
type counting struct {
	slog.Handler
	n *atomic.Int64
}

func (c counting) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelError }

func (c counting) Handle(context.Context, slog.Record) error {
	c.n.Add(1)
	return nil
}
