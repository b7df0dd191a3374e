package store

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Cancellation is what became of a job that was to be cancelled.
type Cancellation struct {
	ID    int64
	State string // of the job now
	Ended bool   // by this call; else it is asked for, or was over before
}

// Cancel cancels jobs, in the transaction of db where there is one. It returns nothing of jobs that there are not.
func (s *Store) Cancel(ctx context.Context, db DB, ids []int64) ([]Cancellation, error) {
	var all []Cancellation
	scan := func(rows pgx.Rows) error {
		var c Cancellation
		err := rows.Scan(&c.ID, &c.State, &c.Ended)
		all = append(all, c)
		return err
	}
	if db == DB(s.pool) {
		return all, s.call(ctx, "cancel", scan, ids)
	}
	return all, wrap("cancel", s.read(ctx, db, "cancel", scan, ids))
}

// Cancelled returns which of the jobs are to be cancelled.
func (s *Store) Cancelled(ctx context.Context, ids []int64) ([]int64, error) {
	var asked []int64
	err := s.call(ctx, "cancelled", func(rows pgx.Rows) error {
		var id int64
		err := rows.Scan(&id)
		asked = append(asked, id)
		return err
	}, ids)
	return asked, err
}
