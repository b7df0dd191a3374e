package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A job that is blocked while a claim waits for a group's anchor, and that the
// claim's turn then takes, is handed out with the others: the claim's own
// statement does not see it yet.
func TestATurnHandsOutWhatWasBlockedWhileItWaited(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ahead := r.enqueue("g", "g") // the first runs, the second is blocked behind it
	holder := r.claimAs(r.session, r.lane, 2, 1)
	require.Equal(t, ahead[:1], ids(holder))
	f := r.ending(holder, ahead[0])
	f.Leases[0].Closed = true
	f.Groups = []FinishGroup{{Key: "g"}}
	r.finish(f) // g is free and has its turn in the log
	first := r.enqueue("a0")

	r.exec(`INSERT INTO bearmq.group_anchor (key, ver) VALUES ('a0', 1)`)
	tx := r.begin()
	_, err := tx.Exec(r.ctx(), r.sql(`SELECT 1 FROM bearmq.group_anchor WHERE key = 'a0' FOR UPDATE`))
	require.NoError(t, err)
	claimed := make(chan *Claim, 1)
	go func() { claimed <- r.claim(10) }()
	require.Eventually(t, func() bool {
		return one[bool](r, `SELECT EXISTS (SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%claim_log_v1%' AND query LIKE '%' || $1 || '%')`, r.schema)
	}, 20*time.Second, time.Millisecond, "the claim waits for the anchor")

	late := r.job("g")
	late.RunAt = time.Now().Add(-time.Hour)
	lateIDs := r.enqueueIn(r.pool, late)
	r.due(10) // finds its group blocked
	require.Equal(t, "blocked", r.state(lateIDs[0]))
	require.NoError(t, tx.Commit(r.ctx()))

	c := <-claimed
	require.ElementsMatch(t, []int64{first[0], ahead[1], lateIDs[0]}, ids(c))
	r.complete(c)
}
