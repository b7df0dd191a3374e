package store

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

func TestMain(m *testing.M) { os.Exit(pgtest.Run(m)) }

// patience bounds every wait in these tests, on a machine that is busy.
const patience = 30 * time.Second

// A rig is a migrated store in a schema of the test's own, with a live session and the lane of channel "default". At the
// test's end the engine's invariants are checked.
type rig struct {
	*Store
	t       testing.TB
	lane    int32
	session uuid.UUID
	skip    bool // the invariants: the test has made rows by hand
}

func newRig(t testing.TB) *rig {
	t.Helper()
	return rigOn(t, pgtest.DB(t), pgtest.Schema(t))
}

// single is a pool of one connection.
func single(t testing.TB) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	require.NoError(t, err)
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func rigOn(t testing.TB, pool *pgxpool.Pool, schema string) *rig {
	t.Helper()
	s, err := New(pool, schema)
	require.NoError(t, err)
	require.NoError(t, s.Migrate(t.Context()))
	r := &rig{Store: s, t: t}
	r.lane = r.laneOf("default")
	r.session = r.newSession()
	t.Cleanup(func() {
		if !t.Failed() && !r.skip {
			r.checkInvariants()
		}
	})
	return r
}

// ctx lives as long as the test, its cleanup included.
func (r *rig) ctx() context.Context { return context.WithoutCancel(r.t.Context()) }

func (r *rig) laneOf(channel string) int32 {
	r.t.Helper()
	lane, err := r.Lane(r.ctx(), channel, 0)
	require.NoError(r.t, err)
	return lane
}

// sql is a text written for the schema "bearmq".
func (r *rig) sql(text string) string { return render(text, r.schema) }

func (r *rig) exec(text string, args ...any) int64 {
	r.t.Helper()
	tag, err := r.pool.Exec(r.ctx(), r.sql(text), args...)
	require.NoError(r.t, err)
	return tag.RowsAffected()
}

// one reads a value, all a column.
func one[T any](r *rig, text string, args ...any) T {
	r.t.Helper()
	v := all[T](r, text, args...)
	require.Len(r.t, v, 1, text)
	return v[0]
}

func all[T any](r *rig, text string, args ...any) []T {
	r.t.Helper()
	rows, err := r.pool.Query(r.ctx(), r.sql(text), args...)
	require.NoError(r.t, err)
	v, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(r.t, err)
	return v
}

func (r *rig) begin(opts ...pgx.TxOptions) pgx.Tx {
	r.t.Helper()
	tx, err := r.pool.BeginTx(r.ctx(), append(opts, pgx.TxOptions{})[0])
	require.NoError(r.t, err)
	r.t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(r.t.Context())) })
	return tx
}

func (r *rig) newSession() uuid.UUID {
	r.t.Helper()
	id := uuid.New()
	require.NoError(r.t, r.BeginSession(r.ctx(), r.pool, id, time.Hour, "host", 1, nil))
	return id
}

// kill makes a session a dead one, as time would.
func (r *rig) kill(session uuid.UUID) {
	r.t.Helper()
	require.EqualValues(r.t, 1, r.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp() - interval '1 second', ttl = '0', dead = true WHERE id = $1`, session))
}

// job is a job of the rig's lane; groups makes one of each group.
func (r *rig) job(group string) NewJob {
	return NewJob{Lane: r.lane, Name: "work", Payload: []byte("1"), Group: group}
}

func (r *rig) enqueueIn(db DB, jobs ...NewJob) []int64 {
	r.t.Helper()
	require.NoError(r.t, r.Insert(r.ctx(), db, jobs))
	ids := make([]int64, len(jobs))
	for i := range jobs {
		ids[i] = jobs[i].ID
	}
	return ids
}

// enqueue writes a job of each group, in one transaction, and returns their ids.
func (r *rig) enqueue(groups ...string) []int64 {
	r.t.Helper()
	jobs := make([]NewJob, len(groups))
	for i, g := range groups {
		jobs[i] = r.job(g)
	}
	return r.enqueueIn(r.pool, jobs...)
}

// plain enqueues n jobs without groups.
func (r *rig) plain(n int) []int64 {
	r.t.Helper()
	return r.enqueue(make([]string, n)...)
}

func (r *rig) claimAs(session uuid.UUID, lane int32, n, each int) *Claim {
	r.t.Helper()
	c, err := r.ClaimLog(r.ctx(), lane, session, rand.Int64(), n, each)
	require.NoError(r.t, err)
	return c
}

// claim takes up to n rows of the log.
func (r *rig) claim(n int) *Claim { r.t.Helper(); return r.claimAs(r.session, r.lane, n, 100) }

// due takes up to n due tickets.
func (r *rig) due(n int) *Claim {
	r.t.Helper()
	c, err := r.ClaimDue(r.ctx(), r.lane, r.session, rand.Int64(), n, 100, []string{"work"}, nil, true, time.Time{})
	require.NoError(r.t, err)
	return c
}

func ids(c *Claim) []int64 {
	list := []int64{}
	for _, j := range c.Jobs {
		list = append(list, j.ID)
	}
	return list
}

// ending is a Finish that completes jobs of a claim, all without ids, and gives up the groups of which nothing is left.
func (r *rig) ending(c *Claim, done ...int64) *Finish {
	if len(done) == 0 {
		done = ids(c)
	}
	f := &Finish{Session: r.session, Leases: []FinishLease{{ID: c.Lease, Nonce: c.Nonce, Closed: len(done) == len(c.Jobs)}}}
	left := map[string]int{}
	for _, j := range c.Jobs {
		if !slices.Contains(done, j.ID) {
			left[j.Group]++
			continue
		}
		f.Done = append(f.Done, FinishDone{ID: j.ID, Attempt: j.Attempt, Ticket: j.Ticket, Took: time.Millisecond})
	}
	given := map[string]bool{"": true}
	for _, j := range c.Jobs {
		if slices.Contains(done, j.ID) && left[j.Group] == 0 && !given[j.Group] {
			given[j.Group] = true
			f.Groups = append(f.Groups, FinishGroup{Key: j.Group})
		}
	}
	return f
}

// ended is a Finish that ends all jobs of a claim in another way than success.
func (r *rig) ended(c *Claim, op Op, delay time.Duration) *Finish {
	f := r.ending(c)
	f.Done = nil
	for _, j := range c.Jobs {
		f.Rest = append(f.Rest, FinishRest{ID: j.ID, Op: op, Attempt: j.Attempt, Error: "it failed", Delay: delay})
	}
	return f
}

// finish writes it and wants that nothing of it was lost.
func (r *rig) finish(f *Finish) *Finished {
	r.t.Helper()
	done, err := r.Finish(r.ctx(), f)
	require.NoError(r.t, err)
	require.Empty(r.t, done.Lost, "lost")
	require.Empty(r.t, done.Refused, "refused")
	return done
}

func (r *rig) complete(c *Claim, done ...int64) *Finished {
	r.t.Helper()
	return r.finish(r.ending(c, done...))
}

// drain claims and completes until the log and the due tickets of the lanes are empty, and returns the jobs as they came.
func (r *rig) drain(lanes ...int32) []int64 {
	r.t.Helper()
	if lanes == nil {
		lanes = []int32{r.lane}
	}
	list := []int64{}
	for empty := 0; empty < 2*len(lanes); {
		for _, lane := range lanes {
			due, err := r.ClaimDue(r.ctx(), lane, r.session, rand.Int64(), 50, 10, []string{"work"}, nil, true, time.Time{})
			require.NoError(r.t, err)
			for _, c := range []*Claim{r.claimAs(r.session, lane, 50, 10), due} {
				switch c.Status {
				case Empty:
					empty++
				case Claimed:
					list = append(list, ids(c)...)
					r.complete(c)
					empty = 0
				default:
					empty = 0
				}
			}
		}
	}
	return list
}

// recoverAll is a sweep: it recovers every lease of a dead session.
func (r *rig) recoverAll() (lost []Taken) {
	r.t.Helper()
	leases, _, err := r.DeadLeases(r.ctx(), 1000, nil)
	require.NoError(r.t, err)
	for _, id := range leases {
		l, err := r.Recover(r.ctx(), id, 3)
		require.NoError(r.t, err)
		lost = append(lost, l...)
	}
	return lost
}

func (r *rig) state(id int64) string {
	r.t.Helper()
	return one[string](r, `SELECT state FROM bearmq.job_state WHERE id = $1`, id)
}

// content is everything that the engine remembers, to be compared with what it is later.
func (r *rig) content() []string {
	r.t.Helper()
	return all[string](r, `
		SELECT 'outcome ' || o::text FROM bearmq.outcome o UNION ALL SELECT 'ticket ' || t::text FROM bearmq.ticket t
		UNION ALL SELECT 'lease ' || l::text FROM bearmq.lease l UNION ALL SELECT 'group ' || g::text FROM bearmq.job_group g
		UNION ALL SELECT 'error ' || e::text FROM bearmq.attempt_error e
		UNION ALL SELECT 'job ' || j.id::text || ' ' || coalesce(j.group_key, '') FROM bearmq.job j
		UNION ALL SELECT 'interval ' || i::text FROM bearmq.log_interval i ORDER BY 1`)
}

// The invariants of the engine, each as a query for what breaks it.
var invariants = []struct{ what, sql string }{
	{"every lane has a cursor, with its interval", `
		SELECT l.id::text FROM bearmq.lane l WHERE NOT EXISTS (
			SELECT FROM bearmq.lease c JOIN bearmq.log_interval i ON i.id = c.interval_id AND i.lane = l.id WHERE c.lane = l.id)`},
	{"a claimed ticket belongs to a lease that is not finished", `
		SELECT t::text FROM bearmq.ticket t WHERE t.state = 'c' AND NOT EXISTS (SELECT FROM bearmq.lease l WHERE l.id = t.lease_id AND NOT l.finished)`},
	{"a ticket and an outcome belong to a job", `
		SELECT x.id::text FROM (SELECT job_id AS id FROM bearmq.ticket UNION SELECT job_id FROM bearmq.outcome) x
		WHERE NOT EXISTS (SELECT FROM bearmq.job j WHERE j.id = x.id AND j.name IS NOT NULL)`},
	{"a finished job has no ticket, unless CompleteTx finished it and finish has not followed", `
		SELECT t::text FROM bearmq.ticket t JOIN bearmq.outcome o USING (job_id) WHERE t.state <> 'c'`},
	{"a group has one row", `SELECT key FROM bearmq.job_group GROUP BY key HAVING count(*) > 1`},
	{"a group has its anchor", `SELECT key FROM bearmq.job_group g WHERE NOT EXISTS (SELECT FROM bearmq.group_anchor a WHERE a.key = g.key)`},
	{"a group is held by a lease that is not finished", `
		SELECT g::text FROM state g WHERE g.lease_id IS NOT NULL AND NOT EXISTS (SELECT FROM bearmq.lease l WHERE l.id = g.lease_id AND NOT l.finished)`},
	{"a group is held by a job that waits", `
		SELECT g::text FROM state g WHERE g.holder_job IS NOT NULL AND NOT EXISTS (
			SELECT FROM bearmq.ticket t WHERE t.job_id = g.holder_job AND t.state IN ('d', 'n') AND t.group_key = g.key)`},
	{"a blocked ticket lies behind what its group handed out, and the group knows", `
		SELECT t::text FROM bearmq.ticket t LEFT JOIN state g ON g.key = t.group_key
		WHERE t.state = 'b' AND (g.blocked AND (t.xid, t.job_id) > (g.through_xid, g.through_id)) IS NOT TRUE`},
	{"a free group with blocked jobs has a turn", `
		SELECT g::text FROM state g WHERE g.blocked AND g.lease_id IS NULL AND g.holder_job IS NULL
			AND EXISTS (SELECT FROM bearmq.ticket t WHERE t.group_key = g.key AND t.state = 'b')
			AND NOT EXISTS (SELECT FROM bearmq.job j WHERE j.name IS NULL AND j.group_key = g.key)`},
	{"a turn lies before its lane's cursor", `
		SELECT j.id::text FROM bearmq.job j, LATERAL (SELECT * FROM bearmq.lease c WHERE c.lane = j.lane ORDER BY c.id DESC LIMIT 1) c
			JOIN bearmq.log_interval i ON i.id = c.interval_id
		WHERE j.name IS NULL AND (pg_visible_in_snapshot(j.xid, i.behind)
			OR pg_visible_in_snapshot(j.xid, i.ahead) AND (j.xid, j.id) <= (c.hi_xid, c.hi_id))`},
	{"what the log handed out and nobody holds is finished or has a ticket", `
		SELECT j.id::text FROM bearmq.job j, LATERAL (SELECT * FROM bearmq.lease c WHERE c.lane = j.lane ORDER BY c.id DESC LIMIT 1) c
			JOIN bearmq.log_interval i ON i.id = c.interval_id
		WHERE j.name IS NOT NULL AND j.xid IS NOT NULL AND (pg_visible_in_snapshot(j.xid, i.behind)
				OR pg_visible_in_snapshot(j.xid, i.ahead) AND (j.xid, j.id) <= (c.hi_xid, c.hi_id))
			AND (SELECT state FROM bearmq.job_state s WHERE s.id = j.id) = 'queued'`},
	{"a job outside the log has a ticket or an outcome", `
		SELECT j.id::text FROM bearmq.job j WHERE j.xid IS NULL AND NOT EXISTS (SELECT FROM bearmq.ticket t WHERE t.job_id = j.id)
			AND NOT EXISTS (SELECT FROM bearmq.outcome o WHERE o.job_id = j.id)`},
}

func (r *rig) checkInvariants() {
	r.t.Helper()
	for _, v := range invariants {
		assert.Empty(r.t, all[string](r, `WITH state AS (SELECT a.key, s.* FROM bearmq.group_anchor a, bearmq.group_state_v1(a.key) s) `+v.sql), v.what)
	}
}
