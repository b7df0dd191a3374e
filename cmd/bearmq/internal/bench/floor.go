package bench

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
)

// The raw floor: the least that PostgreSQL needs for what a work does, by
// connections of its own. Its tables are made anew, loaded, analyzed and
// followed by a checkpoint before the clock starts.

const (
	// batchSize is how many rows a COPY has, and an enqueue of many.
	batchSize = 10_000
	// claimers are the connections that claim and delete.
	claimers = 2
	// maxFloorJobs bounds the floor of a stream, which has no end of its own.
	maxFloorJobs = 500_000
)

// floor measures the floor of the work once, and the two costs by which every
// other figure can be read: a commit and an empty round trip.
func (b *bench) floor(ctx context.Context, n int, f *figures) error {
	done := b.saying(n, "measured the floor")
	defer done()
	b.db.checkpoint(ctx)
	if b.opts.work.floor != nil {
		rate, err := b.opts.work.floor(ctx, b)
		if err != nil {
			return fmt.Errorf("measuring the floor: %w", err)
		}
		f.Floor = rate
	}
	if b.opts.work.name == "drain" {
		rate, err := b.claimRows(ctx, "floor_claim_ctid")
		if err != nil {
			return fmt.Errorf("measuring the floor: %w", err)
		}
		f.FastFloor = rate
	}
	return b.units(ctx, f)
}

// units measures single commits and empty round trips, one after another.
func (b *bench) units(ctx context.Context, f *figures) error {
	conn, err := b.db.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if _, err := conn.Exec(ctx, sql("floor_table")); err != nil {
		return err
	}
	s := b.opts.shape()
	if b.opts.work.name != "latency" { // which measures commits between its enqueues
		if f.Commit, err = medianTime(300, func(i int) error { return insertOne(ctx, conn, s, i) }); err != nil {
			return err
		}
	}
	f.RoundTrip, err = medianTime(1000, func(int) error { _, err := conn.Exec(ctx, sql("floor_empty")); return err })
	return err
}

// medianTime is the median time of n calls.
func medianTime(n int, call func(i int) error) (time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if err := call(i); err != nil {
			return 0, err
		}
		took[i] = time.Since(began)
	}
	slices.Sort(took)
	return took[n/2], nil
}

func insertOne(ctx context.Context, conn *pgx.Conn, s shape, i int) error {
	_, err := conn.Exec(ctx, sql("floor_insert"), "bench", nullable(s.group(i)), s.json(i))
	return err
}

func nullable(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// onConnections runs do on n connections at once and returns how long that
// took. Connecting is not counted.
func (b *bench) onConnections(ctx context.Context, n int, do func(context.Context, *pgx.Conn) error) (time.Duration, error) {
	conns := make([]*pgx.Conn, 0, n)
	defer func() {
		for _, c := range conns {
			_ = c.Close(context.WithoutCancel(ctx))
		}
	}()
	for range n {
		conn, err := b.db.connect(ctx)
		if err != nil {
			return 0, err
		}
		conns = append(conns, conn)
	}
	began := time.Now()
	err := parallel(ctx, n, func(ctx context.Context, i int) error { return do(ctx, conns[i]) })
	return time.Since(began), err
}

// makeFloorTable makes the table anew.
func (b *bench) makeFloorTable(ctx context.Context) error {
	_, err := b.onConnections(ctx, 1, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql("floor_table"))
		return err
	})
	return err
}

// copyRows copies the rows of jobs by n connections.
func (b *bench) copyRows(ctx context.Context, n, jobs int) (time.Duration, error) {
	s := b.opts.shape()
	next := chunks(jobs, batchSize)
	return b.onConnections(ctx, n, func(ctx context.Context, conn *pgx.Conn) error {
		for {
			lo, hi, ok := next()
			if !ok {
				return nil
			}
			_, err := conn.CopyFrom(ctx, pgx.Identifier{"floor"}, []string{"name", "group_key", "payload"},
				pgx.CopyFromSlice(hi-lo, func(i int) ([]any, error) {
					return []any{"bench", nullable(s.group(lo + i)), s.json(lo + i)}, nil
				}))
			if err != nil {
				return err
			}
		}
	})
}

// floorCopy is the floor of enqueueing many.
func floorCopy(ctx context.Context, b *bench) (float64, error) {
	if err := b.makeFloorTable(ctx); err != nil {
		return 0, err
	}
	took, err := b.copyRows(ctx, b.opts.connections, b.opts.jobs)
	return float64(b.opts.jobs) / took.Seconds(), err
}

// floorCommits is the floor of enqueueing one by one.
func floorCommits(ctx context.Context, b *bench) (float64, error) {
	if err := b.makeFloorTable(ctx); err != nil {
		return 0, err
	}
	s := b.opts.shape()
	next := chunks(b.opts.jobs, 1)
	took, err := b.onConnections(ctx, b.opts.connections, func(ctx context.Context, conn *pgx.Conn) error {
		for {
			i, _, ok := next()
			if !ok {
				return nil
			}
			if err := insertOne(ctx, conn, s, i); err != nil {
				return err
			}
		}
	})
	return float64(b.opts.jobs) / took.Seconds(), err
}

// floorClaim is the floor of running jobs.
func floorClaim(ctx context.Context, b *bench) (float64, error) {
	return b.claimRows(ctx, "floor_claim")
}

// claimRows claims and deletes rows by the statement.
func (b *bench) claimRows(ctx context.Context, statement string) (float64, error) {
	jobs := min(b.opts.jobs, maxFloorJobs)
	if b.opts.work.name == "drain" {
		jobs = b.opts.jobs
	}
	if err := b.makeFloorTable(ctx); err != nil {
		return 0, err
	}
	if _, err := b.copyRows(ctx, 1, jobs); err != nil {
		return 0, err
	}
	if _, err := b.onConnections(ctx, 1, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "ANALYZE floor")
		return err
	}); err != nil {
		return 0, err
	}
	b.db.checkpoint(ctx)
	var claimed atomic.Int64
	took, err := b.onConnections(ctx, claimers, func(ctx context.Context, conn *pgx.Conn) error {
		for {
			rows, err := conn.Query(ctx, sql(statement))
			if err != nil {
				return err
			}
			n := 0
			for rows.Next() {
				_ = rows.RawValues() // read, not decoded
				n++
			}
			if err := rows.Err(); err != nil {
				return err
			}
			if n == 0 {
				return nil
			}
			claimed.Add(int64(n))
		}
	})
	if got := int(claimed.Load()); err == nil && got != jobs {
		return 0, fmt.Errorf("the floor claimed %d of %d rows", got, jobs)
	}
	return float64(jobs) / took.Seconds(), err
}
