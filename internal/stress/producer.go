//go:build unix

package stress

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
)

// A producer enqueues in every way there is, and writes down what was
// acknowledged.
type producer struct {
	Config
	mq   *bearmq.Context
	pool *pgxpool.Pool
	log  *journal
	rand *rand.Rand
	zipf *rand.Zipf
	seq  int64 // of the last job
	tx   int64 // of the last transaction
}

// newProducer: number tells the producers apart, in the numbers of their jobs
// and transactions too.
func newProducer(c Config, pool *pgxpool.Pool, log *journal, number int) (*producer, error) {
	mq, err := bearmq.New(pool, c.options())
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(c.Seed, uint64(number)))
	base := int64(number+1) << 32
	return &producer{Config: c, mq: mq, pool: pool, log: log, rand: r, zipf: rand.NewZipf(r, 1.2, 8, uint64(max(c.Load.Groups-1, 1))), seq: base, tx: base}, nil
}

func (p *producer) chance(share float64) bool { return p.rand.Float64() < share }

// run commits n jobs in the time that the Config gives, in waves: the faults
// are to find a backlog as well as idle workers.
func (p *producer) run(ctx context.Context, n int) error {
	began := time.Now()
	for made := 0; made < n && ctx.Err() == nil; {
		made += p.transaction(ctx, n-made)
		due := time.Duration(float64(p.Over) * float64(made) / float64(n))
		if !wait(ctx, time.Until(began.Add(due.Truncate(wave)))) {
			break
		}
	}
	return ctx.Err()
}

const wave = 2 * time.Second

// wait returns false where ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// transaction returns how many jobs it has committed. A fifth of all
// transactions is rolled back.
func (p *producer) transaction(ctx context.Context, most int) int {
	p.tx++
	if p.chance(0.4) {
		n, err := p.call(ctx, p.mq, most)
		switch {
		case err == nil:
			p.log.add(Record{Step: Commit, N: p.tx})
			return n
		case errors.Is(err, bearmq.ErrUnknownOutcome):
			p.log.add(Record{Step: Unknown, N: p.tx, Note: clean(err)})
			return n
		default:
			p.log.add(Record{Step: Rollback, N: p.tx, Note: clean(err)})
			return 0
		}
	}
	n, err := p.inTransaction(ctx, most)
	if err != nil {
		p.log.add(Record{Step: Rollback, N: p.tx, Note: clean(err)})
	}
	return n
}

var errOnPurpose = errors.New("on purpose")

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
		p.log.add(Record{Step: Commit, N: p.tx})
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return 0, err
	default:
		p.log.add(Record{Step: Unknown, N: p.tx, Note: clean(err)})
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
		p.log.add(Record{Step: Undone, N: p.tx, Seq: seq})
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
		_, err = def.Enqueue(ctx, to, p.work(channel, def.Name(), delayed), options...)
	case kind < 0.75:
		n = min(1+p.rand.IntN(100), most) // COPY above some number
		works := make([]work, n)
		for i := range works {
			works[i] = p.work(channel, def.Name(), delayed)
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
			jobs[i] = def.Job(p.work(channel, def.Name(), late), opts...)
		}
		_, err = to.EnqueueBatch(ctx, jobs...)
	}
	return n, err
}

// work makes the payload of one job and writes it down, before the call.
func (p *producer) work(channel, definition string, delayed bool) work {
	p.seq++
	w := work{Seq: p.seq, Deaf: p.chance(p.Load.Deaf), Complete: p.chance(p.Load.Complete)}
	switch group := p.rand.Float64(); {
	case group < p.Load.Hot:
		w.Group = "hot"
	case group < p.Load.Hot+p.Load.Grouped:
		w.Group = fmt.Sprintf("g%d", p.zipf.Uint64())
	}
	longest := p.Load.Task.Microseconds()
	switch long := p.rand.Float64(); {
	case p.Load.Even:
		w.Micros = longest
	case long < 0.03:
		w.Micros = p.rand.Int64N(longest + 1)
	case long < 0.15:
		w.Micros = p.rand.Int64N(longest/4 + 1)
	case long < 0.5:
		w.Micros = p.rand.Int64N(longest/25 + 1)
	}
	note := definition
	if delayed {
		note += delayedMark
	}
	p.log.add(Record{Step: Intent, N: p.tx, Seq: w.Seq, Channel: channel, Group: w.Group, Note: note})
	return w
}

// delayedMark in the note of an Intent: no order is promised.
const delayedMark = " delayed"
