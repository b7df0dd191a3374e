package bearmq

import (
	"context"
	"fmt"
	"time"
)

// A ScheduleInfo is a schedule as it is stored, for all processes.
type ScheduleInfo struct {
	// Definition is the name of the definition whose jobs it makes, and its own.
	Definition string
	// Schedule is the text of the [Schedule] that holds.
	Schedule string
	// Deployed is the text of the one in the code. It differs from Schedule
	// after [Context.ChangeSchedule].
	Deployed string
	// Paused schedules make no jobs.
	Paused bool
	// Next is the next slot; of a paused schedule, the one at which it was paused.
	Next time.Time
	// Last is the last slot that has made a job, zero if none has.
	Last time.Time
}

// Schedules lists the schedules in the order of their next slots.
func (mq *Context) Schedules(ctx context.Context) ([]ScheduleInfo, error) {
	stored, err := mq.store.Schedules(ctx)
	if err != nil {
		return nil, fmt.Errorf("bearmq: list schedules: %w", err)
	}
	all := make([]ScheduleInfo, 0, len(stored))
	for _, s := range stored {
		if !s.Removed {
			all = append(all, ScheduleInfo{s.Name, s.Spec, s.Deployed, s.Paused, s.Next, s.Last})
		}
	}
	return all, nil
}

// PauseSchedule makes a definition's schedule make no more jobs, in all
// processes and across restarts and deploys, until [Context.ResumeSchedule].
// Pausing twice is the same as once. The error is [ErrScheduleNotFound] where
// there is none.
func (mq *Context) PauseSchedule(ctx context.Context, definition string) error {
	ok, err := mq.store.PauseSchedule(ctx, definition)
	return scheduleEdited("pause", definition, ok, err)
}

// RemoveSchedule ends a definition's schedule, in all processes. It stays away
// when the code that has it is deployed again, until that code has another
// schedule, or [Context.ResumeSchedule] brings it back. The error is
// [ErrScheduleNotFound] where there is none.
func (mq *Context) RemoveSchedule(ctx context.Context, definition string) error {
	ok, err := mq.store.RemoveSchedule(ctx, definition)
	return scheduleEdited("remove", definition, ok, err)
}

// ResumeSchedule takes a pause or a removal back. It goes on with the next
// slot: those that came meanwhile make no jobs, whatever [CatchUp] says.
// Orchestrators notice within their SchedulePoll.
func (mq *Context) ResumeSchedule(ctx context.Context, definition string) error {
	for {
		next, spec, err := mq.resumeAt(ctx, definition)
		if err != nil {
			return scheduleEdited("resume", definition, true, err)
		}
		ok, err := mq.store.ResumeSchedule(ctx, definition, spec, next)
		if ok || err != nil {
			return scheduleEdited("resume", definition, ok, err)
		}
		// It was changed in between.
	}
}

// resumeAt is the next slot of a stored schedule.
func (mq *Context) resumeAt(ctx context.Context, definition string) (next time.Time, spec string, err error) {
	all, err := mq.store.Schedules(ctx)
	if err != nil {
		return time.Time{}, "", err
	}
	for _, s := range all {
		if s.Name == definition {
			schedule := parseSchedule(s.Spec)
			return schedule.Next(s.Now), s.Spec, schedule.err
		}
	}
	return time.Time{}, "", ErrScheduleNotFound
}

// ChangeSchedule gives a definition's schedule other slots, in all processes.
// That holds until the code has another schedule than it has now: deploying
// the same code again does not take it back. Orchestrators notice within their
// SchedulePoll. The error is [ErrScheduleNotFound] where there is none, and a
// [*FieldError] for a schedule that Register refuses.
func (mq *Context) ChangeSchedule(ctx context.Context, definition string, to Schedule[None]) error {
	if err := to.check(); err != nil {
		return err
	}
	now, err := mq.store.Now(ctx)
	if err != nil {
		return scheduleEdited("change", definition, false, err)
	}
	ok, err := mq.store.ChangeSchedule(ctx, definition, to.text, to.next(now))
	return scheduleEdited("change", definition, ok, err)
}

func scheduleEdited(how, definition string, ok bool, err error) error {
	if err == nil && !ok {
		err = ErrScheduleNotFound
	}
	if err != nil {
		return fmt.Errorf("bearmq: %s the schedule of %q: %w", how, sanitize(definition, maxName), err)
	}
	return nil
}
