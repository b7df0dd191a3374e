package store

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

type migration struct {
	version int
	name    string
	sql     string // for the schema "bearmq"
}

// migrations are all there are, in order; the version of one is the number that its file begins with.
var migrations = sync.OnceValue(func() []migration {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		panic(err)
	}
	all := make([]migration, 0, len(files))
	for i, f := range files {
		number, name, ok := strings.Cut(strings.TrimSuffix(path.Base(f), ".sql"), "_")
		version, err := strconv.Atoi(number)
		if !ok || err != nil || version != i+1 {
			panic("store: migration " + f + " is out of order")
		}
		text, err := migrationFiles.ReadFile(f)
		if err != nil {
			panic(err)
		}
		all = append(all, migration{version, name, string(text)})
	}
	return all
})

// LibraryVersion is the schema version that this library works with.
func LibraryVersion() int { return len(migrations()) }

// MigrationSQL is the script that brings a schema to this library's version, from none or from an older one. It is safe
// to run twice, and by many at once: they wait for each other.
func MigrationSQL(schema string) (string, error) {
	if err := checkSchema(schema); err != nil {
		return "", err
	}
	quoted := pgx.Identifier{schema}.Sanitize()
	literal := "'" + strings.ReplaceAll(schema, "'", "''") + "'"
	outer, inner := dollarTag("do", schema), dollarTag("migration", schema)

	var b strings.Builder
	fmt.Fprintf(&b, "-- BearMQ, schema %s, version %d. Safe to run twice.\n", strconv.Quote(schema), LibraryVersion())
	b.WriteString("BEGIN;\n")
	b.WriteString("SET LOCAL client_min_messages = warning;\n")
	fmt.Fprintf(&b, "SELECT pg_advisory_xact_lock(hashtextextended('bearmq migrate ' || %s, 0));\n", literal)
	fmt.Fprintf(&b, "CREATE SCHEMA IF NOT EXISTS %s;\n", quoted)
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s.migration (version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT clock_timestamp());\n", quoted)
	fmt.Fprintf(&b, "DO %s BEGIN IF (SELECT max(version) FROM %s.migration) > %d THEN RAISE EXCEPTION USING ERRCODE = 'BQ004', MESSAGE = "+
		"format('the schema is at version %%s and this library knows version %d: use a newer library', (SELECT max(version) FROM %s.migration)); END IF; END %s;\n",
		outer, quoted, LibraryVersion(), LibraryVersion(), quoted, outer)
	for _, m := range migrations() {
		fmt.Fprintf(&b, "DO %s BEGIN\nIF NOT EXISTS (SELECT FROM %s.migration WHERE version = %d) THEN\nEXECUTE %s\n%s\n%s;\nINSERT INTO %s.migration (version, name) VALUES (%d, '%s');\nEND IF;\nEND %s;\n",
			outer, quoted, m.version, inner, strings.TrimSpace(render(m.sql, schema)), inner, quoted, m.version, m.name, outer)
	}
	b.WriteString("COMMIT;\n")
	return b.String(), nil
}

// dollarTag is a dollar quote that the schema's name cannot end.
func dollarTag(word, schema string) string {
	tag := "$" + word + "$"
	for i := 1; strings.Contains(schema, tag); i++ {
		tag = fmt.Sprintf("$%s%d$", word, i)
	}
	return tag
}

// Migrate brings the schema to this library's version.
func (s *Store) Migrate(ctx context.Context) error {
	switch err := s.Check(ctx); {
	case err == nil:
		return nil
	case !errors.Is(err, ErrNotMigrated):
		return err
	}
	script, err := MigrationSQL(s.schema)
	if err != nil {
		return err
	}
	conn, err := s.Connect(ctx)
	if err != nil {
		return fmt.Errorf("open a connection to migrate schema %q: %w", s.schema, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var server int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::integer").Scan(&server); err != nil {
		return wrap("server_version_num", err)
	}
	if server < 140000 {
		return fmt.Errorf("this is PostgreSQL %d, BearMQ needs 14 or later", server/10000)
	}
	if _, err := conn.PgConn().Exec(ctx, script).ReadAll(); err != nil {
		return fmt.Errorf("migrate schema %q: %w", s.schema, err)
	}
	return s.Check(ctx)
}

// Version returns the schema's version, 0 where it has not been migrated.
func (s *Store) Version(ctx context.Context) (int, error) {
	var version int
	err := s.pool.QueryRow(ctx, s.text("version")).Scan(&version)
	if err := wrap("version", err); err != nil && !errors.Is(err, ErrNotMigrated) {
		return 0, err
	}
	return version, nil
}

// Check returns a *SchemaVersionError where schema and library do not fit, and ErrRestored where the log's transaction
// ids are those of another cluster, and ErrPooler where a pooler takes away what the pool's connections have prepared.
func (s *Store) Check(ctx context.Context) error {
	version, err := s.Version(ctx)
	if err != nil {
		return err
	}
	if version != LibraryVersion() {
		return &SchemaVersionError{Schema: s.schema, Found: version, Library: LibraryVersion()}
	}
	if err := s.checkCluster(ctx, s.pool); err != nil {
		return err
	}
	return s.checkPooler(ctx)
}
