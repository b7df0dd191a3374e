//go:build unix

package stress

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/invariant"
	"github.com/bearmq/bearmq/internal/pgtest"
	"github.com/bearmq/bearmq/internal/store"
)

// What the stress found, each as the shortest way to it.

// engine is a schema with a session, to be claimed from by hand.
func engine(t *testing.T) (*store.Store, *pgxpool.Pool, uuid.UUID) {
	t.Helper()
	pool, schema := pgtest.DB(t), pgtest.Schema(t)
	s, err := store.New(pool, schema)
	require.NoError(t, err)
	require.NoError(t, s.Migrate(t.Context()))
	t.Cleanup(func() { require.NoError(t, invariant.CheckRunning(context.Background(), pool, schema)) })
	return s, pool, session(t, s, pool, time.Hour)
}

func session(t *testing.T, s *store.Store, pool *pgxpool.Pool, ttl time.Duration) uuid.UUID {
	t.Helper()
	id := uuid.New()
	require.NoError(t, s.BeginSession(t.Context(), pool, id, ttl, "host", 1, nil))
	return id
}

func enqueue(t *testing.T, s *store.Store, pool *pgxpool.Pool, channel, group string) int64 {
	t.Helper()
	lane, err := s.Lane(t.Context(), channel, 0)
	require.NoError(t, err)
	jobs := []store.NewJob{{Lane: lane, Name: "j", Payload: []byte("1"), Group: group}}
	require.NoError(t, s.Insert(t.Context(), pool, jobs))
	return jobs[0].ID
}

func claimLog(t *testing.T, s *store.Store, channel string, session uuid.UUID, nonce int64, each int) *store.Claim {
	t.Helper()
	lane, err := s.Lane(t.Context(), channel, 0)
	require.NoError(t, err)
	c, err := s.ClaimLog(t.Context(), lane, session, nonce, 10, each)
	require.NoError(t, err)
	return c
}

func jobsOf(c *store.Claim) (ids []int64) {
	for _, j := range c.Jobs {
		ids = append(ids, j.ID)
	}
	return ids
}

// A claim that reads a turn and, behind it, a new job of the same group takes
// that job too. It once took it and did not hand it out: its ticket was newer
// than the claim's snapshot.
func TestTurnHandsOutTheJobsBehindIt(t *testing.T) {
	t.Parallel()
	s, pool, me := engine(t)
	first, second := enqueue(t, s, pool, "a", "g"), enqueue(t, s, pool, "a", "g")
	c := claimLog(t, s, "a", me, 1, 1)
	require.Equal(t, []int64{first}, jobsOf(c))
	_, err := s.Finish(t.Context(), &store.Finish{Session: me, Leases: []store.FinishLease{{ID: c.Lease, Nonce: 1, Closed: true}},
		Done: []store.FinishDone{{ID: first, Attempt: 1}}, Groups: []store.FinishGroup{{Key: "g"}}})
	require.NoError(t, err)
	third := enqueue(t, s, pool, "a", "g")
	require.Equal(t, []int64{second, third}, jobsOf(claimLog(t, s, "a", me, 2, 10)))
}

// A claim that its client has given up may still be on its way to the server.
// It once arrived after it had been given back, and its lease stayed for as
// long as its session lived.
func TestAClaimThatWasGivenBackTakesNothingWhenItArrives(t *testing.T) {
	t.Parallel()
	s, pool, me := engine(t)
	id := enqueue(t, s, pool, "a", "")
	require.NoError(t, s.ReturnClaim(t.Context(), me, 1))
	require.Equal(t, store.Expired, claimLog(t, s, "a", me, 1, 10).Status)
	require.Equal(t, []int64{id}, jobsOf(claimLog(t, s, "a", me, 2, 10)))
}

// The same with a job that was lost once: it was blocked in a group that did
// not know of it.
func TestAJobThatWasLostOnceIsNotForgottenWhenItIsGivenBack(t *testing.T) {
	t.Parallel()
	s, pool, me := engine(t)
	id, behind := enqueue(t, s, pool, "a", "g"), enqueue(t, s, pool, "a", "g")
	dead := session(t, s, pool, time.Hour)
	require.Equal(t, []int64{id}, jobsOf(claimLog(t, s, "a", dead, 1, 1)))
	recoverAll(t, s, pool, dead)
	for nonce := int64(2); nonce < 4; nonce++ {
		c := due(t, s, "a", me, nonce)
		require.Equal(t, []int64{id}, jobsOf(c))
		require.NoError(t, s.ReturnClaim(t.Context(), me, nonce))
	}
	require.Equal(t, []int64{id}, jobsOf(due(t, s, "a", me, 4)))
	require.Empty(t, jobsOf(claimLog(t, s, "a", me, 5, 10)), "job %d waits behind it", behind)
}

// A job that has started and lost its process goes on holding its group: a job
// of another lane that stands before it in the group's order, and was blocked
// by it, once came between.
func TestALostJobKeepsItsGroup(t *testing.T) {
	t.Parallel()
	s, pool, me := engine(t)
	dead := session(t, s, pool, time.Hour)
	early := enqueue(t, s, pool, "a", "g")
	started := enqueue(t, s, pool, "b", "g")
	require.Equal(t, []int64{started}, jobsOf(claimLog(t, s, "b", dead, 1, 10)))
	require.Empty(t, jobsOf(claimLog(t, s, "a", me, 2, 10)), "job %d is blocked", early)
	recoverAll(t, s, pool, dead)
	require.Empty(t, jobsOf(claimLog(t, s, "a", me, 3, 10)))
	require.Equal(t, []int64{started}, jobsOf(due(t, s, "b", me, 4)))
}

func due(t *testing.T, s *store.Store, channel string, session uuid.UUID, nonce int64) *store.Claim {
	t.Helper()
	lane, err := s.Lane(t.Context(), channel, 0)
	require.NoError(t, err)
	c, err := s.ClaimDue(t.Context(), lane, session, nonce, 10, 10, []string{"j"}, nil, true, time.Time{})
	require.NoError(t, err)
	return c
}

// recoverAll lets a session die, and its leases be recovered.
func recoverAll(t *testing.T, s *store.Store, pool *pgxpool.Pool, dead uuid.UUID) {
	t.Helper()
	_, err := pool.Exec(t.Context(), "UPDATE "+table(s.Schema(), "session")+" SET ttl = '0', expires_at = started_at, dead = true WHERE id = $1", dead)
	require.NoError(t, err)
	leases, _, err := s.DeadLeases(t.Context(), 10, nil)
	require.NoError(t, err)
	for _, lease := range leases {
		_, err := s.Recover(t.Context(), lease, 3)
		require.NoError(t, err)
	}
	_, err = pool.Exec(t.Context(), "UPDATE "+table(s.Schema(), "session")+" SET ttl = '1s' WHERE id = $1", dead)
	require.NoError(t, err)
}
