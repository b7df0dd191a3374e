package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Rule 13: what a lease handed out is read from the log by its position, and of that exactly what is not finished is given
// back, whatever has happened to the rest.
func TestRecoveryIsExact(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			rng := rand.New(rand.NewPCG(seed, 1))
			for round := range 15 {
				unfinished := map[int64]bool{} // handed out
				for range 1 + rng.IntN(6) {
					early := r.begin() // interleaves with the others
					ids := r.enqueueIn(early, r.job(""), r.job(""))
					r.plain(rng.IntN(12) + 1)
					if rng.IntN(3) > 0 {
						require.NoError(t, early.Commit(t.Context()))
					} else {
						require.NoError(t, early.Rollback(t.Context()))
						_ = ids
					}
					claim := r.claim
					if rng.IntN(3) == 0 {
						claim = r.due
					}
					c := claim(1 + rng.IntN(20))
					if len(c.Jobs) == 0 {
						continue
					}
					f := &Finish{Session: r.session, Leases: []FinishLease{{ID: c.Lease, Nonce: c.Nonce}}}
					for _, j := range c.Jobs {
						switch op := rng.IntN(6); op {
						case 0, 1:
							f.Done = append(f.Done, FinishDone{ID: j.ID, Attempt: j.Attempt, Ticket: j.Ticket})
						case 2:
							f.Rest = append(f.Rest, FinishRest{ID: j.ID, Op: OpBack, Attempt: j.Attempt})
						case 3:
							f.Rest = append(f.Rest, FinishRest{ID: j.ID, Op: []Op{OpRetry, OpAgain, OpFail, OpPark}[rng.IntN(4)], Attempt: j.Attempt, Error: "x"})
						default:
							unfinished[j.ID] = true
							continue
						}
						delete(unfinished, j.ID)
					}
					if len(f.Done)+len(f.Rest) < len(c.Jobs) || rng.IntN(2) == 0 {
						r.finish(f)
					} else {
						f.Leases[0].Closed = true
						r.finish(f)
					}
					if rng.IntN(2) == 0 {
						r.deleteFinished(0)
						require.NoError(t, r.Sweep(t.Context()))
					}
				}
				r.kill(r.session)
				got := map[int64]bool{}
				for _, l := range r.recoverAll() {
					require.False(t, got[l.Job], "twice")
					got[l.Job] = true
				}
				require.Equal(t, unfinished, got, "round %d", round)
				require.Empty(t, r.recoverAll())
				r.exec(`UPDATE bearmq.ticket SET losses = 0, alone = false`) // the last loss is another test's
				r.session = r.newSession()
			}
			r.drain()
			assert.Zero(t, one[int64](r, `SELECT count(*) FROM bearmq.job_state WHERE state NOT IN ('completed', 'failed')`))
		})
	}
}

func TestALossIsNoAttempt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.plain(1)[0]
	r.claim(1)
	r.kill(r.session)
	lost := r.recoverAll()
	assert.Equal(t, []Taken{{Job: id, Name: "work", Channel: "default", Attempt: 1, Losses: 1}}, lost)
	r.session = r.newSession()
	c := r.due(1)
	assert.EqualValues(t, 1, c.Jobs[0].Attempt)
	assert.EqualValues(t, 1, c.Jobs[0].Losses)
	r.complete(c)
}

// A job that kills its process must not do so for ever; before its last time it runs alone, so that it takes no other along.
func TestTheLastLossFailsTheJob(t *testing.T) {
	t.Parallel()
	for _, group := range []string{"", "g"} {
		t.Run("group "+group, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			id := r.enqueue(group)[0]
			var behind []int64
			if group != "" {
				behind = r.enqueue(group)
			}
			for loss := 1; loss <= 3; loss++ {
				c := &Claim{}
				for i := 0; len(c.Jobs) == 0; i++ {
					require.Less(t, i, 10)
					if c = r.claim(1); len(c.Jobs) == 0 {
						c = r.due(10)
					}
				}
				require.Equal(t, id, c.Jobs[0].ID)
				assert.Equal(t, loss == 3, c.Jobs[0].Alone)
				r.kill(r.session)
				lost := r.recoverAll()
				require.Len(t, lost, 1)
				assert.Equal(t, loss, lost[0].Losses)
				assert.Equal(t, loss == 3, lost[0].Failed)
				r.session = r.newSession()
			}
			assert.Equal(t, "failed", r.state(id))
			assert.Contains(t, one[string](r, `SELECT error FROM bearmq.outcome`), "lost 3 times")
			assert.Equal(t, behind, append([]int64(nil), r.drain()...))
		})
	}
}

// Of a mailbox only the first job can have started.
func TestOfAGroupOnlyTheFirstUnfinishedJobCountsALoss(t *testing.T) {
	t.Parallel()
	for _, turned := range []bool{false, true} {
		t.Run(fmt.Sprintf("turned=%t", turned), func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if turned {
				r.enqueue("g")
			}
			first := r.claim(1)
			all := r.enqueue("g", "g", "g", "", "h")
			c := r.claim(10)
			if turned {
				r.complete(first)
				r.complete(c)
				all = all[:3]
				c = r.claim(10)
			}
			require.Equal(t, all, ids(c))
			f := r.ending(c, all[0])
			f.Leases[0].Closed = false
			r.finish(f)
			behind := r.enqueue("g")
			r.kill(r.session)
			lost := map[int64]bool{}
			for _, l := range r.recoverAll() {
				lost[l.Job] = true
			}
			want := map[int64]bool{all[1]: true}
			if !turned {
				want[all[3]], want[all[4]] = true, true
			}
			assert.Equal(t, want, lost)
			assert.Equal(t, "scheduled", r.state(all[1]), "it holds its group while it waits")
			assert.Zero(t, one[int16](r, `SELECT losses FROM bearmq.ticket WHERE job_id = $1`, all[2]))
			r.session = r.newSession()
			got := r.drain()
			got = slices.DeleteFunc(got, func(id int64) bool { return !turned && (id == all[3] || id == all[4]) })
			assert.Equal(t, []int64{all[1], all[2], behind[0]}, got, "at the front of their group, in order")
		})
	}
}

func TestOnlyDeadSessionsAreRecovered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.plain(3)
	live := r.claim(1)
	lease := live.Lease
	lost, err := r.Recover(t.Context(), lease, 3)
	require.NoError(t, err)
	assert.Empty(t, lost)

	expired := r.newSession()
	r.claimAs(expired, r.lane, 1, 1)
	r.kill(expired)
	ended := r.newSession()
	r.claimAs(ended, r.lane, 1, 1)
	require.NoError(t, r.EndSession(t.Context(), r.pool, ended))
	r.exec(`UPDATE bearmq.session SET ttl = '0' WHERE id = $1`, ended)
	var got []int64
	for _, l := range r.recoverAll() {
		got = append(got, l.Job)
	}
	assert.ElementsMatch(t, all[1:], got)
	r.complete(live)
	r.drain()
}

// While the server was down nobody could renew.
func TestAfterTheServersStartEverySessionGetsItsTTL(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plain(1)
	r.claim(1)
	r.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp() - interval '1 minute',
		ttl = clock_timestamp() - pg_postmaster_start_time() + interval '1 hour' WHERE id = $1`, r.session)
	assert.Empty(t, r.recoverAll())
	assert.True(t, r.renews())
	r.kill(r.session)
	assert.False(t, r.renews(), "a dead session never revives")
	assert.Len(t, r.recoverAll(), 1)
	r.session = r.newSession()
	r.drain()
}

func (r *rig) renews() bool {
	r.t.Helper()
	_, alive, err := r.RenewSession(r.ctx(), r.pool, r.session, nil)
	require.NoError(r.t, err)
	return alive
}

// When the clock has jumped every session has expired and is alive: until somebody declares it dead it is renewed, claims,
// and completes jobs.
func TestAnExpiredSessionLivesUntilItIsDeclaredDead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	expire := func() {
		r.exec(`UPDATE bearmq.session SET started_at = started_at - interval '2 hours', expires_at = expires_at - interval '1 hour', ttl = '1 microsecond'`)
	}
	list := func(latest *time.Time) []int64 {
		t.Helper()
		leases, _, err := r.DeadLeases(t.Context(), 10, latest)
		require.NoError(t, err)
		return leases
	}
	all := r.plain(2)
	expire()
	c := r.claim(1)
	require.Equal(t, all[:1], ids(c))
	require.NoError(t, r.CompleteTx(t.Context(), r.pool, r.session, c.Lease, c.Nonce, all[0], "", 1, 0, nil))
	r.finish(r.ended(c, OpSettled, 0))
	c = r.claim(1)
	now := one[time.Time](r, `SELECT clock_timestamp()`)
	assert.Empty(t, list(new(time.Time)), "nobody is declared dead")
	assert.Empty(t, list(&now), "it is later than it can be")
	assert.True(t, r.renews())
	expire()
	later := now.Add(time.Hour)
	assert.Equal(t, []int64{c.Lease}, list(&later))
	assert.False(t, r.renews())
	assert.Equal(t, Expired, r.claim(1).Status)
	assert.ErrorIs(t, r.CompleteTx(t.Context(), r.pool, r.session, c.Lease, c.Nonce, all[1], "", 1, 0, nil), ErrLeaseLost)
	assert.Equal(t, []int64{c.Lease}, list(new(time.Time)), "once dead, always dead")
	assert.Len(t, r.recoverAll(), 1)
	r.session = r.newSession()
	assert.Equal(t, all[1:], r.drain())
}

// When the clock has jumped back, a dead worker's session must not live for as long as it jumped.
func TestNoSessionOutlivesItsTTLByAJumpOfTheClock(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`UPDATE bearmq.session SET expires_at = expires_at + interval '1 hour'`)
	assert.Empty(t, r.recoverAll())
	assert.True(t, one[bool](r, `SELECT expires_at <= clock_timestamp() + ttl FROM bearmq.session WHERE id = $1`, r.session))
}

// A session's row may be missing: deleted by hand, or by an old sweep.
func TestLeasesOfAMissingSessionAreRecovered(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	id := r.plain(1)[0]
	r.claim(1)
	r.exec(`DELETE FROM bearmq.session WHERE id = $1`, r.session)
	require.NoError(t, r.Sweep(t.Context()))
	lost := r.recoverAll()
	require.Len(t, lost, 1)
	assert.Equal(t, id, lost[0].Job)
	r.session = r.newSession()
	r.drain()
}

func TestManyRecoverersLoseAJobOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 10 {
		r.enqueue("a", "b", "")
		r.claim(3)
	}
	r.kill(r.session)
	leases, _, err := r.DeadLeases(t.Context(), 100, nil)
	require.NoError(t, err)
	lost := make(chan []Taken)
	for range 4 {
		go func() {
			var all []Taken
			for _, id := range leases {
				l, err := r.Recover(r.ctx(), id, 3)
				assert.NoError(t, err)
				all = append(all, l...)
			}
			lost <- all
		}()
	}
	var total []Taken
	for range 4 {
		total = append(total, <-lost...)
	}
	assert.Len(t, total, 10+2) // ten without a group, and of each group the one that held it
	r.session = r.newSession()
	assert.Len(t, r.drain(), 30)
}

// A group that one job has held for too long, although its session lives.
func TestUnlockedGroupsRefuseTheJobThatHeldThem(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("hung", "hung", "fine", "")
	c := r.claim(10)
	require.Len(t, c.Jobs, 4)
	lost, err := r.UnlockGroups(t.Context(), time.Hour, 3)
	require.NoError(t, err)
	require.Empty(t, lost)
	r.complete(c, all[2]) // gives up its group
	r.exec(`UPDATE bearmq.lease SET created_at = created_at - interval '2 hours' WHERE id = $1`, c.Lease)
	lost, err = r.UnlockGroups(t.Context(), time.Hour, 3)
	require.NoError(t, err)
	require.Len(t, lost, 1)
	assert.Equal(t, all[0], lost[0].Job)
	assert.InDelta(t, 2*time.Hour, lost[0].HeldFor, float64(time.Minute))
	assert.EqualValues(t, 1, one[int16](r, `SELECT losses FROM bearmq.ticket WHERE job_id = $1`, all[0]))

	revoked, alive, err := r.RenewSession(t.Context(), r.pool, r.session, nil)
	require.NoError(t, err)
	assert.True(t, alive)
	assert.ElementsMatch(t, all[:2], revoked)
	revoked, _, err = r.RenewSession(t.Context(), r.pool, r.session, nil)
	require.NoError(t, err)
	assert.ElementsMatch(t, all[:2], revoked, "the answer may have been lost")
	r.exec(`UPDATE bearmq.session SET revoked = revoked || $2::bigint WHERE id = $1`, r.session, all[0])
	left, _, err := r.RenewSession(t.Context(), r.pool, r.session, revoked)
	require.NoError(t, err)
	assert.Equal(t, all[:1], left, "what it has been told is not repeated")
	again, _, err := r.RenewSession(t.Context(), r.pool, r.session, revoked)
	require.NoError(t, err)
	assert.Equal(t, all[:1], again, "its answer was lost too")
	revoked, _, err = r.RenewSession(t.Context(), r.pool, r.session, left)
	require.NoError(t, err)
	assert.Empty(t, revoked)

	elsewhere := r.claim(10)
	assert.Equal(t, all[:2], ids(elsewhere), "it runs elsewhere")
	tx := r.begin()
	assert.ErrorIs(t, r.CompleteTx(t.Context(), tx, r.session, c.Lease, c.Nonce, all[0], "hung", 1, 0, nil), ErrLeaseLost)
	require.NoError(t, tx.Rollback(t.Context()))
	f := r.ending(c, all[0], all[1], all[3])
	f.Leases[0].Closed = true
	before := one[string](r, `SELECT g::text FROM bearmq.job_group g WHERE key = 'hung'`)
	for _, replay := range []bool{false, true} {
		f.Replay = replay
		done, err := r.Finish(t.Context(), f)
		require.NoError(t, err)
		if !replay {
			assert.Equal(t, map[int64]bool{all[0]: true, all[1]: true}, done.Refused)
		}
		assert.Equal(t, before, one[string](r, `SELECT g::text FROM bearmq.job_group g WHERE key = 'hung'`))
		assert.Equal(t, "running", r.state(all[0]))
		assert.Equal(t, "completed", r.state(all[3]), "others are not refused")
	}
	r.complete(elsewhere)
}

// What counts is how long one job has held the group: since the one before it in its mailbox was finished.
func TestAMailboxThatGoesOnIsNotUnlocked(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"log", "turn", "turn without retention"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			var all []int64
			var c *Claim
			if kind == "log" {
				all = r.enqueue("g", "g", "h", "h")
				c = r.claim(10)
			} else {
				r.enqueue("g", "h")
				first := r.claim(2)
				all = r.enqueue("g", "g", "h", "h")
				require.Equal(t, Step, r.claim(10).Status)
				r.complete(first)
				c = r.claim(10)
			}
			require.ElementsMatch(t, all, ids(c))
			r.exec(`UPDATE bearmq.lease SET created_at = created_at - interval '2 hours' WHERE id = $1`, c.Lease)
			r.complete(c, all[0]) // of g, which goes on
			if kind == "turn without retention" {
				r.deleteFinished(0)
			}
			lost, err := r.UnlockGroups(t.Context(), time.Hour, 3)
			require.NoError(t, err)
			require.Len(t, lost, 1)
			assert.Equal(t, all[2], lost[0].Job)
			assert.Equal(t, []int64{all[1]}, []int64{r.completeOne(c, all[1])})
			f := r.ending(c, all[2], all[3])
			f.Leases[0].Closed = true
			done, err := r.Finish(t.Context(), f)
			require.NoError(t, err)
			assert.Len(t, done.Refused, 2)
			assert.Equal(t, all[2:], r.drain())
		})
	}
}

// completeOne completes the last job of a claim's group g.
func (r *rig) completeOne(c *Claim, id int64) int64 {
	r.t.Helper()
	f := r.ending(c, id)
	f.Groups = []FinishGroup{{Key: "g"}}
	r.finish(f)
	return id
}

func TestSweepKeepsWhatIsStillNeeded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var held []*Claim
	for range 5 { // each claim of one interval
		r.plain(1)
		held = append(held, r.claim(10))
	}
	gone, dead := r.newSession(), r.newSession()
	for _, id := range []uuid.UUID{gone, dead, r.session} {
		require.NoError(t, r.Sleep(t.Context(), id, nil))
	}
	r.kill(dead)
	r.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp() - interval '2 hours', dead = true WHERE id = $1`, gone)
	require.NoError(t, r.Sweep(t.Context()))
	assert.EqualValues(t, 5, one[int64](r, `SELECT count(*) FROM bearmq.log_interval`), "a lease's interval stays with it")
	assert.Equal(t, []uuid.UUID{r.session}, all[uuid.UUID](r, `SELECT session_id FROM bearmq.sleeper`))
	assert.Zero(t, one[int64](r, `SELECT count(*) FROM bearmq.session WHERE id = $1`, gone))
	for _, c := range held[:4] {
		r.complete(c)
	}
	require.NoError(t, r.Sweep(t.Context()))
	assert.EqualValues(t, 1, one[int64](r, `SELECT count(*) FROM bearmq.log_interval`))
	r.kill(r.session)
	assert.Len(t, r.recoverAll(), 1)
	r.session = r.newSession()
	r.drain()
}

func TestRetentionDeletesAJobWithAllThatItLeft(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("", "", "g", "")
	c := r.claim(3)
	r.finish(r.ended(c, OpRetry, 0))
	c = r.due(10)
	f := r.ending(c, all[0], all[2])
	f.Rest = []FinishRest{{ID: all[1], Op: OpFail, Attempt: 2, Error: "x"}}
	f.Leases[0].Closed = true
	r.finish(f)
	running := r.claim(10)
	r.exec(`UPDATE bearmq.outcome SET finished_at = finished_at - interval '2 hours' WHERE job_id IN ($1, $2)`, all[0], all[1])

	keep, keepFailed := time.Hour, 3*time.Hour
	deletes := func(after int64, n int) (deleted, reached int64, more bool) {
		t.Helper()
		deleted, reached, more, err := r.DeleteFinished(t.Context(), keep, keepFailed, after, n)
		require.NoError(t, err)
		return deleted, reached, more
	}
	deleted, reached, more := deletes(0, 10)
	assert.EqualValues(t, 1, deleted)
	assert.Equal(t, all[1]-1, reached, "the failed one is kept longer, and looked at again")
	assert.False(t, more)
	assert.Equal(t, all[1:], allIDs(r))
	keepFailed = time.Hour
	deleted, reached, _ = deletes(all[1], 10)
	assert.Zero(t, deleted, "it stands before the place to go on from")
	assert.Equal(t, all[2]-1, reached)
	deleted, _, _ = deletes(0, 10)
	assert.EqualValues(t, 1, deleted)
	assert.Equal(t, all[2:], allIDs(r), "one has finished just now, one runs")
	assert.EqualValues(t, 1, one[int64](r, `SELECT count(*) FROM bearmq.attempt_error`), "that of the first attempt of what has finished")
	keep = 0
	deleted, reached, _ = deletes(0, 10)
	assert.EqualValues(t, 1, deleted)
	assert.Equal(t, all[2], reached)
	deleted, reached, _ = deletes(reached, 10)
	assert.Zero(t, deleted)
	assert.Equal(t, all[2], reached)
	assert.Zero(t, one[int64](r, `SELECT count(*) FROM bearmq.attempt_error`))
	r.complete(running)
}

func TestRetentionStopsWhereJobsAreTooYoung(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("", "", "", "", "", "")
	r.complete(r.claim(10))
	r.exec(`UPDATE bearmq.job SET created_at = created_at - interval '2 hours' WHERE id <= $1`, all[3])
	r.exec(`UPDATE bearmq.outcome SET finished_at = finished_at - interval '2 hours' WHERE job_id <= $1 AND job_id <> $2`, all[3], all[1])
	steps := []struct {
		deleted, reached int64
		more             bool
	}{
		{1, all[1], true}, // goes past the one that finished late
		{2, all[3], true},
		{0, all[3], false}, // these cannot be over
	}
	var reached int64
	for i, want := range steps {
		deleted, to, more, err := r.DeleteFinished(t.Context(), time.Hour, 3*time.Hour, reached, 2)
		require.NoError(t, err)
		assert.Equal(t, want.deleted, deleted, i)
		assert.Equal(t, want.reached, to, i)
		assert.Equal(t, want.more, more, i)
		reached = to
	}
	assert.Equal(t, []int64{all[1], all[4], all[5]}, allIDs(r))
}

func TestRetentionIsOneAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.enqueue("", "")
	r.complete(r.claim(10))
	tx := r.begin()
	_, err := tx.Exec(t.Context(), r.text("delete_finished"), time.Duration(0), time.Duration(0), 0, 1)
	require.NoError(t, err)
	deleted, reached, more, err := r.DeleteFinished(t.Context(), 0, 0, 0, 10)
	require.NoError(t, err)
	assert.Zero(t, deleted)
	assert.Zero(t, reached)
	assert.False(t, more)
	require.NoError(t, tx.Commit(t.Context()))
	assert.EqualValues(t, 1, r.deleteFinished(0))
}

func allIDs(r *rig) []int64 {
	return all[int64](r, `SELECT id FROM bearmq.job WHERE name IS NOT NULL ORDER BY id`)
}
