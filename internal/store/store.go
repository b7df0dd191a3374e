// Package store is the engine: the schema, its functions, and the statements that call them. It is the only package with
// SQL. It knows no handlers and no Go types of jobs; it imports pgx and never the root package.
package store

import (
	"context"
	"crypto/md5"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DB is what a statement needs of a connection, a pool or a transaction.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// Store is one schema of one database. It is safe for concurrent use.
type Store struct {
	pool   *pgxpool.Pool
	schema string
	notes  string            // what the names of the NOTIFY channels begin with
	sql    map[string]string // the statements of queries/, by file name

	mu       sync.RWMutex
	lanes    map[laneKey]int32
	channels map[int32]string

	// isolate is set once a session was found whose default isolation level is not READ COMMITTED: calls then begin
	// their transactions themselves.
	isolate atomic.Bool
}

type laneKey struct {
	channel  string
	priority int16
}

//go:embed queries/*.sql
var queryFiles embed.FS

// queryTexts are the statements as they are written, for the schema "bearmq".
var queryTexts = sync.OnceValue(func() map[string]string {
	texts := map[string]string{}
	files, err := fs.Glob(queryFiles, "queries/*.sql")
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		text, err := queryFiles.ReadFile(f)
		if err != nil {
			panic(err)
		}
		texts[strings.TrimSuffix(path.Base(f), ".sql")] = string(text)
	}
	return texts
})

// New returns the store in a schema. It connects to nothing.
func New(pool *pgxpool.Pool, schema string) (*Store, error) {
	if err := checkSchema(schema); err != nil {
		return nil, err
	}
	s := &Store{pool: pool, schema: schema, notes: notifyChannel(schema), sql: map[string]string{},
		lanes: map[laneKey]int32{}, channels: map[int32]string{}}
	for name, text := range queryTexts() {
		s.sql[name] = render(text, schema)
	}
	return s, nil
}

// Schema returns the name of the schema, not quoted.
func (s *Store) Schema() string { return s.schema }

// WakeChannel is the channel on which sleeping workers are notified of lanes.
func (s *Store) WakeChannel() string { return s.notes + "_wake" }

// EndsChannel is the channel on which those who wait for jobs are notified of their ends.
func (s *Store) EndsChannel() string { return s.notes + "_ends" }

func notifyChannel(schema string) string {
	sum := md5.Sum([]byte(schema)) // a name as long as the schema's could pass PostgreSQL's 63 bytes
	return "bearmq_" + hex.EncodeToString(sum[:8])
}

// checkSchema refuses what PostgreSQL would refuse or cut.
func checkSchema(schema string) error {
	switch {
	case schema == "":
		return errors.New("the schema's name is empty")
	case len(schema) > 63:
		return fmt.Errorf("the schema's name has %d bytes, PostgreSQL keeps 63", len(schema))
	case !utf8.ValidString(schema):
		return errors.New("the schema's name is not valid UTF-8 text")
	case strings.ContainsRune(schema, 0):
		return errors.New("the schema's name contains a NUL")
	case strings.HasPrefix(schema, "pg_"):
		return errors.New("the schema's name begins with pg_, which PostgreSQL keeps for itself")
	}
	return nil
}

// render puts the schema into a text written for the schema "bearmq".
func render(text, schema string) string {
	tag := "$body$"
	for i := 1; strings.Contains(schema, tag); i++ {
		tag = fmt.Sprintf("$body%d$", i)
	}
	return strings.NewReplacer(
		"bearmq.", pgx.Identifier{schema}.Sanitize()+".",
		"'bearmq_", "'"+notifyChannel(schema)+"_",
		"'bearmq.", "'"+strings.ReplaceAll(pgx.Identifier{schema}.Sanitize(), "'", "''")+".", // inside a literal, as of nextval
		"$body$", tag,
	).Replace(text)
}

// callTimeout bounds a call: a connection that died without a word would hold it for a quarter of an hour.
const callTimeout = 30 * time.Second

// call runs one statement on the pool, by itself a transaction, and hands its rows to scan.
func (s *Store) call(ctx context.Context, query string, scan func(pgx.Rows) error, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if s.isolate.Load() {
		return s.callIsolated(ctx, query, scan, args...)
	}
	err := s.read(ctx, s.pool, query, scan, args...)
	if code(err) == codeIsolation {
		s.isolate.Store(true)
		return s.callIsolated(ctx, query, scan, args...)
	}
	return wrap(query, err)
}

// readCommitted begins a transaction of one call. It ends by itself where the process is frozen or cut off in the middle: it
// may hold a lane, or keep dead sessions from being declared so.
var readCommitted = pgx.TxOptions{BeginQuery: "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL idle_in_transaction_session_timeout = '10s'"}

func (s *Store) callIsolated(ctx context.Context, query string, scan func(pgx.Rows) error, args ...any) error {
	err := pgx.BeginTxFunc(ctx, s.pool, readCommitted, func(tx pgx.Tx) error {
		return s.read(ctx, tx, query, scan, args...)
	})
	return wrap(query, err)
}

func (s *Store) read(ctx context.Context, db DB, query string, scan func(pgx.Rows) error, args ...any) error {
	rows, err := db.Query(ctx, s.text(query), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if scan == nil {
			continue
		}
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (s *Store) text(query string) string {
	text, ok := s.sql[query]
	if !ok {
		panic("store: no statement " + query)
	}
	return text
}

// Connect opens a connection of our own, as the pool would: an exhausted pool must stop neither a session's renewal nor
// the making of a lane while the caller's transaction holds the pool's last connection.
func (s *Store) Connect(ctx context.Context) (*pgx.Conn, error) {
	config := s.pool.Config()
	cc := config.ConnConfig.Copy()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, cc); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, err
	}
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, conn); err != nil {
			_ = conn.Close(ctx)
			return nil, err
		}
	}
	return conn, nil
}
