package store

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// heard are the ids that have been notified by now.
func heard(t *testing.T, r *rig, conn *pgx.Conn) (ids []int64) {
	t.Helper()
	const mark = "mark" // comes behind all that was committed before
	require.NoError(t, r.Probe(t.Context(), r.EndsChannel(), mark))
	for {
		n, err := conn.WaitForNotification(t.Context())
		require.NoError(t, err)
		if n.Payload == mark {
			slices.Sort(ids)
			return ids
		}
		require.Less(t, len(n.Payload), 8000)
		for text := range strings.SplitSeq(n.Payload, ",") {
			id, err := strconv.ParseInt(text, 10, 64)
			require.NoError(t, err)
			ids = append(ids, id)
		}
	}
}

// Every way in which a job ends is notified while somebody waits, and only then.
func TestEndsAreNotified(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn, err := r.Connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	_, err = conn.Exec(t.Context(), "LISTEN "+pgx.Identifier{r.EndsChannel()}.Sanitize())
	require.NoError(t, err)

	r.plain(3)
	r.complete(r.claim(3))
	require.Empty(t, heard(t, r, conn), "nobody waits")

	me := uuid.New()
	require.NoError(t, r.Await(t.Context(), me, -time.Second))
	r.plain(1)
	r.complete(r.claim(1))
	require.Empty(t, heard(t, r, conn), "nobody waits any more")

	require.NoError(t, r.Await(t.Context(), me, time.Minute))
	done := r.plain(1000)
	r.complete(r.claim(1000))
	require.Equal(t, done, heard(t, r, conn), "completed")

	failed := r.plain(1)
	r.finish(r.ended(r.claim(1), OpFail, 0))
	require.Equal(t, failed, heard(t, r, conn), "failed")

	r.plain(1)
	r.finish(r.ended(r.claim(1), OpRetry, 0))
	require.Empty(t, heard(t, r, conn), "to be tried again")
	r.complete(r.due(1))
	heard(t, r, conn)

	inTx := r.plain(1)
	c := r.claim(1)
	tx := r.begin()
	require.NoError(t, r.CompleteTx(t.Context(), tx, r.session, c.Lease, c.Nonce, inTx[0], "", 1, 0, nil))
	require.Empty(t, heard(t, r, conn), "not committed")
	require.NoError(t, tx.Commit(t.Context()))
	require.Equal(t, inTx, heard(t, r, conn), "completed in a transaction")
	r.finish(r.ended(c, OpSettled, 0))
	heard(t, r, conn)

	lost := r.plain(1)
	for range 3 {
		if c := r.claim(1); c.Status != Claimed {
			require.Equal(t, Claimed, r.due(1).Status)
		}
		r.kill(r.session)
		r.recoverAll()
		r.session = r.newSession()
	}
	require.Equal(t, lost, heard(t, r, conn), "lost for good")

	require.NoError(t, r.AwaitOver(t.Context(), me))
	r.plain(1)
	r.complete(r.claim(1))
	require.Empty(t, heard(t, r, conn), "over")
}

func TestEnds(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ids := r.plain(3)
	f := r.ending(r.claim(2), ids[0])
	f.Done[0].Result = []byte(`{"a": 1}`)
	f.Rest = []FinishRest{{ID: ids[1], Op: OpFail, Attempt: 1, Error: "bad"}}
	r.finish(f)
	ends, err := r.Ends(t.Context(), append(ids, 1<<40))
	require.NoError(t, err)
	require.ElementsMatch(t, []End{
		{ID: ids[0], Known: true, State: "c", Result: []byte(`{"a": 1}`)},
		{ID: ids[1], Known: true, State: "f", Error: "bad"},
		{ID: ids[2], Known: true},
		{ID: 1 << 40},
	}, ends)
	r.drain()
}
