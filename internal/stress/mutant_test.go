//go:build unix

package stress

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/history"
)

// A checker that finds nothing proves something only where it does find what
// is there. Each mutant takes one protection out of the engine's SQL, in the
// schema of its test, and the run must fail for it.

// A swap puts another text into a function, which must hold one that matches
// the old, a regular expression, once.
type swap struct{ old, new string }

// mutate replaces one function of a schema. The texts are written for the
// schema "bearmq".
func mutate(t *testing.T, pool *pgxpool.Pool, schema, function string, swaps ...swap) {
	t.Helper()
	var text string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT pg_get_functiondef(p.oid) FROM pg_proc p
		JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND p.proname = $2`, schema, function).Scan(&text))
	here := func(s string) string { return strings.ReplaceAll(s, "bearmq.", pgx.Identifier{schema}.Sanitize()+".") }
	for _, s := range swaps {
		old := regexp.MustCompile(here(s.old))
		require.Len(t, old.FindAllString(text, -1), 1, "%s no longer reads %q", function, s.old)
		text = old.ReplaceAllLiteralString(text, here(s.new))
	}
	_, err := pool.Exec(t.Context(), text)
	require.NoError(t, err)
}

// crowded is a small run in which the same groups and lanes meet all the time.
func crowded() Config {
	return Config{
		Jobs: 3000, Producers: 6, Workers: 4, Orchestrators: 1, Over: 4 * time.Second, Wave: 2 * time.Second,
		TTL: 1500 * time.Millisecond, Sweep: 500 * time.Millisecond, Poll: time.Second, Grace: 5 * time.Second, Quiet: 6 * time.Second,
		Load: Load{Channels: []string{"one", "two", "three"}, Groups: 30, Grouped: 0.7, Hot: 0.05, Task: 20 * time.Millisecond, Tail: 26,
			Fail: 0.05, Delay: 0.1, Strict: 0.3, Deaf: 0.5},
	}
}

// mutantRuns is in how many runs a mutant must be noticed: the faults of one,
// which come at random, may hit nobody that works.
const mutantRuns = 3

// caught runs a mutant until it is noticed for what it is.
func caught(t *testing.T, c Config, want []history.Class, mutant func(*testing.T, *pgxpool.Pool, Config)) {
	t.Helper()
	for n := range mutantRuns {
		if noticed(t, c, want, mutant) {
			return
		}
		t.Logf("run %d of %d: nothing of %v was found", n+1, mutantRuns, want)
	}
	t.Errorf("the mutant lives: nothing of %v was found", want)
}

func noticed(t *testing.T, c Config, want []history.Class, mutant func(*testing.T, *pgxpool.Pool, Config)) bool {
	t.Helper()
	began := time.Now()
	c, pool := configured(t, c)
	mutant(t, pool, c)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	found, summary, err := Run(ctx, c)
	require.NoError(t, err)
	t.Logf("%.1f s, %+v", time.Since(began).Seconds(), summary)
	for _, v := range found {
		t.Log(v)
	}
	return slices.ContainsFunc(found, func(v history.Violation) bool { return slices.Contains(want, v.Class) })
}

func TestMutantCursorUnderOldSnapshot(t *testing.T) {
	t.Parallel()
	c := crowded()
	c.Load.Channels, c.Load.Grouped, c.Load.Hot, c.Load.Even, c.Load.Task = []string{"one"}, 0, 0, true, 5*time.Millisecond
	const cursor = "SELECT * INTO v_cursor FROM bearmq.lease l WHERE l.lane = p_lane ORDER BY l.id DESC LIMIT 1;"
	caught(t, c, []history.Class{history.Rerun, history.Stale}, func(t *testing.T, pool *pgxpool.Pool, c Config) {
		mutate(t, pool, c.Schema, "claim_log_v1",
			swap{strings.ReplaceAll(cursor, "*", `\*`), "PERFORM 1;"},
			swap{`SELECT \* INTO v_lane FROM bearmq.lane l WHERE l.id = p_lane FOR NO KEY UPDATE SKIP LOCKED;`,
				cursor + " SELECT * INTO v_lane FROM bearmq.lane l WHERE l.id = p_lane FOR NO KEY UPDATE;"})
	})
}

func TestMutantGroupWithoutLock(t *testing.T) {
	t.Parallel()
	c := crowded()
	c.Load.Groups, c.Load.Grouped, c.Load.Even = 300, 0.9, true
	caught(t, c, []history.Class{history.Overlap}, func(t *testing.T, pool *pgxpool.Pool, c Config) {
		mutate(t, pool, c.Schema, "take_groups_v1", swap{`ON CONFLICT \(key\) DO UPDATE SET key = excluded.key WHERE false;`, "ON CONFLICT (key) DO NOTHING;"})
	})
}

func TestMutantFinishWithoutFence(t *testing.T) {
	t.Parallel()
	c := crowded()
	c.Jobs, c.Over, c.Load.Even, c.Load.Task, c.Load.Deaf, c.Load.Grouped, c.Load.Hot = 800, 8*time.Second, true, time.Second, 1, 0, 0
	c.Faults.Stop = time.Second
	caught(t, c, []history.Class{history.Stale}, func(t *testing.T, pool *pgxpool.Pool, c Config) {
		mutate(t, pool, c.Schema, "finish_v1",
			swap{`FROM bearmq.lease l\s+WHERE l.id = u.id AND l.claim = u.claim AND NOT l.finished FOR NO KEY UPDATE`,
				"FROM json_populate_record(NULL::bearmq.lease, json_build_object('id', u.id, 'created_at', clock_timestamp())) l"})
	})
}

func TestMutantRecoveryForgetsTickets(t *testing.T) {
	t.Parallel()
	c := crowded()
	c.Load.Delay, c.Load.Even = 0.5, true
	c.Faults.Kill = 400 * time.Millisecond
	caught(t, c, []history.Class{history.Lost}, func(t *testing.T, pool *pgxpool.Pool, c Config) {
		mutate(t, pool, c.Schema, "handed_out_v1",
			swap{`UNION ALL\s+SELECT t.job_id, t.xid, t.group_key FROM bearmq.ticket t WHERE t.lease_id = l.id AND t.state = 'c'`, ""})
	})
}
