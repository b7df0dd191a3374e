package bearmq

import (
	"context"
	"time"
)

// A deleter deletes finished jobs when their retention is over. It remembers
// how far it has come, so that it need not read again what is deleted or kept,
// and begins again now and then: for jobs that finished long after others that
// were enqueued with them, and transactions that committed late.
type deleter struct {
	*daemon
	reached int64         // a job's id
	began   time.Time     // when it was 0
	again   time.Duration // after which it is 0 again
}

const (
	deleteBatch = 5000
	// deleteAgain bounds how long a job that finished late stays beyond its
	// time; where it is kept for less than that, its retention does.
	deleteAgain = 10 * time.Minute
	// deleteShare is how much longer to wait than a deletion from the
	// beginning takes, which reads all that it keeps.
	deleteShare = 20
	// deleteSoon is when to come back after something was deleted: where jobs
	// end all the time, a little each second disturbs less than much at once.
	deleteSoon = time.Second
)

func (d *deleter) tick(ctx context.Context) (time.Duration, error) {
	keep, keepFailed := retention(d.mq.opts.Retention), retention(d.mq.opts.RetentionFailed)
	began := time.Now()
	if began.Sub(d.began) > d.again {
		d.reached, d.began = 0, began
	}
	whole := d.reached == 0
	var total int64
	defer func() {
		if total > 0 {
			d.mq.emit(JobsDeleted{About{Time: time.Now(), Worker: d.name}, total})
		}
	}()
	for more := true; more && ctx.Err() == nil; {
		deleted, reached, goOn, err := d.mq.store.DeleteFinished(ctx, keep, keepFailed, d.reached, deleteBatch)
		if err != nil {
			return 0, err
		}
		total += deleted
		d.reached, more = reached, goOn
	}
	if whole {
		d.again = max(deleteShare*time.Since(began), min(keep, keepFailed, deleteAgain))
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
