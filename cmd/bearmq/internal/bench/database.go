package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq/internal/pgserver"
)

// A database is a database of the bench's own, on a private server or on
// somebody's.
type database struct {
	server *pgserver.Server
	name   string
}

func openDatabase(ctx context.Context, o *options) (*database, error) {
	settings := maps.Clone(o.settings)
	if settings == nil {
		settings = map[string]string{}
	}
	// Each process has a pool, and connections for its session and for LISTEN.
	settings["max_connections"] = strconv.Itoa(100 + 10*o.processes + 2*o.connections)
	if o.work.name == "idle" {
		settings["autovacuum"] = "off" // its transactions would count
		settings["shared_preload_libraries"] = "pg_stat_statements"
	}
	open := func() (*pgserver.Server, error) {
		return pgserver.Open(ctx, pgserver.Options{URL: o.database, DataDir: o.data, Settings: settings})
	}
	server, err := open()
	if err != nil && ctx.Err() == nil && settings["shared_preload_libraries"] != "" {
		delete(settings, "shared_preload_libraries") // it may not be installed
		server, err = open()
	}
	if err != nil {
		return nil, err
	}
	d := &database{server: server, name: "bearmq_bench_" + strings.ToLower(rand.Text()[:8])}
	if err := d.admin(ctx, "CREATE DATABASE "+d.name); err != nil {
		return nil, errors.Join(fmt.Errorf("making the bench's database: %w", err), server.Close())
	}
	return d, nil
}

// admin runs a statement outside the bench's database.
func (d *database) admin(ctx context.Context, statement string) error {
	conn, err := pgx.Connect(ctx, d.server.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, statement)
	return err
}

// close takes the database away, also after a Ctrl-C.
func (d *database) close() error {
	var err error
	if !d.server.Private() || d.server.PID() != 0 {
		err = d.admin(context.Background(), "DROP DATABASE IF EXISTS "+d.name+" WITH (FORCE)")
	}
	return errors.Join(err, d.server.Close())
}

// checkpoint is best effort: a role of somebody's server may not do it.
func (d *database) checkpoint(ctx context.Context) { _ = d.admin(ctx, "CHECKPOINT") }

// pool opens a pool of at least size connections to the bench's database.
func (d *database) pool(ctx context.Context, size int) (*pgxpool.Pool, error) {
	return openPool(ctx, d.server.URL(), d.name, size, nil)
}

// connect opens a connection to the bench's database.
func (d *database) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(d.server.URL())
	if err != nil {
		return nil, err
	}
	config.Database = d.name
	return pgx.ConnectConfig(ctx, config)
}

// openPool opens a pool of pgx's default size, or of size where that is more.
// tracer may be nil.
func openPool(ctx context.Context, url, database string, size int, tracer pgx.QueryTracer) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.ConnConfig.Database, config.ConnConfig.Tracer = database, tracer
	config.MaxConns = max(config.MaxConns, int32(size))
	return pgxpool.NewWithConfig(ctx, config)
}
