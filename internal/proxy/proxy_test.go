package proxy_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/pgtest"
	"github.com/bearmq/bearmq/internal/proxy"
)

// within is how long a test waits for what should come at once.
const within = 20 * time.Second

// A rig is a proxy to the shared server, and the way past it.
type rig struct {
	*proxy.Proxy
	url    string
	direct *pgx.Conn
}

func start(t *testing.T) *rig {
	t.Helper()
	p, url, err := proxy.For(pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	r := &rig{Proxy: p, url: url}
	direct, err := pgx.Connect(t.Context(), pgtest.URL(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, direct.Close(context.Background())) })
	r.direct = direct
	return r
}

func (r *rig) connect(t *testing.T, app string) *pgx.Conn {
	t.Helper()
	conn, err := r.dial(t.Context(), app)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond) // it may be harmed
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func (r *rig) dial(ctx context.Context, app string) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(r.url)
	if err != nil {
		return nil, err
	}
	config.RuntimeParams["application_name"] = app
	return pgx.ConnectConfig(ctx, config)
}

func one(ctx context.Context, conn *pgx.Conn) error {
	var n int
	if err := conn.QueryRow(ctx, "SELECT $1::int", 1).Scan(&n); err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("%d instead of 1", n)
	}
	return nil
}

// unanswered makes sure that a connection gets no answer for a while.
func unanswered(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, one(ctx, conn), context.DeadlineExceeded)
}

// backends are the server's processes for an application.
func (r *rig) backends(t *testing.T, app string) (n int) {
	t.Helper()
	require.NoError(t, r.direct.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", app).Scan(&n))
	return n
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, within, 5*time.Millisecond, what)
}

// name is an application_name that no other test has.
func name(t *testing.T, suffix string) string {
	return fmt.Sprintf("%.40s %s", strings.TrimPrefix(t.Name(), "TestProxy"), suffix)
}

func TestProxyPassesOn(t *testing.T) {
	t.Parallel()
	r := start(t)
	a, b := name(t, "a"), name(t, "b")
	conn, other := r.connect(t, a), r.connect(t, b)
	require.NoError(t, one(t.Context(), conn))
	// Much more than fits into a piece, in both directions.
	long := strings.Repeat("x", 3<<20)
	var back string
	require.NoError(t, other.QueryRow(t.Context(), "SELECT $1::text || 'y'", long).Scan(&back))
	require.Equal(t, long+"y", back)

	require.Len(t, r.Conns(proxy.All), 2)
	require.Len(t, r.Conns(proxy.App(a)), 1)
	require.Equal(t, a, r.Conns(proxy.App(a))[0].App())
	require.Equal(t, conn.Config().User, r.Conns(proxy.App(a))[0].Parameter("user"))
	require.Empty(t, r.Conns(proxy.Listening))
	_, err := other.Exec(t.Context(), "LISTEN proxied")
	require.NoError(t, err)
	require.Equal(t, r.Conns(proxy.App(b)), r.Conns(proxy.Listening))

	_, err = r.direct.Exec(t.Context(), "NOTIFY proxied, 'hello'")
	require.NoError(t, err)
	n, err := other.WaitForNotification(t.Context())
	require.NoError(t, err)
	require.Equal(t, "hello", n.Payload)

	require.NoError(t, conn.Close(t.Context()))
	eventually(t, "a closed connection is forgotten", func() bool { return len(r.Conns(proxy.App(a))) == 0 })
	eventually(t, "and ended at the server", func() bool { return r.backends(t, a) == 0 })
}

// A client that gives up a query asks the server by a connection of its own to
// cancel it.
func TestProxyPassesOnCancelRequests(t *testing.T) {
	t.Parallel()
	r := start(t)
	conn := r.connect(t, name(t, "a"))
	asleep := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "SELECT pg_sleep(60)")
		asleep <- err
	}()
	for {
		require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
		select {
		case err := <-asleep:
			var failed *pgconn.PgError
			require.ErrorAs(t, err, &failed)
			require.Equal(t, "57014", failed.Code)
			return
		case <-time.After(10 * time.Millisecond): // it came before the query
		}
	}
}

func TestProxyReachesAUnixSocket(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Options{})
	if server.SocketURL() == server.URL() {
		t.Fatal("the server has no socket")
	}
	p, url, err := proxy.For(server.SocketURL())
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	conn, err := pgx.Connect(t.Context(), url)
	require.NoError(t, err)
	var remote *string
	require.NoError(t, conn.QueryRow(t.Context(), "SELECT inet_client_addr()::text").Scan(&remote))
	require.Nil(t, remote, "the server sees a client on its socket")
	require.NoError(t, conn.Close(t.Context()))
}

func TestProxyUnderstandsBothFormsOfAConnectionString(t *testing.T) {
	t.Parallel()
	for _, from := range []string{
		"postgres://me:secret@db.example:7000/jobs?sslmode=require&application_name=x",
		"host=db.example port=7000 user=me password=secret dbname=jobs application_name=x",
	} {
		p, url, err := proxy.For(from)
		require.NoError(t, err)
		config, err := pgconn.ParseConfig(url)
		require.NoError(t, err)
		require.Equal(t, "127.0.0.1", config.Host)
		require.Equal(t, p.Port(), int(config.Port))
		require.Equal(t, []string{"me", "secret", "jobs", "x"}, []string{config.User, config.Password, config.Database, config.RuntimeParams["application_name"]})
		require.Nil(t, config.TLSConfig)
		require.Empty(t, config.Fallbacks)
		require.NoError(t, p.Close())
	}
	_, _, err := proxy.For("postgres://%zz")
	require.Error(t, err)
}

func TestProxyDelays(t *testing.T) {
	t.Parallel()
	r := start(t)
	a := name(t, "a")
	conn := r.connect(t, a)
	require.NoError(t, one(t.Context(), conn))
	f := r.Delay(proxy.App(a), 150*time.Millisecond, 10*time.Millisecond)
	began := time.Now()
	require.NoError(t, one(t.Context(), conn))
	require.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond, "there and back")
	f.Lift()
	f.Lift()
	for began := time.Now(); ; { // on a busy machine once may be slow
		once := time.Now()
		require.NoError(t, one(t.Context(), conn))
		if time.Since(once) < 150*time.Millisecond {
			return
		}
		require.Less(t, time.Since(began), within)
	}
}

func TestProxyStalls(t *testing.T) {
	t.Parallel()
	r := start(t)
	a, b := name(t, "a"), name(t, "b")
	conn, other := r.connect(t, a), r.connect(t, b)
	f := r.Stall(proxy.App(a))
	answer := make(chan error, 1)
	go func() { answer <- one(context.Background(), conn) }()
	require.NoError(t, one(t.Context(), other), "of others nothing is held")
	select {
	case err := <-answer:
		t.Fatalf("an answer in a stall: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	f.Lift()
	require.NoError(t, <-answer)
}

// The server goes on with a connection that its client has given up long ago.
func TestProxyBlackholesAProcess(t *testing.T) {
	t.Parallel()
	r := start(t)
	a, b := name(t, "a"), name(t, "b")
	conn, other := r.connect(t, a), r.connect(t, b)
	f := r.Blackhole(proxy.App(a))
	unanswered(t, conn)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := r.dial(ctx, a)
	require.ErrorIs(t, err, context.DeadlineExceeded, "a new connection is lost too")
	require.NoError(t, one(t.Context(), other))
	eventually(t, "the client has closed its end", conn.IsClosed)
	require.Equal(t, 1, r.backends(t, a))
	f.Lift()
	eventually(t, "nothing comes back after a loss", func() bool { return r.backends(t, a) == 0 && len(r.Conns(proxy.App(a))) == 0 })
	require.NoError(t, one(t.Context(), r.connect(t, a)))
}

func TestProxyBlackholesOneConnection(t *testing.T) {
	t.Parallel()
	r := start(t)
	a := name(t, "a")
	conn := r.connect(t, a)
	f := r.Blackhole(proxy.Only(r.Conns(proxy.App(a))...))
	defer f.Lift()
	again := r.connect(t, a)
	require.NoError(t, one(t.Context(), again))
	unanswered(t, conn)
	require.NoError(t, one(t.Context(), again))
}

// A fault that met nothing harms nothing.
func TestProxyLeavesAConnectionOfWhichNothingWasLost(t *testing.T) {
	t.Parallel()
	r := start(t)
	conn := r.connect(t, name(t, "a"))
	r.Blackhole(proxy.All).Lift()
	require.NoError(t, one(t.Context(), conn))
}

func TestProxyCuts(t *testing.T) {
	t.Parallel()
	r := start(t)
	a, b := name(t, "a"), name(t, "b")
	conn, other := r.connect(t, a), r.connect(t, b)
	link := r.Conns(proxy.App(a))[0]
	require.Equal(t, 1, r.Cut(proxy.App(a)))
	<-link.Gone()
	require.Error(t, one(t.Context(), conn))
	require.NoError(t, one(t.Context(), other))
	eventually(t, "the server has seen it", func() bool { return r.backends(t, a) == 0 })
	require.Zero(t, r.Cut(proxy.App(a)))
}

func TestProxyCutsAStalledConnection(t *testing.T) {
	t.Parallel()
	r := start(t)
	conn := r.connect(t, name(t, "a"))
	defer r.Stall(proxy.All).Lift()
	answer := make(chan error, 1)
	go func() { answer <- one(context.Background(), conn) }()
	require.Equal(t, 1, r.Cut(proxy.All))
	require.Error(t, <-answer)
}

func TestProxyRefuses(t *testing.T) {
	t.Parallel()
	r := start(t)
	a, b := name(t, "a"), name(t, "b")
	conn := r.connect(t, a)
	f := r.Refuse(proxy.App(a))
	_, err := r.dial(t.Context(), a)
	require.Error(t, err)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, one(t.Context(), conn), "what is open stays open")
	r.connect(t, b)
	f.Lift()
	r.connect(t, a)
}

// What the client does not hear of has happened.
func TestProxyCutsTheReply(t *testing.T) {
	t.Parallel()
	r := start(t)
	schema := pgtest.Schema(t)
	table := pgx.Identifier{schema, "n"}.Sanitize()
	_, err := r.direct.Exec(t.Context(), "CREATE SCHEMA "+schema+"; CREATE TABLE "+table+" (n int)")
	require.NoError(t, err)
	rows := func() (n int) {
		require.NoError(t, r.direct.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&n))
		return n
	}
	insert := "INSERT INTO " + table + " VALUES ($1)"

	t.Run("to COMMIT", func(t *testing.T) {
		conn := r.connect(t, name(t, "a"))
		f := r.CutReply(proxy.App(name(t, "a")), proxy.Commit)
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), insert, 1)
		require.NoError(t, err)
		before := rows()
		require.Error(t, tx.Commit(t.Context()))
		<-f.Done()
		require.Equal(t, before+1, rows())
		require.True(t, conn.IsClosed())
	})
	t.Run("to a statement that was prepared before", func(t *testing.T) {
		conn := r.connect(t, name(t, "a"))
		_, err := conn.Exec(t.Context(), insert, 2)
		require.NoError(t, err)
		f := r.CutReply(proxy.App(name(t, "a")), proxy.Containing("INSERT INTO "+table))
		require.NoError(t, one(t.Context(), conn), "another statement")
		before := rows()
		_, err = conn.Exec(t.Context(), insert, 3)
		require.Error(t, err)
		<-f.Done()
		require.Equal(t, before+1, rows())
		_, err = r.connect(t, name(t, "a")).Exec(t.Context(), insert, 4)
		require.NoError(t, err, "it happens once")
	})
	t.Run("unless it is lifted before", func(t *testing.T) {
		conn := r.connect(t, name(t, "a"))
		r.CutReply(proxy.App(name(t, "a")), proxy.Containing("INSERT")).Lift()
		_, err := conn.Exec(t.Context(), insert, 5)
		require.NoError(t, err)
	})
}

// A target that is not there looks like a server that hangs up.
func TestProxyWithoutATarget(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	p, err := proxy.Open("tcp", address)
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close()) }()
	_, err = pgx.Connect(t.Context(), "postgres://me@"+p.Addr()+"/x?sslmode=disable")
	require.Error(t, err)
}

func TestProxyCloseEndsEverything(t *testing.T) {
	t.Parallel()
	r := start(t)
	conn, stalled := r.connect(t, name(t, "a")), r.connect(t, name(t, "b"))
	r.Stall(proxy.App(name(t, "b")))
	r.Blackhole(proxy.App(name(t, "c")))
	waiting, err := net.Dial("tcp", r.Addr()) // has not said who it is
	require.NoError(t, err)
	defer waiting.Close()
	answer := make(chan error, 1)
	go func() { answer <- one(context.Background(), stalled) }()
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	require.Error(t, <-answer)
	require.Error(t, one(t.Context(), conn))
	_, err = waiting.Read(make([]byte, 1))
	require.Error(t, err)
	_, err = net.Dial("tcp", r.Addr())
	require.Error(t, err)
}
