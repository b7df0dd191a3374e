package bearmq

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDrainRunsWhatIsRunnable(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	var ran []int
	job := Define(Spec[int]{Name: "j", Group: func(int) string { return "g" }})
	require.NoError(t, mq.Register(job.Handle(func(_ context.Context, j *Job[int]) error {
		ran = append(ran, j.Payload)
		return nil
	})))
	want := make([]int, 1000)
	for i := range want {
		want[i] = i
	}
	_, err := job.EnqueueMany(t.Context(), mq, want)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, NewWorker(mq, WorkerOptions{}).Drain(ctx))
	require.Equal(t, want, ran)
}

func TestRetryThenFail(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	job := Define(Spec[int]{Name: "j", Attempts: 3, Backoff: Constant(0)})
	boom := errors.New("boom")
	n := 0
	require.NoError(t, mq.Register(job.Handle(func(_ context.Context, j *Job[int]) error { n++; require.Equal(t, n, j.Attempt); return boom })))
	id, err := job.Enqueue(t.Context(), mq, 1)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, NewWorker(mq, WorkerOptions{}).Drain(ctx))
	require.Equal(t, 3, n)
	state, _, text, err := mq.store.Result(ctx, int64(id))
	require.NoError(t, err)
	require.Equal(t, "failed", state)
	require.Equal(t, "boom", text)
}
