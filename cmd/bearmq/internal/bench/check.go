package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bearmq/bearmq"
)

// The check. Every job has run exactly once (see ledger.go), and what the
// engine says is finished stays finished.
//
// A crash by itself would prove little: PostgreSQL's WAL writer soon writes what
// nobody waited for, and what was written outlives the process, unlike a power
// failure. So the check freezes the WAL writer, lets some more jobs run, the
// probe, and kills the server in the middle of them, as soon as the engine has
// said of half of them that they have succeeded. After the restart these, and
// all the measured jobs, must be finished.
//
// Somebody's server is not crashed. There the check runs one job after another,
// and compares how much of the WAL is on disk with how much there is when the
// engine has said that it has succeeded.
//
// The clock has stopped before all this.

const (
	probeJobs = 5000
	// probeCommits is the size of a probe by single enqueues.
	probeCommits = 300
	// flushes is how many single jobs are looked at on somebody's server, and
	// flushSlack the bytes of WAL that a claim may write and nobody waits for. A
	// finish writes more than that.
	flushes    = 31
	flushSlack = 256
)

// A prober gives the engine some jobs and returns the ids of those that it has
// acknowledged, as soon as these are enough.
type prober struct {
	state bearmq.State // that acknowledged jobs must be in
	run   func(ctx context.Context, jobs, enough int) (acked []int64, err error)
	end   func() // after a crash
}

// workerProbe acknowledges that jobs have run.
func (r *round) workerProbe() prober {
	started := false
	return prober{state: bearmq.StateCompleted, end: r.crew.kill, run: func(ctx context.Context, jobs, enough int) ([]int64, error) {
		if _, err := probe.EnqueueMany(ctx, r.mq, make([]int, jobs)); err != nil {
			return nil, err
		}
		c := r.crew
		if !started {
			started = true
			if err := c.order(orderProbe, c.workers[0]); err != nil {
				return nil, err
			}
		}
		var acked []int64
		err := c.await(ctx, "the engine to finish the jobs of the check", func() (int, bool) {
			n := len(c.acked)
			if n < enough {
				return n, false
			}
			for id := range c.acked {
				acked = append(acked, id)
			}
			clear(c.acked)
			return n, true
		})
		return acked, err
	}}
}

// enqueueProbe acknowledges that jobs are enqueued.
func (r *round) enqueueProbe() prober {
	return prober{state: bearmq.StateQueued, end: func() {}, run: func(ctx context.Context, _, enough int) (acked []int64, err error) {
		for len(acked) < enough {
			id, err := probe.Enqueue(ctx, r.mq, 0)
			if err != nil {
				return nil, err
			}
			acked = append(acked, int64(id))
		}
		return acked, nil
	}}
}

// durable checks that the measured jobs, as p's state says, and what p
// acknowledges are durable. Jobs that retention has deleted count as finished
// where deleted says that it may have.
func (r *round) durable(ctx context.Context, p prober, size int, deleted bool) error {
	did := "are durably " + map[bearmq.State]string{bearmq.StateCompleted: "finished", bearmq.StateQueued: "enqueued"}[p.state]
	done := r.saying(r.n, "checked that %s jobs %s", thousands(r.opts.jobs), did)
	r.releaseSnapshot()
	if !r.db.server.Private() {
		if err := r.flushed(ctx, p); err != nil {
			return err
		}
		if err := r.count(ctx, p.state, did, deleted); err != nil {
			return err
		}
		r.f.Check = fmt.Sprintf("all jobs %s: the WAL was on disk when the engine said so", did)
		done()
		return nil
	}
	acked, err := r.crash(ctx, p, size)
	if err != nil {
		return err
	}
	if err := r.count(ctx, p.state, did, deleted); err != nil {
		return err
	}
	if err := r.kept(ctx, p.state, acked, did); err != nil {
		return err
	}
	r.f.Check = fmt.Sprintf("after a crash of the server all jobs %s, and %s that the engine had acknowledged just before it", did, thousands(len(acked)))
	done()
	return nil
}

// crash kills the server in the middle of a probe and starts it again.
func (r *round) crash(ctx context.Context, p prober, size int) ([]int64, error) {
	var walWriter int
	if err := r.pool.QueryRow(ctx, sql("wal_writer")).Scan(&walWriter); err != nil {
		return nil, err
	}
	if err := r.freezeWriter(ctx, walWriter); err != nil {
		return nil, fmt.Errorf("freezing the WAL writer: %w", err)
	}
	acked, err := p.run(ctx, size, size/2)
	if err != nil {
		return nil, err
	}
	if err := r.db.server.Crash(); err != nil {
		return nil, err
	}
	p.end()
	r.pool.Close()
	if err := r.db.server.Start(ctx); err != nil {
		return nil, err
	}
	return acked, r.reopen(ctx)
}

// freezeWriter freezes the WAL writer at a moment when it holds no lock: else
// no commit would ever end, and it is let go and frozen again.
func (r *round) freezeWriter(ctx context.Context, pid int) error {
	for {
		if err := freeze(pid); err != nil {
			return err
		}
		try, cancel := context.WithTimeout(ctx, time.Second)
		_, err := r.pool.Exec(try, sql("commit_something"))
		cancel()
		if err == nil {
			return nil
		}
		if err := thaw(pid); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// reopen connects again after a crash.
func (r *round) reopen(ctx context.Context) (err error) {
	if r.pool, err = r.db.pool(ctx, r.opts.connections+1); err != nil {
		return err
	}
	r.mq, err = bearmq.New(r.pool, bearmq.Options{})
	return err
}

// flushed runs single jobs, and looks each time how much of the WAL is not on
// disk when the job is acknowledged. It judges by the median: now and then the
// WAL writer is faster, or somebody else writes.
func (r *round) flushed(ctx context.Context, p prober) error {
	gaps := make([]float64, flushes)
	for i := range gaps {
		if _, err := p.run(ctx, 1, 1); err != nil {
			return err
		}
		if err := r.pool.QueryRow(ctx, sql("wal_gap")).Scan(&gaps[i]); err != nil {
			return err
		}
	}
	slices.Sort(gaps)
	if gap := gaps[len(gaps)/2]; gap > flushSlack {
		return &CheckError{fmt.Sprintf("when the engine said that a job was durable, %s bytes of the WAL were not on disk (unless others keep writing to this server)", thousands(int(gap)))}
	}
	return nil
}

// kept checks that what the engine acknowledged before a crash is still so.
func (r *round) kept(ctx context.Context, state bearmq.State, acked []int64, did string) error {
	rows, err := r.pool.Query(ctx, sql("probe_states"), acked, string(state))
	if err != nil {
		return err
	}
	kept, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		return err
	}
	if lost := len(acked) - len(kept); lost > 0 {
		return &CheckError{fmt.Sprintf("%s of %s jobs are missing: the engine had said that they %s, and after a crash of the server they were not",
			thousands(lost), thousands(len(acked)), did)}
	}
	return nil
}

// count compares the measured jobs in the database with what they must be.
func (r *round) count(ctx context.Context, state bearmq.State, did string, deleted bool) error {
	l, err := r.inState(ctx, state, deleted)
	if err != nil {
		return err
	}
	return l.once(did)
}

// inState is the ledger of the jobs in the state; where deleted, also of those
// that are no longer there.
func (r *round) inState(ctx context.Context, state bearmq.State, deleted bool) (ledger, error) {
	in, out := newLedger(r.opts.jobs), newLedger(r.opts.jobs)
	rows, err := r.pool.Query(ctx, sql("states"), string(state))
	if err != nil {
		return in, err
	}
	var (
		i  int
		ok bool
	)
	if _, err := pgx.ForEachRow(rows, []any{&i, &ok}, func() error {
		if ok {
			in.add(i)
		} else {
			out.add(i)
		}
		return nil
	}); err != nil {
		return in, fmt.Errorf("counting jobs: %w", err)
	}
	if deleted {
		for n := range in.Words {
			in.Words[n] |= ^out.Words[n]
		}
		if rest := r.opts.jobs % 32; rest > 0 {
			in.Words[len(in.Words)-1] &= 1<<rest - 1
		}
	}
	return in, nil
}
