package store

import (
	"context"
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

// DeadLeases lists up to n leases of dead sessions, and says what time it is in the database. It declares sessions dead that
// have expired, unless it is later than latest; nil: in any case.
func (s *Store) DeadLeases(ctx context.Context, n int, latest *time.Time) (leases []int64, now time.Time, err error) {
	err = s.call(ctx, "dead_leases", func(rows pgx.Rows) error { return rows.Scan(&now, &leases) }, int32(n), latest)
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

// DeleteFinished reads n outcomes behind the job after and deletes the jobs that are over: completed ones after keep, failed
// ones after keepFailed. reached is where to go on from, and more says whether to do so now.
func (s *Store) DeleteFinished(ctx context.Context, keep, keepFailed time.Duration, after int64, n int) (deleted, reached int64, more bool, err error) {
	err = s.call(ctx, "delete_finished", func(rows pgx.Rows) error { return rows.Scan(&deleted, &reached, &more) }, keep, keepFailed, after, int32(n))
	return deleted, reached, more, err
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
	Priority      int16
	Defaults      []byte // JSON
}

// Deploy stores definitions and returns the names of those that were new or had changed. It makes their channels, so that SQL
// finds them.
func (s *Store) Deploy(ctx context.Context, defs []Definition) (changed []string, err error) {
	for _, d := range defs {
		tag, err := s.pool.Exec(ctx, s.text("deploy_definition"), d.Name, d.Channel, jsonText(d.Defaults))
		if err != nil {
			return changed, wrap("deploy_definition", err)
		}
		if tag.RowsAffected() > 0 {
			changed = append(changed, d.Name)
		}
		key := laneKey{d.Channel, d.Priority}
		if _, ok := s.lane(key); ok {
			continue
		}
		if _, err := s.makeLane(ctx, s.pool, key); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// Pause stops the claims of a channel, or lets them go on.
func (s *Store) Pause(ctx context.Context, channel string, paused bool) error {
	if _, err := s.Lane(ctx, channel, 0); err != nil {
		return err
	}
	return s.call(ctx, "pause", nil, channel, paused)
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
