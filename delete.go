package bearmq

import (
	"context"
	"time"
)

// A deleter deletes finished jobs when their retention is over.
type deleter struct {
	*daemon
	done, failed deletion
}

// A deletion is how far the deleter has come with the jobs of one kind. It
// remembers the time that it reached, so that it need not read again what is
// deleted, and looks all the way back now and then, for transactions that
// committed late.
type deletion struct {
	from time.Time
	full time.Time
}

const (
	deleteBatch   = 5000
	deleteFullGap = 10 * time.Minute
)

func (d *deleter) tick(ctx context.Context) (time.Duration, error) {
	total, err := d.delete(ctx, &d.done, false, d.mq.opts.Retention)
	if err == nil {
		var n int64
		n, err = d.delete(ctx, &d.failed, true, d.mq.opts.RetentionFailed)
		total += n
	}
	if total > 0 {
		d.mq.emit(JobsDeleted{About{Time: time.Now(), Worker: d.name}, total})
	}
	return 0, err
}

func (d *deleter) delete(ctx context.Context, at *deletion, failed bool, keep time.Duration) (total int64, err error) {
	if keep == NoRetention {
		keep = 0
	}
	if time.Since(at.full) > deleteFullGap {
		at.from, at.full = time.Time{}, time.Now()
	}
	for ctx.Err() == nil {
		n, reached, err := d.mq.store.DeleteFinished(ctx, failed, keep, at.from, deleteBatch)
		if err != nil {
			return total, err
		}
		total += n
		if !reached.IsZero() {
			at.from = reached
		}
		if n < deleteBatch {
			break
		}
	}
	return total, nil
}

// A sweeper deletes what the engine leaves behind in its own tables.
type sweeper struct{ *daemon }

func (s *sweeper) tick(ctx context.Context) (time.Duration, error) { return 0, s.mq.store.Sweep(ctx) }
