//go:build fault && unix

package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
)

var migrationRows = []row{
	{43, "five migrators at once", false, migrators},
	{44, "another version of the schema", false, versions},
}

// errands are what a process does instead of running daemons.
var errands = map[string]func(context.Context, *hands) error{
	"migrate": func(ctx context.Context, h *hands) error {
		for !h.open("migrate") {
			if !wait(ctx, time.Millisecond) {
				return ctx.Err()
			}
		}
		h.history.add(record{Step: noted, Note: "begins"})
		return h.mq.Migrate(ctx)
	},
	"migration script": func(ctx context.Context, h *hands) error {
		for !h.open("migrate") {
			if !wait(ctx, time.Millisecond) {
				return ctx.Err()
			}
		}
		script, err := bearmq.MigrationSQL(h.Schema)
		if err != nil {
			return err
		}
		conn, err := h.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		_, err = conn.Conn().PgConn().Exec(ctx, script).ReadAll()
		return err
	},
}

// Row 43. Of five migrators one makes the schema and the others wait for it. When
// five come to a schema that is at work, nothing stops, and no statement that was
// prepared before fails.
func migrators(t *testing.T) {
	s := begin(t)
	fresh := s.schema + "_fresh"
	s.Cleanup(func() {
		_, err := s.pool.Exec(context.Background(), `DROP SCHEMA IF EXISTS "`+fresh+`" CASCADE`)
		assert.NoError(t, err)
	})
	s.inside("orchestrator", orchestrator)
	s.inside("worker", worker)
	stop := s.load(s.client("producer", nil), 5*time.Millisecond, func(i int) task { return task{Group: []string{"", "g"}[i%2]} })
	s.within(patience, "work is done", func() bool { return len(s.find(is(ended))) > 50 })
	var all []*process
	for i := range 5 {
		all = append(all, s.launch(fmt.Sprint("M", i), func(r *role) { r.Errand, r.Schema = "migrate", fresh }))
		all = append(all, s.launch(fmt.Sprint("N", i), func(r *role) { r.Errand = "migration script" }))
	}
	began := time.Now()
	s.letThrough("migrate")
	for _, p := range all {
		p.ends(patience)
		assert.NoError(s, p.err, "%s: %s", p.name, p.output.String())
	}
	took := time.Since(began)
	at := time.Now()
	s.await(patience, "work goes on", is(started), after(at))
	done, refused := stop()
	assert.Zero(s, refused)
	assert.Empty(s, s.find(told("DAEMON_FAIL")))
	for _, schema := range []string{s.schema, fresh} {
		versions := column[int](s, `SELECT version FROM "`+schema+`".migration ORDER BY version`)
		assert.Len(s, versions, bearmq.LibrarySchemaVersion(), "each migration was applied once")
	}
	s.settled()
	s.unburnt()
	s.Logf("5 migrations of a new schema and 5 of one at work took %s; %d jobs meanwhile, no enqueue refused", seconds(took), done)
}

// Row 44. A library that meets an older schema, or a newer one, does not start,
// and names both versions.
func versions(t *testing.T) {
	s := begin(t)
	version := bearmq.LibrarySchemaVersion()
	for _, found := range []int{version - 1, version + 1, 0} {
		s.exec(`DELETE FROM bearmq.migration WHERE version >= $1`, max(found, version))
		if found > version {
			s.exec(`INSERT INTO bearmq.migration (version, name) VALUES ($1, 'later'), ($2, 'current')`, found, version)
		}
		if found == 0 {
			s.exec(`ALTER TABLE bearmq.migration RENAME TO migration_gone`)
		}
		for name, daemon := range map[string]bearmq.Daemon{
			"worker": bearmq.NewWorker(s.mq, bearmq.WorkerOptions{}), "orchestrator": bearmq.NewOrchestrator(s.mq, bearmq.OrchestratorOptions{}),
		} {
			ctx, cancel := context.WithTimeout(s.Context(), patience)
			err := daemon.Run(ctx)
			cancel()
			var mismatch *bearmq.SchemaVersionError
			require.ErrorAs(s, err, &mismatch, "%s at version %d", name, found)
			assert.Equal(s, bearmq.SchemaVersionError{Schema: s.schema, Found: found, Library: version}, *mismatch)
			assert.Equal(s, found < version, errors.Is(err, bearmq.ErrNotMigrated))
			for _, part := range []string{fmt.Sprintf("version %d", found), fmt.Sprintf("version %d", version)} {
				assert.True(s, strings.Contains(err.Error(), part), "%v names %s", err, part)
			}
		}
	}
	s.exec(`ALTER TABLE bearmq.migration_gone RENAME TO migration`)
	s.exec(`INSERT INTO bearmq.migration (version, name) VALUES ($1, 'current')`, version)
	s.inside("worker", worker, orchestrator)
	s.enqueue(task{})
	s.settled()
}
