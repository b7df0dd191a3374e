package pgtest

import (
	"context"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgserver"
)

func TestMain(m *testing.M) { os.Exit(Run(m)) }

func TestOneServerForAllTests(t *testing.T) {
	t.Parallel()
	require.Equal(t, URL(t), URL(t))
	pool := DB(t)
	require.Equal(t, int32(MaxConns), pool.Config().MaxConns)
	if !shared.server.Private() {
		return
	}
	for name, want := range map[string]string{"max_connections": "400", "fsync": "on", "synchronous_commit": "on"} {
		var got string
		require.NoError(t, pool.QueryRow(t.Context(), "SHOW "+name).Scan(&got))
		assert.Equal(t, want, got, name)
	}
}

func TestSchema(t *testing.T) {
	t.Parallel()
	pool := DB(t)
	var name string
	t.Run("with a name that is not an identifier, and is long; ü", func(t *testing.T) {
		name = Schema(t)
		require.Regexp(t, regexp.MustCompile(`^t_[a-z0-9_]{1,22}_[a-z0-9]{12}$`), name)
		require.NotEqual(t, name, Schema(t))
		_, err := pool.Exec(t.Context(), "CREATE SCHEMA "+name+"; CREATE TABLE "+name+".t (n int)")
		require.NoError(t, err)
	})
	var n int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_namespace WHERE nspname = $1", name).Scan(&n))
	require.Zero(t, n, "the schema outlived its test")
}

func TestForgottenConnection(t *testing.T) {
	t.Parallel()
	pool := DB(t)
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	require.ErrorContains(t, closePool(pool, time.Millisecond), "1 connections")
	conn.Release()
	require.NoError(t, closePool(pool, time.Minute))
}

func TestStart(t *testing.T) {
	t.Parallel()
	server := Start(t, pgserver.Options{Settings: map[string]string{"work_mem": "5MB"}})
	require.NotEqual(t, URL(t), server.URL())
	pool := open(t, server.URL())
	var got string
	require.NoError(t, pool.QueryRow(t.Context(), "SHOW work_mem").Scan(&got))
	require.Equal(t, "5MB", got)
	require.NoError(t, server.Crash())
	require.Error(t, pool.Ping(t.Context()))
	require.NoError(t, server.Start(context.Background()))
	require.Eventually(t, func() bool { return pool.Ping(t.Context()) == nil }, 10*time.Second, 10*time.Millisecond)
}
