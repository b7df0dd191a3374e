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
	every    time.Duration
	answered time.Time // when the database last did
	clock    time.Time // the time of a tick by this machine's monotonic clock
	clockDB  time.Time // and by the database's
	grace    time.Time // until then nobody is declared dead
}

// recoverBatch is how many leases are recovered between two looks.
const recoverBatch = 100

func (r *recoverer) tick(ctx context.Context) (time.Duration, error) {
	var errs []error
	for ctx.Err() == nil && len(errs) == 0 {
		leases, now, err := r.mq.store.DeadLeases(ctx, recoverBatch, r.latest())
		if err != nil {
			return 0, err
		}
		if wait := r.wait(now); wait > 0 {
			return wait, nil
		}
		recovered := 0
		for _, id := range leases {
			n, err := r.recover(ctx, id)
			if err != nil {
				errs = append(errs, err) // one that cannot be recovered now must not hold up the others
				continue
			}
			recovered += n
		}
		if len(leases) < recoverBatch || recovered == 0 {
			break
		}
	}
	return 0, errors.Join(errs...)
}

// latest is up to what time, by the database's clock, sessions that have
// expired may be declared dead; nil: at any time. When this process could not
// reach the database for a while, perhaps nobody could; and when the database's
// clock has jumped, sessions have expired that are alive. Then everybody gets
// one TTL to renew.
func (r *recoverer) latest() *time.Time {
	if r.answered.IsZero() {
		return nil
	}
	ttl, now := r.mq.opts.SessionTTL, time.Now()
	if now.Sub(r.answered) > 3*r.every+ttl/3 {
		r.spare(now, "the database was out of reach")
	}
	if now.Before(r.grace) {
		return &time.Time{}
	}
	at := r.clockDB.Add(now.Sub(r.clock) + r.tolerance())
	return &at
}

// tolerance is how much two clocks may differ over one tick.
func (r *recoverer) tolerance() time.Duration { return max(r.mq.opts.SessionTTL/3, time.Second) }

// wait is how long nobody may be declared dead.
func (r *recoverer) wait(nowDB time.Time) time.Duration {
	now := time.Now()
	if !r.answered.IsZero() && (nowDB.Sub(r.clockDB)-now.Sub(r.clock)).Abs() > r.tolerance() {
		r.spare(now, "the database's clock jumped")
	}
	r.answered, r.clock, r.clockDB = now, now, nowDB
	return r.grace.Sub(now)
}

// spare gives everybody one TTL to renew.
func (r *recoverer) spare(now time.Time, why string) {
	ttl := r.mq.opts.SessionTTL
	r.grace = now.Add(ttl)
	r.mq.log.Warn("bearmq: "+why+", nobody is declared dead for now", "daemon", r.name, "for", ttl)
}

// recover gives back one lease, in one transaction.
func (r *recoverer) recover(ctx context.Context, lease int64) (int, error) {
	lost, err := r.mq.store.Recover(ctx, lease, r.mq.opts.MaxLosses)
	if err != nil {
		return 0, err
	}
	r.answered = time.Now()
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
