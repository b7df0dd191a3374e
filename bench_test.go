package bearmq

import (
	"context"
	"slices"
	"sync"
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

// BenchmarkAwait measures the time from when a job is durably finished until
// Await returns in another process: 10,000 wait, and 1,000 jobs a second end.
func BenchmarkAwait(b *testing.B) {
	const jobs, rate = 10_000, 1_000
	for b.Loop() {
		mq := benchContext(b)
		var ended sync.Map
		mq.AddEventHandler(func(e Event) {
			if e, ok := e.(JobSucceeded); ok {
				ended.Store(e.JobID, e.Time)
			}
		})
		noop := Define(Spec[int]{Name: "noop"})
		require.NoError(b, mq.Register(noop.Handle(func(context.Context, *Job[int]) error { return nil })))
		producer, err := New(pgtest.DB(b), mq.opts)
		require.NoError(b, err)
		begin := time.Now().Add(3 * time.Second)
		batch := make([]NewJob, jobs)
		for i := range batch {
			batch[i] = noop.Job(i, RunAt(begin.Add(time.Duration(i)*time.Second/rate)))
		}
		ids, err := producer.EnqueueBatch(b.Context(), batch...)
		require.NoError(b, err)
		ctx, stop := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- NewWorker(mq, WorkerOptions{}).Run(ctx) }()
		told := make([]time.Time, jobs)
		var wg sync.WaitGroup
		for i, id := range ids {
			wg.Go(func() {
				if err := producer.Await(ctx, id); err != nil {
					b.Error(err)
					return
				}
				told[i] = time.Now()
			})
		}
		wg.Wait()
		stop()
		require.NoError(b, <-done) // by now all events have been told
		took := make([]time.Duration, jobs)
		for i, id := range ids {
			at, ok := ended.Load(id)
			require.True(b, ok)
			took[i] = told[i].Sub(at.(time.Time)) // below zero where the waiter was told first
		}
		slices.Sort(took)
		b.ReportMetric(took[jobs/2].Seconds()*1e3, "p50-ms")
		b.ReportMetric(took[jobs*99/100].Seconds()*1e3, "p99-ms")
	}
}

func benchContext(b *testing.B) *Context {
	b.Helper()
	mq, err := New(pgtest.DB(b), Options{Schema: pgtest.Schema(b)})
	require.NoError(b, err)
	require.NoError(b, mq.Migrate(b.Context()))
	return mq
}
