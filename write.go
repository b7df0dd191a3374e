package bearmq

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/bearmq/bearmq/internal/store"
)

// How jobs are written: all of them are checked, then their lanes are
// resolved, then they go in by one statement or in one transaction.

// seqChunk is how many jobs of a sequence are in memory at a time.
const seqChunk = 10_000

func enqueueOne(ctx context.Context, to Enqueuer, job NewJob) (JobID, error) {
	var b batch
	if err := enqueue(ctx, to, &b, func(mq *Context) error { return b.add(mq, job) }); err != nil {
		return 0, err
	}
	return JobID(b.jobs[0].ID), nil
}

func enqueueAll(ctx context.Context, to Enqueuer, size int, jobs iter.Seq[NewJob]) ([]JobID, error) {
	b := batch{jobs: make([]store.NewJob, 0, size), places: make([]place, 0, size)}
	if err := enqueue(ctx, to, &b, func(mq *Context) error {
		for job := range jobs {
			if err := b.add(mq, job); err != nil {
				return at(fmt.Sprintf("job %d of %d", len(b.jobs)+1, size), err)
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	return b.ids(), nil
}

// enqueue writes one batch.
func enqueue(ctx context.Context, to Enqueuer, b *batch, fill func(*Context) error) error {
	mq, db, err := resolve(to)
	if err != nil {
		return err
	}
	if err := fill(mq); err != nil || len(b.jobs) == 0 {
		return err
	}
	w := newWriter(mq, db)
	defer w.rollback(ctx)
	if err := w.put(ctx, b, false); err != nil {
		return err
	}
	if err := w.commit(ctx); err != nil {
		return err
	}
	b.tell(mq, w.callers)
	return nil
}

// enqueueSeq writes batch by batch. A short sequence is written like a slice.
func enqueueSeq(ctx context.Context, to Enqueuer, jobs iter.Seq[NewJob]) (int64, error) {
	mq, db, err := resolve(to)
	if err != nil {
		return 0, err
	}
	var (
		w     = newWriter(mq, db)
		b     batch
		count int64
	)
	defer w.rollback(ctx) // also when the sequence panics
	for job := range jobs {
		if len(b.jobs) == seqChunk {
			if err := w.put(ctx, &b, true); err != nil {
				return 0, err
			}
			b.tell(mq, true)
			b.reset()
		}
		if err := b.add(mq, job); err != nil {
			return 0, at(fmt.Sprintf("job %d", count+1), err)
		}
		count++
	}
	if count == 0 {
		return 0, nil
	}
	if err := w.put(ctx, &b, false); err != nil {
		return 0, err
	}
	if err := w.commit(ctx); err != nil {
		return 0, err
	}
	b.tell(mq, w.callers)
	return count, nil
}

func resolve(to Enqueuer) (*Context, DB, error) {
	if to == nil {
		return nil, nil, &FieldError{Field: "Enqueuer", Reason: "must be a Context or made by its In"}
	}
	mq, db := to.destination()
	if mq == nil {
		return nil, nil, &FieldError{Field: "Enqueuer", Reason: "must be a Context or made by its In"}
	}
	if db == nil {
		return nil, nil, &FieldError{Field: "In", Reason: "must have a transaction or a connection"}
	}
	return mq, db, nil
}

// A batch holds jobs that have been checked.
type batch struct {
	jobs   []store.NewJob
	places []place // of the job at the same index
}

// A place is where a job queues: a lane, by its name.
type place struct {
	channel  string
	priority int
}

func (b *batch) reset() {
	clear(b.jobs) // lets go of the payloads
	b.jobs, b.places = b.jobs[:0], b.places[:0]
}

// add checks what only the Context knows.
func (b *batch) add(mq *Context, job NewJob) error {
	if job.def == nil {
		return &FieldError{Field: "NewJob", Reason: "must be made by the Job method of a definition"}
	}
	set := job.set
	err := job.err
	if err == nil {
		err = mq.checkLimits(job.payload, job.group, or(set.timeout, job.def.timeout))
	}
	if err != nil {
		if err == job.def.err {
			return err // names the definition already
		}
		return job.def.in(err)
	}
	row := store.NewJob{
		Name:    job.def.name,
		Payload: job.payload,
		Group:   job.group,
		Options: set.stored,
	}
	if set.runAt != nil {
		row.RunAt = *set.runAt
	} else {
		row.Delay = or(set.delay, job.def.delay)
	}
	b.jobs = append(b.jobs, row)
	b.places = append(b.places, place{or(set.channel, job.def.channel), or(set.priority, job.def.priority)})
	return nil
}

func or[T any](value *T, otherwise T) T {
	if value == nil {
		return otherwise
	}
	return *value
}

// lanes sets the lanes of the jobs and returns them, each once.
func (b *batch) lanes(ctx context.Context, mq *Context) ([]int32, error) {
	var lanes []int32
	for i, at := range b.places {
		if i > 0 && at == b.places[i-1] {
			b.jobs[i].Lane = b.jobs[i-1].Lane
			continue
		}
		lane, err := mq.store.Lane(ctx, at.channel, int16(at.priority))
		if err != nil {
			return nil, fmt.Errorf("bearmq: channel %q: %w", at.channel, err)
		}
		b.jobs[i].Lane = lane
		if !slices.Contains(lanes, lane) {
			lanes = append(lanes, lane)
		}
	}
	return lanes, nil
}

func (b *batch) ids() []JobID {
	ids := make([]JobID, len(b.jobs))
	for i := range b.jobs {
		ids[i] = JobID(b.jobs[i].ID)
	}
	return ids
}

// tell emits the events of jobs that have been written.
func (b *batch) tell(mq *Context, inTx bool) {
	if !mq.observed() {
		return
	}
	now := time.Now()
	for i := range b.jobs {
		job := &b.jobs[i]
		mq.emit(JobEnqueued{
			About: About{Time: now, JobID: JobID(job.ID), Definition: job.Name, Channel: b.places[i].channel, Group: job.Group},
			InTx:  inTx,
		})
	}
}

// A writer writes batches by one connection, all of them or none, and wakes
// this process's workers once they are committed.
type writer struct {
	mq      *Context
	db      DB
	callers bool   // db is in a transaction that the caller commits
	tx      pgx.Tx // ours, or a savepoint in the caller's; nil while there is none
	lanes   []int32
}

func newWriter(mq *Context, db DB) *writer {
	return &writer{mq: mq, db: db, callers: inTransaction(db)}
}

// put writes a batch; more says that others may follow.
func (w *writer) put(ctx context.Context, b *batch, more bool) error {
	lanes, err := b.lanes(ctx, w.mq) // before a transaction holds a connection
	if err != nil {
		return err
	}
	w.lanes = append(w.lanes, lanes...)
	one := len(b.jobs) <= store.CopyThreshold
	if w.tx == nil && (more || !one && !w.callers) {
		if err := w.begin(ctx); err != nil {
			return fmt.Errorf("bearmq: writing jobs: %w", err)
		}
	}
	db, write := w.db, w.mq.store.Copy
	if w.tx != nil {
		db = w.tx
	}
	if one {
		write = w.mq.store.Insert
	}
	if err := write(ctx, db, b.jobs); err != nil {
		if w.tx == nil && !w.callers {
			return commitError(err) // the statement was its own commit
		}
		return fmt.Errorf("bearmq: writing jobs: %w", err)
	}
	return nil
}

func (w *writer) begin(ctx context.Context) (err error) {
	switch db := w.db.(type) {
	case pgx.Tx:
		w.tx, err = db.Begin(ctx) // a savepoint
	case beginner:
		if !w.callers {
			w.tx, err = db.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
		}
	}
	return err
}

func (w *writer) commit(ctx context.Context) error {
	if w.tx != nil {
		if err := w.tx.Commit(ctx); err != nil {
			if w.callers { // a savepoint
				return fmt.Errorf("bearmq: writing jobs: %w", err)
			}
			// Of a commit that was sent and whose connection broke, pgx says that the
			// connection was closed before, and safe to retry.
			if errors.Is(err, pgconn.ErrConnClosed) {
				return fmt.Errorf("bearmq: writing jobs: %w: %w", ErrUnknownOutcome, err)
			}
			return commitError(err)
		}
	}
	if !w.callers {
		w.mq.wakes.wake(w.lanes...)
	}
	return nil
}

// commitError tells a commit that failed from one whose answer was lost.
func commitError(err error) error {
	if errors.Is(err, ErrUnknownOutcome) || !store.UnknownOutcome(err) {
		return fmt.Errorf("bearmq: writing jobs: %w", err)
	}
	return fmt.Errorf("bearmq: writing jobs: %w: %w", ErrUnknownOutcome, err)
}

// rollback undoes what is not committed.
func (w *writer) rollback(ctx context.Context) {
	if w.tx != nil {
		_ = w.tx.Rollback(ctx) // after a commit it does nothing; else the error that led here is the one to tell
	}
}

// A beginner is a pool or a connection.
type beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// inTransaction says whether what is written by db is the caller's to commit.
func inTransaction(db DB) bool {
	switch db := db.(type) {
	case pgx.Tx:
		return true
	case interface{ PgConn() *pgconn.PgConn }: // *pgx.Conn
		return db.PgConn().TxStatus() != idle
	case interface{ Conn() *pgx.Conn }: // *pgxpool.Conn
		return db.Conn().PgConn().TxStatus() != idle
	case beginner: // *pgxpool.Pool
		return false
	default:
		return true
	}
}

// idle is the transaction status of a connection outside a transaction.
const idle = 'I'
