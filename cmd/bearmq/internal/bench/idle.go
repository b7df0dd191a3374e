package bench

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// settle is how long a worker is given to fall asleep.
const settle = 5 * time.Second

// runIdle counts the transactions of a worker and an orchestrator that have
// nothing to do, as pg_stat_database has them for a database of their own.
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
	count := func() (n int, err error) {
		err = conn.QueryRow(ctx, sql("transactions"), r.db.name).Scan(&n)
		return n, err
	}
	before, err := count()
	if err != nil {
		return err
	}
	r.say("round %d of %d: idle for %v", r.n, r.opts.rounds, r.opts.duration)
	if err := until(ctx, time.Now().Add(r.opts.duration)); err != nil {
		return err
	}
	after, err := count()
	if err != nil {
		return err
	}
	ended, err := r.crew.finish(ctx, r.opts.jobs)
	if err != nil {
		return err
	}
	r.f.ran(r, began, ended)
	r.f.Queries = after - before
	r.f.Rate = float64(r.f.Queries) / r.opts.duration.Seconds()
	r.f.Check = "not durable, only counted: the jobs ran once"
	return r.crew.ledger.once("have run")
}
