package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

func TestJobsOfABusyGroupAreBlockedUntilItsTurn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("g", "g", "h", "g")
	first := r.claim(1)
	require.Equal(t, all[:1], ids(first))
	second := r.claim(10)
	assert.Equal(t, []int64{all[2]}, ids(second))
	assert.Equal(t, "blocked", r.state(all[1]))
	assert.Equal(t, Empty, r.claim(10).Status)
	assert.Equal(t, []int32{r.lane}, r.complete(first).Turns)
	third := r.claim(10)
	assert.Equal(t, []int64{all[1], all[3]}, ids(third), "a mailbox")
	assert.Greater(t, third.Jobs[0].Token, first.Jobs[0].Token)
	r.complete(second)
	r.complete(third)
	assert.Empty(t, r.drain())
	assert.Zero(t, one[int64](r, `SELECT count(*) FROM bearmq.job WHERE name IS NULL`), "turns are deleted as they are read")
}

func TestMailboxHoldsAtMostAsManyAsAskedFor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("g", "g", "g", "g", "g", "h", "g")
	var got [][]int64
	for c := r.claimAs(r.session, r.lane, 100, 2); c.Status == Claimed; c = r.claimAs(r.session, r.lane, 100, 2) {
		got = append(got, ids(c))
		r.complete(c)
	}
	assert.Equal(t, [][]int64{{all[0], all[1], all[5]}, {all[2], all[3]}, {all[4], all[6]}}, got)
}

// A groupModel is what users are promised of groups, on a rig that does everything at random: no two jobs of a group at
// once, all in their order, under tokens that rise.
type groupModel struct {
	*rig
	rng    *rand.Rand
	queue  map[string][]int64 // the unfinished jobs of each group, in order
	tokens map[string]int64
	open   []*Claim
}

func TestGroupsRunOneAtATimeAndInOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			m := &groupModel{rig: newRig(t), rng: rand.New(rand.NewPCG(seed, 0)), queue: map[string][]int64{}, tokens: map[string]int64{}}
			const jobs = 400
			enqueued, step := 0, 0
			for ; enqueued < jobs || m.left() > 0; step++ {
				require.Less(t, step, 10_000, "jobs are stuck")
				switch k := m.rng.IntN(20); {
				case k < 4 && enqueued < jobs:
					enqueued += m.enqueueSome()
				case k < 10:
					m.opened(m.claimAs(m.session, m.lane, 1+m.rng.IntN(6), 1+m.rng.IntN(4)))
				case k < 12:
					m.opened(m.due(1 + m.rng.IntN(3)))
				case k == 12 && step%5 == 0:
					m.die()
				case len(m.open) > 0:
					i := m.rng.IntN(len(m.open))
					c := m.open[i]
					m.open = slices.Delete(m.open, i, i+1)
					m.end(c)
				}
			}
			assert.EqualValues(t, enqueued, one[int64](m.rig, `SELECT count(*) FROM bearmq.outcome`))
		})
	}
}

func (m *groupModel) left() (n int) {
	for _, q := range m.queue {
		n += len(q)
	}
	return n
}

func (m *groupModel) enqueueSome() int {
	var groups []string
	for range 1 + m.rng.IntN(8) {
		groups = append(groups, string(rune('a'+m.rng.IntN(4))))
	}
	for i, id := range m.enqueue(groups...) {
		m.queue[groups[i]] = append(m.queue[groups[i]], id)
	}
	return len(groups)
}

// opened checks what a claim brought.
func (m *groupModel) opened(c *Claim) {
	m.t.Helper()
	held := map[string]bool{}
	for _, o := range m.open {
		for _, j := range o.Jobs {
			held[j.Group] = true
		}
	}
	place := map[string]int{}
	for _, j := range c.Jobs {
		require.False(m.t, held[j.Group], "group %s is held already", j.Group)
		require.Equal(m.t, m.queue[j.Group][place[j.Group]], j.ID, "the order of group %s", j.Group)
		if place[j.Group] == 0 {
			require.Greater(m.t, j.Token, m.tokens[j.Group])
			m.tokens[j.Group] = j.Token
		}
		require.Equal(m.t, m.tokens[j.Group], j.Token)
		require.True(m.t, !j.Alone || len(c.Jobs) == 1 || c.Jobs[0].Ticket, "it runs alone")
		place[j.Group]++
	}
	if len(c.Jobs) > 0 {
		m.open = append(m.open, c)
	}
}

func (m *groupModel) finished(id int64) {
	for g, q := range m.queue {
		m.queue[g] = slices.DeleteFunc(q, func(x int64) bool { return x == id })
	}
}

// end ends a claim: it is given back as a whole, or of each group the first ones are completed, then one may fail, or be
// tried again later with the group held or given back, and the others go back.
func (m *groupModel) end(c *Claim) {
	if m.rng.IntN(10) == 0 {
		require.NoError(m.t, m.ReturnClaim(m.ctx(), m.session, c.Nonce))
		return
	}
	f := m.ending(c)
	f.Done = nil
	stopped := map[string]bool{}
	for _, j := range c.Jobs {
		rest := FinishRest{ID: j.ID, Op: OpBack, Attempt: j.Attempt, Error: "x"}
		switch k := m.rng.IntN(10); {
		case stopped[j.Group]:
			f.Rest = append(f.Rest, rest)
		case k < 6:
			f.Done = append(f.Done, FinishDone{ID: j.ID, Attempt: j.Attempt, Ticket: j.Ticket})
			m.finished(j.ID)
		case k < 7:
			rest.Op = OpFail
			f.Rest = append(f.Rest, rest)
			m.finished(j.ID)
		default:
			if k < 9 {
				rest.Op = OpRetry
				i := slices.IndexFunc(f.Groups, func(g FinishGroup) bool { return g.Key == j.Group })
				f.Groups[i].Holder = j.ID
			}
			f.Rest = append(f.Rest, rest)
			stopped[j.Group] = true
		}
	}
	m.finish(f)
	if m.rng.IntN(3) == 0 {
		before := m.content()
		f.Replay = true
		_, err := m.Finish(m.ctx(), f)
		require.NoError(m.t, err)
		require.Equal(m.t, before, m.content(), "a replay changes nothing")
	}
}

// die is the death of the process with everything that it holds, and its recovery.
func (m *groupModel) die() {
	m.kill(m.session)
	for _, t := range m.recoverAll() {
		if t.Failed {
			m.finished(t.Job)
		}
	}
	m.session, m.open = m.newSession(), nil
}

// GroupOrder Strict: a job that waits for its next attempt holds its group.
func TestAHolderKeepsItsGroupWhileItWaits(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("g", "g", "g")
	c := r.claim(10)
	f := r.ended(c, OpBack, 0)
	f.Rest[0].Op, f.Rest[0].Delay = OpRetry, time.Hour
	f.Groups[0].Holder = all[0]
	assert.Empty(t, r.finish(f).Turns)
	assert.Equal(t, "retrying", r.state(all[0]))
	assert.Equal(t, "blocked", r.state(all[1]))
	later := r.enqueue("g")
	assert.Equal(t, Step, r.claim(10).Status)
	assert.Equal(t, Empty, r.due(10).Status)

	// a delayed sibling that never started holds nobody, and is held
	delayed := r.job("g")
	delayed.Delay = time.Nanosecond
	slow := r.enqueueIn(r.pool, delayed)
	assert.Equal(t, Step, r.due(10).Status)

	r.exec(`UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE job_id = $1`, all[0])
	again := r.due(10)
	require.Equal(t, all[:1], ids(again))
	assert.EqualValues(t, 2, again.Jobs[0].Attempt)
	assert.Empty(t, r.claim(10).Jobs)
	r.complete(again)
	assert.Equal(t, slices.Concat(all[1:], later, slow), r.drain())
}

// GroupOrder Release: it gives the group back meanwhile, and joins it again when its time has come.
func TestWithoutAHolderTheGroupGoesOnMeanwhile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("g", "g", "g")
	c := r.claim(1)
	require.Equal(t, Step, r.claim(10).Status)
	r.finish(r.ended(c, OpRetry, time.Hour))
	next := r.claimAs(r.session, r.lane, 10, 1)
	assert.Equal(t, all[1:2], ids(next))
	r.exec(`UPDATE bearmq.ticket SET run_at = clock_timestamp() WHERE job_id = $1`, all[0])
	assert.Equal(t, Step, r.due(10).Status, "the group is busy")
	r.complete(next)
	assert.Equal(t, []int64{all[0], all[2]}, r.drain(), "at its old place")
}

func TestParkedJobKeepsItsGroupForASessionThatAsksForIt(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("g", "g")
	c := r.claim(10)
	f := r.ended(c, OpBack, 0)
	f.Rest[0].Op = OpPark
	f.Groups[0].Holder = all[0]
	r.finish(f)
	assert.Equal(t, "parked", r.state(all[0]))
	claim := func(names ...string) *Claim {
		c, err := r.ClaimDue(t.Context(), r.lane, r.session, rand.Int64(), 10, 10, names, nil, true, time.Time{})
		require.NoError(t, err)
		return c
	}
	work := func(names ...string) bool {
		w, err := r.FindWork(t.Context(), nil, names, true, 0)
		require.NoError(t, err)
		return w[0].Due
	}
	assert.False(t, work("other"))
	assert.Equal(t, Empty, claim("other").Status)
	assert.True(t, work("other", "work"))
	got := claim("other", "work")
	assert.Equal(t, all[:1], ids(got))
	r.complete(got)
	assert.Equal(t, all[1:], r.drain())
}

// The turn of a group goes to the lane in which its first job stands, so that a worker of that channel runs it.
func TestATurnGoesToTheLaneOfTheGroupsHead(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.laneOf("other")
	elsewhere := func(group string) NewJob { j := r.job(group); j.Lane = other; return j }
	all := r.enqueueIn(r.pool, r.job("g"), elsewhere("g"), r.job("g"), elsewhere("g"))
	c := r.claim(1)
	require.Equal(t, Step, r.claim(10).Status)
	require.Equal(t, Step, r.claimAs(r.session, other, 10, 10).Status)
	assert.Equal(t, []int32{other}, r.complete(c).Turns)
	assert.Equal(t, Empty, r.claim(10).Status)
	c = r.claimAs(r.session, other, 10, 10)
	require.Equal(t, all[1:2], ids(c), "the mailbox ends where the lane does")
	assert.Equal(t, []int32{r.lane}, r.complete(c).Turns)
	assert.Equal(t, all[2:], r.drain(r.lane, other))
}

// The head may have changed since the turn was appended: then the turn goes on to the lane of the new one.
func TestATurnThatFindsAnotherHeadGoesOn(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.laneOf("other")
	early := r.begin() // its jobs come before all others, and are seen last
	j := r.job("g")
	j.Lane = other
	first := r.enqueueIn(early, j)
	all := r.enqueue("g", "g")
	c := r.claim(1)
	require.Equal(t, Step, r.claim(10).Status)
	assert.Equal(t, []int32{r.lane}, r.complete(c).Turns)
	require.NoError(t, early.Commit(t.Context()))
	require.Equal(t, Step, r.claimAs(r.session, other, 10, 10).Status, "it is blocked, as the first of its group")
	require.Equal(t, Step, r.claim(10).Status)
	assert.Equal(t, slices.Concat(first, all[1:]), r.drain(r.lane, other))
}

// Rule 8.
func TestAGroupWhoseBlockedJobsAreGoneIsCleared(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]bool{"before its release": true, "after its turn was appended": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			all := r.enqueue("g", "g")
			c := r.claim(1)
			require.Equal(t, Step, r.claim(10).Status)
			cancel := func() {
				r.exec(`INSERT INTO bearmq.outcome (job_id, claim, attempt, state) VALUES ($1, 0, 1, 'x')`, all[1])
				require.EqualValues(t, 1, r.exec(`DELETE FROM bearmq.ticket WHERE job_id = $1`, all[1]))
			}
			if when {
				cancel()
				assert.Empty(t, r.complete(c).Turns)
			} else {
				r.complete(c)
				cancel()
				assert.Equal(t, Step, r.claim(10).Status)
			}
			assert.False(t, one[bool](r, `SELECT blocked FROM bearmq.job_group`))
			next := r.enqueue("g")
			assert.Equal(t, next, r.drain())
		})
	}
}

// A job that may kill its process never rides in a mailbox: at its turn it becomes a due ticket that holds its group.
func TestAJobThatRunsAloneLeavesTheMailbox(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("g", "g", "g")
	c := r.claim(1)
	require.Equal(t, Step, r.claim(10).Status)
	r.exec(`UPDATE bearmq.ticket SET alone = true WHERE job_id = $1`, all[1])
	r.complete(c)
	assert.Equal(t, Step, r.claim(10).Status)
	assert.Equal(t, all[1], one[int64](r, `SELECT holder_job FROM bearmq.job_group`))
	without, err := r.ClaimDue(t.Context(), r.lane, r.session, 1, 10, 10, []string{"work"}, nil, false, time.Time{})
	require.NoError(t, err)
	assert.Equal(t, Empty, without.Status, "a session that runs one already takes no other")
	c = r.due(10)
	require.Equal(t, all[1:2], ids(c))
	assert.True(t, c.Jobs[0].Alone)
	r.complete(c)
	assert.Equal(t, all[2:], r.drain())
}

func TestTokensRiseAlsoAfterIdleGroupsWereCollected(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var token int64
	for range 3 {
		r.enqueue("g", "busy")
		c := r.claim(10)
		require.Greater(t, c.Jobs[0].Token, token)
		token = c.Jobs[0].Token
		r.complete(c, c.Jobs[0].ID)
		deleted, reached, err := r.CollectGroups(t.Context(), "", 0, 100)
		require.NoError(t, err)
		assert.EqualValues(t, 1, deleted, "the one that is not busy")
		assert.Empty(t, reached)
		assert.Equal(t, []string{"busy"}, all[string](r, `SELECT key FROM bearmq.group_anchor`))
		r.completeLast(c, c.Jobs[1].ID)
	}
	deleted, _, err := r.CollectGroups(t.Context(), "", time.Hour, 100)
	require.NoError(t, err)
	assert.Zero(t, deleted, "it was busy within the hour")
}

func TestGroupsAreCollectedInPieces(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	groups := []string{}
	for i := range 25 {
		groups = append(groups, fmt.Sprintf("g%02d", i))
	}
	r.enqueue(groups...)
	r.drain()
	var total int64
	calls := 0
	for after := ""; ; calls++ {
		deleted, reached, err := r.CollectGroups(t.Context(), after, 0, 10)
		require.NoError(t, err)
		total += deleted
		if after = reached; after == "" {
			break
		}
	}
	assert.EqualValues(t, 25, total)
	assert.Equal(t, 2, calls)
	assert.Zero(t, one[int64](r, `SELECT (SELECT count(*) FROM bearmq.group_anchor) + (SELECT count(*) FROM bearmq.job_group)`))
}

// Two claims that take the same new groups, in different order, neither deadlock nor both get them; and a group that is
// collected meanwhile is made again.
func TestGroupsUnderConcurrentClaimsAndCollection(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lanes := []int32{r.lane, r.laneOf("one"), r.laneOf("two")}
	var want []int64
	for i := range 120 {
		j := r.job(fmt.Sprint("g", (i*7)%13))
		j.Lane = lanes[i%len(lanes)]
		want = append(want, r.enqueueIn(r.pool, j)...)
	}
	stop, collected := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(collected)
		for {
			select {
			case <-stop:
				return
			default:
				_, _, err := r.CollectGroups(r.ctx(), "", 0, 5)
				assert.NoError(t, err)
			}
		}
	}()
	got := make(chan []int64)
	for i, lane := range lanes {
		go func() {
			list := []int64{}
			defer func() { got <- list }()
			for n := 0; ; n++ {
				c, err := r.ClaimLog(r.ctx(), lane, r.session, rand.Int64(), 1+(n+i)%5, 2)
				if !assert.NoError(t, err) {
					return
				}
				list = append(list, ids(c)...)
				if c.Status == Claimed {
					done, err := r.Finish(r.ctx(), r.ending(c))
					if !assert.NoError(t, err) || !assert.Empty(t, done.Lost) {
						return
					}
				}
				if c.Status == Empty && n > 60 {
					return
				}
			}
		}()
	}
	var all []int64
	for range lanes {
		all = append(all, <-got...)
	}
	close(stop)
	<-collected
	all = append(all, r.drain(lanes...)...)
	assert.ElementsMatch(t, want, all)
}

// An open transaction that holds a group's row stopped a lane, and both its claimers, for as long as it lasted.
func TestALockedGroupStopsAClaimForTwoSecondsAndOtherLanesNotAtAll(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.laneOf("other")
	mine, j := r.enqueue("g"), r.job("h")
	j.Lane = other
	theirs := r.enqueueIn(r.pool, j)
	r.exec(`INSERT INTO bearmq.group_anchor VALUES ('g', 1)`)
	tx := r.begin()
	_, err := tx.Exec(t.Context(), r.sql(`SELECT FROM bearmq.group_anchor WHERE key = 'g' FOR UPDATE`))
	require.NoError(t, err)
	began := time.Now()
	failed := make(chan error)
	go func() {
		_, err := r.ClaimLog(t.Context(), r.lane, r.session, 1, 10, 10)
		failed <- err
	}()
	c := r.claimAs(r.session, other, 10, 10)
	assert.Equal(t, theirs, ids(c))
	r.complete(c)
	err = <-failed
	assert.Equal(t, codeLockTimeout, code(err))
	assert.True(t, Transient(err))
	assert.InDelta(t, 2, time.Since(began).Seconds(), 1.5)
	require.NoError(t, tx.Rollback(t.Context()))
	assert.Equal(t, mine, r.drain())
}

// Two producers that are the first to use a channel, one of them in a long transaction, do not wait for each other.
func TestFirstUseOfAChannelWaitsForNobody(t *testing.T) {
	t.Parallel()
	pool, schema := pgtest.DB(t), pgtest.Schema(t)
	r := rigOn(t, pool, schema)
	another, err := New(pool, schema) // another process
	require.NoError(t, err)
	var want []int64
	long := r.begin()
	_, err = long.Exec(t.Context(), "SET LOCAL lock_timeout = '20s'")
	require.NoError(t, err)
	for _, p := range []struct {
		s  *Store
		db DB
	}{{r.Store, long}, {another, pool}, {r.Store, pool}} {
		lane, err := p.s.Lane(t.Context(), "new", 3)
		require.NoError(t, err)
		job := []NewJob{{Lane: lane, Name: "work", Payload: []byte("{}")}}
		require.NoError(t, p.s.Insert(t.Context(), p.db, job))
		want = append(want, job[0].ID)
	}
	lane, err := r.Lane(t.Context(), "new", 3)
	require.NoError(t, err)
	assert.Equal(t, want[1:], r.drain(lane))
	require.NoError(t, long.Commit(t.Context()))
	assert.Equal(t, want[:1], r.drain(lane))
}

// The first use of a channel in a transaction that holds the pool's last connection must not wait for the pool.
func TestFirstUseOfAChannelNeedsNoConnectionOfThePool(t *testing.T) {
	t.Parallel()
	pool := single(t)
	r := rigOn(t, pool, pgtest.Schema(t))
	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := r.Lane(t.Context(), "new", 0)
		return err
	}))
}

func TestManyMakeALaneAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	lanes := make(chan int32, 20)
	for range cap(lanes) {
		go func() {
			s, err := New(r.pool, r.schema)
			assert.NoError(t, err)
			lane, err := s.Lane(r.ctx(), "new", -5)
			assert.NoError(t, err)
			lanes <- lane
		}()
	}
	first := <-lanes
	for range cap(lanes) - 1 {
		assert.Equal(t, first, <-lanes)
	}
	assert.EqualValues(t, 1, one[int64](r, `SELECT count(*) FROM bearmq.lease WHERE lane = $1`, first))
}

func TestAClaimTakesOneJobThatRunsAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	all := r.enqueue("", "", "")
	r.finish(r.ended(r.claim(10), OpAgain, 0))
	r.exec(`UPDATE bearmq.ticket SET alone = true WHERE job_id <> $1`, all[2])
	r.exec(`UPDATE bearmq.ticket SET state = 'n' WHERE job_id = $1`, all[1])
	first := r.due(10)
	assert.ElementsMatch(t, []int64{all[0], all[2]}, ids(first))
	r.complete(first)
	second := r.due(10)
	assert.Equal(t, all[1:2], ids(second))
	r.complete(second)
}
