//go:build unix

package stress

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// What retention deletes is there for the check, and when it was deleted.
func TestDeletedJobsAreChecked(t *testing.T) {
	t.Parallel()
	c, pool := configured(t, Full())
	require.NoError(t, prepare(t.Context(), pool, c.Schema))
	_, err := pool.Exec(t.Context(), `INSERT INTO `+table(c.Schema, "job")+` (id, lane, name, payload) VALUES (1, 1, 'strict', '{"s": 7}')`)
	require.NoError(t, err)
	// the end of the job lies back so long
	deleted := func(ended string) int {
		_, err := pool.Exec(t.Context(), `INSERT INTO `+table(c.Schema, "outcome")+` (job_id, claim, finished_at, attempt, state, result)
			VALUES (1, 1, now() - $1::text::interval, 2, 'c', '11')`, ended)
		require.NoError(t, err)
		_, err = pool.Exec(t.Context(), "DELETE FROM "+table(c.Schema, "outcome"))
		require.NoError(t, err)
		early, err := deletedEarly(t.Context(), pool, c)
		require.NoError(t, err)
		return len(early)
	}
	require.Zero(t, deleted("25 hours"))
	_, err = pool.Exec(t.Context(), "DELETE FROM "+table(c.Schema, "job"))
	require.NoError(t, err)
	facts, err := gather(t.Context(), pool, c)
	require.NoError(t, err)
	require.Len(t, facts.Jobs, 1)
	job := facts.Jobs[0]
	require.Equal(t, []any{int64(1), int64(7), true, "c", 2, int64(11)}, []any{job.ID, job.Seq, job.Strict, job.State, job.Attempt, job.Run})

	require.Equal(t, 1, deleted("23 hours"))
}

// A process that is killed while it tells something leaves half a line.
func TestVitalsAreReadOnce(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "worker1"+vitalsSuffix)
	file, err := os.Create(name)
	require.NoError(t, err)
	defer file.Close()
	write := func(text string) {
		_, err := file.WriteString(text)
		require.NoError(t, err)
	}
	var r reader
	read := func() (goroutines []int) {
		all, err := r.read(name)
		require.NoError(t, err)
		for _, v := range all {
			goroutines = append(goroutines, v.Goroutines)
		}
		return goroutines
	}
	require.Empty(t, read())
	write("{\"Goroutines\": 1}\n{\"Goroutines\": 2}\n{\"Gorou")
	require.Equal(t, []int{1, 2}, read())
	require.Empty(t, read())
	write("tines\": 3}\n")
	require.Equal(t, []int{3}, read())
	write("nonsense\n")
	_, err = r.read(name)
	require.ErrorContains(t, err, name)
}

// Claims are measured that were answered, and nothing else.
func TestVitals(t *testing.T) {
	t.Parallel()
	v := &vitals{}
	call := func(sql string, err error) {
		ctx := v.TraceQueryStart(t.Context(), nil, pgx.TraceQueryStartData{SQL: sql})
		v.TraceQueryEnd(ctx, nil, pgx.TraceQueryEndData{Err: err})
	}
	call(`SELECT id FROM "a".claim_log_v1($1)`, nil)
	call(`SELECT id FROM "a".claim_due_v2($1)`, nil)
	call(`SELECT id FROM "a".claim_log_v1($1)`, errors.New("no answer"))
	call(`SELECT id FROM "a".finish_v1($1)`, nil)
	v.started(time.Second)
	now := v.take()
	require.Len(t, now.Claims, 2)
	require.Equal(t, []time.Duration{time.Second}, now.Starts)
	require.Positive(t, now.Goroutines)
	require.Empty(t, v.take().Starts, "told already")

	file := filepath.Join(t.TempDir(), "told")
	v.started(time.Minute)
	stop := v.tell(file, time.Millisecond)
	require.Eventually(t, func() bool {
		all, err := new(reader).read(file)
		return err == nil && len(all) > 2 && len(all[0].Starts) == 1 && len(all[1].Starts) == 0
	}, 10*time.Second, time.Millisecond)
	require.NoError(t, stop())
	require.ErrorIs(t, v.tell(filepath.Join(t.TempDir(), "no directory", "file"), time.Millisecond)(), os.ErrNotExist)
}
