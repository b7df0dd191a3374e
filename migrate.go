package bearmq

import (
	"context"
	"fmt"

	"github.com/bearmq/bearmq/internal/store"
)

// SchemaVersionError says that the schema in the database is older or newer
// than this library works with. Older or missing, it is an [ErrNotMigrated].
type SchemaVersionError = store.SchemaVersionError

// Migrate makes the schema, or brings it to this library's version. It may be
// called twice, and by many processes at once: one does it, the others wait.
// It needs the right to create a schema in the database, and PostgreSQL 14 or
// later. A schema that is newer than the library is refused with a
// [*SchemaVersionError].
//
// It never takes anything away that an older library needs, so processes with
// an older version go on running. One that is started after the migration is
// refused.
func (mq *Context) Migrate(ctx context.Context) error {
	if err := mq.store.Migrate(ctx); err != nil {
		return fmt.Errorf("bearmq: %w", err)
	}
	return nil
}

// CheckSchema tells whether this library can work with the schema in the
// database: nil, a [*SchemaVersionError], [ErrRestored], [ErrPooler], or what
// kept it from asking.
func (mq *Context) CheckSchema(ctx context.Context) error {
	if err := mq.store.Check(ctx); err != nil {
		return fmt.Errorf("bearmq: %w", err)
	}
	return nil
}

// Repaired is what [Context.Repair] has found.
type Repaired struct {
	// Restored is false where there was nothing to repair.
	Restored bool
	// Queued jobs are ready, Waiting ones wait for their time, their group or
	// a process that knows their name.
	Queued, Waiting int
	// Lost is how many of them were running when the database was copied, and
	// have counted a loss. Failed is how many have failed by it: they had lost
	// Options.MaxLosses processes.
	Lost, Failed int
}

// Repair makes a database that was restored from another cluster ([ErrRestored]),
// or upgraded with pg_upgrade, one that workers accept. Jobs keep their ids,
// their order and what was promised of them; those that were running count a
// loss and run again. It is one transaction that keeps all others out of the
// schema, and may be called twice. It is never done by itself: the jobs of a
// copy run a second time where the copied database goes on running.
//
// Stop the workers of the database first. It refuses while the session of one
// has not ended, and where other transactions keep it from a table for 10 s.
func (mq *Context) Repair(ctx context.Context) (Repaired, error) {
	r, restored, err := mq.store.Repair(ctx, mq.opts.MaxLosses)
	if err != nil {
		return Repaired{}, fmt.Errorf("bearmq: %w", err)
	}
	return Repaired{restored, int(r.Queued), int(r.Waiting), int(r.Lost), int(r.Failed)}, nil
}

// DropSchema takes the schema away, with all jobs in it. Stop everything that
// uses it first; a table that is in use for 10 s is an error. It refuses, and
// drops nothing, where the schema has not been migrated ([ErrNotMigrated]) or
// holds tables that are not BearMQ's.
func (mq *Context) DropSchema(ctx context.Context) error {
	if err := mq.store.Drop(ctx); err != nil {
		return fmt.Errorf("bearmq: %w", err)
	}
	return nil
}

// MigrationSQL is the script that Migrate runs, for those who let a tool of
// their own, or another role, change the database. It is safe to run twice,
// and brings a schema of any older version to this library's. An illegal name
// of a schema, or an empty one, is a [*FieldError].
func MigrationSQL(schema string) (string, error) {
	script, err := store.MigrationSQL(schema)
	if err != nil {
		return "", &FieldError{Field: "Schema", Value: schema, Reason: "must be a legal schema name: " + err.Error(), cause: err}
	}
	return script, nil
}

// LibrarySchemaVersion is the version of the schema that this library works
// with.
func LibrarySchemaVersion() int { return store.LibraryVersion() }

// SchemaVersion is the version of the schema in the database, 0 where it has
// not been migrated.
func (mq *Context) SchemaVersion(ctx context.Context) (int, error) {
	version, err := mq.store.Version(ctx)
	if err != nil {
		return 0, fmt.Errorf("bearmq: %w", err)
	}
	return version, nil
}
