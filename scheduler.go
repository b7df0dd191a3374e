package bearmq

import (
	"context"
	"errors"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A scheduler makes the jobs of schedules. Every orchestrator has one; a tick
// and its job are one statement, which only one of them can make.
type scheduler struct {
	*daemon
	deployed  []*repeat            // as they were last stored
	abandoned map[string]time.Time // due ticks that nobody here can make, by schedule: reported once
}

func (s *scheduler) tick(ctx context.Context) (time.Duration, error) {
	if err := s.deploy(ctx); err != nil {
		return 0, err
	}
	all, err := s.mq.store.Schedules(ctx)
	if err != nil {
		return 0, err
	}
	byName := map[string]*repeat{}
	for _, r := range s.deployed {
		byName[r.def.name+"\x00"+r.text] = r
	}
	var (
		wait time.Duration
		errs []error
	)
	for _, sched := range all {
		r := byName[sched.Name+"\x00"+sched.Spec]
		switch {
		case r == nil && sched.Due:
			s.orphan(sched)
		case r == nil:
		case sched.Due:
			next, err := s.make(ctx, r, sched)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			wait = soonest(wait, next.Sub(sched.Now))
		default:
			wait = soonest(wait, sched.Next.Sub(sched.Now))
		}
	}
	return wait, errors.Join(errs...)
}

func soonest(a, b time.Duration) time.Duration {
	if b = max(b, time.Millisecond); a == 0 {
		return b
	}
	return min(a, b)
}

// deploy stores the schedules of this process.
func (s *scheduler) deploy(ctx context.Context) error {
	repeats := s.mq.registry.schedules()
	if len(repeats) == len(s.deployed) {
		return nil // registrations are only ever added
	}
	now, err := s.mq.store.Now(ctx)
	if err != nil {
		return err
	}
	for _, r := range repeats {
		if err := s.mq.store.DeploySchedules(ctx, r.def.name, []string{r.text}, []time.Time{r.next(now)}); err != nil {
			return err
		}
	}
	if err := s.mq.Deploy(ctx); err != nil {
		return err
	}
	s.deployed = repeats
	return nil
}

// make enqueues the job of a tick, and returns when the next is. Of ticks that
// nobody made in time only the last counts.
func (s *scheduler) make(ctx context.Context, r *repeat, sched store.Schedule) (next time.Time, err error) {
	tick, next := sched.Next, r.next(sched.Next)
	for next.After(tick) && !next.After(sched.Now) {
		tick, next = next, r.next(next)
	}
	payload, group, err := r.payload(tick)
	if err != nil {
		return next, err
	}
	lane, err := s.mq.store.Lane(ctx, r.def.channel, 0)
	if err != nil {
		return next, err
	}
	id, ok, err := s.mq.store.Tick(ctx, sched.Name, sched.Spec, sched.Next, next,
		store.NewJob{Lane: lane, Name: r.def.name, Payload: payload, Group: group, Delay: r.def.delay})
	if err != nil || !ok {
		return next, err
	}
	s.mq.emit(JobScheduled{About{Time: time.Now(), JobID: JobID(id), Definition: r.def.name, Channel: r.def.channel, Group: group, Worker: s.name}, tick})
	s.mq.wakes.wake(lane)
	return next, nil
}

// orphan reports a tick for which this process has no function.
func (s *scheduler) orphan(sched store.Schedule) {
	key := sched.Name + "\x00" + sched.Spec
	if s.abandoned[key].Equal(sched.Next) {
		return
	}
	if s.abandoned == nil {
		s.abandoned = map[string]time.Time{}
	}
	s.abandoned[key] = sched.Next
	s.mq.log.Warn("bearmq: a schedule is due that this process does not know", "daemon", s.name, "definition", sched.Name, "schedule", sched.Spec)
	s.mq.emit(ScheduleOrphaned{About{Time: time.Now(), Definition: sched.Name, Worker: s.name}, sched.Next})
}
