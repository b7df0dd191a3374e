package model

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A model that finds nothing proves something only where it finds what is there. Each mutant takes one protection out of
// the engine's SQL, in a schema of its own, and a few cases must find it.

// A swap puts another text into a function, in place of one that stands there once. The texts are written for the schema
// "bearmq".
type swap struct{ function, old, new string }

func (s *site) mutate(t *testing.T, swaps ...swap) {
	t.Helper()
	for _, x := range swaps {
		var text string
		require.NoError(t, s.pool.QueryRow(t.Context(), `SELECT pg_get_functiondef(p.oid) FROM pg_proc p
			JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = $1 AND p.proname = $2`, s.schema, x.function).Scan(&text))
		old := regexp.MustCompile(strings.ReplaceAll(regexp.QuoteMeta(s.sql(x.old)), " ", `\s+`))
		require.Len(t, old.FindAllString(text, -1), 1, "%s no longer reads %q", x.function, x.old)
		_, err := s.pool.Exec(t.Context(), old.ReplaceAllLiteralString(text, s.sql(x.new)))
		require.NoError(t, err)
	}
}

func TestMutant(t *testing.T) {
	t.Parallel()
	for _, mutant := range []struct {
		name  string
		swaps []swap
	}{
		{"finish without fence", []swap{{"finish_v1",
			"FROM bearmq.lease l WHERE l.id = u.id AND l.claim = u.claim AND NOT l.finished FOR NO KEY UPDATE",
			"FROM json_populate_record(NULL::bearmq.lease, json_build_object('id', u.id, 'created_at', clock_timestamp())) l"}}},
		{"recovery forgets tickets", []swap{{"handed_out_v1",
			"SELECT t.job_id, t.xid, t.group_key FROM bearmq.ticket t WHERE t.lease_id = l.id AND t.state = 'c'",
			"SELECT t.job_id, t.xid, t.group_key FROM bearmq.ticket t WHERE false"}}},
		{"transactions that end late are not read", []swap{{"log_after_v1",
			"WHERE x >= p_xid AND pg_visible_in_snapshot(x, p_ahead)", "WHERE false"}}},
		{"the log overtakes blocked jobs", []swap{{"take_groups_v1",
			"WHEN g.free AND NOT g.blocked THEN", "WHEN g.free THEN"}}},
		{"a job that waits does not hold its group", []swap{{"take_groups_v1",
			"THEN g.holder_job = u.id", "THEN true"}}},
	} {
		t.Run(mutant.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.patience = 5 * time.Second
			s.mutate(t, mutant.swaps...)
			failed, story := examine(t, s)
			require.True(t, failed, "the mutant lives")
			t.Log(story)
		})
	}
}
