package bench

import (
	"context"
	"time"

	"github.com/bearmq/bearmq"
)

// load enqueues all jobs, many a call, and returns how long each call took.
func (r *round) load(ctx context.Context) ([]time.Duration, timeline, error) {
	took := make([]time.Duration, (r.opts.jobs+batchSize-1)/batchSize)
	var line lockedTimeline
	next := chunks(r.opts.jobs, batchSize)
	err := parallel(ctx, r.opts.connections, func(ctx context.Context, _ int) error {
		for {
			lo, hi, ok := next()
			if !ok {
				return nil
			}
			began := time.Now()
			if err := r.jobs.many(ctx, lo, hi); err != nil {
				return err
			}
			took[lo/batchSize] = time.Since(began)
			line.add(hi - lo)
		}
	})
	return took, line.timeline, err
}

// runBulk measures enqueueing many.
func runBulk(ctx context.Context, r *round) error {
	return r.enqueueing(ctx, r.load)
}

// enqueueing measures an enqueue of all jobs. No worker runs.
func (r *round) enqueueing(ctx context.Context, enqueue func(context.Context) ([]time.Duration, timeline, error)) error {
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	r.db.checkpoint(ctx)
	from, err := r.mark(ctx)
	if err != nil {
		return err
	}
	done := r.saying(r.n, "enqueued %s jobs", thousands(r.opts.jobs))
	began := time.Now()
	took, line, err := enqueue(ctx)
	ended := time.Now()
	if err != nil {
		return err
	}
	done()
	to, err := r.mark(ctx)
	if err != nil {
		return err
	}
	r.f.rate(r.opts.jobs, began, ended)
	r.f.Tenths = line.tenths(began, ended)
	r.f.latency(took)
	if err := r.wal(ctx, "enqueue", from, to, r.opts.jobs); err != nil {
		return err
	}
	return r.durable(ctx, r.enqueueProbe(), probeCommits, false)
}

// warmUp has the library know the channels, and the pool's connections open: a
// process does that once.
func (r *round) warmUp(ctx context.Context) error {
	if err := r.makeChannels(ctx); err != nil {
		return err
	}
	return parallel(ctx, r.opts.connections, func(ctx context.Context, _ int) error {
		_, err := probe.Enqueue(ctx, r.mq, 0)
		return err
	})
}

// makeChannels makes the channels: they stay when the transaction that was the
// first to use them is rolled back.
func (r *round) makeChannels(ctx context.Context) error {
	if r.opts.channels == 1 {
		return nil
	}
	tx, err := r.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	jobs := make([]bearmq.NewJob, r.opts.channels)
	for i := range jobs {
		jobs[i] = probe.Job(0, bearmq.InChannel(r.jobs.channel(i)))
	}
	_, err = r.mq.In(tx).EnqueueBatch(ctx, jobs...)
	return err
}
