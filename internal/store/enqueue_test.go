package store

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// write is Insert or Copy.
type write func(s *Store, ctx context.Context, db DB, jobs []NewJob) error

var writes = map[string]write{"Insert": (*Store).Insert, "Copy": (*Store).Copy}

func TestIDsRiseInCallOrder(t *testing.T) {
	t.Parallel()
	for name, write := range writes {
		for _, n := range []int{1, 2, 100} {
			r := newRig(t)
			jobs := make([]NewJob, n)
			for i := range jobs {
				jobs[i] = r.job([]string{"", "g"}[i%2])
				jobs[i].Options = [][]byte{nil, []byte(`{"a":1}`)}[i%2]
				if i%3 == 2 {
					jobs[i].Delay = time.Hour
				}
			}
			require.NoError(t, pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error { return write(r.Store, t.Context(), tx, jobs) }))
			assert.True(t, slices.IsSortedFunc(jobs, func(a, b NewJob) int { return int(a.ID - b.ID) }), "%s of %d", name, n)
			assert.EqualValues(t, n, one[int64](r, `SELECT count(*) FROM bearmq.job WHERE id BETWEEN $1 AND $2`, jobs[0].ID, jobs[n-1].ID))
			assert.EqualValues(t, n/2, one[int64](r, `SELECT count(*) FROM bearmq.job WHERE group_key = 'g' AND options->>'a' = '1'`))
			r.exec(`UPDATE bearmq.ticket SET run_at = clock_timestamp()`)
			assert.Len(t, r.drain(), n)
		}
	}
}

func TestDelayedJobsStartWithATicket(t *testing.T) {
	t.Parallel()
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			at := time.Now().Add(48 * time.Hour).Truncate(time.Microsecond)
			jobs := []NewJob{r.job(""), r.job(""), r.job("g"), r.job("")}
			jobs[1].Delay, jobs[2].RunAt = time.Hour, at
			require.NoError(t, pgx.BeginFunc(t.Context(), r.pool, func(tx pgx.Tx) error { return write(r.Store, t.Context(), tx, jobs) }))
			assert.Equal(t, "scheduled", r.state(jobs[1].ID))
			assert.Equal(t, at.UTC(), one[time.Time](r, `SELECT run_at FROM bearmq.ticket WHERE job_id = $1`, jobs[2].ID).UTC())
			wait := one[float64](r, `SELECT extract(epoch FROM run_at - clock_timestamp())::float8 FROM bearmq.ticket WHERE job_id = $1`, jobs[1].ID)
			assert.InDelta(t, 3600, wait, 60)
			assert.Zero(t, one[int64](r, `SELECT count(*) FROM bearmq.job WHERE xid IS NOT NULL AND id IN ($1, $2)`, jobs[1].ID, jobs[2].ID))
			assert.Equal(t, []int64{jobs[0].ID, jobs[3].ID}, r.drain())
		})
	}
}

// NOTIFY takes a global lock at commit: nothing is sent where nobody sleeps, and to a sleeper it comes with the commit.
func TestSleepersAreNotifiedAtTheCommitAndNobodyElse(t *testing.T) {
	t.Parallel()
	for name, write := range writes {
		for _, n := range []int{1, 3} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := newRig(t)
				conn, err := r.Connect(t.Context())
				require.NoError(t, err)
				t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
				_, err = conn.Exec(t.Context(), "LISTEN "+pgx.Identifier{r.WakeChannel()}.Sanitize())
				require.NoError(t, err)
				heard := func() (lanes []string) {
					// what has been committed is delivered before the answer to a statement
					_, err := conn.Exec(t.Context(), "SELECT 1")
					require.NoError(t, err)
					for {
						ctx, cancel := context.WithCancel(t.Context())
						cancel()
						n, err := conn.WaitForNotification(ctx)
						if err != nil {
							return lanes
						}
						lanes = append(lanes, n.Payload)
					}
				}
				enqueue := func(tx pgx.Tx) {
					jobs := make([]NewJob, n)
					for i := range jobs {
						jobs[i] = r.job("")
					}
					require.NoError(t, write(r.Store, t.Context(), tx, jobs))
				}
				commit := func() {
					tx := r.begin()
					enqueue(tx)
					require.NoError(t, tx.Commit(t.Context()))
				}
				commit()
				assert.Empty(t, heard(), "nobody sleeps")
				other, mine := r.newSession(), r.newSession()
				require.NoError(t, r.Sleep(t.Context(), other, []string{"another"}))
				commit()
				assert.Empty(t, heard(), "somebody sleeps on another channel")
				for _, channels := range [][]string{{"default", "x"}, nil} {
					require.NoError(t, r.Sleep(t.Context(), mine, channels))
					tx := r.begin()
					enqueue(tx)
					assert.Empty(t, heard(), "not committed")
					require.NoError(t, tx.Commit(t.Context()))
					assert.Equal(t, []string{one[string](r, `SELECT id::text FROM bearmq.lane`)}, heard())
					tx = r.begin()
					enqueue(tx)
					require.NoError(t, tx.Rollback(t.Context()))
					assert.Empty(t, heard(), "rolled back")
					require.NoError(t, r.Wake(t.Context(), mine))
				}
				require.NoError(t, r.Sleep(t.Context(), mine, nil))
				require.NoError(t, r.EndSession(t.Context(), r.pool, mine))
				commit()
				assert.Empty(t, heard(), "it is awake")
				r.drain()
			})
		}
	}
}

// A group that is freed wakes those who sleep on the channel of its next job, other than the one that freed it.
func TestATurnNotifiesSleepers(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn, err := r.Connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	_, err = conn.Exec(t.Context(), "LISTEN "+pgx.Identifier{r.WakeChannel()}.Sanitize())
	require.NoError(t, err)
	for _, sleeper := range []uuid.UUID{r.session, r.newSession()} {
		r.enqueue("g", "g")
		c := r.claim(1)
		r.claim(1)
		require.NoError(t, r.Sleep(t.Context(), sleeper, nil))
		r.complete(c)
		if sleeper != r.session {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			n, err := conn.WaitForNotification(ctx)
			cancel()
			require.NoError(t, err)
			assert.Equal(t, one[string](r, `SELECT id::text FROM bearmq.lane`), n.Payload)
		}
		require.NoError(t, r.Wake(t.Context(), sleeper))
		r.drain()
	}
}
