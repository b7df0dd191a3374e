package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// A Transaction is one that is open. Prepared is its name where it was prepared to be committed later and has no process.
type Transaction struct {
	PID                                      int
	Prepared, Application, User, Host, State string
	Age                                      time.Duration
}

// Health is how the database is.
type Health struct {
	NotifyQueue  float64 // how full: 0 to 1
	Live, Dead   int64   // rows of our tables
	Transactions []Transaction
}

// Health looks at the database, and at up to n transactions.
func (s *Store) Health(ctx context.Context, n int) (h Health, err error) {
	err = s.call(ctx, "health", func(rows pgx.Rows) error {
		var (
			pid                                *int
			name, application, user, host, now *string
			age                                *time.Duration
		)
		if err := rows.Scan(&h.NotifyQueue, &h.Live, &h.Dead, &pid, &name, &application, &user, &host, &now, &age); err != nil {
			return err
		}
		if pid != nil {
			h.Transactions = append(h.Transactions, Transaction{*pid, deref(name), deref(application), deref(user), deref(host), deref(now), *age})
		}
		return nil
	}, s.schema, int32(n))
	return h, err
}
