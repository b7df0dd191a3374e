package bearmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
	"github.com/bearmq/bearmq/internal/store"
)

// migrated is a Context in a schema of the test's own.
func migrated(t *testing.T, opts Options) *Context {
	t.Helper()
	opts.Schema = pgtest.Schema(t)
	mq, err := New(pgtest.DB(t), opts)
	require.NoError(t, err)
	require.NoError(t, mq.store.Migrate(t.Context()))
	return mq
}

type stored struct {
	ID                   JobID
	Name, Channel, State string
	Payload              string
	Group                *string
	Wait                 *float64 // seconds
}

// jobs are all jobs of the schema in the order of their ids.
func jobs(t *testing.T, mq *Context) []stored {
	t.Helper()
	rows, err := mq.pool.Query(t.Context(), fmt.Sprintf(
		`SELECT id, name, channel, state, payload::text, group_key, extract(epoch FROM run_at - now())::float8 FROM %s.job_state ORDER BY id`,
		pgx.Identifier{mq.opts.Schema}.Sanitize()))
	require.NoError(t, err)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	require.NoError(t, err)
	return all
}

func payloads(all []stored) []string {
	texts := []string{}
	for _, job := range all {
		texts = append(texts, job.Payload)
	}
	return texts
}

var numbers = Define(Spec[int]{Name: "numbers"})

func count(n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := range n {
			if !yield(i) {
				return
			}
		}
	}
}

// inOrder wants n jobs whose payloads count from 0 in the order of their ids.
func inOrder(t *testing.T, mq *Context, n int) {
	t.Helper()
	all := jobs(t, mq)
	require.Len(t, all, n)
	for i, job := range all {
		require.Equal(t, strconv.Itoa(i), job.Payload)
	}
}

func TestEnqueueWrites(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	d := Define(Spec[email]{Name: "send_email", Channel: "mail", Group: func(e email) string { return e.Tenant }})
	e := email{To: "<a>\u2028", Tenant: "acme"}
	ctx := t.Context()

	plain, err := d.Enqueue(ctx, mq, e)
	require.NoError(t, err)
	delayed, err := d.Enqueue(ctx, mq, e, Delay(time.Hour), InGroup(""), InChannel("slow"))
	require.NoError(t, err)
	later, err := d.Enqueue(ctx, mq, e, RunAt(time.Now().Add(2*time.Hour)))
	require.NoError(t, err)
	raw, err := mq.EnqueueRaw(ctx, "unknown", json.RawMessage(` {"a": 1} `))
	require.NoError(t, err)

	all := jobs(t, mq)
	require.Len(t, all, 4)
	assert.Equal(t, []JobID{plain, delayed, later, raw}, []JobID{all[0].ID, all[1].ID, all[2].ID, all[3].ID})

	assert.Equal(t, "send_email", all[0].Name)
	assert.Equal(t, "mail", all[0].Channel)
	assert.Equal(t, "acme", *all[0].Group)
	assert.Equal(t, string(StateQueued), all[0].State)
	read, err := decode[email]([]byte(all[0].Payload))
	require.NoError(t, err)
	assert.Equal(t, e, read)

	assert.Equal(t, "slow", all[1].Channel)
	assert.Nil(t, all[1].Group)
	assert.Equal(t, string(StateScheduled), all[1].State)
	assert.InDelta(t, 3600, *all[1].Wait, 60)
	assert.InDelta(t, 7200, *all[2].Wait, 60)

	assert.Equal(t, "unknown", all[3].Name)
	assert.Equal(t, "default", all[3].Channel)
	assert.JSONEq(t, `{"a":1}`, all[3].Payload)
}

func TestEnqueueSizes(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, store.CopyThreshold, store.CopyThreshold + 1, seqChunk, seqChunk + 1, 2*seqChunk + 5} {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			for how, enqueue := range map[string]func(*Context, Enqueuer) ([]JobID, int, error){
				"EnqueueMany": func(_ *Context, to Enqueuer) ([]JobID, int, error) {
					ids, err := numbers.EnqueueMany(t.Context(), to, slices.Collect(count(n)))
					return ids, len(ids), err
				},
				"EnqueueSeq": func(_ *Context, to Enqueuer) ([]JobID, int, error) {
					written, err := numbers.EnqueueSeq(t.Context(), to, count(n))
					return nil, int(written), err
				},
			} {
				mq := migrated(t, Options{})
				ids, written, err := enqueue(mq, mq)
				require.NoError(t, err, how)
				require.Equal(t, n, written)
				inOrder(t, mq, n)
				for i, job := range jobs(t, mq) {
					if ids != nil {
						require.Equal(t, ids[i], job.ID)
					}
				}
			}
		})
	}
}

func TestEnqueueBatchIsMixed(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	texts := Define(Spec[string]{Name: "texts", Channel: "other"})
	for _, rounds := range []int{2, 100} { // one statement, COPY
		var batch []NewJob
		for i := range rounds {
			batch = append(batch, numbers.Job(i), texts.Job(strconv.Itoa(i), Delay(time.Hour)))
		}
		ids, err := mq.EnqueueBatch(t.Context(), batch...)
		require.NoError(t, err)
		require.Len(t, ids, 2*rounds)
		require.True(t, slices.IsSorted(ids))
		all := jobs(t, mq)
		all = all[len(all)-2*rounds:]
		for i, job := range all {
			require.Equal(t, ids[i], job.ID)
			require.Equal(t, []string{"numbers", "texts"}[i%2], job.Name)
			require.Equal(t, []string{"default", "other"}[i%2], job.Channel)
			require.Equal(t, []State{StateQueued, StateScheduled}[i%2], State(job.State))
		}
	}
}

// Whatever In is given, the jobs are there exactly if the caller's
// transaction commits.
func TestEnqueueInTransaction(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 100, seqChunk + 1} {
		for _, commit := range []bool{true, false} {
			t.Run(fmt.Sprint(n, commit), func(t *testing.T) {
				t.Parallel()
				mq := migrated(t, Options{})
				ctx := t.Context()
				tx, err := mq.pool.Begin(ctx)
				require.NoError(t, err)
				defer tx.Rollback(ctx)
				written, err := numbers.EnqueueSeq(ctx, mq.In(tx), count(n))
				require.NoError(t, err)
				require.EqualValues(t, n, written)
				_, err = numbers.EnqueueMany(ctx, mq.In(tx), slices.Collect(count(n)))
				require.NoError(t, err)
				_, err = mq.In(tx).EnqueueBatch(ctx, numbers.Job(1), numbers.Job(2))
				require.NoError(t, err)
				_, err = mq.In(tx).EnqueueRaw(ctx, "numbers", json.RawMessage("3"))
				require.NoError(t, err)
				require.Empty(t, jobs(t, mq))
				if commit {
					require.NoError(t, tx.Commit(ctx))
					require.Len(t, jobs(t, mq), 2*n+3)
				} else {
					require.NoError(t, tx.Rollback(ctx))
					require.Empty(t, jobs(t, mq))
				}
			})
		}
	}
}

func TestEnqueueByConnection(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	ctx := t.Context()
	conn, err := mq.pool.Acquire(ctx)
	require.NoError(t, err)
	defer conn.Release()
	for i, to := range []DB{conn, conn.Conn(), mq.pool} {
		// Idle: a transaction of its own.
		_, err := numbers.EnqueueMany(ctx, mq.In(to), slices.Collect(count(100)))
		require.NoError(t, err)
		require.Len(t, jobs(t, mq), 100*(i+1))
		require.EqualValues(t, idle, conn.Conn().PgConn().TxStatus())
	}
	for _, to := range []DB{conn, conn.Conn()} {
		// Begun by hand: the caller's.
		_, err := conn.Exec(ctx, "BEGIN")
		require.NoError(t, err)
		_, err = numbers.EnqueueSeq(ctx, mq.In(to), count(2*seqChunk))
		require.NoError(t, err)
		_, err = conn.Exec(ctx, "ROLLBACK")
		require.NoError(t, err)
		require.Len(t, jobs(t, mq), 300)
	}
}

// wrapped is a DB of a user's own type.
type wrapped struct{ DB }

func TestEnqueueByWrapper(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	tx, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = numbers.EnqueueSeq(t.Context(), mq.In(wrapped{tx}), count(2*seqChunk))
	require.NoError(t, err)
	require.NoError(t, tx.Rollback(t.Context()))
	require.Empty(t, jobs(t, mq))
}

// A sequence that goes wrong after a chunk was written leaves nothing, and
// the caller's transaction usable.
func TestEnqueueSeqIsAtomic(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{MaxPayload: 10})
	texts := Define(Spec[string]{Name: "texts"})
	ctx := t.Context()
	bad := func(yield func(string) bool) {
		for range seqChunk + 1 {
			if !yield("fine") {
				return
			}
		}
		yield("far too large")
	}
	_, err := texts.EnqueueSeq(ctx, mq, bad)
	require.ErrorIs(t, err, ErrPayloadTooLarge)
	assert.ErrorContains(t, err, fmt.Sprintf("job %d,", seqChunk+2))
	require.Empty(t, jobs(t, mq))

	tx, err := mq.pool.Begin(ctx)
	require.NoError(t, err)
	defer tx.Rollback(ctx)
	_, err = texts.Enqueue(ctx, mq.In(tx), "before")
	require.NoError(t, err)
	_, err = texts.EnqueueSeq(ctx, mq.In(tx), bad)
	require.ErrorIs(t, err, ErrPayloadTooLarge)
	require.Panics(t, func() {
		_, _ = texts.EnqueueSeq(ctx, mq.In(tx), func(yield func(string) bool) {
			for range seqChunk + 1 {
				yield("fine")
			}
			panic("the sequence")
		})
	})
	_, err = texts.Enqueue(ctx, mq.In(tx), "after")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(ctx))
	assert.Equal(t, []string{`"before"`, `"after"`}, payloads(jobs(t, mq)))
}

// A statement that fails ends the caller's transaction, and leaves nothing of
// one of ours.
func TestEnqueueFails(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	table := pgx.Identifier{mq.opts.Schema, "job"}.Sanitize()
	_, err := mq.pool.Exec(t.Context(), "ALTER TABLE "+table+" ADD CHECK (payload::text <> '66')")
	require.NoError(t, err)
	refused := func(err error) {
		t.Helper()
		var answer *pgconn.PgError
		require.ErrorAs(t, err, &answer)
		require.Equal(t, "23514", answer.Code)
		require.NotErrorIs(t, err, ErrUnknownOutcome)
	}
	_, err = numbers.Enqueue(t.Context(), mq, 66)
	refused(err)
	for _, n := range []int{67, 2*seqChunk + 67} {
		_, err = numbers.EnqueueMany(t.Context(), mq, slices.Collect(count(n)))
		refused(err)
		_, err = numbers.EnqueueSeq(t.Context(), mq, count(n))
		refused(err)
	}
	require.Empty(t, jobs(t, mq))
	tx, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = numbers.EnqueueMany(t.Context(), mq.In(tx), slices.Collect(count(67)))
	refused(err)
	require.ErrorIs(t, tx.Commit(t.Context()), pgx.ErrTxCommitRollback)
}

// What is refused before SQL leaves the caller's transaction usable.
func TestRefusalSparesTheTransaction(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	texts := Define(Spec[string]{Name: "texts"})
	tx, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = texts.Enqueue(t.Context(), mq.In(tx), "\x00")
	requireRefused(t, err, "Payload")
	_, err = texts.EnqueueMany(t.Context(), mq.In(tx), []string{"a", "b"}, InGroup("\xff"))
	requireRefused(t, err, "Group")
	_, err = texts.Enqueue(t.Context(), mq.In(tx), "fine")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.Len(t, jobs(t, mq), 1)
}

func TestEnqueueEvents(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	sub := mq.Subscribe(10)
	defer sub.Close()
	next := func() JobEnqueued {
		select {
		case e := <-sub.C:
			require.IsType(t, JobEnqueued{}, e)
			return e.(JobEnqueued)
		default:
			t.Fatal("no event")
			panic("unreachable")
		}
	}
	id, err := numbers.Enqueue(t.Context(), mq, 1, InGroup("g"), InChannel("c"))
	require.NoError(t, err)
	e := next()
	assert.WithinDuration(t, time.Now(), e.Time, time.Minute)
	e.Time = time.Time{}
	assert.Equal(t, JobEnqueued{About: About{JobID: id, Definition: "numbers", Channel: "c", Group: "g"}}, e)

	tx, err := mq.pool.Begin(t.Context())
	require.NoError(t, err)
	_, err = numbers.Enqueue(t.Context(), mq.In(tx), 1)
	require.NoError(t, err)
	assert.True(t, next().InTx)
	require.NoError(t, tx.Rollback(t.Context()))

	_, err = numbers.Enqueue(t.Context(), mq, 1, Attempts(-1))
	require.Error(t, err)
	_, err = numbers.EnqueueMany(t.Context(), mq, slices.Collect(count(200)))
	require.NoError(t, err)
	assert.False(t, next().InTx, "EnqueueMany tells after its commit")
	assert.EqualValues(t, 190, sub.Dropped())
}

func TestNotMigrated(t *testing.T) {
	t.Parallel()
	mq, err := New(pgtest.DB(t), Options{Schema: pgtest.Schema(t)})
	require.NoError(t, err)
	_, err = numbers.Enqueue(t.Context(), mq, 1)
	require.ErrorIs(t, err, ErrNotMigrated)
	require.NotErrorIs(t, err, ErrUnknownOutcome)
	_, err = DefineResult[None, int](Spec[None]{Name: "x"}).Result(t.Context(), mq, 1)
	require.ErrorIs(t, err, ErrNotMigrated)
}

func TestResultOfUnfinished(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	sum := DefineResult[[]int, int](Spec[[]int]{Name: "sum"})
	id, err := sum.Enqueue(t.Context(), mq, []int{1, 2})
	require.NoError(t, err)
	_, err = sum.Result(t.Context(), mq, id)
	require.ErrorIs(t, err, ErrNotFinished)
	_, err = sum.Result(t.Context(), mq, id+1)
	require.ErrorIs(t, err, ErrJobNotFound)
}

func TestDeploy(t *testing.T) {
	t.Parallel()
	mq := migrated(t, Options{})
	require.NoError(t, mq.Deploy(t.Context()))
	a := Define(Spec[None]{Name: "a", Channel: "mail", Attempts: 3})
	b := Define(Spec[None]{Name: "b"})
	require.NoError(t, mq.Register(a.Handle(func(context.Context, *Job[None]) error { return nil }), b.Repeat(Every(time.Minute))))
	sub := mq.Subscribe(10)
	defer sub.Close()
	for range 2 {
		require.NoError(t, mq.Deploy(t.Context()))
	}
	rows, err := mq.pool.Query(t.Context(), fmt.Sprintf(
		`SELECT concat_ws(' ', name, channel, defaults->>'attempts') FROM %s.job_definition ORDER BY name`, pgx.Identifier{mq.opts.Schema}.Sanitize()))
	require.NoError(t, err)
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	assert.Equal(t, []string{"a mail 3", "b default 1"}, found)
	require.Len(t, sub.C, 2, "what is stored already is not deployed again")
	e := (<-sub.C).(JobDefinitionDeployed)
	assert.Equal(t, "a", e.Definition)
	assert.Equal(t, "mail", e.Channel)
}

func TestCommitError(t *testing.T) {
	t.Parallel()
	for _, known := range []error{
		&pgconn.PgError{Code: "23514"},
		fmt.Errorf("wrapped: %w", &pgconn.PgError{Severity: "FATAL", Code: "57P01"}),
		&pgconn.ConnectError{},
		pgx.ErrTxCommitRollback,
		pgx.ErrTxClosed,
	} {
		err := commitError(known)
		assert.NotErrorIs(t, err, ErrUnknownOutcome)
		assert.ErrorIs(t, err, known)
	}
	for _, lost := range []error{errors.New("unexpected EOF"), context.DeadlineExceeded, ErrUnknownOutcome} {
		err := commitError(lost)
		assert.ErrorIs(t, err, ErrUnknownOutcome)
		assert.ErrorIs(t, err, lost)
	}
}
