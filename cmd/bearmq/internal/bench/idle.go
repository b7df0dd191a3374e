package bench

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// settle is how long a worker is given to fall asleep, and PostgreSQL to count
// what it did before: a backend that has become idle waits 10 s with that.
const settle = 12 * time.Second

// runIdle counts the queries of a worker and an orchestrator that have nothing
// to do, in a database of their own: by pg_stat_statements, or where that is not
// loaded by pg_stat_database, in whose transactions the pool's pings count too.
func runIdle(ctx context.Context, r *round) error {
	if _, err := r.hire(ctx, 0, true); err != nil {
		return err
	}
	began, err := r.crew.run()
	if err != nil {
		return err
	}
	// One job in each channel at least, so that all of them exist.
	if _, _, err := r.load(ctx); err != nil {
		return err
	}
	what := "the first jobs to run"
	if err := r.crew.await(ctx, what, func() (int, bool) { return r.crew.ran.total, r.crew.ran.total >= r.opts.jobs }); err != nil {
		return err
	}
	r.pool.Reset() // this process's connections have nothing to do with it
	conn, err := pgx.Connect(ctx, r.db.server.URL())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if err := until(ctx, time.Now().Add(settle)); err != nil {
		return err
	}
	count, err := newQueryCount(ctx, conn, r.db.name)
	if err != nil {
		return err
	}
	before, err := count.now(ctx)
	if err != nil {
		return err
	}
	r.say("round %d of %d: idle for %v", r.n, r.opts.rounds, r.opts.duration)
	if err := until(ctx, time.Now().Add(r.opts.duration)); err != nil {
		return err
	}
	after, err := count.now(ctx)
	if err != nil {
		return err
	}
	ended, err := r.crew.finish(ctx, r.opts.jobs)
	if err != nil {
		return err
	}
	r.f.ran(r, began, ended)
	r.f.Transactions = after.transactions - before.transactions
	r.f.Queries = r.f.Transactions
	if count.statements {
		r.f.Queries = after.queries - before.queries
	}
	r.f.Rate = float64(r.f.Queries) / r.opts.duration.Seconds()
	return r.crew.ledger.once("have run")
}

// A queryCount counts what happens in a database, from outside it.
type queryCount struct {
	conn       *pgx.Conn
	database   string
	statements bool // pg_stat_statements is there
}

type queries struct{ transactions, queries int }

func newQueryCount(ctx context.Context, conn *pgx.Conn, database string) (*queryCount, error) {
	c := &queryCount{conn: conn, database: database, statements: true}
	if _, err := conn.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		c.statements = false
		return c, ctx.Err()
	}
	if _, err := c.now(ctx); err != nil { // not loaded
		c.statements = false
	}
	return c, ctx.Err()
}

func (c *queryCount) now(ctx context.Context) (q queries, err error) {
	if err := c.conn.QueryRow(ctx, sql("transactions"), c.database).Scan(&q.transactions); err != nil || !c.statements {
		return q, err
	}
	err = c.conn.QueryRow(ctx, sql("statements"), c.database).Scan(&q.queries)
	return q, err
}
