package bearmq

import (
	"context"
	"fmt"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// Cancel takes a job back. It returns what the job is now:
//
//   - [StateCancelled]: it will not start, or was cancelled before
//   - [StateRunning]: its handler's context ends with [ErrCancelled], usually
//     within milliseconds. If the handler then returns an error, the job is
//     cancelled and not tried again; if it returns nil, the job is completed.
//   - [StateCompleted] or [StateFailed]: it was over already, and stays so
//
// The error is [ErrJobNotFound] where there is no such job. A job that a worker
// takes at this very moment may start before it is told. A cancelled job in
// front of others of its group lets them pass.
func (mq *Context) Cancel(ctx context.Context, id JobID) (State, error) {
	return cancel(ctx, mq, id)
}

// Cancel is [Context.Cancel] in the caller's transaction: what it does happens
// with the commit.
func (in *Into) Cancel(ctx context.Context, id JobID) (State, error) {
	return cancel(ctx, in, id)
}

func cancel(ctx context.Context, to Enqueuer, id JobID) (State, error) {
	mq, db, err := resolve(to)
	if err != nil {
		return "", err
	}
	all, err := mq.store.Cancel(ctx, db, []int64{int64(id)})
	if err != nil {
		return "", fmt.Errorf("bearmq: cancel job %v: %w", id, err)
	}
	if len(all) == 0 {
		return "", fmt.Errorf("bearmq: cancel job %v: %w", id, ErrJobNotFound)
	}
	inTx := inTransaction(db)
	if all[0].Ended && mq.observed() {
		mq.emit(JobCancelled{About: About{Time: time.Now(), JobID: id}, InTx: inTx})
	}
	if !all[0].Ended && !inTx {
		mq.wakes.cancel()
	}
	return State(all[0].State), nil
}

// cancelLook is how often a worker asks whether its jobs are to be cancelled
// although nobody has told it so.
const cancelLook = 10 * time.Second

// untilAsk is when to ask which jobs here are to be cancelled, although nobody
// has told so: a few times after somebody has, for a job was perhaps just about
// to begin; else now and then, and where notifications do not arrive, each
// PollInterval.
func (l *claimLoop) untilAsk() time.Duration {
	wait := cancelLook
	switch {
	case l.askAgain > 0:
		wait = time.Second >> (3 * (l.askAgain - 1)) // 16 ms, 125 ms, 1 s
	case !l.mq.wakes.hears():
		wait = l.opts.PollInterval
	}
	return max(time.Until(l.askedAt.Add(wait)), 0)
}

// cancelAsked ends the jobs of this worker that are to be cancelled.
func (l *claimLoop) cancelAsked() error {
	if !l.asked && l.untilAsk() > 0 {
		return nil
	}
	held := map[int64]*attempt{}
	var ids []int64
	for _, a := range l.slots.held() {
		held[int64(a.job.ID)] = a
		ids = append(ids, int64(a.job.ID))
	}
	if l.asked {
		l.askAgain = 3
	} else if l.askAgain > 0 {
		l.askAgain--
	}
	l.askedAt = time.Now()
	if len(ids) == 0 {
		l.asked = false
		return nil
	}
	ctx, cancel := l.callContext()
	defer cancel()
	asked, err := l.mq.store.Cancelled(ctx, ids)
	if err != nil {
		return err
	}
	l.asked = false
	for _, id := range asked {
		l.slots.cancelled(held[id])
	}
	return nil
}

// askedOf returns which jobs of a claim are to be cancelled.
func (l *claimLoop) askedOf(c *store.Claim) (map[JobID]bool, error) {
	if !c.Cancel {
		return nil, nil
	}
	ids := make([]int64, len(c.Jobs))
	for i := range c.Jobs {
		ids[i] = c.Jobs[i].ID
	}
	ctx, cancel := l.callContext()
	defer cancel()
	asked, err := l.mq.store.Cancelled(ctx, ids)
	if err != nil {
		l.asked = true // they start, and are asked for again
		return nil, err
	}
	set := map[JobID]bool{}
	for _, id := range asked {
		set[JobID(id)] = true
	}
	return set, nil
}
