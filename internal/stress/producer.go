//go:build unix

package stress

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/history"
)

// A producer enqueues in every way there is, and writes down what was
// acknowledged.
type producer struct {
	Config
	mq   *bearmq.Context
	pool *pgxpool.Pool
	log  *history.Journal
	rand *rand.Rand
	zipf *rand.Zipf
	seq  int64 // of the last job
	tx   int64 // of the last transaction

	crowded *atomic.Bool // the hot group is too far behind
}

// newProducer: number tells the producers apart, in the numbers of their jobs
// and transactions too.
func newProducer(c Config, pool *pgxpool.Pool, log *history.Journal, number int, crowded *atomic.Bool) (*producer, error) {
	mq, err := bearmq.New(pool, c.options())
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(c.Seed, uint64(number)))
	base := int64(number+1) << 32
	return &producer{Config: c, mq: mq, pool: pool, log: log, rand: r, zipf: rand.NewZipf(r, 1.2, 8, uint64(max(c.Load.Groups-1, 1))), seq: base, tx: base, crowded: crowded}, nil
}

func (p *producer) chance(share float64) bool { return p.rand.Float64() < share }

// run commits n jobs in the time that the Config gives, in waves: the faults
// are to find a backlog as well as idle workers. It goes on while more says so.
func (p *producer) run(ctx context.Context, n int, more func() bool) error {
	began := time.Now()
	for made := 0; (made < n || more()) && ctx.Err() == nil; {
		enqueued, err := p.transaction(ctx, p.most(n-made))
		if err != nil && !errors.Is(err, errOnPurpose) {
			wait(ctx, rand.N(50*time.Millisecond)) // the database is out of reach
		}
		made += enqueued
		due := time.Duration(float64(p.Over) * float64(made) / float64(n))
		if p.Wave > 0 {
			due = due.Truncate(p.Wave)
		}
		if !wait(ctx, time.Until(began.Add(due))) {
			break
		}
	}
	return ctx.Err()
}

// most is how many jobs a transaction may have.
func (p *producer) most(left int) int {
	if p.Load.Most > 0 {
		left = min(left, p.Load.Most)
	}
	return max(left, 1)
}

// transaction returns how many jobs it has committed, and why it was rolled
// back. A fifth of all transactions is, on purpose.
func (p *producer) transaction(ctx context.Context, most int) (n int, err error) {
	p.tx++
	if p.chance(0.4) {
		n, err = p.call(ctx, p.mq, most)
		switch {
		case err == nil:
			p.log.Add(history.Record{Step: history.Commit, N: p.tx})
			return n, nil
		case errors.Is(err, bearmq.ErrUnknownOutcome):
			p.log.Add(history.Record{Step: history.Unknown, N: p.tx, Note: history.Text(err)})
			return n, nil
		}
	} else if n, err = p.inTransaction(ctx, most); err == nil {
		return n, nil
	}
	p.log.Add(history.Record{Step: history.Rollback, N: p.tx, Note: history.Text(err)})
	return 0, err
}

// inTransaction returns an error where the transaction was rolled back.
func (p *producer) inTransaction(ctx context.Context, most int) (n int, err error) {
	tx, err := p.pool.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	for range 1 + p.rand.IntN(4) {
		if n >= most {
			break
		}
		made, err := p.call(ctx, p.mq.In(tx), most-n)
		if err != nil {
			return 0, err
		}
		n += made
		if p.chance(0.3) {
			made, err := p.savepoint(ctx, tx)
			if err != nil {
				return 0, err
			}
			n += made
		}
		if p.chance(0.02) && !wait(ctx, time.Duration(p.rand.IntN(300))*time.Millisecond) {
			return 0, ctx.Err()
		}
	}
	if p.chance(1. / 3) {
		if err := tx.Rollback(ctx); err != nil {
			return 0, err
		}
		return 0, errOnPurpose
	}
	switch err := tx.Commit(ctx); {
	case err == nil:
		p.log.Add(history.Record{Step: history.Commit, N: p.tx})
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return 0, err
	default:
		p.log.Add(history.Record{Step: history.Unknown, N: p.tx, Note: history.Text(err)})
	}
	return n, nil
}

// savepoint enqueues within a savepoint, and rolls half of them back.
func (p *producer) savepoint(ctx context.Context, tx pgx.Tx) (int, error) {
	inner, err := tx.Begin(ctx)
	if err != nil {
		return 0, err
	}
	first := p.seq + 1
	n, err := p.call(ctx, p.mq.In(inner), 20)
	if err != nil {
		return 0, err
	}
	if p.chance(0.5) {
		return n, inner.Commit(ctx)
	}
	if err := inner.Rollback(ctx); err != nil {
		return 0, err
	}
	for seq := first; seq <= p.seq; seq++ {
		p.log.Add(history.Record{Step: history.Undone, N: p.tx, Seq: seq})
	}
	return 0, nil
}

type enqueuer interface {
	bearmq.Enqueuer
	EnqueueBatch(ctx context.Context, jobs ...bearmq.NewJob) ([]bearmq.JobID, error)
}

// call enqueues once: one job, many of one kind, or a mixed batch.
func (p *producer) call(ctx context.Context, to enqueuer, most int) (n int, err error) {
	channel := p.Load.Channels[p.rand.IntN(len(p.Load.Channels))]
	options := []bearmq.EnqueueOption{bearmq.InChannel(channel)}
	_, committed := to.(*bearmq.Context) // by the call itself
	delayed := p.chance(p.Load.Delay)
	if delayed {
		options = append(options, bearmq.Delay(time.Duration(p.rand.IntN(2000))*time.Millisecond))
	}
	def := release
	if p.chance(p.Load.Strict) {
		def = strict
	}
	switch kind := p.rand.Float64(); {
	case kind < 0.5:
		n = 1
		_, err = def.Enqueue(ctx, to, p.work(channel, def.Name(), delayed, committed), options...)
	case kind < 0.75:
		n = min(1+p.rand.IntN(100), most) // COPY above some number
		works := make([]work, n)
		for i := range works {
			works[i] = p.work(channel, def.Name(), delayed, committed)
		}
		_, err = def.EnqueueMany(ctx, to, works, options...)
	default:
		n = min(1+p.rand.IntN(20), most)
		jobs := make([]bearmq.NewJob, n)
		for i := range jobs {
			def, opts, late := release, slices.Clip(options), delayed
			if p.chance(p.Load.Strict) {
				def = strict
			}
			if p.chance(p.Load.Delay) {
				opts, late = append(opts, bearmq.Delay(time.Duration(p.rand.IntN(2000))*time.Millisecond)), true
			}
			jobs[i] = def.Job(p.work(channel, def.Name(), late, committed), opts...)
		}
		_, err = to.EnqueueBatch(ctx, jobs...)
	}
	return n, err
}

// work makes the payload of one job and writes it down, before the call.
func (p *producer) work(channel, definition string, delayed, committed bool) work {
	p.seq++
	w := work{Seq: p.seq, Deaf: p.chance(p.Load.Deaf), Complete: p.chance(p.Load.Complete)}
	switch group := p.rand.Float64(); {
	case group < p.Load.Hot && !p.crowded.Load():
		w.Group = hot
	case group < p.Load.Hot+p.Load.Grouped:
		w.Group = fmt.Sprintf("g%d", p.zipf.Uint64())
	}
	w.Micros = p.micros(w.Group)
	if committed && !delayed && w.Group == "" {
		w.At = history.Now()
	}
	note := definition
	if delayed {
		note += history.Delayed
	}
	p.log.Add(history.Record{Step: history.Intent, N: p.tx, Seq: w.Seq, Channel: channel, Group: w.Group, Note: note})
	return w
}

// micros is how long a job takes: the mean of a power of a random number is
// known, and most of them are much smaller.
func (p *producer) micros(group string) int64 {
	longest := float64(p.Load.Task.Microseconds())
	if p.Load.Even {
		return int64(longest)
	}
	tail := p.Load.Tail
	if group == hot && p.Load.HotTail > 0 {
		tail = p.Load.HotTail
	}
	return int64(longest * math.Pow(p.rand.Float64(), tail))
}

const hot = "hot"
