package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Taken is a job that was taken away from a lease.
type Taken struct {
	Job                  int64
	Name, Channel, Group string
	Attempt, Losses      int
	Failed               bool          // it was its last loss
	HeldFor              time.Duration // of a group that was unlocked
}

// DeadLeases lists up to n leases of dead sessions, and says what time it is in the database.
func (s *Store) DeadLeases(ctx context.Context, n int) (leases []int64, now time.Time, err error) {
	err = s.call(ctx, "dead_leases", func(rows pgx.Rows) error { return rows.Scan(&now, &leases) }, int32(n))
	return leases, now, err
}

// Recover gives back what a dead session's lease held, in one transaction.
func (s *Store) Recover(ctx context.Context, lease int64, maxLosses int) (lost []Taken, err error) {
	err = s.call(ctx, "recover", func(rows pgx.Rows) error {
		var (
			t              Taken
			channel, group *string
			attempt, n     int16
		)
		if err := rows.Scan(&t.Job, &t.Name, &channel, &group, &attempt, &n, &t.Failed); err != nil {
			return err
		}
		t.Channel, t.Group, t.Attempt, t.Losses = deref(channel), deref(group), int(attempt), int(n)
		lost = append(lost, t)
		return nil
	}, lease, int32(maxLosses))
	return lost, err
}

// UnlockGroups frees the groups that one job of a live session has held for longer than after.
func (s *Store) UnlockGroups(ctx context.Context, after time.Duration, maxLosses int) (lost []Taken, err error) {
	err = s.call(ctx, "unlock_groups", func(rows pgx.Rows) error {
		var (
			t          Taken
			channel    *string
			attempt, n int16
			held       float64
		)
		if err := rows.Scan(&t.Job, &t.Name, &channel, &t.Group, &attempt, &n, &t.Failed, &held); err != nil {
			return err
		}
		t.Channel, t.Attempt, t.Losses, t.HeldFor = deref(channel), int(attempt), int(n), time.Duration(held*float64(time.Second))
		lost = append(lost, t)
		return nil
	}, after, int32(maxLosses))
	return lost, err
}

// Deletion is what DeleteFinished did with the jobs of one kind.
type Deletion struct {
	Keep    time.Duration // how long they are kept
	From    time.Time     // where to begin, and then where to go on from
	Deleted int64
}

// DeleteFinished deletes up to n jobs of each kind, the completed ones and the failed ones, whose time is over.
func (s *Store) DeleteFinished(ctx context.Context, completed, failed *Deletion, n int) error {
	var c, f *time.Time
	err := s.call(ctx, "delete_finished", func(rows pgx.Rows) error { return rows.Scan(&completed.Deleted, &c, &failed.Deleted, &f) },
		completed.Keep, notZero(completed.From), failed.Keep, notZero(failed.From), int32(n))
	if c != nil {
		completed.From = *c
	}
	if f != nil {
		failed.From = *f
	}
	return err
}

func notZero(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// CollectGroups deletes the idle ones of the next n groups behind after. reached is "" at the end.
func (s *Store) CollectGroups(ctx context.Context, after string, idle time.Duration, n int) (deleted int64, reached string, err error) {
	var r *string
	err = s.call(ctx, "collect_groups", func(rows pgx.Rows) error { return rows.Scan(&deleted, &r) }, after, idle, int32(n))
	return deleted, deref(r), err
}

// Sweep deletes leftovers: finished leases, read intervals, dead sessions.
func (s *Store) Sweep(ctx context.Context) error { return s.call(ctx, "sweep", nil) }

// Now is the database's time.
func (s *Store) Now(ctx context.Context) (now time.Time, err error) {
	err = s.call(ctx, "now", func(rows pgx.Rows) error { return rows.Scan(&now) })
	return now, err
}

// Definition is a job definition as it is stored.
type Definition struct {
	Name, Channel string
	Defaults      []byte // JSON
}

// Deploy stores definitions and returns the names of those that were new or had changed.
func (s *Store) Deploy(ctx context.Context, defs []Definition) (changed []string, err error) {
	for _, d := range defs {
		tag, err := s.pool.Exec(ctx, s.text("deploy_definition"), d.Name, d.Channel, d.Defaults)
		if err != nil {
			return changed, wrap("deploy_definition", err)
		}
		if tag.RowsAffected() > 0 {
			changed = append(changed, d.Name)
		}
	}
	return changed, nil
}

// Schedule is a repeating job as it is stored.
type Schedule struct {
	Name, Spec string
	Next, Now  time.Time // Now is the database's time when it was read
	Due        bool
}

// DeploySchedules stores the schedules of a definition, with their first ticks. One that is there already keeps its next
// tick; one that is not among them any more is deleted.
func (s *Store) DeploySchedules(ctx context.Context, name string, specs []string, first []time.Time) error {
	_, err := s.pool.Exec(ctx, s.text("deploy_schedule"), name, specs, first)
	return wrap("deploy_schedule", err)
}

// Schedules reads all schedules.
func (s *Store) Schedules(ctx context.Context) (all []Schedule, err error) {
	err = s.call(ctx, "schedules", func(rows pgx.Rows) error {
		var x Schedule
		if err := rows.Scan(&x.Name, &x.Spec, &x.Next, &x.Now, &x.Due); err != nil {
			return err
		}
		all = append(all, x)
		return nil
	})
	return all, err
}

// Tick enqueues the job of a schedule's tick and moves the schedule on, both or neither. ok is false where another
// orchestrator did it.
func (s *Store) Tick(ctx context.Context, name, spec string, tick, next time.Time, job NewJob) (id int64, ok bool, err error) {
	var delay *float64
	if job.Delay > 0 {
		d := job.Delay.Seconds()
		delay = &d
	}
	conn, err := acquire(ctx, s.pool)
	if err != nil {
		return 0, false, wrap("tick", err)
	}
	defer conn.Release()
	row := conn.QueryRow(ctx, s.text("tick"), name, spec, tick, next, job.Lane, string(job.Payload), null(job.Group), delay)
	switch err := row.Scan(&id, nil); {
	case err == nil:
		return id, true, nil
	case errors.Is(err, pgx.ErrNoRows):
		return 0, false, nil
	default:
		return 0, false, wrapWrite("tick", err)
	}
}

// Pause stops the claims of a channel, or lets them go on.
func (s *Store) Pause(ctx context.Context, channel string, paused bool) error {
	if _, err := s.Lane(ctx, channel, 0); err != nil {
		return err
	}
	_, err := s.pool.Exec(ctx, s.text("pause"), channel, paused)
	return wrap("pause", err)
}

// Channel is a channel as it is stored.
type Channel struct {
	Name   string
	Paused bool
}

// Channels lists all channels.
func (s *Store) Channels(ctx context.Context) (all []Channel, err error) {
	err = s.call(ctx, "channels", func(rows pgx.Rows) error {
		var c Channel
		if err := rows.Scan(&c.Name, &c.Paused); err != nil {
			return fmt.Errorf("channels: %w", err)
		}
		all = append(all, c)
		return nil
	})
	return all, err
}
