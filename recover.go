package bearmq

import (
	"context"
	"errors"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A recoverer gives back what dead workers held.
type recoverer struct {
	*daemon
	every  time.Duration
	last   time.Time // the last good tick, by the monotonic clock
	lastDB time.Time // and by the database's
	grace  time.Time // until then nobody is declared dead
}

// recoverBatch is how many leases are recovered between two looks.
const recoverBatch = 100

func (r *recoverer) tick(ctx context.Context) (time.Duration, error) {
	now, err := r.mq.store.Now(ctx)
	if err != nil {
		return 0, err
	}
	// When this process could not reach the database for a while, perhaps
	// nobody could; and when the database's clock has jumped, sessions have
	// expired that are alive. Then everybody gets one TTL to renew.
	if elapsed := time.Since(r.last); !r.last.IsZero() {
		jumped := now.Sub(r.lastDB) - elapsed
		if elapsed > 3*r.every+r.mq.opts.SessionTTL/3 || jumped.Abs() > max(r.mq.opts.SessionTTL/3, time.Second) {
			r.grace = time.Now().Add(r.mq.opts.SessionTTL)
			r.mq.log.Warn("bearmq: the database was out of reach or its clock jumped, nobody is declared dead for now",
				"daemon", r.name, "for", r.mq.opts.SessionTTL)
		}
	}
	r.last, r.lastDB = time.Now(), now
	if wait := time.Until(r.grace); wait > 0 {
		return wait, nil
	}
	for ctx.Err() == nil {
		leases, err := r.mq.store.DeadLeases(ctx, recoverBatch)
		if err != nil {
			return 0, err
		}
		recovered := 0
		for _, id := range leases {
			n, err := r.recover(ctx, id)
			if err != nil {
				return 0, err
			}
			recovered += n
		}
		r.last = time.Now()
		if len(leases) < recoverBatch || recovered == 0 {
			break
		}
	}
	return 0, nil
}

// recover gives back one lease, in one transaction.
func (r *recoverer) recover(ctx context.Context, lease int64) (int, error) {
	lost, err := r.mq.store.Recover(ctx, lease, r.mq.opts.MaxLosses)
	if err != nil {
		return 0, err
	}
	if len(lost) > 0 {
		r.mq.log.Info("bearmq: the jobs of a dead worker were given back", "daemon", r.name, "jobs", len(lost))
	}
	for _, t := range lost {
		r.mq.emit(JobRecovered{r.aboutTaken(t), t.Losses})
		if t.Failed {
			r.mq.emit(JobExpired{About: r.aboutTaken(t), Err: errLostTooOften, Losses: t.Losses})
		}
	}
	r.mq.wakes.lookAll()
	return len(lost) + 1, nil
}

// errLostTooOften is why a job expires whose process died each time it ran.
var errLostTooOften = errors.New("bearmq: its worker was lost each time the job ran")

func (d *daemon) aboutTaken(t store.Taken) About {
	return About{Time: time.Now(), JobID: JobID(t.Job), Definition: t.Name, Channel: t.Channel, Group: t.Group, Worker: d.name, Attempt: t.Attempt}
}
