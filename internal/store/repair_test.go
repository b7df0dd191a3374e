package store

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A history is what a busy job system has when it is copied: jobs in every state.
type history struct {
	*rig
	jobs    map[string][]int64 // by state
	queue   int32              // another lane
	claimed []*Claim           // what its worker holds
	died    uuid.UUID          // its worker
	order   map[string][]int64 // the jobs of each group that are not over, in the order in which they are to run
}

func newHistory(t *testing.T) *history {
	h := &history{rig: newRig(t), jobs: map[string][]int64{}, order: map[string][]int64{}}
	h.queue, h.died = h.laneOf("queue"), h.session
	in := func(lane int32, group string) NewJob { j := h.job(group); j.Lane = lane; return j }
	put := func(state string, jobs ...NewJob) []int64 {
		ids := h.enqueueIn(h.pool, jobs...)
		h.jobs[state] = append(h.jobs[state], ids...)
		return ids
	}
	hold := func(c *Claim, n int) *Claim {
		require.Len(t, c.Jobs, n)
		h.claimed = append(h.claimed, c)
		return c
	}

	put("completed", h.job(""), h.job("over"))
	h.complete(h.claim(10))
	put("failed", h.job(""))
	h.finish(h.ended(h.claim(10), OpFail, 0))
	put("parked", h.job(""))
	h.finish(h.ended(h.claim(10), OpPark, 0))
	put("retrying", h.job(""))
	h.finish(h.ended(h.claim(10), OpRetry, time.Hour))
	// A Strict job between two attempts holds its group.
	h.order["strict"] = put("retrying", h.job("strict"))
	c := h.claim(10)
	f := h.ended(c, OpRetry, time.Hour)
	f.Groups[0].Holder = c.Jobs[0].ID
	h.finish(f)
	h.order["strict"] = append(h.order["strict"], put("blocked", h.job("strict"), h.job("strict"))...)
	require.Equal(t, Step, h.claim(10).Status)
	// Delayed ones: one of the group that is busy later on.
	later := []NewJob{h.job(""), h.job("late")}
	later[0].Delay, later[1].Delay = time.Hour, time.Hour
	put("scheduled", later...)

	// A worker holds half a mailbox, some jobs without groups, one by a ticket, and one that is completed but for its ticket.
	mailbox := put("blocked", in(h.queue, "mail"), in(h.queue, "mail"), in(h.queue, "mail"), in(h.queue, "mail"))
	first := h.claimAs(h.session, h.queue, 10, 1)
	require.Len(t, first.Jobs, 1)
	h.jobs["blocked"] = slices.DeleteFunc(h.jobs["blocked"], func(id int64) bool { return slices.Contains(mailbox, id) })
	h.complete(first)
	h.jobs["completed"] = append(h.jobs["completed"], mailbox[0])
	hold(h.claimAs(h.session, h.queue, 10, 2), 2)
	h.jobs["running"] = append(h.jobs["running"], mailbox[1:3]...)
	h.jobs["blocked"] = append(h.jobs["blocked"], mailbox[3])
	h.order["mail"] = mailbox[1:]
	put("running", h.job(""), h.job(""))
	hold(h.claim(10), 2)
	put("running", h.job(""))
	h.finish(h.ended(h.claim(10), OpRetry, 0))
	due, err := h.ClaimDue(h.ctx(), h.lane, h.session, 11, 10, 10, nil, nil, true, time.Time{})
	require.NoError(t, err)
	hold(due, 1)
	done := put("completed", h.job(""))
	c = hold(h.claim(10), 1)
	require.NoError(t, h.CompleteTx(h.ctx(), h.pool, h.session, c.Lease, c.Nonce, done[0], "", 1, 0, nil))
	// A group that is free, with jobs that wait for its turn.
	turned := put("completed", h.job("turn"))
	c = h.claim(10)
	h.order["turn"] = put("blocked", h.job("turn"), h.job("turn"))
	require.Equal(t, Step, h.claim(10).Status)
	h.complete(c)
	require.Len(t, turned, 1)

	put("queued", h.job(""), in(h.queue, ""))
	h.order["late"] = put("queued", h.job("late"))
	h.order["turn"] = append(h.order["turn"], put("queued", h.job("turn"))...)
	h.order["mail"] = append(h.order["mail"], put("queued", in(h.queue, "mail"))...)
	for state, ids := range h.jobs {
		for _, id := range ids {
			require.Equal(t, state, h.state(id), id)
		}
	}
	return h
}

// open are the jobs that are not over.
func (h *history) open() (ids []int64) {
	for state, of := range h.jobs {
		if state != "completed" && state != "failed" {
			ids = append(ids, of...)
		}
	}
	return ids
}

// move moves the log to other transaction ids, by so many: to those of another cluster.
func (h *history) move(by int64) {
	h.t.Helper()
	h.exec(`CREATE FUNCTION bearmq.moved(x xid8, by bigint) RETURNS xid8 LANGUAGE sql AS 'SELECT CASE WHEN x::text::bigint > 1 THEN greatest(x::text::bigint + by, 2)::text::xid8 ELSE x END'`)
	h.exec(`CREATE FUNCTION bearmq.moved(s pg_snapshot, by bigint) RETURNS pg_snapshot LANGUAGE sql AS $f$
		SELECT (bearmq.moved(pg_snapshot_xmin(s), by) || ':' || bearmq.moved(pg_snapshot_xmax(s), by) || ':' ||
			coalesce((SELECT string_agg(bearmq.moved(x, by)::text, ',' ORDER BY x) FROM pg_snapshot_xip(s) x), ''))::pg_snapshot $f$`)
	h.exec(`UPDATE bearmq.job SET xid = bearmq.moved(xid, $1) WHERE xid IS NOT NULL`, by)
	h.exec(`UPDATE bearmq.ticket SET xid = bearmq.moved(xid, $1)`, by)
	h.exec(`UPDATE bearmq.job_group SET through_xid = bearmq.moved(through_xid, $1)`, by)
	h.exec(`UPDATE bearmq.log_interval SET behind = bearmq.moved(behind, $1), ahead = bearmq.moved(ahead, $1)`, by)
	h.exec(`UPDATE bearmq.lease SET lo_xid = bearmq.moved(lo_xid, $1), hi_xid = bearmq.moved(hi_xid, $1)`, by)
	h.exec(`DROP FUNCTION bearmq.moved(xid8, bigint), bearmq.moved(pg_snapshot, bigint)`)
}

// renamed makes it the log of another cluster, by name.
func (h *history) renamed() {
	h.exec(`UPDATE bearmq.meta SET value = '42' WHERE key = 'system_identifier'`)
}

// An engine of another cluster, with more or fewer transactions behind it, or with the same ones (as pg_upgrade leaves it):
// after the repair every job that was not over runs once, in its order, and none that was.
func TestARepairedDatabaseGoesOn(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]func(*history) int64{
		"more transactions":             func(*history) int64 { return 1_000_000_000 },
		"the same, as after pg_upgrade": func(*history) int64 { return 0 },
		"fewer transactions":            func(h *history) int64 { return 3 - one[int64](h.rig, `SELECT min(xid::text::bigint) FROM bearmq.job`) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHistory(t)
			h.move(by(h))
			h.renamed()
			require.ErrorIs(t, h.Check(t.Context()), ErrRestored)
			_, _, err := h.Repair(t.Context(), 3)
			require.ErrorContains(t, err, "a worker (process 1 on host 'host') may still be running: stop the workers")
			h.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp()`)

			// A transaction that is older than the repair, and enqueues after it.
			early := h.begin()
			_, err = early.Exec(t.Context(), "SELECT pg_current_xact_id()")
			require.NoError(t, err)
			repaired, restored, err := h.Repair(t.Context(), 3)
			require.NoError(t, err)
			require.True(t, restored)
			assert.Equal(t, Repaired{Queued: 5, Waiting: int64(len(h.open())) - 5, Lost: 4, Failed: 0}, repaired)
			require.NoError(t, h.Check(t.Context()))
			h.checkInvariants()
			for group := range h.order {
				h.order[group] = append(h.order[group], h.enqueueIn(early, h.job(group))...)
				h.jobs["queued"] = append(h.jobs["queued"], h.order[group][len(h.order[group])-1])
			}
			require.NoError(t, early.Commit(t.Context()))
			states := []string{}
			for _, id := range h.jobs["running"] {
				states = append(states, h.state(id))
			}
			assert.Equal(t, []string{"scheduled", "blocked", "scheduled", "scheduled", "retrying"}, states, "what was running")
			assert.EqualValues(t, 2, one[int16](h.rig, `SELECT attempt FROM bearmq.ticket WHERE job_id = $1`, h.jobs["retrying"][0]), "its failed attempts are kept")

			// Nobody of the old cluster gets in.
			for _, c := range h.claimed {
				f := h.ending(c)
				f.Session = h.died
				done, err := h.Finish(t.Context(), f)
				require.NoError(t, err)
				assert.Equal(t, map[int64]bool{c.Lease: true}, done.Lost)
			}
			_, alive, err := h.RenewSession(t.Context(), h.pool, h.died, nil)
			require.NoError(t, err)
			assert.False(t, alive)

			h.session = h.newSession()
			h.exec(`UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE state = 'd'`)
			ran := h.drain(h.lane, h.queue)
			assert.ElementsMatch(t, h.open(), ran)
			for group, want := range h.order {
				got := slices.DeleteFunc(slices.Clone(ran), func(id int64) bool { return !slices.Contains(want, id) })
				assert.Equal(t, want, got, "group %s", group)
			}
			for _, id := range h.open() {
				assert.Equal(t, "completed", h.state(id))
			}
			_, restored, err = h.Repair(t.Context(), 3)
			require.NoError(t, err)
			assert.False(t, restored, "it is repaired already")
		})
	}
}

// A job that was running at its last loss fails, as in any recovery.
func TestARepairCountsLosses(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.renamed()
	h.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp()`)
	repaired, _, err := h.Repair(t.Context(), 1)
	require.NoError(t, err)
	assert.EqualValues(t, 4, repaired.Lost)
	assert.EqualValues(t, 4, repaired.Failed)
	assert.Len(t, all[int64](h.rig, `SELECT job_id FROM bearmq.outcome WHERE state = 'f' AND error LIKE 'lost 1 times: %'`), 4)
	h.checkInvariants()
	h.session = h.newSession()
	h.exec(`UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE state = 'd'`)
	assert.Len(t, h.drain(h.lane, h.queue), len(h.open())-4)
}

// The identifier is the same where a dump comes from a later time of this very cluster, or of a copy of it.
func TestTransactionIDsOfTheFutureAreARestoredDatabase(t *testing.T) {
	t.Parallel()
	for name, forget := range map[string]string{
		"of intervals": `UPDATE bearmq.job SET xid = NULL`,
		"of jobs":      `UPDATE bearmq.log_interval SET behind = '1:1:', ahead = '1:1:'`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHistory(t)
			h.skip = true
			require.NoError(t, h.Check(t.Context()))
			h.move(1_000_000)
			h.exec(forget)
			require.ErrorIs(t, h.Check(t.Context()), ErrRestored)
			require.ErrorContains(t, h.Check(t.Context()), "has not given out yet")
			fresh, err := New(h.pool, h.schema)
			require.NoError(t, err)
			_, err = fresh.Lane(t.Context(), "new", 0)
			require.ErrorIs(t, err, ErrRestored)
			assert.Zero(t, one[int64](h.rig, `SELECT count(*) FROM bearmq.lane WHERE channel = 'new'`))
			require.ErrorIs(t, h.BeginSession(t.Context(), h.pool, uuid.New(), time.Minute, "", 1, nil), ErrRestored)
			h.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp()`)
			_, restored, err := h.Repair(t.Context(), 3)
			require.NoError(t, err)
			require.True(t, restored)
			require.NoError(t, h.Check(t.Context()))
		})
	}
}

func TestRepairLeavesADatabaseAloneThatWasNotRestored(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	before := h.content()
	repaired, restored, err := h.Repair(t.Context(), 3)
	require.NoError(t, err)
	assert.False(t, restored)
	assert.Zero(t, repaired)
	assert.Equal(t, before, h.content())

	s, err := New(h.pool, h.schema+"_none")
	require.NoError(t, err)
	_, _, err = s.Repair(t.Context(), 3)
	assert.ErrorIs(t, err, ErrNotMigrated)
}

// The repair waits for what is being enqueued, and of many that repair only one does.
func TestRepairsExcludeEachOtherAndEnqueues(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first := r.plain(3)
	r.exec(`UPDATE bearmq.meta SET value = '42' WHERE key = 'system_identifier'`)
	r.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp()`)
	tx := r.begin()
	last := r.enqueueIn(tx, r.job(""))
	type answer struct {
		Repaired
		restored bool
		err      error
	}
	answers := make(chan answer, 3)
	for range cap(answers) {
		go func() {
			a, restored, err := r.Repair(context.Background(), 3)
			answers <- answer{a, restored, err}
		}()
	}
	require.Eventually(t, func() bool {
		return one[int64](r, `SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IN ($1::regclass, $2::regclass)`,
			r.sql("bearmq.job"), r.sql("bearmq.lane")) == int64(cap(answers))
	}, patience, 10*time.Millisecond, "they wait for the transaction, and for each other")
	require.NoError(t, tx.Commit(t.Context()))
	done := 0
	for range cap(answers) {
		a := <-answers
		require.NoError(t, a.err)
		if a.restored {
			done++
			assert.EqualValues(t, 4, a.Queued)
		}
	}
	assert.Equal(t, 1, done)
	r.session = r.newSession()
	assert.Equal(t, append(first, last...), r.drain())
}

// A transaction that keeps the repair from a table does not keep everybody waiting behind it.
func TestARepairThatCannotHaveTheTablesGivesUp(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`UPDATE bearmq.meta SET value = '42' WHERE key = 'system_identifier'`)
	r.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp()`)
	tx := r.begin()
	r.enqueueIn(tx, r.job(""))
	_, _, err := r.Repair(t.Context(), 3)
	assert.Equal(t, codeLockTimeout, code(err))
	assert.ErrorContains(t, err, "restamp")
	require.NoError(t, tx.Commit(t.Context()))
	_, restored, err := r.Repair(t.Context(), 3)
	require.NoError(t, err)
	assert.True(t, restored)
}
