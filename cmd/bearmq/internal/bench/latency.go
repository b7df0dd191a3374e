package bench

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bearmq/bearmq"
)

// runLatency measures how long it takes from an enqueue here to the start of
// the handler in another process. Both read the machine's clock.
func runLatency(ctx context.Context, r *round) error {
	if _, err := r.hire(ctx, 1, false); err != nil {
		return err
	}
	if err := r.warmUp(ctx); err != nil {
		return err
	}
	conn, err := r.db.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, sql("floor_table")); err != nil {
		return err
	}
	r.db.checkpoint(ctx)
	began, err := r.crew.run()
	if err != nil {
		return err
	}
	send := r.sendPaced
	if r.opts.delayed {
		send = r.sendDelayed
	}
	sent, commits, err := send(ctx, conn)
	if err != nil {
		return err
	}
	ended, err := r.crew.finish(ctx, r.opts.jobs)
	if err != nil {
		return err
	}
	r.f.ran(r, began, ended)
	r.f.Tenths = r.crew.ran.tenths(began, ended)
	r.f.latency(waits(sent, r.crew.started))
	r.f.commits(commits)
	if err := r.crew.ledger.once("have run"); err != nil {
		return err
	}
	return r.durable(ctx, r.workerProbe(), probeJobs, false)
}

// sendPaced enqueues at the rate, and halfway between any two enqueues measures
// one single-row commit. It returns when each enqueue began.
func (r *round) sendPaced(ctx context.Context, conn *pgx.Conn) (sent []int64, commits []time.Duration, err error) {
	s := r.opts.shape()
	period := time.Duration(float64(time.Second) / r.opts.rate)
	began := time.Now().Add(500 * time.Millisecond) // the workers start meanwhile
	sent = make([]int64, r.opts.jobs+1)
	commits = make([]time.Duration, r.opts.jobs)
	for i := range r.opts.jobs {
		at := began.Add(time.Duration(i) * period)
		if err := until(ctx, at); err != nil {
			return nil, nil, err
		}
		if sent[i], err = r.sendOne(ctx, i); err != nil {
			return nil, nil, err
		}
		if err := until(ctx, at.Add(period/2)); err != nil {
			return nil, nil, err
		}
		start := time.Now()
		if err := insertOne(ctx, conn, s, i); err != nil {
			return nil, nil, err
		}
		commits[i] = time.Since(start)
		if (i+1)%int(max(1, 5*r.opts.rate)) == 0 {
			r.say("round %d of %d: enqueued %s of %s jobs", r.n, r.opts.rounds, thousands(i+1), thousands(r.opts.jobs))
		}
	}
	return sent, commits, nil
}

// sendOne enqueues one job and returns when that began.
func (r *round) sendOne(ctx context.Context, i int) (int64, error) {
	if !r.opts.inTx {
		at := time.Now().UnixNano()
		return at, r.jobs.one(ctx, r.mq, i)
	}
	var at int64
	err := pgx.BeginFunc(ctx, r.pool, func(tx pgx.Tx) error {
		s := r.opts.shape()
		if _, err := tx.Exec(ctx, sql("floor_insert"), "order", nil, s.json(i)); err != nil {
			return err
		}
		at = time.Now().UnixNano()
		return r.jobs.one(ctx, r.mq.In(tx), i)
	})
	return at, err
}

// sendDelayed enqueues all jobs so that they fall due within one second. It
// returns when each is due, by the clock of the database, which is the
// machine's.
func (r *round) sendDelayed(ctx context.Context, conn *pgx.Conn) (due []int64, commits []time.Duration, err error) {
	lead := 2*time.Second + time.Duration(r.opts.jobs)*100*time.Microsecond
	from := time.Now().Add(lead).Truncate(time.Microsecond)
	due = make([]int64, r.opts.jobs+1)
	jobs := make([]bearmq.NewJob, r.opts.jobs)
	for i := range jobs {
		at := from.Add(time.Duration(i) * time.Second / time.Duration(r.opts.jobs)).Truncate(time.Microsecond)
		due[i] = at.UnixNano()
		jobs[i] = r.jobs.defs[i%len(r.jobs.defs)].Job(r.jobs.payload(i), bearmq.RunAt(at))
	}
	if _, err := r.mq.EnqueueBatch(ctx, jobs...); err != nil {
		return nil, nil, err
	}
	if late := time.Since(from); late > 0 {
		r.say("round %d of %d: the enqueue ended %v after the first job was due", r.n, r.opts.rounds, late)
	}
	for i := range 100 {
		start := time.Now()
		if err := insertOne(ctx, conn, r.opts.shape(), i); err != nil {
			return nil, nil, err
		}
		commits = append(commits, time.Since(start))
	}
	return due, commits, nil
}
