package bench

import (
	"context"
	"sync/atomic"
	"time"
)

// maxSamples bounds of how many jobs the time in the queue is noted.
const maxSamples = 100_000

// runStream measures a queue in use: jobs come in while others run and finished
// ones are deleted.
func runStream(ctx context.Context, r *round) error {
	every := max(1, r.opts.jobs/maxSamples)
	if _, err := r.hire(ctx, every, true); err != nil {
		return err
	}
	if err := r.makeChannels(ctx); err != nil {
		return err
	}
	r.db.checkpoint(ctx)
	from, err := r.mark(ctx)
	if err != nil {
		return err
	}
	began, err := r.crew.run()
	if err != nil {
		return err
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	watched := make(chan error, 1)
	go func() { watched <- r.watch(watching, began) }()

	sent := make([]int64, r.opts.jobs/every+1)
	if err := r.produce(ctx, began, sent, every); err != nil {
		return err
	}
	produced := time.Now()
	ended, err := r.crew.finish(ctx, r.opts.jobs)
	if err != nil {
		return err
	}
	stopWatching()
	if err := <-watched; err != nil {
		return err
	}
	to, err := r.mark(ctx)
	if err != nil {
		return err
	}

	r.f.ran(r, began, ended)
	r.f.Tenths = r.crew.ran.tenths(began, ended)
	if r.opts.rate > 0 {
		r.f.Tenths = r.crew.ran.spans(began, produced)
	}
	r.f.latency(waits(sent, r.crew.started))
	life := "enqueue and run"
	if r.opts.retention != keepDefault {
		life = "enqueue, run and delete what was due"
	}
	if err := r.wal(ctx, life, from, to, r.opts.jobs); err != nil {
		return err
	}
	if err := r.crew.ledger.once("have run"); err != nil {
		return err
	}
	return r.durable(ctx, r.workerProbe(), probeJobs, r.opts.retention != keepDefault)
}

// produce enqueues the jobs at the rate, some 100 times a second; or else as
// fast as it can. It notes when the sampled ones were about to be enqueued.
func (r *round) produce(ctx context.Context, began time.Time, sent []int64, every int) error {
	size := 1000
	if r.opts.rate > 0 {
		size = max(1, int(r.opts.rate/100))
	}
	next := chunks(r.opts.jobs, size)
	return parallel(ctx, r.opts.connections, func(ctx context.Context, _ int) error {
		for {
			lo, hi, ok := next()
			if !ok {
				return nil
			}
			if r.opts.rate > 0 {
				at := began.Add(time.Duration(float64(lo) / r.opts.rate * float64(time.Second)))
				if err := until(ctx, at); err != nil {
					return err
				}
			}
			now := time.Now().UnixNano()
			for i := (lo + every - 1) / every; i*every < hi; i++ {
				atomic.StoreInt64(&sent[i], now)
			}
			if err := r.jobs.many(ctx, lo, hi); err != nil {
				return err
			}
		}
	})
}

func until(ctx context.Context, at time.Time) error {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// waits are the times from sent to started, of the jobs that have both.
func waits(sent, started []int64) []time.Duration {
	var all []time.Duration
	for i := range sent {
		if sent[i] > 0 && started[i] > 0 {
			all = append(all, time.Duration(started[i]-sent[i]))
		}
	}
	return all
}

// watch tells how the stream goes, and notes the tables' sizes.
func (r *round) watch(ctx context.Context, began time.Time) error {
	every := time.Second
	if r.opts.rate > 0 {
		every = min(max(r.opts.duration/60, 20*time.Millisecond), 10*time.Second)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		s, err := r.sizes(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		s.Seconds, s.Ran = time.Since(began).Seconds(), r.crew.total()
		r.f.Sizes = append(r.f.Sizes, s)
		if time.Since(said) > 5*time.Second {
			said = time.Now()
			r.say("round %d of %d: %s of %s jobs ran, the tables take %.0f MB", r.n, r.opts.rounds,
				thousands(s.Ran), thousands(r.opts.jobs), s.TotalMB)
		}
	}
}

// A sizes is what the engine's tables take on disk at one time.
type sizes struct {
	Seconds float64            `json:"seconds"`
	Ran     int                `json:"ran"` // jobs, up to now
	TotalMB float64            `json:"total_mb"`
	MB      map[string]float64 `json:"mb"` // by table
}

func (r *round) sizes(ctx context.Context) (sizes, error) {
	s := sizes{MB: map[string]float64{}}
	rows, err := r.pool.Query(ctx, sql("sizes"))
	if err != nil {
		return s, err
	}
	defer rows.Close()
	for rows.Next() {
		var (
			table string
			bytes float64
		)
		if err := rows.Scan(&table, &bytes); err != nil {
			return s, err
		}
		s.MB[table] = bytes / 1e6
		s.TotalMB += bytes / 1e6
	}
	return s, rows.Err()
}
