package store

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// BeginSession starts the life of a session, in a database that was not restored meanwhile below a running worker.
func (s *Store) BeginSession(ctx context.Context, db DB, id uuid.UUID, ttl time.Duration, host string, pid int, channels []string) error {
	if err := s.checkCluster(ctx, db); err != nil {
		return err
	}
	_, err := db.Exec(ctx, s.text("begin_session"), id, ttl, host, int32(pid), channels)
	return wrap("begin_session", err)
}

// RenewSession lets a session live for another TTL and returns the jobs taken away from it, again and again until told has
// them. alive is false where it is dead: it never revives.
func (s *Store) RenewSession(ctx context.Context, db DB, id uuid.UUID, told []int64) (revoked []int64, alive bool, err error) {
	var r *[]int64
	renew := func(db DB) error { return db.QueryRow(ctx, s.text("renew_session"), id, told).Scan(&r) }
	if conn, own := db.(*pgx.Conn); own && s.isolate.Load() {
		err = pgx.BeginTxFunc(ctx, conn, readCommitted, func(tx pgx.Tx) error { return renew(tx) })
	} else {
		err = renew(db)
	}
	if err != nil {
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

// Probe notifies all listeners of a channel of a word, on a connection of the pool.
func (s *Store) Probe(ctx context.Context, channel, word string) error {
	return s.call(ctx, "probe", nil, channel, word)
}
