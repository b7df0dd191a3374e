package bearmq

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/bearmq/bearmq/internal/store"
)

// A scheduler makes the jobs of schedules. Every orchestrator has one; a tick
// and its job are one statement, which only one of them can make.
type scheduler struct {
	*daemon
	poll      time.Duration
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
	var errs []error
	wait := s.poll
	for _, sched := range all {
		r := s.find(sched)
		switch {
		case sched.Paused || sched.Removed:
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
	if len(s.deployed) == 0 {
		wait = 0 // nothing to make here, only to report
	}
	return wait, errors.Join(errs...)
}

// find is the repeat that makes the jobs of a stored schedule, with its slots,
// which may have been changed at run time. It is nil where this process cannot
// make them.
func (s *scheduler) find(sched store.Schedule) *repeat {
	i := slices.IndexFunc(s.deployed, func(r *repeat) bool { return r.def.name == sched.Name })
	switch {
	case i < 0:
		return nil
	case s.deployed[i].schedule.text == sched.Spec:
		return s.deployed[i]
	}
	changed := *s.deployed[i]
	if changed.schedule = parseSchedule(sched.Spec); changed.schedule.err != nil {
		return nil // of a later version, or in a zone that this machine does not know
	}
	return &changed
}

func soonest(a, b time.Duration) time.Duration { return min(a, max(b, time.Millisecond)) }

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
		if err := s.mq.store.DeploySchedule(ctx, r.def.name, r.schedule.text, r.schedule.next(now)); err != nil {
			return err
		}
	}
	if err := s.mq.Deploy(ctx); err != nil {
		return err
	}
	s.deployed = repeats
	return nil
}

// make enqueues the jobs of the slots that are due and not given up, and
// returns when the next is.
func (s *scheduler) make(ctx context.Context, r *repeat, sched store.Schedule) (next time.Time, err error) {
	now := sched.Now
	if now.Before(sched.Next) {
		now = sched.Next // it became due while it was read
	}
	due := lastDue(r.schedule.next, sched.Next, now, max(r.catchUp, 1))
	next = r.schedule.next(due[len(due)-1])
	first := due[0]
	if r.catchUp == 0 && now.Sub(first) > onTime {
		due, first = nil, next
	}
	if !first.Equal(sched.Next) {
		if ok, err := s.mq.store.SkipTicks(ctx, sched.Name, sched.Spec, sched.Next, first); err != nil || !ok {
			return next, err
		}
	}
	for _, tick := range due {
		if ok, err := s.makeOne(ctx, r, sched, tick); err != nil || !ok {
			return next, err
		}
	}
	return next, nil
}

// lastDue is the last n slots up to now, in order; the first that there may be
// is given.
func lastDue(next func(time.Time) time.Time, first, now time.Time, n int) []time.Time {
	// Backwards, in ever larger steps: a schedule of each second may have been
	// left alone for a year.
	for back := time.Minute; ; back *= 4 {
		from := now.Add(-back)
		slot, all := first, back > 1<<60 || !from.After(first)
		if !all {
			slot = next(from)
		}
		var due []time.Time
		for ; !slot.After(now); slot = next(slot) {
			due = append(due, slot)
		}
		if all || len(due) >= n {
			return due[max(len(due)-n, 0):]
		}
	}
}

// makeOne enqueues the job of one slot. ok is false where another orchestrator
// did.
func (s *scheduler) makeOne(ctx context.Context, r *repeat, sched store.Schedule, tick time.Time) (ok bool, err error) {
	payload, group, err := r.payload(tick.In(r.schedule.zone))
	if err != nil {
		return false, err
	}
	lane, err := s.mq.store.Lane(ctx, r.def.channel, int16(r.def.priority))
	if err != nil {
		return false, err
	}
	made, ok, err := s.mq.store.Tick(ctx, sched.Name, sched.Spec, tick, r.schedule.next(tick), r.overlap.String(),
		store.NewJob{Lane: lane, Name: r.def.name, Payload: payload, Group: group, Delay: r.delay()})
	if err != nil || !ok {
		return false, err
	}
	about := About{Time: time.Now(), JobID: JobID(made.ID), Definition: r.def.name, Channel: r.def.channel, Group: group, Worker: s.name}
	if made.ID == 0 {
		about.JobID = JobID(made.Unfinished)
		s.mq.emit(ScheduleSkipped{about, tick})
		return true, nil
	}
	s.mq.emit(JobScheduled{about, tick})
	s.mq.wakes.wake(lane)
	if made.Unfinished != 0 && r.overlap == OverlapReplace {
		s.mq.wakes.cancel()
	}
	return true, nil
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
