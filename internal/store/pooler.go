package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// checkPooler looks for a pooler that gives each transaction another connection of the server's, where pgx counts on the
// statements that it has prepared: what ran at the start would fail now and then. A pooler that leaves connections alone, or
// prepares statements wherever they are needed, passes. So does one that happens to be busy: then errors tell, see wrap.
func (s *Store) checkPooler(ctx context.Context) error {
	if s.pool.Config().ConnConfig.DefaultQueryExecMode != pgx.QueryExecModeCacheStatement {
		return nil
	}
	for range 2 { // the second one gets the connection that the first has just used, and finds its statement there
		conn, err := s.Connect(ctx)
		if err != nil {
			return fmt.Errorf("open a connection to look for a pooler: %w", err)
		}
		defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
		var server uint32
		if err := conn.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&server); err != nil { // without arguments it is not prepared
			return wrap("pg_backend_pid", err)
		}
		if server == conn.PgConn().PID() {
			return nil // nobody is in between
		}
		if _, err := conn.Prepare(ctx, "bearmq_pooler", "SELECT 1"); err != nil {
			return wrap("prepare", err)
		}
	}
	return nil
}
