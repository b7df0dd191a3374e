package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

// Nothing was sent while the write waited for a connection: it can be made again.
func TestAWaitForThePoolIsNoUnknownOutcome(t *testing.T) {
	t.Parallel()
	pool := single(t)
	r := rigOn(t, pool, pgtest.Schema(t))
	held, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	for name, write := range map[string]func(context.Context) error{
		"one":  func(ctx context.Context) error { return r.Insert(ctx, pool, []NewJob{r.job("")}) },
		"many": func(ctx context.Context) error { return r.Insert(ctx, pool, []NewJob{r.job(""), r.job("")}) },
		"tick": func(ctx context.Context) error {
			_, _, err := r.Tick(ctx, "a", "b", time.Now(), time.Now(), "queue", r.job(""))
			return err
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		err := write(ctx)
		cancel()
		assert.ErrorIs(t, err, context.DeadlineExceeded, name)
		assert.NotErrorIs(t, err, ErrUnknownOutcome, name)
		assert.False(t, UnknownOutcome(err), name)
	}
	held.Release()
	assert.Empty(t, r.drain())
}

// A connection that breaks while the answer is awaited leaves open what happened.
func TestALostAnswerIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lock := r.begin()
	_, err := lock.Exec(t.Context(), r.sql("LOCK TABLE bearmq.job"))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() { failed <- r.Insert(ctx, r.pool, []NewJob{r.job("")}) }()
	require.Eventually(t, func() bool {
		return one[bool](r, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%INSERT INTO%' || $1 || '%' AND wait_event_type = 'Lock')`, r.schema)
	}, patience, time.Millisecond)
	cancel()
	err = <-failed
	assert.ErrorIs(t, err, ErrUnknownOutcome)
	assert.ErrorIs(t, err, context.Canceled)
	require.NoError(t, lock.Rollback(t.Context()))
	r.drain()
}

func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, known := range []error{nil, &pgconn.PgError{Code: "23505"}, &pgconn.ConnectError{}, pgx.ErrTxCommitRollback, fmt.Errorf("x: %w", pgx.ErrTxClosed),
		notSent{io.EOF}, fmt.Errorf("x: %w", notSent{context.Canceled})} {
		assert.False(t, UnknownOutcome(known), "%v", known)
	}
	for _, lost := range []error{io.ErrUnexpectedEOF, context.DeadlineExceeded, &net.OpError{Op: "read", Err: errors.New("reset")}} {
		assert.True(t, UnknownOutcome(lost), "%v", lost)
	}
}

func TestTransient(t *testing.T) {
	t.Parallel()
	for _, yes := range []error{io.EOF, context.DeadlineExceeded, &pgconn.PgError{Code: codeLockTimeout}, &pgconn.PgError{Code: "40P01"},
		&pgconn.PgError{Code: "08006"}, &pgconn.PgError{Code: "53300"}, &pgconn.PgError{Code: "57P01"}, &pgconn.PgError{Code: "25006"}} {
		assert.True(t, Transient(fmt.Errorf("x: %w", yes)), "%v", yes)
	}
	for _, no := range []error{nil, context.Canceled, &pgconn.PgError{Code: "23505"}, &pgconn.PgError{Code: "BQ001"}, &pgconn.PgError{Code: "22P05"}} {
		assert.False(t, Transient(no), "%v", no)
	}
}
