package bench

import (
	"context"
	"time"
)

// runEnqueue measures enqueueing one by one, each job its own commit.
func runEnqueue(ctx context.Context, r *round) error {
	return r.enqueueing(ctx, func(ctx context.Context) ([]time.Duration, timeline, error) {
		took := make([]time.Duration, r.opts.jobs)
		var line lockedTimeline
		next := chunks(r.opts.jobs, 1)
		err := parallel(ctx, r.opts.connections, func(ctx context.Context, _ int) error {
			for {
				i, _, ok := next()
				if !ok {
					return nil
				}
				began := time.Now()
				if err := r.jobs.one(ctx, r.mq, i); err != nil {
					return err
				}
				took[i] = time.Since(began)
				line.add(1)
			}
		})
		return took, line.timeline, err
	})
}
