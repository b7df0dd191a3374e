// Package bench is the command bearmq bench. It measures the library through
// its public API, and beside it, alternating, the raw floor: what PostgreSQL
// itself needs for the same. A figure counts only if every job ran exactly once
// and is still finished after a crash of the server.
//
// work.go lists what can be measured; each has a file. floor.go has the floors,
// sql/ their SQL. Worker processes are this binary again: crew.go is the
// bench's side of them, child.go theirs.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
)

// Main is bearmq bench with these arguments. It returns the exit code: 0, 1
// where something failed or a check did, 2 for a wrong command line, 130 where
// ctx has ended, which is for the caller to see to at a Ctrl-C. With --json an
// error is printed as {"error": text}.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return fail(err, 2, slices.ContainsFunc(args, isJSONFlag), stdout, stderr)
	}
	return run(ctx, o, stdout, stderr)
}

func run(ctx context.Context, o *options, stdout, stderr io.Writer) int {
	rep, err := measure(ctx, o, stderr)
	if err == nil {
		err = rep.write(stdout, o.json)
	}
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		return fail(errors.New("interrupted, the database is taken away"), 130, o.json, stdout, stderr)
	default:
		return fail(err, 1, o.json, stdout, stderr)
	}
}

// fail says what failed, and returns the exit code.
func fail(err error, code int, asJSON bool, stdout, stderr io.Writer) int {
	if asJSON {
		_ = json.NewEncoder(stdout).Encode(map[string]string{"error": err.Error()})
	} else {
		fmt.Fprintln(stderr, "bearmq bench:", err)
	}
	return code
}

// A bench is one run of the command.
type bench struct {
	opts   *options
	db     *database
	stderr io.Writer
}

// measure runs all rounds.
func measure(ctx context.Context, o *options, stderr io.Writer) (rep *report, err error) {
	b := &bench{opts: o, stderr: &lockedWriter{w: stderr}}
	b.say("starting: %s", o.work.what)
	if b.db, err = openDatabase(ctx, o); err != nil {
		return nil, err
	}
	defer func() {
		if closing := b.db.close(); err == nil {
			err = closing
		}
	}()
	rep = &report{opts: o, Command: o.command, Date: time.Now().UTC().Format(time.RFC3339)}
	if rep.Machine, err = b.machine(ctx); err != nil {
		return nil, err
	}
	for n := 1; n <= o.rounds; n++ {
		f := &figures{}
		engine := func() error { return b.engine(ctx, n, f) }
		floor := func() error { return b.floor(ctx, n, f) }
		// Whoever comes second finds the machine as the first has left it.
		steps := []func() error{engine, floor}
		if n%2 == 0 {
			steps = []func() error{floor, engine}
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return nil, fmt.Errorf("round %d: %w", n, err)
			}
		}
		rep.rounds = append(rep.rounds, f)
	}
	rep.summarize()
	return rep, nil
}

// A round is one measurement of BearMQ in a fresh schema.
type round struct {
	*bench
	n    int
	f    *figures
	pool *pgxpool.Pool
	mq   *bearmq.Context
	jobs *enqueuer
	crew *crew     // nil where nothing works
	held *pgx.Conn // holds a snapshot
}

func (b *bench) engine(ctx context.Context, n int, f *figures) (err error) {
	r := &round{bench: b, n: n, f: f}
	if err := r.open(ctx); err != nil {
		return err
	}
	defer func() {
		if closing := r.close(err == nil); err == nil {
			err = closing
		}
	}()
	return b.opts.work.run(ctx, r)
}

func (r *round) open(ctx context.Context) (err error) {
	r.db.checkpoint(ctx)
	if r.pool, err = r.db.pool(ctx, r.opts.connections+1); err != nil {
		return err
	}
	if r.mq, err = bearmq.New(r.pool, bearmq.Options{}); err != nil {
		return err
	}
	if err := r.mq.Migrate(ctx); err != nil {
		return err
	}
	if r.opts.spoil != nil {
		if err := r.opts.spoil(ctx, r.pool); err != nil {
			return err
		}
	}
	r.jobs = newEnqueuer(r.mq, r.opts.shape())
	if r.opts.holdSnapshot {
		if err := r.holdSnapshot(ctx); err != nil {
			return err
		}
	}
	return r.putBacklog(ctx)
}

// holdSnapshot begins the transaction that somebody forgot to end.
func (r *round) holdSnapshot(ctx context.Context) (err error) {
	if r.held, err = r.db.connect(ctx); err != nil {
		return err
	}
	_, err = r.held.Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_current_snapshot()")
	return err
}

func (r *round) releaseSnapshot() {
	if r.held != nil {
		closing, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = r.held.Close(closing)
		cancel()
		r.held = nil
	}
}

// putBacklog puts jobs of one group in front. The handler of the first blocks
// until the measured jobs have run.
func (r *round) putBacklog(ctx context.Context) error {
	for left := r.opts.backlog; left > 0; left -= batchSize {
		if _, err := backlog.EnqueueMany(ctx, r.mq, make([]int, min(left, batchSize))); err != nil {
			return err
		}
	}
	return nil
}

// close ends the round, and where the server still runs takes its schema away.
func (r *round) close(drop bool) error {
	if r.crew != nil {
		r.crew.dismiss()
	}
	r.releaseSnapshot()
	var err error
	if drop {
		err = r.mq.DropSchema(context.Background())
	}
	r.pool.Close()
	return err
}

// say prints a line of progress.
func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.stderr, format+"\n", args...) }

// saying prints a line with what has been done and how long that took.
func (b *bench) saying(n int, format string, args ...any) (done func()) {
	began := time.Now()
	return func() {
		b.say("round %d of %d: %s in %.1f s", n, b.opts.rounds, fmt.Sprintf(format, args...), time.Since(began).Seconds())
	}
}

// A lockedWriter takes lines from worker processes too.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
