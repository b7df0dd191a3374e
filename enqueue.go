package bearmq

import (
	"cmp"
	"context"
	"encoding/json"
	"iter"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// An Enqueuer is where jobs are enqueued: a [*Context], each time in a
// transaction of its own, or what [Context.In] gives. Nothing else is one.
type Enqueuer interface {
	// destination is the Context and, unless it is the Context's pool, the
	// connection.
	destination() (*Context, DB)
}

// DB is what pgx.Tx, *pgx.Conn, *pgxpool.Conn and *pgxpool.Pool have in
// common.
type DB interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	SendBatch(ctx context.Context, batch *pgx.Batch) pgx.BatchResults
	CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error)
}

// An Into enqueues by the caller's connection, usually in the caller's
// transaction. It is made by [Context.In].
type Into struct {
	mq *Context
	db DB
}

// In enqueues by db, which must lead to the Context's database. If db is a
// transaction, or a connection inside one, the jobs exist once the caller
// commits, and never if the caller rolls back; a failed statement ends the
// transaction as any would. A pool, or a connection that is idle, is given a
// transaction of its own. A type of the caller's that has no BeginTx is taken
// for a transaction.
func (mq *Context) In(db DB) *Into { return &Into{mq: mq, db: db} }

func (mq *Context) destination() (*Context, DB) {
	if mq == nil {
		return nil, nil
	}
	return mq, mq.pool
}

func (in *Into) destination() (*Context, DB) {
	if in == nil {
		return nil, nil
	}
	return in.mq, in.db
}

// Enqueue makes a job. Its payload is encoded before Enqueue returns. What is
// invalid is refused with a [*FieldError] before any SQL; a payload that is too
// large with [ErrPayloadTooLarge]. Outside a transaction the error may be
// [ErrUnknownOutcome]. The first enqueue in a channel may find
// [ErrNotMigrated] or [ErrRestored]. This holds for all ways to enqueue.
func (d *JobDefinition[T]) Enqueue(ctx context.Context, to Enqueuer, payload T, opts ...EnqueueOption) (JobID, error) {
	return enqueueOne(ctx, to, d.Job(payload, opts...))
}

// EnqueueMany makes a job of each payload, all of them or none, and returns
// their ids in the same order. The options hold for each. For more jobs than
// fit into memory there is [JobDefinition.EnqueueSeq].
func (d *JobDefinition[T]) EnqueueMany(ctx context.Context, to Enqueuer, payloads []T, opts ...EnqueueOption) ([]JobID, error) {
	return enqueueAll(ctx, to, len(payloads), d.jobs(slices.Values(payloads), opts))
}

// EnqueueSeq makes a job of each payload, all of them or none, and returns
// how many. It holds some ten thousand of them at a time, so the sequence may
// be as long as a transaction may last; the options hold for each. A
// transaction that was begun by hand, with Exec, is not rolled back: an error
// of the sequence leaves the jobs before it to the caller's rollback.
func (d *JobDefinition[T]) EnqueueSeq(ctx context.Context, to Enqueuer, payloads iter.Seq[T], opts ...EnqueueOption) (int64, error) {
	if payloads == nil {
		return 0, &FieldError{Field: "payloads", Reason: "must not be nil"}
	}
	return enqueueSeq(ctx, to, d.jobs(payloads, opts))
}

// A NewJob is a job that is not enqueued yet, for [Context.EnqueueBatch]. It
// is made by [JobDefinition.Job].
type NewJob struct {
	def     *definition
	payload []byte
	group   string
	set     *settings
	err     error // reported when it is enqueued
}

// Job makes a job for [Context.EnqueueBatch]. Its payload is encoded now.
func (d *JobDefinition[T]) Job(payload T, opts ...EnqueueOption) NewJob {
	return d.job(payload, newSettings(opts))
}

func (d *JobDefinition[T]) jobs(payloads iter.Seq[T], opts []EnqueueOption) iter.Seq[NewJob] {
	set := newSettings(opts)
	return func(yield func(NewJob) bool) {
		for payload := range payloads {
			if !yield(d.job(payload, set)) {
				return
			}
		}
	}
}

func (d *JobDefinition[T]) job(payload T, set *settings) NewJob {
	job := NewJob{def: d.def, set: set, err: cmp.Or(d.def.err, set.err)}
	if job.err == nil {
		job.payload, job.err = encode("Payload", payload)
	}
	switch {
	case job.err != nil:
	case set.group != nil:
		job.group = *set.group
	case d.group != nil:
		job.group, job.err = d.groupOf(payload)
	}
	return job
}

// EnqueueBatch makes jobs of any definitions, all of them or none, and
// returns their ids in the same order.
func (mq *Context) EnqueueBatch(ctx context.Context, jobs ...NewJob) ([]JobID, error) {
	return enqueueAll(ctx, mq, len(jobs), slices.Values(jobs))
}

// EnqueueBatch is [Context.EnqueueBatch].
func (in *Into) EnqueueBatch(ctx context.Context, jobs ...NewJob) ([]JobID, error) {
	return enqueueAll(ctx, in, len(jobs), slices.Values(jobs))
}

// EnqueueRaw makes a job by the name of its definition. If that is registered
// here, its defaults and its Group hold, for which the payload must decode;
// otherwise the channel is "default", there is no group, and the rest is what
// the process that runs it has registered, except a Delay: that is none.
func (mq *Context) EnqueueRaw(ctx context.Context, name string, payload json.RawMessage, opts ...EnqueueOption) (JobID, error) {
	return enqueueRaw(ctx, mq, name, payload, opts)
}

// EnqueueRaw is [Context.EnqueueRaw].
func (in *Into) EnqueueRaw(ctx context.Context, name string, payload json.RawMessage, opts ...EnqueueOption) (JobID, error) {
	return enqueueRaw(ctx, in, name, payload, opts)
}

func enqueueRaw(ctx context.Context, to Enqueuer, name string, payload []byte, opts []EnqueueOption) (JobID, error) {
	mq, _, err := resolve(to)
	if err != nil {
		return 0, err
	}
	def := mq.registry.definition(name)
	if def == nil {
		def = &definition{name: name}
		def.fillIn()
	}
	return enqueueOne(ctx, to, def.rawJob(payload, newSettings(opts)))
}

func (d *definition) rawJob(payload []byte, set *settings) NewJob {
	job := NewJob{def: d, set: set, payload: payload, err: cmp.Or(d.err, set.err)}
	if job.err == nil {
		job.err = checkJSON("Payload", payload)
	}
	switch {
	case job.err != nil:
	case set.group != nil:
		job.group = *set.group
	case d.groupOf != nil:
		job.group, job.err = d.groupOf(payload)
	}
	return job
}
