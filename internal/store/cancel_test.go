package store

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func (r *rig) cancel(ids ...int64) {
	r.t.Helper()
	all, err := r.Cancel(r.ctx(), r.pool, ids)
	require.NoError(r.t, err)
	require.Len(r.t, all, len(ids))
}

// A claim says so only where some of its jobs may have to be cancelled: others' wait for nothing.
func TestAClaimKnowsOfItsCancellationsOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.plain(3)
	r.cancel(ids[2])
	c := r.claim(2)
	require.False(t, c.Cancel)
	r.finish(r.ended(c, OpRetry, 0))
	c = r.due(2)
	require.False(t, c.Cancel)
	r.complete(c)
	c = r.claim(2)
	require.True(t, c.Cancel)
	asked, err := r.Cancelled(t.Context(), append(ids, 1<<40))
	require.NoError(t, err)
	require.Equal(t, ids[2:], asked)
	r.finish(r.ended(c, OpCancel, 0))
	require.Equal(t, "cancelled", r.state(ids[2]))
	require.Zero(t, one[int](r, `SELECT count(*) FROM bearmq.cancellation`))
}

// A cancel that comes when its job has just failed must not wait out its backoff, nor its group with it.
func TestACancelledJobDoesNotWaitForItsRetry(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.enqueue("", "g")
	c := r.claim(2)
	r.cancel(ids...)
	f := r.ended(c, OpRetry, time.Hour)
	f.Groups[0].Holder = ids[1]
	r.finish(f)
	c = r.due(2)
	require.ElementsMatch(t, ids, []int64{c.Jobs[0].ID, c.Jobs[1].ID})
	require.True(t, c.Cancel)
	r.finish(r.ended(c, OpCancel, 0))
}

// A replayed cancel changes nothing, and leaves nothing.
func TestACancelIsReplayed(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.enqueue("", "g")
	c := r.claim(2)
	r.cancel(ids...)
	f := r.ended(c, OpCancel, 0)
	r.finish(f)
	before := r.content()
	f.Replay = true
	done, err := r.Finish(t.Context(), f)
	require.NoError(t, err)
	for _, id := range ids {
		require.Equal(t, "cancelled", r.state(id))
	}
	require.True(t, len(done.Settled) == 2 || done.Lost[c.Lease], "%v", done)
	require.Equal(t, before, r.content())
}

// Retention deletes no job that has just been given another attempt.
func TestRetentionMeetsARetryByHand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.plain(2)
	r.finish(r.ended(r.claim(2), OpFail, 0))
	tx := r.begin()
	_, err := tx.Exec(t.Context(), r.sql(`SELECT bearmq.retry($1)`), ids[0])
	require.NoError(t, err)
	deleted := make(chan int64)
	go func() {
		for {
			n, _, _, err := r.DeleteFinished(context.WithoutCancel(t.Context()), 0, 0, 0, 10)
			if code(err) == codeLockTimeout {
				continue
			}
			if err != nil {
				t.Error(err)
			}
			deleted <- n
			return
		}
	}()
	require.Eventually(t, func() bool {
		return one[bool](r, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%delete_finished_v1%' AND query LIKE '%' || $1 || '%')`, r.schema)
	}, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, tx.Commit(t.Context()))
	require.EqualValues(t, 1, <-deleted)
	c := r.due(1)
	require.Equal(t, ids[0], c.Jobs[0].ID)
	require.EqualValues(t, 2, c.Jobs[0].Attempt)
	r.complete(c)
}
