//go:build pgbouncer

package pgbouncer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// patience bounds every wait in these tests, on a machine that is busy.
const patience = 30 * time.Second

// keeper ends the program when this process is gone, however it ended.
const keeper = `"$@" & program=$!; cat >/dev/null; kill -KILL "$program"; wait "$program"`

// A bouncer is a pgbouncer in front of the tests' server.
type bouncer struct {
	port int

	mu  sync.Mutex
	log strings.Builder
}

func (b *bouncer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

func (b *bouncer) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.String()
}

// start starts a pgbouncer that lends few connections, in a mode: transaction or session.
func start(t *testing.T, mode string) *bouncer {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // on root's PATH only
	}
	_, err = os.Stat(path)
	require.NoError(t, err, "these tests need pgbouncer: run scripts/pgbouncer")
	server, err := pgx.ParseConfig(pgtest.URL(t))
	require.NoError(t, err)
	password := ""
	if server.Password != "" {
		password = " password='" + strings.ReplaceAll(server.Password, "'", "''") + "'"
	}
	b := &bouncer{port: freePort(t)}
	config := filepath.Join(t.TempDir(), "pgbouncer.ini")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `[databases]
* = host=%s port=%d user=%s%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = %s
default_pool_size = %d
max_client_conn = 1000
log_connections = 0
log_disconnections = 0
`, server.Host, server.Port, server.User, password, b.port, mode,
		map[string]int{"transaction": 4, "session": 100}[mode]), 0o600))

	args := []string{"-c", keeper, "keeper", path}
	if os.Geteuid() == 0 {
		args = append(args, "-u", "nobody") // it does not run as root
	}
	cmd := exec.Command("/bin/sh", append(args, config)...)
	cmd.Stdout, cmd.Stderr = b, b
	alive, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = alive.Close()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			said := b.said()
			t.Logf("pgbouncer: %s", said[max(0, len(said)-4000):])
		}
	})
	require.Eventually(t, func() bool {
		conn, err := pgx.Connect(t.Context(), b.url("exec"))
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	}, patience, 20*time.Millisecond, "pgbouncer does not answer")
	return b
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, l.Close()) }()
	return l.Addr().(*net.TCPAddr).Port
}

// url is a connection string through the pooler, with pgx in a mode of its own.
func (b *bouncer) url(execMode string) string {
	u := url.URL{Scheme: "postgres", User: url.User("anybody"), Host: fmt.Sprintf("127.0.0.1:%d", b.port), Path: "/postgres",
		RawQuery: url.Values{"sslmode": {"disable"}, "default_query_exec_mode": {execMode}}.Encode()}
	return u.String()
}

// The tests prove nothing where the pooler leaves connections alone: here it does what they are about.
func TestThePoolerTakesAwayPreparedStatementsAndNotifications(t *testing.T) {
	t.Parallel()
	b := start(t, "transaction")
	connect := func() *pgx.Conn {
		conn, err := pgx.Connect(t.Context(), b.url("cache_describe"))
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		return conn
	}
	one, two := connect(), connect()
	_, err := one.Prepare(t.Context(), "mine", "SELECT 1")
	require.NoError(t, err)
	_, err = two.Prepare(t.Context(), "mine", "SELECT 1")
	require.ErrorContains(t, err, "42P05")
	_, err = one.Exec(t.Context(), "LISTEN anybody")
	require.NoError(t, err)
	tx, err := two.Begin(t.Context()) // has the connection that listens
	require.NoError(t, err)
	_, err = one.Exec(t.Context(), "mine")
	require.ErrorContains(t, err, "26000")
	require.NoError(t, tx.Rollback(t.Context()))
	_, err = two.Exec(t.Context(), "NOTIFY anybody")
	require.NoError(t, err)
	wait, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = one.WaitForNotification(wait)
	require.True(t, errors.Is(err, context.DeadlineExceeded), "%v", err)
}
