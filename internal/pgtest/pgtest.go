// Package pgtest gives each test of a test binary a place of its own on one
// PostgreSQL, which is started at first use: the server of DATABASE_URL, or a
// private one.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }
package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq/internal/pgserver"
)

// MaxConns is the size of the pool that [DB] returns.
const MaxConns = 8

// startTimeout bounds the start of a server, on a machine that is busy with tests.
const startTimeout = 3 * time.Minute

// settings differ from the careful ones of pgserver in size only: several test
// binaries run at once, and each has many pools and drops many schemas.
var settings = map[string]string{
	"shared_buffers":            "128MB",
	"max_connections":           "400",
	"max_wal_size":              "1GB",
	"max_locks_per_transaction": "256",
}

// shared is the server of this test binary.
var shared struct {
	once   sync.Once
	server *pgserver.Server
	err    error
}

// Run runs the tests and then stops the server, when one was started. It returns
// the exit code for os.Exit.
func Run(m *testing.M) int {
	code := m.Run()
	if shared.server == nil {
		return code
	}
	if err := shared.server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		return max(code, 1)
	}
	return code
}

// URL returns the connection string of the server that all tests of this binary
// share. It starts the server at its first call and fails the test when there
// is none.
func URL(t testing.TB) string {
	t.Helper()
	url, err := sharedURL()
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// Example is DB and Schema for an Example, which has no testing.TB. Call done
// at its end.
func Example() (pool *pgxpool.Pool, schema string, done func()) {
	url, err := sharedURL()
	if err != nil {
		panic(err)
	}
	pool, err = pgxpool.New(context.Background(), url)
	if err != nil {
		panic(err)
	}
	schema = schemaName("example")
	return pool, schema, func() {
		pool.Close()
		if err := drop(url, schema); err != nil {
			panic(err)
		}
	}
}

func sharedURL() (string, error) {
	shared.once.Do(func() {
		// Not the test's context: the server is for the tests after it too.
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		shared.server, shared.err = pgserver.Open(ctx, pgserver.Options{Settings: settings})
	})
	if shared.err != nil {
		return "", shared.err
	}
	return shared.server.URL(), nil
}

// DB returns a pool of [MaxConns] connections to the shared server. It is closed
// at the test's end, which fails when a connection was not given back.
func DB(t testing.TB) *pgxpool.Pool {
	t.Helper()
	return open(t, URL(t))
}

// Schema returns a schema name that no other test has. The schema is not created,
// and is dropped at the test's end. Call it before starting what uses the schema,
// so that this ends first.
func Schema(t testing.TB) string {
	t.Helper()
	url := URL(t)
	name := schemaName(t.Name())
	t.Cleanup(func() {
		if err := drop(url, name); err != nil {
			t.Errorf("dropping schema %s, which a test's open transaction prevents if it timed out: %v", name, err)
		}
	})
	return name
}

// Start starts a private server for one test, whatever DATABASE_URL says, for
// tests that stop or crash it. Settings of o are above those of the shared
// server. It is closed at the test's end.
func Start(t testing.TB, o pgserver.Options) *pgserver.Server {
	t.Helper()
	all := maps.Clone(settings)
	all["shared_buffers"] = "32MB"
	maps.Copy(all, o.Settings)
	o.Settings, o.Private = all, true
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	server, err := pgserver.Open(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return server
}

func open(t testing.TB, url string) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = MaxConns
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := closePool(pool, 20*time.Second); err != nil {
			t.Error(err)
		}
	})
	return pool
}

// closePool closes the pool, which waits for connections in use, and would wait
// until the test binary's timeout for one that was forgotten.
func closePool(pool *pgxpool.Pool, patience time.Duration) error {
	closed := make(chan struct{})
	go func() { // outlives a test only if that test has failed here
		pool.Close()
		close(closed)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-closed:
		return nil
	case <-timer.C:
		return fmt.Errorf("%d connections of the test's pool were not given back: a transaction or rows were not closed, or something still runs", pool.Stat().AcquiredConns())
	}
}

func drop(url, schema string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, "SET lock_timeout = '20s'; SET client_min_messages = warning; DROP SCHEMA IF EXISTS "+
		pgx.Identifier{schema}.Sanitize()+" CASCADE")
	return err
}

// schemaName is legal without quotes, at most 40 bytes long, and says whose it is.
func schemaName(test string) string {
	readable := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, strings.TrimPrefix(test, "Test"))
	if len(readable) > 22 {
		readable = readable[:22]
	}
	return "t_" + readable + "_" + strings.ToLower(rand.Text()[:12])
}
