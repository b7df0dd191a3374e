package store

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// BeginSession starts the life of a session.
func (s *Store) BeginSession(ctx context.Context, db DB, id uuid.UUID, ttl time.Duration, host string, pid int, channels []string) error {
	_, err := db.Exec(ctx, s.text("begin_session"), id, ttl, host, int32(pid), channels)
	return wrap("begin_session", err)
}

// RenewSession lets a session live for another TTL and returns the jobs taken away from it. alive is false where it is
// dead: it never revives.
func (s *Store) RenewSession(ctx context.Context, db DB, id uuid.UUID) (revoked []int64, alive bool, err error) {
	var r *[]int64
	if err := db.QueryRow(ctx, s.text("renew_session"), id).Scan(&r); err != nil {
		return nil, false, wrap("renew_session", err)
	}
	if r == nil {
		return nil, false, nil
	}
	return *r, true, nil
}

// EndSession ends a session, so that what it still holds can be recovered at once.
func (s *Store) EndSession(ctx context.Context, db DB, id uuid.UUID) error {
	_, err := db.Exec(ctx, s.text("end_session"), id)
	return wrap("end_session", err)
}

// Sleep says that the session sleeps until it is notified.
func (s *Store) Sleep(ctx context.Context, id uuid.UUID, channels []string) error {
	return s.call(ctx, "sleep", nil, id, channels)
}

// Wake says that the session no longer waits to be notified.
func (s *Store) Wake(ctx context.Context, id uuid.UUID) error {
	return s.call(ctx, "wake", nil, id)
}
