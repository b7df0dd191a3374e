package bench

import (
	"context"
	"log/slog"
	"time"

	"github.com/bearmq/bearmq"
)

// runDrain measures how fast jobs run that are there already.
func runDrain(ctx context.Context, r *round) error {
	if _, err := r.hire(ctx, 0, false); err != nil {
		return err
	}
	empty, err := r.mark(ctx)
	if err != nil {
		return err
	}
	done := r.saying(r.n, "enqueued %s jobs", thousands(r.opts.jobs))
	if _, _, err := r.load(ctx); err != nil {
		return err
	}
	done()
	loaded, err := r.mark(ctx)
	if err != nil {
		return err
	}
	if err := r.wal(ctx, "enqueue", empty, loaded, r.opts.jobs); err != nil {
		return err
	}
	r.db.checkpoint(ctx)
	from, err := r.mark(ctx)
	if err != nil {
		return err
	}

	done = r.saying(r.n, "ran %s jobs", thousands(r.opts.jobs))
	began, err := r.crew.run()
	if err != nil {
		return err
	}
	ended, err := r.crew.finish(ctx, r.opts.jobs)
	if err != nil {
		return err
	}
	done()

	to, err := r.mark(ctx)
	if err != nil {
		return err
	}
	r.f.ran(r, began, ended)
	r.f.Tenths = r.crew.ran.tenths(began, ended)
	if err := r.wal(ctx, "run", from, to, r.opts.jobs); err != nil {
		return err
	}
	if err := r.crew.ledger.once("have run"); err != nil {
		return err
	}
	if err := r.durable(ctx, r.workerProbe(), probeJobs, false); err != nil {
		return err
	}
	if r.opts.retention == keepDefault {
		return nil
	}
	return r.deleteAll(ctx)
}

// deleteAll measures how fast an orchestrator deletes the jobs that were run.
func (r *round) deleteAll(ctx context.Context) error {
	jobs := r.opts.jobs + probeJobs/2 // at least
	mq, err := bearmq.New(r.pool, bearmq.Options{Retention: libraryRetention(r.opts.retention),
		Logger: slog.New(slog.NewTextHandler(r.stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	from, err := r.mark(ctx)
	if err != nil {
		return err
	}
	done := r.saying(r.n, "deleted %s jobs", thousands(jobs))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var deleted lockedTimeline
	mq.AddEventHandler(func(e bearmq.Event) {
		if d, ok := e.(bearmq.JobsDeleted); ok {
			deleted.add(int(d.Count))
			if deleted.count() >= jobs {
				cancel()
			}
		}
	})
	began := time.Now().Add(max(r.opts.retention, 0))
	err = bearmq.Run(ctx, bearmq.NewOrchestrator(mq, bearmq.OrchestratorOptions{}))
	if err != nil {
		return err
	}
	if n := deleted.count(); n < jobs {
		return context.Cause(ctx)
	}
	done()
	ctx = context.WithoutCancel(ctx)
	to, err := r.mark(ctx)
	if err != nil {
		return err
	}
	r.f.Deleted = float64(deleted.count()) / time.Since(began).Seconds()
	return r.wal(ctx, "delete", from, to, deleted.count())
}
