package bearmq

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// BenchmarkDrain enqueues 200,000 no-op jobs and measures how long one worker
// with default options takes to run them, until the last is durably finished.
func BenchmarkDrain(b *testing.B) {
	const jobs = 200_000
	for b.Loop() {
		b.StopTimer()
		mq := benchContext(b)
		var ran atomic.Int64
		noop := Define(Spec[int]{Name: "noop"})
		require.NoError(b, mq.Register(noop.Handle(func(context.Context, *Job[int]) error { ran.Add(1); return nil })))
		payloads := make([]int, jobs)
		_, err := noop.EnqueueMany(b.Context(), mq, payloads)
		require.NoError(b, err)
		b.StartTimer()
		began := time.Now()
		require.NoError(b, NewWorker(mq, WorkerOptions{}).Drain(b.Context()))
		b.ReportMetric(jobs/time.Since(began).Seconds(), "jobs/s")
		require.EqualValues(b, jobs, ran.Load())
	}
}

// BenchmarkLatency measures the time from before an enqueue to the start of
// its handler, 50 times a second.
func BenchmarkLatency(b *testing.B) {
	mq := benchContext(b)
	started := make(chan time.Time, 1)
	ping := Define(Spec[int]{Name: "ping"})
	require.NoError(b, mq.Register(ping.Handle(func(context.Context, *Job[int]) error { started <- time.Now(); return nil })))
	ctx, stop := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- NewWorker(mq, WorkerOptions{}).Run(ctx) }()
	_, err := ping.Enqueue(ctx, mq, 0)
	require.NoError(b, err)
	<-started
	var took []time.Duration
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for b.Loop() {
		<-tick.C
		began := time.Now()
		_, err := ping.Enqueue(ctx, mq, 0)
		require.NoError(b, err)
		took = append(took, (<-started).Sub(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
	stop()
	require.NoError(b, <-done)
}

func benchContext(b *testing.B) *Context {
	b.Helper()
	mq, err := New(pgtest.DB(b), Options{Schema: pgtest.Schema(b)})
	require.NoError(b, err)
	require.NoError(b, mq.Migrate(b.Context()))
	return mq
}
