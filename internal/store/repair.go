package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// A cluster is where a log comes from, and where it is.
type cluster struct {
	restored      bool
	stored, found string // the identifiers
}

func (c cluster) check() error {
	switch {
	case !c.restored:
		return nil
	case c.stored == c.found:
		return fmt.Errorf("%w: its log holds transaction ids that this cluster has not given out yet; "+
			"jobs would be lost or run again, so nothing runs until mq.Repair or bearmq migrate repair", ErrRestored)
	}
	return fmt.Errorf("%w: the transaction ids in its log are those of cluster %s, this is cluster %s; "+
		"jobs would be lost or run again, so nothing runs until mq.Repair or bearmq migrate repair", ErrRestored, c.stored, c.found)
}

func (s *Store) checkCluster(ctx context.Context, db DB) error {
	var c cluster
	if err := db.QueryRow(ctx, s.text("system_identifier")).Scan(&c.restored, &c.stored, &c.found); err != nil {
		return wrap("system_identifier", err)
	}
	return c.check()
}

// Repaired counts the jobs of a restored database.
type Repaired struct {
	Queued, Waiting, Lost, Failed int64
}

// Repair makes a restored database one of this cluster. restored is false where it is one already: nothing was changed.
func (s *Store) Repair(ctx context.Context, maxLosses int) (r Repaired, restored bool, err error) {
	if err := s.Check(ctx); !errors.Is(err, ErrRestored) {
		return r, false, err
	}
	conn, err := s.Connect(ctx)
	if err != nil {
		return r, false, fmt.Errorf("open a connection to repair schema %q: %w", s.schema, err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL statement_timeout = 0"); err != nil { // it writes all jobs
			return err
		}
		return tx.QueryRow(ctx, s.text("restamp"), int32(maxLosses)).Scan(&r.Queued, &r.Waiting, &r.Lost, &r.Failed)
	})
	if errors.Is(err, pgx.ErrNoRows) { // somebody else was faster
		return r, false, nil
	}
	return r, err == nil, wrap("restamp", err)
}
