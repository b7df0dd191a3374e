package store

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
)

// Schedule is a repeating job as it is stored.
type Schedule struct {
	Name            string
	Spec, Deployed  string // what holds, and what the code says
	Next            time.Time
	Last            time.Time // zero: it has made no job
	Paused, Removed bool
	Now             time.Time // the database's time when it was read
	Due             bool
}

// DeploySchedule stores the schedule of a definition with its first tick. One that is there already, and is what the code
// said then, stays as it is.
func (s *Store) DeploySchedule(ctx context.Context, name, spec string, first time.Time) error {
	return s.call(ctx, "deploy_schedule", nil, name, spec, first)
}

// Schedules reads all schedules, also removed ones.
func (s *Store) Schedules(ctx context.Context) (all []Schedule, err error) {
	err = s.call(ctx, "schedules", func(rows pgx.Rows) error {
		var (
			x        Schedule
			deployed *string
			last     *time.Time
		)
		if err := rows.Scan(&x.Name, &x.Spec, &deployed, &x.Next, &last, &x.Paused, &x.Removed, &x.Now, &x.Due); err != nil {
			return err
		}
		x.Deployed = deref(deployed)
		if last != nil {
			x.Last = *last
		}
		all = append(all, x)
		return nil
	})
	return all, err
}

// PauseSchedule stops the ticks of a schedule. ok is false where there is none.
func (s *Store) PauseSchedule(ctx context.Context, name string) (ok bool, err error) {
	return s.editSchedule(ctx, "pause_schedule", name)
}

// ResumeSchedule takes a pause or a removal back. ok is false where the schedule is another one than was seen, or is gone.
func (s *Store) ResumeSchedule(ctx context.Context, name, spec string, next time.Time) (ok bool, err error) {
	return s.editSchedule(ctx, "resume_schedule", name, spec, next)
}

// RemoveSchedule ends a schedule. ok is false where there is none.
func (s *Store) RemoveSchedule(ctx context.Context, name string) (ok bool, err error) {
	return s.editSchedule(ctx, "remove_schedule", name)
}

// ChangeSchedule gives a schedule other ticks. ok is false where there is none.
func (s *Store) ChangeSchedule(ctx context.Context, name, spec string, next time.Time) (ok bool, err error) {
	return s.editSchedule(ctx, "change_schedule", name, spec, next)
}

func (s *Store) editSchedule(ctx context.Context, query string, args ...any) (ok bool, err error) {
	err = s.call(ctx, query, func(pgx.Rows) error { ok = true; return nil }, args...)
	return ok, err
}

// Ticked is what a tick made.
type Ticked struct {
	ID         int64 // of its job, 0 where it was skipped
	Unfinished int64 // the job of the tick before, where it is not over
}

// Tick enqueues the job of a schedule's tick and moves the schedule on, both or neither. overlap is queue, skip or replace. ok is
// false where another orchestrator did it.
func (s *Store) Tick(ctx context.Context, name, spec string, tick, next time.Time, overlap string, job NewJob) (made Ticked, ok bool, err error) {
	var delay *float64
	if job.Delay > 0 {
		d := job.Delay.Seconds()
		delay = &d
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := acquire(ctx, s.pool)
	if err != nil {
		return made, false, wrap("tick", err)
	}
	defer conn.Release()
	row := conn.QueryRow(ctx, s.text("tick"), name, spec, tick, next, overlap, job.Lane, string(job.Payload), null(job.Group), delay)
	var id, unfinished *int64
	switch err := row.Scan(&id, &unfinished); {
	case err == nil:
		return Ticked{deref(id), deref(unfinished)}, true, nil
	case errors.Is(err, pgx.ErrNoRows):
		return made, false, nil
	default:
		return made, false, wrapWrite("tick", err)
	}
}

// SkipTicks moves a schedule on without a job. ok is false where another orchestrator did something to it.
func (s *Store) SkipTicks(ctx context.Context, name, spec string, tick, next time.Time) (ok bool, err error) {
	tag, err := s.pool.Exec(ctx, s.text("skip_ticks"), name, spec, tick, next)
	return tag.RowsAffected() > 0, wrap("skip_ticks", err)
}
