package store

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
)

// ownTables are the tables and views of all migrations.
var ownTables = sync.OnceValue(func() []string {
	create := regexp.MustCompile(`(?m)^CREATE (?:UNLOGGED )?(?:TABLE|VIEW)(?: IF NOT EXISTS)? bearmq\.(\w+)`)
	names := []string{"migration"}
	for _, m := range migrations() {
		for _, found := range create.FindAllStringSubmatch(m.sql, -1) {
			names = append(names, found[1])
		}
	}
	return names
})

// Drop removes the schema with everything in it. It refuses, with ErrNotMigrated, a schema that is not ours, and one with
// tables of somebody else's: the schema may be "public".
// Locks: all tables of the schema, each for at most 10 seconds.
func (s *Store) Drop(ctx context.Context) error {
	conn, err := s.Connect(ctx)
	if err != nil {
		return fmt.Errorf("open a connection to drop schema %q: %w", s.schema, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		var version int
		if err := tx.QueryRow(ctx, s.text("version")).Scan(&version); err != nil {
			return wrap("version", err)
		}
		rows, err := tx.Query(ctx, s.text("other_tables"), s.schema, ownTables())
		if err != nil {
			return wrap("other_tables", err)
		}
		others, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return wrap("other_tables", err)
		}
		if len(others) > 0 {
			return fmt.Errorf("schema %q holds tables that are not BearMQ's (%s): move or drop them first", s.schema, strings.Join(others, ", "))
		}
		_, err = tx.Exec(ctx, "SET LOCAL lock_timeout = '10s'; SET LOCAL client_min_messages = warning; DROP SCHEMA "+
			pgx.Identifier{s.schema}.Sanitize()+" CASCADE")
		return wrap("drop schema", err)
	})
}
