package invariant

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// used is a schema whose tables all have rows: jobs that are completed, failed,
// queued, delayed and blocked, and the lease of a worker that has died.
func used(t *testing.T) (pool *pgxpool.Pool, schema string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pool, schema = pgtest.DB(t), pgtest.Schema(t)
	mq, err := bearmq.New(pool, bearmq.Options{Schema: schema})
	require.NoError(t, err)
	require.NoError(t, mq.Migrate(ctx))
	job := bearmq.Define(bearmq.Spec[int]{Name: "j", Group: func(n int) string {
		if n%2 == 0 {
			return "g"
		}
		return ""
	}})
	require.NoError(t, mq.Register(job.Handle(func(_ context.Context, j *bearmq.Job[int]) error {
		if j.Payload%10 == 0 {
			return errors.New("on purpose")
		}
		return nil
	})))
	numbers := make([]int, 100)
	for i := range numbers {
		numbers[i] = i
	}
	_, err = job.EnqueueMany(ctx, mq, numbers)
	require.NoError(t, err)
	require.NoError(t, bearmq.NewWorker(mq, bearmq.WorkerOptions{}).Drain(ctx))
	_, err = job.EnqueueMany(ctx, mq, numbers)
	require.NoError(t, err)
	_, err = job.Enqueue(ctx, mq, 2, bearmq.Delay(time.Hour))
	require.NoError(t, err)
	// A claim without a worker: 10 jobs, of which those of the group that may not run yet are blocked, and a turn.
	exec(t, pool, schema, `SELECT bearmq.begin_session_v1('00000000-0000-0000-0000-00000000000a', interval '1 hour', 'h', 1, NULL)`)
	exec(t, pool, schema, `SELECT bearmq.claim_log_v1(1, '00000000-0000-0000-0000-00000000000a', 7, 10, 2)`)
	return pool, schema
}

func exec(t *testing.T, db interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, schema, text string) {
	t.Helper()
	rows, err := db.Query(t.Context(), strings.ReplaceAll(text, "bearmq.", pgx.Identifier{schema}.Sanitize()+"."))
	require.NoError(t, err)
	rows.Close()
	require.NoError(t, rows.Err(), text)
}

func TestUsedSchemaKeepsTheInvariants(t *testing.T) {
	t.Parallel()
	pool, schema := used(t)
	require.NoError(t, CheckRunning(t.Context(), pool, schema))
	err := Check(t.Context(), pool, schema)
	require.ErrorContains(t, err, "no lease is unfinished", "a lease is held, so it is not quiet")

	exec(t, pool, schema, `SELECT bearmq.return_lease_v1('00000000-0000-0000-0000-00000000000a', 7)`)
	require.NoError(t, Check(t.Context(), pool, schema))
}

// violations break one invariant each, in a transaction that is rolled back.
var violations = map[string]string{
	"an outcome has a job":             `INSERT INTO bearmq.outcome (job_id, claim, attempt, state) VALUES (-1, 1, 1, 'c')`,
	"a job has at most one outcome":    `ALTER TABLE bearmq.outcome DROP CONSTRAINT outcome_pkey; INSERT INTO bearmq.outcome SELECT * FROM bearmq.outcome LIMIT 1`,
	"a failed attempt has a job":       `INSERT INTO bearmq.attempt_error (job_id, attempt, error) VALUES (-1, 1, 'x')`,
	"a ticket has a job, and says the": `UPDATE bearmq.ticket SET lane = lane + 1 WHERE state = 'd'`,
	"a job with an outcome has no ticket, except": `INSERT INTO bearmq.ticket (job_id, xid, lane, name, group_key, state)
		SELECT j.id, j.xid, j.lane, j.name, j.group_key, 'd' FROM bearmq.job j JOIN bearmq.outcome o ON o.job_id = j.id LIMIT 1`,
	"a claimed ticket has a lease":           `UPDATE bearmq.ticket SET state = 'c', lease_id = -1 WHERE state = 'd'`,
	"a job outside the log has a ticket":     `DELETE FROM bearmq.ticket WHERE state = 'd'`,
	"a job of the log without ticket":        `DELETE FROM bearmq.ticket WHERE state = 'b'; UPDATE bearmq.lease SET finished = true`,
	"a turn lies ahead":                      `INSERT INTO bearmq.job (xid, lane, group_key) VALUES ('1', 1, 'g')`,
	"a lane has a cursor":                    `INSERT INTO bearmq.lane (channel) VALUES ('x')`,
	"a lease of a lane has its interval":     `DELETE FROM bearmq.log_interval`,
	"a lease that is not finished has":       `DELETE FROM bearmq.session`,
	"a session has lived":                    `UPDATE bearmq.session SET expires_at = clock_timestamp() + interval '1 day'`,
	"a group has an anchor":                  `DELETE FROM bearmq.group_anchor`,
	"a group that is busy is held":           `UPDATE bearmq.job_group SET lease_id = -1`,
	"a group that is free and has blocked":   `UPDATE bearmq.job_group SET lease_id = NULL, blocked = true`,
	"a blocked job lies behind":              `UPDATE bearmq.job_group SET through_xid = '9223372036854775807'`,
	"no job is claimed":                      `UPDATE bearmq.ticket SET state = 'c', lease_id = -1 WHERE state = 'd'`,
	"no lease is unfinished":                 `SELECT 1`,
	"no group is held by a lease":            `SELECT 1`,
	"a job with an outcome has no ticket: n": `INSERT INTO bearmq.outcome (job_id, claim, attempt, state) SELECT job_id, 1, 1, 'c' FROM bearmq.ticket LIMIT 1`,
}

func TestEachInvariantIsNoticedWhenBroken(t *testing.T) {
	t.Parallel()
	pool, schema := used(t)
	for _, v := range append(always[:len(always):len(always)], quiet...) {
		t.Run(strings.ReplaceAll(v.name, " ", "-"), func(t *testing.T) {
			breaks := ""
			for prefix, text := range violations {
				if strings.HasPrefix(v.name+": n", prefix) {
					breaks = text
				}
			}
			require.NotEmpty(t, breaks, "nothing is known that breaks it")
			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			defer func() { require.NoError(t, tx.Rollback(t.Context())) }()
			for text := range strings.SplitSeq(breaks, ";") {
				exec(t, tx, schema, text)
			}
			require.ErrorContains(t, Check(t.Context(), tx, schema), "broken: "+v.name+": ")
		})
	}
}
