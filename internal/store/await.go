package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Await says that a process waits for the ends of jobs, for another ttl: they are notified on EndsChannel, the ids with commas
// between them.
func (s *Store) Await(ctx context.Context, id uuid.UUID, ttl time.Duration) error {
	return s.call(ctx, "await", nil, id, ttl)
}

// AwaitOver says that a process does not wait any more.
func (s *Store) AwaitOver(ctx context.Context, id uuid.UUID) error {
	return s.call(ctx, "await_over", nil, id)
}

// End is how a job ended.
type End struct {
	ID     int64
	Known  bool   // there is such a job
	State  string // of the outcome: c, f or x; "" while there is none
	Result []byte
	Error  string
}

// Ends reads how jobs ended, in any order.
func (s *Store) Ends(ctx context.Context, ids []int64) ([]End, error) {
	ends := make([]End, 0, len(ids))
	err := s.call(ctx, "ends", func(rows pgx.Rows) error {
		var (
			e     End
			state *string
		)
		if err := rows.Scan(&e.ID, &e.Known, &state, &e.Result, &e.Error); err != nil {
			return err
		}
		e.State = deref(state)
		ends = append(ends, e)
		return nil
	}, ids)
	return ends, err
}
