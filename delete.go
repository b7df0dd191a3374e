package bearmq

import (
	"context"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A deleter deletes finished jobs when their retention is over. It remembers
// how far it has come, so that it need not read again what is deleted, and
// looks all the way back now and then, for transactions that committed late.
type deleter struct {
	*daemon
	completed, failed store.Deletion
	full              time.Time
}

const (
	deleteBatch   = 5000
	deleteFullGap = 10 * time.Minute
	// deleteSoon is when to come back after something was deleted: where jobs
	// end all the time, a little each second disturbs less than much at once.
	deleteSoon = time.Second
)

func (d *deleter) tick(ctx context.Context) (time.Duration, error) {
	if time.Since(d.full) > deleteFullGap {
		d.full, d.completed.From, d.failed.From = time.Now(), time.Time{}, time.Time{}
	}
	d.completed.Keep, d.failed.Keep = retention(d.mq.opts.Retention), retention(d.mq.opts.RetentionFailed)
	var total int64
	defer func() {
		if total > 0 {
			d.mq.emit(JobsDeleted{About{Time: time.Now(), Worker: d.name}, total})
		}
	}()
	for ctx.Err() == nil {
		if err := d.mq.store.DeleteFinished(ctx, &d.completed, &d.failed, deleteBatch); err != nil {
			return 0, err
		}
		total += d.completed.Deleted + d.failed.Deleted
		if d.completed.Deleted < deleteBatch && d.failed.Deleted < deleteBatch {
			break
		}
	}
	if total > 0 {
		return deleteSoon, nil
	}
	return 0, nil
}

// retention is how long jobs are kept, for the database.
func retention(keep time.Duration) time.Duration {
	if keep == NoRetention {
		return 0
	}
	return keep
}

// A sweeper deletes what the engine leaves behind in its own tables.
type sweeper struct{ *daemon }

func (s *sweeper) tick(ctx context.Context) (time.Duration, error) { return 0, s.mq.store.Sweep(ctx) }
