package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lost wants that a finish is refused as a whole, and that nothing of it is written.
func (r *rig) lost(f *Finish) {
	r.t.Helper()
	before := r.content()
	for _, replay := range []bool{false, true} {
		f.Replay = replay
		done, err := r.Finish(r.ctx(), f)
		require.NoError(r.t, err)
		assert.Equal(r.t, map[int64]bool{f.Leases[0].ID: true}, done.Lost)
		assert.Equal(r.t, before, r.content())
	}
}

// Rule 1: a crash that loses an asynchronous commit takes the sequence back with it, and ids are repeated.
func TestALeaseOfTheSameIDWithAnotherNonceIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enqueue("", "g")
	c := r.claim(10)
	stale := *c
	stale.Nonce++
	r.lost(r.ending(&stale))
	r.lost(r.ended(&stale, OpRetry, 0))
	tx := r.begin()
	assert.ErrorIs(t, r.CompleteTx(t.Context(), tx, r.session, c.Lease, stale.Nonce, c.Jobs[0].ID, "", 1, 0, nil), ErrLeaseLost)
	require.NoError(t, tx.Rollback(t.Context()))
	r.complete(c)
}

// Rule 3: a replayed finish once wrote a retry's ticket for a finished job.
func TestAFinishedLeaseDoesNotPassTheFence(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	want := r.plain(2)
	c := r.claim(10)
	r.complete(c)
	require.True(t, one[bool](r, `SELECT finished FROM bearmq.lease WHERE id = $1`, c.Lease))
	r.lost(r.ended(c, OpRetry, 0))
	r.lost(r.ended(c, OpBack, 0))
	tx := r.begin()
	assert.ErrorIs(t, r.CompleteTx(t.Context(), tx, r.session, c.Lease, c.Nonce, want[0], "", 1, 0, nil), ErrLeaseLost)
	require.NoError(t, tx.Rollback(t.Context()))
	assert.Empty(t, r.drain())
}

// Rule 6: the answer to a finish may be lost, after it was committed or before. Calling it again writes what is not there,
// nothing twice, and finished jobs are reported as such.
func TestFinishCanBeReplayed(t *testing.T) {
	t.Parallel()
	ends := map[string]func(*rig, *Claim, ...int64) *Finish{
		"done": func(r *rig, c *Claim, some ...int64) *Finish { return r.ending(c, some...) },
	}
	for _, op := range []Op{OpFail, OpRetry, OpAgain, OpBack, OpPark} {
		ends[string(op)] = func(r *rig, c *Claim, some ...int64) *Finish {
			f := r.ending(c, some...)
			for _, d := range f.Done {
				f.Rest = append(f.Rest, FinishRest{ID: d.ID, Op: op, Attempt: d.Attempt, Error: "failed", Delay: time.Hour})
			}
			f.Done = nil
			if op == OpRetry || op == OpAgain || op == OpPark { // as GroupOrder Strict
				for i := range f.Groups {
					for _, j := range c.Jobs {
						if j.Group == f.Groups[i].Key {
							f.Groups[i].Holder = j.ID
						}
					}
				}
			}
			return f
		}
	}
	for name, end := range ends {
		for _, tickets := range []bool{false, true} {
			for _, whole := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/tickets=%t/whole=%t", name, tickets, whole), func(t *testing.T) {
					t.Parallel()
					r := newRig(t)
					claim := r.claim
					jobs := []NewJob{r.job(""), r.job(""), r.job("g"), r.job("h")}
					if tickets {
						claim = r.due
						for i := range jobs {
							jobs[i].Delay = time.Nanosecond
						}
					}
					all := r.enqueueIn(r.pool, jobs...)
					c := claim(10)
					require.ElementsMatch(t, all, ids(c))
					behind := r.enqueue("g", "h") // so that a release makes a turn
					require.Equal(t, Step, r.claim(10).Status)

					some := []int64{all[0], all[2]}
					if whole {
						some = all
					}
					f := end(r, c, some...)
					first := r.finish(f)
					assert.Equal(t, name != "retry" && name != "again" && name != "park", len(first.Turns) > 0)
					before := r.content()
					f.Replay = true
					again, err := r.Finish(t.Context(), f)
					require.NoError(t, err)
					assert.Equal(t, before, r.content())
					assert.Equal(t, whole, again.Lost[c.Lease])
					for _, d := range f.Done {
						assert.Equal(t, whole, again.Settled[d.ID])
					}
					if name == "fail" {
						for _, d := range f.Rest {
							assert.True(t, again.Settled[d.ID])
						}
					}
					// A part of it was never written: the rest of the lease, in the same call.
					if !whole {
						rest := end(r, c, all[1], all[3])
						rest.Leases[0].Closed = true
						rest.Replay = true
						f.Leases[0].Closed = true
						f.Done, f.Rest, f.Groups = append(f.Done, rest.Done...), append(f.Rest, rest.Rest...), append(f.Groups, rest.Groups...)
						r.finish(f)
					}
					r.exec(`UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE state IN ('d', 'n')`)
					want := behind
					if name != "done" && name != "fail" {
						want = append(want, all...)
					}
					assert.ElementsMatch(t, want, r.drain())
				})
			}
		}
	}
}

// What a lost call wrote, and somebody else went on with, is not touched by its replay.
func TestAReplayLeavesAloneWhatWentOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("", "", "g")
	c := r.claim(10)
	f := r.ending(c, all[0], all[2])
	instead(f, OpRetry)
	r.finish(f)
	second := r.due(10)
	require.Equal(t, []int64{all[0], all[2]}, ids(second))
	before := r.content()
	f.Replay = true
	r.finish(f)
	assert.Equal(t, before, r.content(), "claimed by another lease")
	r.complete(second)
	before = r.content()
	done := r.finish(f)
	assert.Equal(t, before, r.content(), "finished by another lease")
	assert.Empty(t, done.Settled)
	r.completeLast(c, all[1])
}

// Rule 6, with retention at once: what is finished may be gone before its answer comes.
func TestAReplayAfterRetentionWritesNothing(t *testing.T) {
	t.Parallel()
	for _, op := range []Op{"", OpFail} {
		t.Run("op "+string(op), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			all := r.enqueue("", "", "g")
			c := r.claim(10)
			f := r.ending(c, all[0], all[2])
			if op != "" {
				instead(f, op)
			}
			r.finish(f)
			r.deleteFinished(0)
			before := r.content()
			f.Replay = true
			r.finish(f)
			assert.Equal(t, before, r.content())
			r.completeLast(c, all[1])
		})
	}
}

// Retention may be deleting just now what a lost call finished.
func TestAReplayDuringRetentionWritesNothing(t *testing.T) {
	t.Parallel()
	for _, op := range []Op{"", OpFail, OpRetry} {
		t.Run("op "+string(op), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			all := r.enqueue("", "", "g")
			c := r.claim(10)
			f := r.ending(c, all[0], all[2])
			r.finish(f)
			tx := r.begin()
			_, err := tx.Exec(r.ctx(), r.sql(`SELECT bearmq.delete_finished_v1('0', '0', 0, 100)`))
			require.NoError(t, err)
			f.Replay = true
			if op != "" {
				instead(f, op)
			}
			r.finishBehind(tx, f)
			assert.Zero(t, one[int](r, r.sql(`SELECT count(*)::int FROM bearmq.outcome`)))
			assert.Zero(t, one[int](r, r.sql(`SELECT count(*)::int FROM bearmq.ticket`)))
			r.completeLast(c, all[1])
		})
	}
}

// What CompleteTx has finished holds no group, whatever its worker thinks of it.
func TestAFinishedJobHoldsNoGroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	job := r.enqueue("g")[0]
	c := r.claim(10)
	require.NoError(t, r.CompleteTx(t.Context(), r.pool, r.session, c.Lease, c.Nonce, job, "g", 1, 0, nil))
	f := r.ended(c, OpRetry, 0)
	f.Groups[0].Holder = job
	require.Equal(t, map[int64]bool{job: true}, r.finish(f).Settled)
	after := r.enqueue("g")
	c = r.claim(10)
	require.Equal(t, after, ids(c))
	r.complete(c)
}

// Somebody may be finishing just now what a lost call gave back.
func TestAReplayWhileAnotherFinishesWritesNothing(t *testing.T) {
	t.Parallel()
	for _, op := range []Op{OpRetry, OpAgain, OpBack, OpPark} {
		for i, group := range []string{"", "", "g", "g"} {
			replay := i%2 > 0 // or the lost call itself, which comes late, behind its replay
			t.Run(fmt.Sprintf("op %s of %q, replay %t", op, group, replay), func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				all := r.enqueue(group, "")
				job := all[0]
				c := r.claim(10)
				f := r.ending(c, job)
				instead(f, op)
				r.finish(f)
				second := r.next(job)

				tx := r.begin()
				_, err := tx.Exec(r.ctx(), r.sql(`INSERT INTO bearmq.outcome (job_id, state, attempt, claim) VALUES ($1, 'c', 1, $2)`), job, second.Nonce)
				require.NoError(t, err)
				_, err = tx.Exec(r.ctx(), r.sql(`DELETE FROM bearmq.ticket WHERE job_id = $1`), job)
				require.NoError(t, err)
				f.Replay = replay
				r.finishBehind(tx, f)
				assert.Zero(t, one[int](r, r.sql(`SELECT count(*)::int FROM bearmq.ticket`)))
				r.finish(r.ended(second, OpSettled, 0))
				r.completeLast(c, all[1])
			})
		}
	}
}

// next claims a job, which is due or has a turn.
func (r *rig) next(job int64) *Claim {
	r.t.Helper()
	c := r.due(10)
	if len(c.Jobs) == 0 {
		c = r.claim(10)
	}
	require.Equal(r.t, []int64{job}, ids(c))
	return c
}

// instead reports the completed jobs of a call in another way.
func instead(f *Finish, op Op) {
	for _, d := range f.Done {
		f.Rest = append(f.Rest, FinishRest{ID: d.ID, Op: op, Attempt: 1, Error: "failed"})
	}
	f.Done = nil
}

// finishBehind makes a call while a transaction is open, and commits that when the call waits for it or has ended.
func (r *rig) finishBehind(tx pgx.Tx, f *Finish) {
	r.t.Helper()
	answer := make(chan error, 1)
	go func() {
		_, err := r.Finish(r.ctx(), f)
		answer <- err
	}()
	require.Eventually(r.t, func() bool {
		return len(answer) > 0 || one[bool](r, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%finish_v1%' AND query LIKE '%' || $1 || '%' AND wait_event_type = 'Lock')`, r.schema)
	}, 20*time.Second, time.Millisecond)
	require.NoError(r.t, tx.Commit(r.ctx()))
	require.NoError(r.t, <-answer)
}

// completeLast completes what is left of a claim.
func (r *rig) completeLast(c *Claim, done ...int64) *Finished {
	r.t.Helper()
	f := r.ending(c, done...)
	f.Leases[0].Closed = true
	return r.finish(f)
}

func (r *rig) deleteFinished(keep time.Duration) (n int64) {
	r.t.Helper()
	n, _, _, err := r.DeleteFinished(r.ctx(), keep, keep, 0, 10_000)
	require.NoError(r.t, err)
	return n
}

func TestFinishOfSeveralLeasesLosesOnlyTheLostOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enqueue("a", "b")
	one, two := r.claim(1), r.claim(1)
	require.NoError(t, r.ReturnClaim(t.Context(), r.session, one.Nonce))
	f := r.ending(one)
	f.Leases = append(f.Leases, r.ending(two).Leases...)
	f.Done = append(f.Done, FinishDone{ID: two.Jobs[0].ID, Lease: 1, Attempt: 1})
	f.Groups = append(f.Groups, FinishGroup{Key: "b", Lease: 1})
	done, err := r.Finish(t.Context(), f)
	require.NoError(t, err)
	assert.Equal(t, map[int64]bool{one.Lease: true}, done.Lost)
	assert.Equal(t, "completed", r.state(two.Jobs[0].ID))
	assert.NotEqual(t, "completed", r.state(one.Jobs[0].ID))
	assert.Equal(t, ids(one), r.drain())
}

func TestRetryCountsAttemptsAndKeepsErrors(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plain(1)
	c := r.claim(1)
	for attempt := int16(1); attempt <= 3; attempt++ {
		require.Len(t, c.Jobs, 1)
		assert.Equal(t, attempt, c.Jobs[0].Attempt)
		f := r.ended(c, OpRetry, 0)
		if attempt == 3 {
			f = r.ended(c, OpFail, 0)
		}
		r.finish(f)
		c = r.due(1)
	}
	assert.Empty(t, c.Jobs)
	assert.Equal(t, []int16{1, 2, 3}, all[int16](r, `SELECT attempt FROM bearmq.attempt_error ORDER BY 1`))
	assert.Equal(t, int16(3), one[int16](r, `SELECT attempt FROM bearmq.outcome WHERE state = 'f' AND error = 'it failed'`))
}

// Exactly once: the effects of a handler and the end of its job are one transaction, behind the fence.
func TestCompleteTx(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enqueue("", "g", "")
	c := r.claim(10)
	tx1, tx2 := r.begin(), r.begin()
	for i, tx := range []pgx.Tx{tx1, tx2} { // several may be open at once
		j := c.Jobs[i]
		require.NoError(t, r.CompleteTx(t.Context(), tx, r.session, c.Lease, c.Nonce, j.ID, j.Group, 1, time.Second, []byte(`"r"`)))
	}
	// A frozen process must not hold up recovery: the transaction may idle as long as the session lives.
	var ms int
	require.NoError(t, tx1.QueryRow(t.Context(), "SELECT setting::integer FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'").Scan(&ms))
	assert.Positive(t, ms)
	assert.LessOrEqual(t, ms, int(time.Hour.Milliseconds()))

	// Recovery skips the lease while such a transaction is open.
	r.kill(r.session)
	assert.Empty(t, r.recoverAll())
	r.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp() + interval '1 hour', ttl = '1 hour', dead = false WHERE id = $1`, r.session)

	// Completing waits for the end of the transaction.
	asked := make(chan bool)
	go func() {
		done, err := r.Completing(t.Context(), c.Jobs[0].ID, c.Nonce)
		assert.NoError(t, err)
		asked <- done
	}()
	require.Eventually(t, func() bool {
		return one[bool](r, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE '%completing_v1%' AND query LIKE '%' || $1 || '%' AND wait_event_type = 'Lock')`, r.schema)
	}, patience, time.Millisecond)
	require.NoError(t, tx1.Commit(t.Context()))
	assert.True(t, <-asked)
	require.NoError(t, tx2.Rollback(t.Context()))
	done, err := r.Completing(t.Context(), c.Jobs[1].ID, c.Nonce)
	require.NoError(t, err)
	assert.False(t, done)
	assert.Equal(t, "completed", r.state(c.Jobs[0].ID))
	assert.Equal(t, "running", r.state(c.Jobs[1].ID))

	f := r.ending(c, c.Jobs[1].ID, c.Jobs[2].ID)
	f.Leases[0].Closed = true
	f.Rest = []FinishRest{{ID: c.Jobs[0].ID, Op: OpSettled, Attempt: 1}}
	got := r.finish(f)
	assert.Equal(t, map[int64]bool{c.Jobs[0].ID: true}, got.Settled)
	assert.Empty(t, r.drain())
}

// With retention at once, what CompleteTx finished must stay until the worker has asked for it and said so.
func TestRetentionWaitsForTheFinishOfACompletedJob(t *testing.T) {
	t.Parallel()
	for _, ticket := range []bool{false, true} {
		t.Run(fmt.Sprintf("ticket=%t", ticket), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			claim, j := r.claim, r.job("g")
			if ticket {
				claim, j.Delay = r.due, time.Nanosecond
			}
			r.enqueueIn(r.pool, j)
			c := claim(1)
			id := c.Jobs[0].ID
			require.NoError(t, r.CompleteTx(t.Context(), r.pool, r.session, c.Lease, c.Nonce, id, "g", 1, 0, nil))
			assert.Zero(t, r.deleteFinished(0))
			done, err := r.Completing(t.Context(), id, c.Nonce)
			require.NoError(t, err)
			assert.True(t, done)
			got := r.finish(r.ended(c, OpSettled, 0))
			assert.True(t, got.Settled[id])
			assert.EqualValues(t, 1, r.deleteFinished(0))
		})
	}
}

// A process may die after the commit of CompleteTx and before its finish.
func TestRecoveryKeepsWhatCompleteTxFinished(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("", "g", "g")
	c := r.claim(10)
	for _, j := range c.Jobs[:2] {
		require.NoError(t, r.CompleteTx(t.Context(), r.pool, r.session, c.Lease, c.Nonce, j.ID, j.Group, 1, 0, nil))
	}
	r.kill(r.session)
	lost := r.recoverAll()
	require.Len(t, lost, 1)
	assert.Equal(t, all[2], lost[0].Job, "the first job of the group that is not finished")
	r.session = r.newSession()
	assert.Equal(t, all[2:], r.drain())
}

func TestLeasesOfTheLogAreDeletedAsTheyFinishInAnyOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plain(100)
	var open []*Claim
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		open = append(open, r.claim(2))
		if rng.IntN(2) == 0 {
			i := rng.IntN(len(open))
			r.complete(open[i])
			open = append(open[:i], open[i+1:]...)
		}
	}
	for _, c := range open {
		r.complete(c)
	}
	assert.EqualValues(t, 1, one[int64](r, `SELECT count(*) FROM bearmq.lease`))
}

// Rule 10: a claim and the finish of the lease before it can both take it for the other's to delete.
func TestFinishedCursorsThatLeakAreSwept(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plain(2)
	c := r.claim(1)
	tx := r.begin()
	rows, err := tx.Query(t.Context(), r.text("claim_log"), r.lane, r.session, 7, 10, 10)
	require.NoError(t, err)
	rows.Close()
	r.complete(c) // does not see the newer lease: it stays as the cursor
	require.NoError(t, tx.Commit(t.Context()))
	assert.EqualValues(t, 2, one[int64](r, `SELECT count(*) FROM bearmq.lease`))
	require.NoError(t, r.Sweep(context.WithoutCancel(t.Context())))
	assert.EqualValues(t, 1, one[int64](r, `SELECT count(*) FROM bearmq.lease`))
	require.NoError(t, r.ReturnClaim(t.Context(), r.session, 7))
	assert.Len(t, r.drain(), 1)
}
