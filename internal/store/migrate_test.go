package store

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq/internal/pgtest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestManyMigrateOneSchemaAtOnce(t *testing.T) {
	t.Parallel()
	schema, url := pgtest.Schema(t), pgtest.URL(t)
	errs := make(chan error, 20)
	for range cap(errs) {
		go func() {
			errs <- func() error {
				pool, err := pgxpool.New(context.Background(), url) // as another process would
				if err != nil {
					return err
				}
				defer pool.Close()
				s, err := New(pool, schema)
				if err != nil {
					return err
				}
				return s.Migrate(context.Background())
			}()
		}()
	}
	for range cap(errs) {
		assert.NoError(t, <-errs)
	}
	r := rigOn(t, pgtest.DB(t), schema)
	assert.EqualValues(t, LibraryVersion(), one[int64](r, `SELECT count(*) FROM bearmq.migration`))
	require.NoError(t, r.Migrate(t.Context()), "again")
	assert.EqualValues(t, LibraryVersion(), one[int64](r, `SELECT count(*) FROM bearmq.migration`))
}

// The script is for those who migrate by a tool of their own: it does what Migrate does, and may be run twice.
func TestMigrationSQLMakesTheSameSchemaAsMigrate(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	byScript := pgtest.Schema(t)
	script, err := MigrationSQL(byScript)
	require.NoError(t, err)
	conn, err := r.Connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	for range 2 {
		_, err = conn.PgConn().Exec(t.Context(), script).ReadAll() // the simple protocol, as psql's
		require.NoError(t, err)
	}
	assert.Equal(t, byte('I'), conn.PgConn().TxStatus(), "its transaction has ended")
	other := rigOn(t, r.pool, byScript)
	assert.Equal(t, dump(r), dump(other))
	assert.Len(t, append(other.plain(2), other.drain()...), 4)
}

// A schema of an older version is brought to this one by what it lacks.
func TestMigrateGoesOnFromAnOlderVersion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	last := LibraryVersion()
	r.exec(`DROP FUNCTION bearmq.cancel, bearmq.retry, bearmq.run_now`)
	r.exec(`DELETE FROM bearmq.migration WHERE name = 'hands'`)
	err := r.Check(t.Context())
	if one[int64](r, `SELECT max(version) FROM bearmq.migration`) == int64(last) {
		t.Fatal("the last migration is another one by now: change this test")
	}
	var version *SchemaVersionError
	require.ErrorAs(t, err, &version)
	assert.Equal(t, SchemaVersionError{Schema: r.schema, Found: last - 1, Library: last}, *version)
	assert.ErrorIs(t, err, ErrNotMigrated)
	assert.ErrorContains(t, err, "run mq.Migrate")
	require.NoError(t, r.Migrate(t.Context()))
	assert.True(t, one[bool](r, `SELECT to_regproc('bearmq.run_now') IS NOT NULL`))
}

func TestANewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	newer := LibraryVersion() + 7
	r.exec(`INSERT INTO bearmq.migration (version, name) VALUES ($1, 'from the future')`, newer)
	for name, err := range map[string]error{"Check": r.Check(t.Context()), "Migrate": r.Migrate(t.Context())} {
		var version *SchemaVersionError
		require.ErrorAs(t, err, &version, name)
		assert.Equal(t, SchemaVersionError{Schema: r.schema, Found: newer, Library: LibraryVersion()}, *version)
		assert.NotErrorIs(t, err, ErrNotMigrated)
		assert.ErrorContains(t, err, "use a newer library")
	}
	script, err := MigrationSQL(r.schema)
	require.NoError(t, err)
	_, err = r.pool.Exec(t.Context(), script, pgx.QueryExecModeSimpleProtocol)
	assert.Equal(t, "BQ004", code(err))
	assert.ErrorContains(t, err, "use a newer library")
}

func TestASchemaThatIsNotThere(t *testing.T) {
	t.Parallel()
	s, err := New(pgtest.DB(t), pgtest.Schema(t))
	require.NoError(t, err)
	version, err := s.Version(t.Context())
	require.NoError(t, err)
	assert.Zero(t, version)
	assert.ErrorIs(t, s.Check(t.Context()), ErrNotMigrated)
	_, err = s.Lane(t.Context(), "default", 0)
	assert.ErrorIs(t, err, ErrNotMigrated)
	_, err = s.FindWork(t.Context(), nil, nil, false, 0)
	assert.ErrorIs(t, err, ErrNotMigrated)
	assert.ErrorIs(t, s.Drop(t.Context()), ErrNotMigrated)
}

// A name is quoted, or refused; nothing of it is executed or cut off.
func TestOddSchemaNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		`a"b`, `x'; DROP TABLE y; --`, `%s %d %I`, "with\nnewline", "with\\backslash", "🐻 bear", `$body$`, `$do$`, `$migration$ $body1$`,
		strings.Repeat("x", 63), strings.Repeat("é", 31), "Upper Case", `bearmq.`, `my bearmq.job`, `'bearmq.lease_id'`, "select", "$1", "{}", "*/ -- /*",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := pgtest.DB(t)
			t.Cleanup(func() {
				_, err := pool.Exec(context.WithoutCancel(t.Context()), "DROP SCHEMA IF EXISTS "+pgx.Identifier{name}.Sanitize()+" CASCADE")
				assert.NoError(t, err)
			})
			r := rigOn(t, pool, name)
			require.NoError(t, r.Migrate(t.Context()), "again")
			script, err := MigrationSQL(name)
			require.NoError(t, err)
			_, err = pool.Exec(t.Context(), script, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			assert.Equal(t, goldenSchema(t), dump(r))

			conn, err := r.Connect(t.Context())
			require.NoError(t, err)
			defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
			_, err = conn.Exec(t.Context(), "LISTEN "+pgx.Identifier{r.WakeChannel()}.Sanitize())
			require.NoError(t, err)
			require.NoError(t, r.Sleep(t.Context(), r.session, nil))
			want := append(r.plain(1), r.enqueue("g", "g")...)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err = conn.WaitForNotification(ctx)
			require.NoError(t, err)
			jobs := []NewJob{r.job(""), r.job("g")}
			jobs[1].Delay = time.Nanosecond
			require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error { return r.Copy(t.Context(), tx, jobs) }))
			c := r.claim(1)
			require.NoError(t, r.ReturnClaim(t.Context(), r.session, c.Nonce))
			c = r.claim(1)
			require.Len(t, append(c.Jobs, r.claim(0).Jobs...), 1)
			r.kill(r.session)
			require.Len(t, r.recoverAll(), 1)
			r.session = r.newSession()
			assert.ElementsMatch(t, append(want, jobs[0].ID, jobs[1].ID), r.drain())
			r.deleteFinished(0)
			require.NoError(t, r.Sweep(t.Context()))
			_, err = r.UnlockGroups(t.Context(), time.Hour, 3)
			require.NoError(t, err)
		})
	}
}

func TestIllegalSchemaNamesAreRefused(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"", strings.Repeat("x", 64), strings.Repeat("é", 32), "pg_jobs", "a\x00b", "a\xffb"} {
		_, err := New(nil, name)
		assert.Error(t, err, "%q", name)
		_, err = MigrationSQL(name)
		assert.Error(t, err, "%q", name)
	}
}

// Every statement and function is one that PostgreSQL knows how to plan.
func TestEveryStatementPrepares(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	conn, err := r.Connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	for name := range queryTexts() {
		_, err := conn.Prepare(t.Context(), name, r.text(name))
		assert.NoError(t, err, name)
	}
}

// What stands in the catalogs, so that a change of a migration is seen for what it is: go test -update rewrites it.
func TestSchemaIsTheGoldenOne(t *testing.T) {
	t.Parallel()
	got := dump(newRig(t))
	path := filepath.Join("testdata", "schema.golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	assert.Equal(t, goldenSchema(t), got)
}

func goldenSchema(t testing.TB) string {
	t.Helper()
	want, err := os.ReadFile(filepath.Join("testdata", "schema.golden"))
	require.NoError(t, err)
	return string(want)
}

// dump describes a schema from the catalogs, in a form that is the same in every version of PostgreSQL.
func dump(r *rig) string {
	r.t.Helper()
	schema := pgx.Identifier{r.schema}.Sanitize()
	lines := all[string](r, `
		WITH n AS (SELECT oid FROM pg_namespace WHERE nspname = $1) SELECT line FROM (
		SELECT 'table ' || c.relname || coalesce(' WITH ' || c.reloptions::text, '') || ' -- ' || coalesce(obj_description(c.oid, 'pg_class'), '')
			FROM pg_class c, n WHERE c.relnamespace = n.oid AND c.relkind = 'r'
		UNION ALL SELECT 'column ' || c.relname || '.' || lpad(a.attnum::text, 2, '0') || ' ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod)
				|| CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || l.collname ELSE '' END || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
				|| coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '') || CASE a.attidentity WHEN 'a' THEN ' IDENTITY' ELSE '' END
			FROM n, pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped JOIN pg_type t ON t.oid = a.atttypid
				LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum LEFT JOIN pg_collation l ON l.oid = a.attcollation
			WHERE c.relnamespace = n.oid AND c.relkind IN ('r', 'v', 'c')
		UNION ALL SELECT 'constraint ' || c.relname || ' ' || x.conname || ' ' || pg_get_constraintdef(x.oid)
			FROM n, pg_constraint x JOIN pg_class c ON c.oid = x.conrelid WHERE x.connamespace = n.oid AND x.contype <> 'n'  -- since 18
		UNION ALL SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM n, pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = n.oid
		UNION ALL SELECT 'sequence ' || c.relname || ' ' || format_type(s.seqtypid, NULL) || ' start ' || s.seqstart || ' by ' || s.seqincrement || ' cache ' || s.seqcache
			FROM n, pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid WHERE c.relnamespace = n.oid
		UNION ALL SELECT 'view ' || c.relname || ' -- ' || coalesce(obj_description(c.oid, 'pg_class'), '') FROM n, pg_class c WHERE c.relnamespace = n.oid AND c.relkind = 'v'
		UNION ALL SELECT 'function ' || p.proname || '(' || pg_get_function_arguments(p.oid) || ') RETURNS ' || pg_get_function_result(p.oid) || ' ' || l.lanname
				|| ' ' || p.provolatile::text || coalesce(' SET ' || array_to_string(p.proconfig, ', '), '')  -- its body is in migrations/
			FROM n, pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE p.pronamespace = n.oid
		UNION ALL SELECT 'type ' || t.typname FROM n, pg_type t JOIN pg_class c ON c.oid = t.typrelid WHERE t.typnamespace = n.oid AND c.relkind = 'c'
		UNION ALL SELECT 'trigger ' || pg_get_triggerdef(g.oid) FROM n, pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid WHERE c.relnamespace = n.oid AND NOT g.tgisinternal
		) x (line) ORDER BY line COLLATE "C"`, r.schema)
	text := strings.Join(lines, "\n") + "\n"
	// the schema's name, quoted or not, and inside a literal
	unquoted := regexp.MustCompile(`\b` + regexp.QuoteMeta(r.schema) + `\.`)
	text = strings.NewReplacer(strings.ReplaceAll(schema, "'", "''")+".", "bearmq.", schema+".", "bearmq.").Replace(text)
	if regexp.MustCompile(`^[a-z_][a-z0-9_]*$`).MatchString(r.schema) {
		text = unquoted.ReplaceAllString(text, "bearmq.")
	}
	return text
}
