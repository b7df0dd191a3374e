package bearmq

import (
	"context"
	"errors"
	"time"
)

// Job groups: no two jobs of a group run at once, on all machines together,
// and they run in their order. A claim takes the groups of its jobs, under a
// token that only rises; jobs whose group is busy wait behind it; and when a
// group becomes free, the next of them get a turn. Here are the two loops that
// keep groups from staying locked and from staying for ever.

// A groupUnlocker frees groups that one job has held for longer than
// Options.GroupUnlock.
type groupUnlocker struct{ *daemon }

func (u *groupUnlocker) tick(ctx context.Context) (time.Duration, error) {
	for ctx.Err() == nil {
		n, err := u.unlock(ctx)
		if err != nil || n == 0 {
			return 0, err
		}
	}
	return 0, nil
}

// unlock frees the groups of one lease.
func (u *groupUnlocker) unlock(ctx context.Context) (int, error) {
	lost, err := u.mq.store.UnlockGroups(ctx, u.mq.opts.GroupUnlock, u.mq.opts.MaxLosses)
	for _, t := range lost {
		u.mq.log.Warn("bearmq: a job held its group for too long, the group was freed", "daemon", u.name,
			"job", t.Job, "definition", t.Name, "held for", t.HeldFor)
		u.mq.emit(GroupUnlocked{u.aboutTaken(t), t.HeldFor})
		if t.Failed {
			u.mq.emit(JobExpired{About: u.aboutTaken(t), Err: errHeldTooOften, Losses: t.Losses})
		}
	}
	if len(lost) > 0 {
		u.mq.wakes.lookAll()
	}
	return len(lost), err
}

// errHeldTooOften is why a job expires that held its group for too long each
// time it ran.
var errHeldTooOften = errors.New("bearmq: the job held its group for too long each time it ran")

// A groupCollector deletes groups that nobody has used for a while. It walks
// over all groups, a piece at a time.
type groupCollector struct {
	*daemon
	after string // where to go on
}

const (
	groupIdle  = time.Minute
	groupBatch = 5000
)

func (c *groupCollector) tick(ctx context.Context) (time.Duration, error) {
	var total int64
	defer func() {
		if total > 0 {
			c.mq.emit(JobGroupsDeleted{About{Time: time.Now(), Worker: c.name}, total})
		}
	}()
	for ctx.Err() == nil {
		deleted, reached, err := c.mq.store.CollectGroups(ctx, c.after, groupIdle, groupBatch)
		if err != nil {
			return 0, err
		}
		total += deleted
		c.after = reached
		if reached == "" {
			break
		}
	}
	return 0, nil
}
