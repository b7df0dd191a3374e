package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/bearmq/bearmq"
	"github.com/bearmq/bearmq/internal/pgtest"
)

// A target is a schema of a test's own.
type target struct {
	*testing.T
	url, schema string
}

func newTarget(t *testing.T) target {
	t.Helper()
	return target{t, pgtest.URL(t), pgtest.Schema(t)}
}

// migrate calls the program.
func (t target) migrate(args ...string) result { return t.migrateWith("", args...) }

func (t target) migrateWith(input string, args ...string) result {
	t.Helper()
	return callWith(t.Context(), input, append([]string{"migrate", "--database", t.url, "--schema", t.schema}, args...)...)
}

// exists tells whether the schema is there.
func (t target) exists() bool {
	t.Helper()
	var there bool
	require.NoError(t, pgtest.DB(t).QueryRow(t.Context(), "SELECT to_regnamespace(quote_ident($1)) IS NOT NULL", t.schema).Scan(&there))
	return there
}

func (t target) exec(sql string) {
	t.Helper()
	_, err := pgtest.DB(t).Exec(t.Context(), strings.ReplaceAll(sql, "{schema}", pgx.Identifier{t.schema}.Sanitize()))
	require.NoError(t, err)
}

func TestMigrateUpMakesTheSchemaOnce(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	version := bearmq.LibrarySchemaVersion()
	require.Equal(t, result{exitOK, fmt.Sprintf("Schema %q is made, at version %d.\n", m.schema, version), ""}, m.migrate("up"))
	require.True(t, m.exists())
	require.Equal(t, result{exitOK, fmt.Sprintf("Schema %q is at version %d already.\n", m.schema, version), ""}, m.migrate("up"))
}

func TestMigrateStatusComparesTheVersions(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	status := func() (v versions) {
		r := m.migrate("status", "--json")
		require.Equal(t, exitOK, r.code, r.err)
		require.NoError(t, json.Unmarshal([]byte(r.out), &v))
		return v
	}
	newest := bearmq.LibrarySchemaVersion()
	require.Equal(t, versions{Schema: m.schema, Program: newest}, status())
	require.Contains(t, m.migrate("status").out, "run bearmq migrate up")
	require.False(t, m.exists(), "status changes nothing")

	require.Equal(t, exitOK, m.migrate("up").code)
	require.Equal(t, versions{Schema: m.schema, Version: newest, Program: newest, Current: true}, status())
	require.Contains(t, m.migrate("status").out, "up to date")

	m.exec("INSERT INTO {schema}.migration (version, name) VALUES (9999, 'of the future')")
	require.Contains(t, m.migrate("status").out, "use a newer bearmq")
	r := m.migrate("up")
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, "use a newer library")
}

func TestMigrateSQLNeedsNoDatabase(t *testing.T) {
	t.Parallel()
	script, err := bearmq.MigrationSQL("jobs")
	require.NoError(t, err)
	require.Equal(t, result{exitOK, script, ""}, call(t, "migrate", "sql", "--schema", "jobs"))

	var answer struct{ SQL string }
	require.NoError(t, json.Unmarshal([]byte(call(t, "migrate", "--json", "sql", "--schema", "jobs").out), &answer))
	require.Equal(t, script, answer.SQL)
}

func TestMigrateSQLDoesWhatUpDoes(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	conn, err := pgx.Connect(t.Context(), m.url)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.PgConn().Exec(t.Context(), m.migrate("sql").out).ReadAll()
	require.NoError(t, err)
	require.Contains(t, m.migrate("status").out, "up to date")
}

func TestMigrateDropAsksForTheNameOfTheSchema(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	require.Equal(t, exitOK, m.migrate("up").code)
	for _, answer := range []string{"", "\n", "yes\n", "bearmq\n"} {
		r := m.migrateWith(answer, "drop")
		require.Equal(t, exitFailed, r.code, "%q", answer)
		require.Contains(t, r.err, "nothing was dropped")
	}
	require.True(t, m.exists())
	config, err := pgx.ParseConfig(m.url)
	require.NoError(t, err)
	r := m.migrateWith(m.schema+"\n", "drop")
	require.Equal(t, exitOK, r.code, r.err)
	require.Contains(t, r.err, fmt.Sprintf("the schema %q of the database %q on %s, with all its jobs", m.schema, config.Database, config.Host))
	require.Equal(t, fmt.Sprintf("Schema %q is dropped.\n", m.schema), r.out)
	require.False(t, m.exists())
}

func TestMigrateDropWithYesDoesNotAsk(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	require.Equal(t, exitOK, m.migrate("up").code)
	r := m.migrate("drop", "--yes", "--json")
	require.Equal(t, exitOK, r.code, r.err)
	require.JSONEq(t, fmt.Sprintf(`{"schema": %q, "dropped": true}`, m.schema), r.out)
	require.Empty(t, r.err)
	require.False(t, m.exists())
}

func TestMigrateDropLeavesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	t.Run("no schema", func(t *testing.T) {
		t.Parallel()
		r := newTarget(t).migrate("drop", "--yes")
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.err, "nothing to drop")
	})
	t.Run("somebody else's schema", func(t *testing.T) {
		t.Parallel()
		m := newTarget(t)
		m.exec("CREATE SCHEMA {schema}")
		r := m.migrate("drop", "--yes")
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.err, "no schema of BearMQ")
		require.True(t, m.exists())
	})
	t.Run("a table beside ours", func(t *testing.T) {
		t.Parallel()
		m := newTarget(t)
		require.Equal(t, exitOK, m.migrate("up").code)
		m.exec("CREATE TABLE {schema}.customers (id integer)")
		r := m.migrate("drop", "--yes")
		require.Equal(t, exitFailed, r.code)
		require.Contains(t, r.err, "not BearMQ's (customers)")
		require.True(t, m.exists())
	})
}

func TestMigrateDropCanBeInterruptedWhileItAsks(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	require.Equal(t, exitOK, m.migrate("up").code)
	ctx, cancel := context.WithCancel(t.Context())
	asked := writerFunc(func(text string) {
		if strings.Contains(text, "Type the schema's name") {
			cancel()
		}
	})
	forever, end := io.Pipe() // a terminal where nobody types
	defer func() { _ = end.Close() }()
	code := run(ctx, []string{"migrate", "drop", "--database", m.url, "--schema", m.schema}, streams{in: forever, out: io.Discard, err: asked})
	require.Equal(t, exitInterrupted, code)
	require.True(t, m.exists())
}

type writerFunc func(string)

func (f writerFunc) Write(p []byte) (int, error) {
	f(string(p))
	return len(p), nil
}

func TestMigrateSaysWhatToDoWhereItFails(t *testing.T) {
	t.Parallel()
	m := newTarget(t)
	role := m.schema + "_role"
	m.exec("CREATE ROLE " + role + " LOGIN PASSWORD 'secret-word'")
	t.Cleanup(func() {
		_, err := pgtest.DB(t).Exec(context.Background(), "DROP ROLE "+role)
		require.NoError(t, err)
	})
	as := func(change func(*url.URL)) string {
		u, err := url.Parse(m.url)
		require.NoError(t, err)
		change(u)
		return u.String()
	}
	for name, c := range map[string]struct {
		url, schema string
		want        []string
	}{
		"not a URL":      {"postgres://u:secret-word@h:notaport/d", "x", []string{"cannot be read", "looks like postgres://"}},
		"nobody answers": {"postgres://u:secret-word@127.0.0.1:1/d", "x", []string{`cannot connect to the database "d" on 127.0.0.1:1`, "Is the server running"}},
		"no database": {as(func(u *url.URL) { u.Path = "/nowhere" }), "x",
			[]string{`"nowhere"`, "refused", "check the user"}},
		"no right": {as(func(u *url.URL) { u.User = url.UserPassword(role, "secret-word") }), m.schema,
			[]string{"permission denied", "GRANT CREATE ON DATABASE"}},
		"no schema name": {m.url, "pg_jobs", []string{"Schema", "begins with pg_"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := call(t, "migrate", "up", "--database", c.url, "--schema", c.schema)
			require.Equal(t, exitFailed, r.code, r.err)
			require.Empty(t, r.out)
			for _, want := range c.want {
				require.Contains(t, r.err, want)
			}
			require.NotContains(t, r.err, "secret-word")
			require.NotContains(t, r.err, "goroutine")

			r = call(t, "migrate", "up", "--database", c.url, "--schema", c.schema, "--json")
			require.Equal(t, exitFailed, r.code)
			require.Empty(t, r.err)
			var answer struct{ Error string }
			require.NoError(t, json.Unmarshal([]byte(r.out), &answer))
			require.Contains(t, answer.Error, c.want[0])
		})
	}
}

func TestMigrateNeedsADatabase(t *testing.T) {
	t.Setenv("DATABASE_URL", "")
	for _, command := range []string{"up", "status", "repair", "drop"} {
		r := call(t, "migrate", command)
		require.Equal(t, exitUsage, r.code)
		require.Contains(t, r.err, "set DATABASE_URL or give --database")
	}
}

func TestMigrateTakesTheDatabaseOfTheEnvironment(t *testing.T) {
	m := newTarget(t)
	t.Setenv("DATABASE_URL", m.url)
	config, err := pgx.ParseConfig(m.url)
	require.NoError(t, err)
	require.Equal(t, exitOK, call(t, "migrate", "up", "--schema", m.schema).code)
	r := call(t, "migrate", "drop", "--schema", m.schema)
	require.Equal(t, exitFailed, r.code)
	require.Contains(t, r.err, fmt.Sprintf("the database %q on %s", config.Database, config.Host), "what is asked names what would be dropped")
}
