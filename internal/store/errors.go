package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The root package gives these to users; what they mean stands there.
var (
	ErrNotMigrated    = errors.New("the schema has not been migrated")
	ErrUnknownOutcome = errors.New("the connection was lost before the answer came: the write may have happened")
	ErrLeaseLost      = errors.New("the lease was lost")
	ErrJobNotFound    = errors.New("there is no such job")
	ErrRestored       = errors.New("the database was restored from another cluster")
	ErrPooler         = errors.New("prepared statements get lost, as behind a pooler in transaction mode: add default_query_exec_mode=cache_describe to the pool's connection string, or set pgx.QueryExecModeCacheDescribe")
)

// SchemaVersionError says that the schema in the database and the library do not fit.
type SchemaVersionError struct {
	Schema         string
	Found, Library int // versions; Found 0: not migrated
}

func (e *SchemaVersionError) Error() string {
	if e.Found > e.Library {
		return fmt.Sprintf("schema %q is at version %d and this library knows version %d: use a newer library", e.Schema, e.Found, e.Library)
	}
	return fmt.Sprintf("schema %q is at version %d and this library needs version %d: run mq.Migrate or bearmq migrate up", e.Schema, e.Found, e.Library)
}

// Is makes a schema that is missing or too old an ErrNotMigrated.
func (e *SchemaVersionError) Is(target error) bool {
	return target == ErrNotMigrated && e.Found < e.Library
}

// SQLSTATEs of the engine's own functions and of PostgreSQL that mean something here.
const (
	codeIsolation   = "BQ001"
	codeNoTable     = "42P01"
	codeNoFunction  = "42883"
	codeNoSchema    = "3F000"
	codeLockTimeout = "55P03"
	codeNoStatement = "26000"
	codeStatement   = "42P05" // it exists already
)

func code(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// wrap says which statement failed, and makes of a missing table or prepared statement what it means.
func wrap(query string, err error) error {
	if err == nil {
		return nil
	}
	switch code(err) {
	case codeNoTable, codeNoFunction, codeNoSchema:
		return fmt.Errorf("%w: run mq.Migrate or bearmq migrate up (%s: %w)", ErrNotMigrated, query, err)
	case codeNoStatement, codeStatement:
		return fmt.Errorf("%w (%s: %w)", ErrPooler, query, err)
	}
	return fmt.Errorf("%s: %w", query, err)
}

// UnknownOutcome tells whether a failed write or commit may have happened all the same: it went out and the connection broke
// before PostgreSQL said anything.
func UnknownOutcome(err error) bool {
	if err == nil || code(err) != "" || pgconn.SafeToRetry(err) || errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, pgx.ErrTxClosed) {
		return false
	}
	var connect *pgconn.ConnectError
	return !errors.As(err, &connect)
}

// A notSent is an error before anything went out.
type notSent struct{ error }

func (notSent) SafeToRetry() bool { return true }
func (e notSent) Unwrap() error   { return e.error }

// acquire takes a connection out of a pool for one write: pgx does not tell an error of the wait for it, when nothing was
// sent, from one of the wait for the answer.
func acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return nil, notSent{fmt.Errorf("get a connection: %w", err)}
	}
	return conn, nil
}

// wrapWrite is wrap for a write outside a transaction of the caller's.
func wrapWrite(query string, err error) error {
	if UnknownOutcome(err) {
		return fmt.Errorf("%w (%s: %w)", ErrUnknownOutcome, query, err)
	}
	return wrap(query, err)
}

// Transient tells whether the same call may succeed a little later by itself: the connection, not the call, was at fault.
func Transient(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return true // also a refused password: it may have been changed a moment ago
	}
	switch c := code(err); {
	case c == "":
		return true
	case c == codeLockTimeout, c == "57014", c == "40P01", c == "40001":
		return true
	default:
		return len(c) == 5 && (c[:2] == "08" || c[:2] == "53" || c[:2] == "57" || c[:2] == "25")
	}
}

// ReadOnly tells whether the server does not write, or not any more: after a failover it is the one that was.
func ReadOnly(err error) bool { return code(err) == "25006" }

// TooSlow tells whether a call ran out of time: with less to do it may succeed.
func TooSlow(err error) bool {
	return code(err) == "57014" || errors.Is(err, context.DeadlineExceeded)
}
