package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgserver"
	"github.com/bearmq/bearmq/internal/pgtest"
)

func TestClaimHandsOutTheNextOfTheLog(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := r.plain(5)
	first := r.claim(3)
	assert.Equal(t, Claimed, first.Status)
	assert.Equal(t, 3, first.Read)
	assert.Equal(t, want[:3], ids(first))
	second := r.claim(3)
	assert.Equal(t, want[3:], ids(second))
	assert.Equal(t, 2, second.Read)
	assert.Equal(t, Empty, r.claim(3).Status)
	assert.Equal(t, "running", r.state(want[0]))
	r.complete(second)
	r.complete(first)
	assert.Equal(t, "completed", r.state(want[0]))
}

// Rule 2: the newest lease is the cursor; without it, everything retained would run again.
func TestCursorIsNeverDeleted(t *testing.T) {
	t.Parallel()
	cursor := func(r *rig) int64 {
		return one[int64](r, `SELECT coalesce(max(id), 0) FROM bearmq.lease WHERE lane = $1`, r.lane)
	}
	for name, end := range map[string]func(*rig, *Claim){
		"finish": func(r *rig, c *Claim) { r.complete(c) },
		"return": func(r *rig, c *Claim) { require.NoError(r.t, r.ReturnClaim(r.ctx(), r.session, c.Nonce)) },
		"recover": func(r *rig, c *Claim) {
			r.kill(r.session)
			require.Len(r.t, r.recoverAll(), 2)
			r.session = r.newSession()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.plain(2)
			c := r.claim(10)
			end(r, c)
			assert.Equal(t, c.Lease, cursor(r))
			require.NoError(t, r.Sweep(t.Context()))
			assert.Equal(t, c.Lease, cursor(r))
			assert.True(t, one[bool](r, `SELECT finished FROM bearmq.lease WHERE id = $1`, c.Lease))
			assert.Equal(t, Empty, r.claim(10).Status)
			assert.Equal(t, c.Lease, cursor(r))
		})
	}
}

func TestClaimWithoutCursorRaises(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lane := r.laneOf("broken")
	r.exec(`DELETE FROM bearmq.lease WHERE lane = $1`, lane)
	_, err := r.ClaimLog(t.Context(), lane, r.session, 1, 1, 1)
	assert.Equal(t, "BQ003", code(err))
	assert.ErrorContains(t, err, "has no cursor")
	r.exec(`DELETE FROM bearmq.log_interval WHERE lane = $1`, lane)
	r.exec(`DELETE FROM bearmq.lane WHERE id = $1`, lane)
}

// Rule 4.
func TestClaimInATransactionThatHasWrittenRaises(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, call := range map[string]string{
		"log": `SELECT FROM bearmq.claim_log_v1($1, $2, 1, 1, 1)`,
		"due": `SELECT FROM bearmq.claim_due_v1($1, $2, 1, 1, 1, NULL, NULL, false, NULL)`,
	} {
		tx := r.begin()
		_, err := tx.Exec(t.Context(), "SELECT pg_current_xact_id()")
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), r.sql(call), r.lane, r.session)
		assert.Equal(t, "BQ002", code(err), name)
		require.NoError(t, tx.Rollback(t.Context()))
	}
}

// Rule 5.
func TestOtherIsolationLevelsAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
		for name, args := range map[string][]any{
			"claim_log":     {r.lane, r.session, 1, 1, 1},
			"claim_due":     {r.lane, r.session, 1, 1, 1, nil, nil, false, nil},
			"find_work":     {nil, nil, false, nil},
			"recover":       {1, 3},
			"unlock_groups": {time.Hour, 3},
			"return_lease":  {r.session, 1},
			"completing":    {1, 1},
			"dead_leases":   {1, nil},
			"sweep":         {},

			"delete_finished": {time.Hour, time.Hour, 0, 1},
			"collect_groups":  {"", time.Hour, 1},
			"finish":          {r.session, false, []int64{}, []int64{}, []bool{}, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil},
		} {
			tx := r.begin(pgx.TxOptions{IsoLevel: level})
			_, err := tx.Exec(t.Context(), r.text(name), args...)
			assert.Equal(t, codeIsolation, code(err), "%s %s", level, name)
			require.NoError(t, tx.Rollback(t.Context()))
		}
	}
}

// The database's or the role's default is nobody's to change for us: the store begins its transactions itself then.
func TestStoreWorksWhereTheDefaultIsolationIsAnother(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"repeatable read", "serializable"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			config, err := pgxpool.ParseConfig(pgtest.URL(t))
			require.NoError(t, err)
			config.ConnConfig.RuntimeParams["default_transaction_isolation"] = level
			config.ConnConfig.RuntimeParams["default_transaction_read_only"] = "on"
			schema := pgtest.Schema(t)
			newRigMigrated(t, schema)
			pool, err := pgxpool.NewWithConfig(t.Context(), config)
			require.NoError(t, err)
			t.Cleanup(pool.Close)
			s, err := New(pool, schema)
			require.NoError(t, err)
			require.NoError(t, s.Check(t.Context()))
			work, err := s.FindWork(t.Context(), nil, nil, true, 0)
			require.NoError(t, err)
			require.Len(t, work, 1)
			assert.True(t, s.isolate.Load())
		})
	}
	t.Run("end to end", func(t *testing.T) {
		t.Parallel()
		config, err := pgxpool.ParseConfig(pgtest.URL(t))
		require.NoError(t, err)
		config.ConnConfig.RuntimeParams["default_transaction_isolation"] = "repeatable read"
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		t.Cleanup(pool.Close)
		r := rigOn(t, pool, pgtest.Schema(t))
		want := append(r.plain(3), r.enqueue("g", "g", "h")...)
		assert.ElementsMatch(t, want, r.drain())
		assert.True(t, r.isolate.Load())
	})
}

func newRigMigrated(t *testing.T, schema string) *rig { return rigOn(t, pgtest.DB(t), schema) }

// Rule 7.
func TestClaimOfADeadSessionIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plain(1)
	r.exec(`INSERT INTO bearmq.ticket (job_id, lane, name, state) SELECT id, lane, name, 'd' FROM bearmq.job`)
	for name, session := range map[string]uuid.UUID{"expired": r.newSession(), "missing": uuid.New()} {
		if name == "expired" {
			r.kill(session)
		}
		assert.Equal(t, Expired, r.claimAs(session, r.lane, 1, 1).Status, name)
		c, err := r.ClaimDue(t.Context(), r.lane, session, 1, 1, 1, nil, nil, false, time.Time{})
		require.NoError(t, err)
		assert.Equal(t, Expired, c.Status, name)
	}
	r.exec(`DELETE FROM bearmq.ticket`)
}

// Rule 7: between a claim's look at its session and its commit, recovery may come and go.
func TestClaimCommittedAfterRecoveryIsFoundByTheNextSweep(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := r.plain(3)
	tx := r.begin()
	rows, err := tx.Query(t.Context(), r.text("claim_log"), r.lane, r.session, 7, 10, 10)
	require.NoError(t, err)
	rows.Close()
	require.NoError(t, rows.Err())
	r.kill(r.session)
	assert.Empty(t, r.recoverAll())
	require.NoError(t, tx.Commit(t.Context()))
	lost := r.recoverAll()
	require.Len(t, lost, 3)
	r.session = r.newSession()
	assert.ElementsMatch(t, want, r.drain())
}

func TestClaimNeverWaitsForAnotherOfItsLane(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plain(1)
	tx := r.begin()
	_, err := tx.Exec(t.Context(), r.sql(`SELECT FROM bearmq.lane WHERE id = $1 FOR NO KEY UPDATE`), r.lane)
	require.NoError(t, err)
	assert.Equal(t, Locked, r.claim(1).Status)
	require.NoError(t, tx.Rollback(t.Context()))
	assert.Equal(t, Claimed, r.claim(1).Status)
	r.kill(r.session)
	r.recoverAll()
}

func TestPausedLaneHandsOutNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plain(1)
	delayed := r.job("")
	delayed.RunAt = time.Now().Add(-time.Hour)
	r.enqueueIn(r.pool, delayed)
	require.NoError(t, r.Pause(t.Context(), "default", true))
	assert.Equal(t, Paused, r.claim(1).Status)
	assert.Equal(t, Paused, r.due(1).Status)
	work, err := r.FindWork(t.Context(), nil, nil, true, 0)
	require.NoError(t, err)
	assert.Empty(t, work)
	require.NoError(t, r.Pause(t.Context(), "default", false))
	assert.Len(t, r.drain(), 2)
}

// Rule 4: ids and transaction ids are handed out before the commit. A reader that goes by them loses what commits late.
func TestWhatCommitsLateIsNotLost(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conns := make([]*pgx.Conn, 100)
	for i := range conns {
		conn, err := r.Connect(t.Context())
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
		conns[i] = conn
	}
	rng := rand.New(rand.NewPCG(1, 2))
	type open struct {
		tx  pgx.Tx
		ids []int64
	}
	var (
		txs  = make([]*open, len(conns))
		want []int64
		got  []int64
	)
	end := func(i int) {
		o := txs[i]
		txs[i] = nil
		if rng.IntN(5) == 0 {
			require.NoError(t, o.tx.Rollback(t.Context()))
			return
		}
		require.NoError(t, o.tx.Commit(t.Context()))
		want = append(want, o.ids...)
	}
	for range 1500 {
		i := rng.IntN(len(conns))
		switch o := txs[i]; {
		case o == nil:
			tx, err := conns[i].Begin(t.Context())
			require.NoError(t, err)
			if rng.IntN(2) == 0 { // long before it enqueues
				_, err = tx.Exec(t.Context(), "SELECT pg_current_xact_id()")
				require.NoError(t, err)
			}
			txs[i] = &open{tx: tx}
		case rng.IntN(3) > 0:
			switch rng.IntN(3) {
			case 0:
				o.ids = append(o.ids, r.enqueueIn(o.tx, r.job(""))...)
			case 1: // in a savepoint that is released
				sp, err := o.tx.Begin(t.Context())
				require.NoError(t, err)
				o.ids = append(o.ids, r.enqueueIn(sp, r.job(""), r.job(""))...)
				require.NoError(t, sp.Commit(t.Context()))
			case 2: // or rolled back
				sp, err := o.tx.Begin(t.Context())
				require.NoError(t, err)
				r.enqueueIn(sp, r.job(""))
				require.NoError(t, sp.Rollback(t.Context()))
			}
		default:
			end(i)
		}
		if rng.IntN(4) == 0 {
			c := r.claim(1 + rng.IntN(20))
			got = append(got, ids(c)...)
			if c.Status == Claimed {
				r.complete(c)
			}
		}
	}
	for i, o := range txs {
		if o != nil {
			end(i)
		}
	}
	got = append(got, r.drain()...)
	slices.Sort(want)
	slices.Sort(got)
	assert.Equal(t, want, got)
	// Rule 10: the snapshots of an interval are stored once, and only while they are read.
	require.NoError(t, r.Sweep(t.Context()))
	assert.EqualValues(t, 1, one[int64](r, `SELECT count(*) FROM bearmq.log_interval`))
	assert.EqualValues(t, 1, one[int64](r, `SELECT count(*) FROM bearmq.lease`))
}

// Rule 4: the transaction of a claim may append to the log, a turn for example. PostgreSQL leaves a transaction out of its
// own snapshots, so a claim must put itself in, among those that are open; else what it appends is taken for read.
func TestTheClaimsOwnTransactionCountsAsOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := r.plain(1)
	// The claim gets its transaction id by locking the lane, and then waits here, so that its snapshot is taken after
	// transactions with higher ids have ended.
	stop := r.begin()
	_, err := stop.Exec(t.Context(), r.sql("LOCK TABLE bearmq.session IN ACCESS EXCLUSIVE MODE"))
	require.NoError(t, err)
	tx := r.begin()
	claimed := make(chan error, 1)
	go func() {
		_, err := tx.Exec(t.Context(), r.sql("SELECT count(*) FROM bearmq.claim_log_v1($1, $2, 7, 10, 10)"), r.lane, r.session)
		claimed <- err
	}()
	r.eventuallyWaits(tx)
	want = append(want, r.plain(1)...)
	require.NoError(t, stop.Commit(t.Context()))
	require.NoError(t, <-claimed)
	late := r.enqueueIn(tx, r.job(""))
	require.NoError(t, tx.Commit(t.Context()))

	c := &Claim{Lease: one[int64](r, `SELECT id FROM bearmq.lease WHERE claim = 7`), Nonce: 7}
	for _, id := range want {
		c.Jobs = append(c.Jobs, ClaimedJob{ID: id, Attempt: 1})
	}
	r.complete(c)
	assert.Equal(t, late, r.drain())
}

// eventuallyWaits waits until the transaction's connection waits for a lock.
func (r *rig) eventuallyWaits(tx pgx.Tx) {
	r.t.Helper()
	pid := tx.Conn().PgConn().PID()
	require.Eventually(r.t, func() bool {
		return one[bool](r, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock')", int32(pid))
	}, patience, time.Millisecond)
}

func TestPreparedTransactionsAreNotLost(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t, pgserver.Options{Settings: map[string]string{"max_prepared_transactions": "10"}})
	pool, err := pgxpool.New(t.Context(), server.URL())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	r := rigOn(t, pool, "jobs")
	var want []int64
	for i := range 3 {
		tx := r.begin()
		want = append(want, r.enqueueIn(tx, r.job(""), r.job("g"))...)
		_, err := tx.Exec(t.Context(), fmt.Sprintf("PREPARE TRANSACTION 'x%d'", i))
		require.NoError(t, err)
		require.NoError(t, tx.Rollback(t.Context()))
	}
	behind := r.plain(2)
	assert.Equal(t, behind, r.drain())
	r.exec("COMMIT PREPARED 'x1'")
	assert.ElementsMatch(t, want[2:4], r.drain())
	r.exec("ROLLBACK PREPARED 'x0'")
	r.exec("COMMIT PREPARED 'x2'")
	assert.ElementsMatch(t, want[4:6], r.drain())
}

// Without early transaction ids, a lane's jobs come in the order in which their transactions were begun after another was
// acknowledged; and inside one in call order.
func TestOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	type job struct{ producer, n int }
	var (
		mu    sync.Mutex
		of    = map[int64]job{}
		wg    sync.WaitGroup
		stop  = make(chan struct{})
		order []int64
	)
	const producers, each = 4, 120
	for p := range producers {
		wg.Go(func() {
			for n := 0; n < each; {
				jobs := []NewJob{r.job(""), r.job(""), r.job("")}
				if n%2 == 0 {
					if !assert.NoError(t, r.Insert(t.Context(), r.pool, jobs)) {
						return
					}
				} else if err := pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error { return r.Copy(t.Context(), tx, jobs) }); !assert.NoError(t, err) {
					return
				}
				mu.Lock()
				for _, j := range jobs {
					of[j.ID] = job{p, n}
					n++
				}
				mu.Unlock()
			}
		})
	}
	go func() { wg.Wait(); close(stop) }()
	for last := false; ; {
		c := r.claim(17)
		order = append(order, ids(c)...)
		if c.Status == Claimed {
			r.complete(c)
		} else if last {
			break
		}
		select {
		case <-stop:
			last = c.Status != Claimed
		default:
		}
	}
	require.Len(t, order, producers*each)
	next := [producers]int{}
	for _, id := range order {
		j := of[id]
		require.Equal(t, next[j.producer], j.n, "producer %d", j.producer)
		next[j.producer]++
	}
}

// Rule 14: a sequence that caches hands out ids out of order between connections, and the cursor goes by the lease's id.
func TestSequencesDoNotCache(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	assert.Equal(t, []int64{1}, all[int64](r, `SELECT DISTINCT seqcache FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
		WHERE c.relnamespace = $1::regnamespace`, pgx.Identifier{r.schema}.Sanitize()))
}

// Rule 14: an old library must go on working with a new schema. Those that people call have a name for good.
func TestFunctionsCarryAVersion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	people := []string{"cancel", "enqueue", "enqueue_many", "enqueue_row", "make_channel", "retry", "run_now"}
	for _, name := range all[string](r, `SELECT proname FROM pg_proc WHERE pronamespace = $1::regnamespace`, pgx.Identifier{r.schema}.Sanitize()) {
		if !slices.Contains(people, name) {
			assert.Regexp(t, `_v\d+$`, name)
		}
	}
	for name, text := range queryTexts() {
		for _, call := range strings.Split(text, "bearmq.")[1:] {
			if f, _, ok := strings.Cut(call, "("); ok && !strings.ContainsAny(f, " \n,)") {
				assert.Regexp(t, `_v\d+$`, f, name)
			}
		}
	}
}

// Rule 12.
func TestARestoredDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`UPDATE bearmq.meta SET value = '42' WHERE key = 'system_identifier'`)
	fresh, err := New(r.pool, r.schema)
	require.NoError(t, err)
	assert.ErrorIs(t, fresh.Check(t.Context()), ErrRestored)
	assert.ErrorContains(t, fresh.Check(t.Context()), "cluster 42")
	_, err = fresh.Lane(t.Context(), "default", 0)
	assert.ErrorIs(t, err, ErrRestored)
	assert.ErrorIs(t, fresh.Migrate(t.Context()), ErrRestored)
}

// Rule 6: after any error of a claim its work is given back, since nobody recovers what a live session holds.
func TestReturnClaimGivesBackExactlyWhatWasTaken(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.plain(2)
	kept := r.claim(2)
	want := append(r.plain(3), r.enqueue("g", "g", "h")...)
	c := r.claim(100)
	require.Equal(t, want, ids(c))
	require.NoError(t, r.ReturnClaim(t.Context(), r.session, c.Nonce))
	require.NoError(t, r.ReturnClaim(t.Context(), r.session, c.Nonce), "twice")
	require.NoError(t, r.ReturnClaim(t.Context(), r.session, 12345), "of a claim that took nothing")
	done, err := r.Finish(t.Context(), r.ending(c))
	require.NoError(t, err)
	assert.True(t, done.Lost[c.Lease], "what was given back is no longer held")
	assert.EqualValues(t, 0, one[int64](r, `SELECT sum(losses) FROM bearmq.ticket`))
	assert.EqualValues(t, 1, one[int64](r, `SELECT max(attempt) FROM bearmq.ticket`))

	got := r.drain()
	assert.ElementsMatch(t, want, got)
	assert.Less(t, slices.Index(got, want[3]), slices.Index(got, want[4]), "the group's order")
	assert.Equal(t, other, ids(kept))
	r.complete(kept)

	// and tickets
	delayed := r.job("")
	delayed.Delay = time.Nanosecond
	id := r.enqueueIn(r.pool, delayed)
	c = r.due(10)
	require.Equal(t, id, ids(c))
	require.NoError(t, r.ReturnClaim(t.Context(), r.session, c.Nonce))
	assert.Equal(t, id, r.drain())
}

// dueAt enqueues a job and moves its time, which enqueueing does not let lie in the past.
func (r *rig) dueAt(j NewJob, at time.Time) int64 {
	r.t.Helper()
	j.RunAt = at
	id := r.enqueueIn(r.pool, j)[0]
	r.exec(`UPDATE bearmq.ticket SET run_at = $2 WHERE job_id = $1`, id, at)
	return id
}

// Rule 15: after a look that goes all the way back, claims go on from the last time that they handed out.
func TestDueTicketsAreClaimedFromATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	now, err := r.Now(t.Context())
	require.NoError(t, err)
	var want []int64
	for i := range 4 {
		j := r.job("")
		want = append(want, r.dueAt(j, now.Add(time.Duration(i-10)*time.Second)))
	}
	claim := func(n int, from time.Time) *Claim {
		c, err := r.ClaimDue(t.Context(), r.lane, r.session, rand.Int64(), n, 10, nil, nil, false, from)
		require.NoError(t, err)
		if c.Status == Claimed {
			r.complete(c)
		}
		return c
	}
	first := claim(2, time.Time{})
	assert.Equal(t, want[:2], ids(first))
	assert.WithinDuration(t, now.Add(-9*time.Second), first.Until, time.Millisecond)

	late := r.job("") // commits late, with an earlier time
	want = append(want, r.dueAt(late, now.Add(-time.Minute)))
	assert.Equal(t, want[2:4], ids(claim(10, first.Until)))
	assert.Equal(t, Empty, claim(10, now.Add(-time.Second)).Status)
	assert.Equal(t, want[4:], ids(claim(10, time.Time{})))

	future := r.job("")
	future.Delay = time.Hour
	r.enqueueIn(r.pool, future)
	assert.Equal(t, Empty, claim(10, time.Time{}).Status)
	work, err := r.FindWork(t.Context(), nil, nil, true, time.Second)
	require.NoError(t, err)
	require.Len(t, work, 1)
	assert.False(t, work[0].Due)
	require.NotNil(t, work[0].NextDue)
	assert.InDelta(t, time.Hour, *work[0].NextDue, float64(time.Minute))
}

func TestFindWorkLocksNothingAndTakesNoTransactionID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enqueue("", "g")
	tx := r.begin()
	rows, err := tx.Query(t.Context(), r.text("find_work"), nil, nil, true, nil)
	require.NoError(t, err)
	work, err := pgx.CollectRows(rows, pgx.RowToMap)
	require.NoError(t, err)
	require.Len(t, work, 1)
	assert.Equal(t, true, work[0]["log"])
	var assigned bool
	require.NoError(t, tx.QueryRow(t.Context(), "SELECT pg_current_xact_id_if_assigned() IS NOT NULL").Scan(&assigned))
	assert.False(t, assigned)
	assert.Len(t, r.drain(), 2)
}

// A claim finds what find_work saw, in every state of the intervals; and nothing is left when it sees nothing.
func TestFindWorkAgreesWithClaims(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := func() bool {
		work, err := r.FindWork(t.Context(), nil, []string{"work"}, true, 0)
		require.NoError(t, err)
		require.Len(t, work, 1)
		return work[0].Log
	}
	assert.False(t, log())
	early := r.begin()
	first := r.enqueueIn(early, r.job(""))
	assert.False(t, log(), "not committed")
	assert.Equal(t, Empty, r.claim(1).Status)
	second := r.plain(2)
	assert.True(t, log())
	c1 := r.claim(1)
	assert.True(t, log(), "one is left of the interval")
	require.NoError(t, early.Commit(t.Context()))
	c2 := r.claim(10)
	assert.Equal(t, second, append(ids(c1), ids(c2)...))
	assert.True(t, log(), "it committed after the interval was opened")
	c3 := r.claim(10)
	assert.Equal(t, first, ids(c3))
	assert.False(t, log())
	for _, c := range []*Claim{c3, c1, c2} {
		r.complete(c)
	}
}
