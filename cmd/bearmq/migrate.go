package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq"
)

const migrateUsage = `bearmq migrate up|status|sql|repair|drop [flags]

  up       make the schema, or bring it to this program's version; safe to run twice
  status   compare the schema's version with this program's; exits 0 whatever it finds, see up_to_date in --json
  sql      print the script that "up" runs, for a tool of your own; needs no database
  repair   take over a database that was restored from a dump or upgraded with pg_upgrade, once you have typed the schema's
           name; stop its workers before
  drop     remove the schema with all its jobs, once you have typed its name`

// A migration is one call of a migrate command.
type migration struct {
	streams
	schema string
	url    string
	json   bool
	yes    bool
}

func migrate(ctx context.Context, args []string, s streams) error {
	m := &migration{streams: s}
	f := newFlags("migrate", migrateUsage, s)
	f.StringVar(&m.schema, "schema", "bearmq", "the `name` of the schema")
	f.StringVar(&m.url, "database", "", "the `URL` of the database (default: DATABASE_URL)")
	f.BoolVar(&m.yes, "yes", false, "repair or drop without asking")
	words, err := f.parse(args)
	switch {
	case err != nil:
		return err
	case len(words) == 0:
		return &usageError{"migrate needs one of up, status, sql, repair and drop", "migrate"}
	case m.schema == "":
		return &usageError{"--schema is empty: give the schema's name, or leave the flag out for bearmq", "migrate"}
	case len(words) > 1:
		return &usageError{fmt.Sprintf("migrate %s takes no %q", words[0], words[1]), "migrate"}
	}
	m.json = f.json
	switch words[0] {
	case "up":
		return m.withDatabase(ctx, m.up)
	case "status":
		return m.withDatabase(ctx, m.status)
	case "sql":
		return m.script()
	case "repair":
		return m.withDatabase(ctx, m.repair)
	case "drop":
		return m.withDatabase(ctx, m.drop)
	default:
		return &usageError{fmt.Sprintf("migrate does not know %q, only up, status, sql, repair and drop", words[0]), "migrate"}
	}
}

// withDatabase connects and calls do.
func (m *migration) withDatabase(ctx context.Context, do func(context.Context, *bearmq.Context) error) error {
	if m.url == "" {
		m.url = os.Getenv("DATABASE_URL")
	}
	if m.url == "" {
		return &usageError{"no database: set DATABASE_URL or give --database postgres://user:password@host:5432/name", "migrate"}
	}
	pool, err := pgxpool.New(ctx, m.url)
	if err != nil {
		return err
	}
	defer pool.Close()
	mq, err := bearmq.New(pool, bearmq.Options{Schema: m.schema})
	if err != nil {
		return err
	}
	return do(ctx, mq)
}

// A versions tells how schema and program fit.
type versions struct {
	Schema   string `json:"schema"`
	Version  int    `json:"version"` // 0: there is no schema
	Program  int    `json:"program_version"`
	Current  bool   `json:"up_to_date"`
	Restored bool   `json:"restored,omitempty"` // from another cluster: nothing runs
	Migrated bool   `json:"migrated,omitempty"` // by this call
}

func (m *migration) versions(ctx context.Context, mq *bearmq.Context) (versions, error) {
	v := versions{Schema: m.schema, Program: bearmq.LibrarySchemaVersion()}
	var err error
	v.Version, err = mq.SchemaVersion(ctx)
	if err != nil {
		return v, err
	}
	v.Current = v.Version == v.Program
	if v.Current {
		err = mq.CheckSchema(ctx)
		if v.Restored = errors.Is(err, bearmq.ErrRestored); v.Restored {
			err = nil
		}
	}
	return v, err
}

func (m *migration) up(ctx context.Context, mq *bearmq.Context) error {
	before, err := m.versions(ctx, mq)
	if err != nil {
		return err
	}
	if err := mq.Migrate(ctx); err != nil {
		return err
	}
	v, err := m.versions(ctx, mq)
	if err != nil {
		return err
	}
	v.Migrated = !before.Current
	text := fmt.Sprintf("Schema %q was at version %d and is at version %d now.", v.Schema, before.Version, v.Version)
	switch {
	case !v.Migrated:
		text = fmt.Sprintf("Schema %q is at version %d already.", v.Schema, v.Version)
	case before.Version == 0:
		text = fmt.Sprintf("Schema %q is made, at version %d.", v.Schema, v.Version)
	}
	return m.answer(v, text)
}

func (m *migration) status(ctx context.Context, mq *bearmq.Context) error {
	v, err := m.versions(ctx, mq)
	if err != nil {
		return err
	}
	advice := "up to date"
	switch {
	case v.Version == 0:
		advice = "there is no such schema yet: run bearmq migrate up"
	case v.Version < v.Program:
		advice = "run bearmq migrate up"
	case v.Version > v.Program:
		advice = "the schema is newer: use a newer bearmq"
	case v.Restored:
		advice = "restored from another cluster: stop the workers and run bearmq migrate repair"
	}
	return m.answer(v, fmt.Sprintf("schema    %s\nversion   %d\nprogram   %d\nstatus    %s", v.Schema, v.Version, v.Program, advice))
}

func (m *migration) script() error {
	script, err := bearmq.MigrationSQL(m.schema)
	if err != nil {
		return err
	}
	return m.answer(struct {
		Schema  string `json:"schema"`
		Program int    `json:"program_version"`
		SQL     string `json:"sql"`
	}{m.schema, bearmq.LibrarySchemaVersion(), script}, strings.TrimSuffix(script, "\n"))
}

func (m *migration) drop(ctx context.Context, mq *bearmq.Context) error {
	v, err := m.versions(ctx, mq)
	switch {
	case err != nil:
		return err
	case v.Version == 0:
		return fmt.Errorf("there is nothing to drop: %q is no schema of BearMQ", m.schema)
	}
	if err := m.confirm(ctx, "This removes the schema %q of the database %q on %s, with all its jobs.", "nothing was dropped", "drops"); err != nil {
		return err
	}
	if err := mq.DropSchema(ctx); err != nil {
		return err
	}
	return m.answer(map[string]any{"schema": m.schema, "dropped": true}, fmt.Sprintf("Schema %q is dropped.", m.schema))
}

// A repaired is what a repair has found.
type repaired struct {
	Schema   string `json:"schema"`
	Repaired bool   `json:"repaired"`
	Queued   int    `json:"queued"`
	Waiting  int    `json:"waiting"`
	Lost     int    `json:"lost"`
	Failed   int    `json:"failed"`
}

func (m *migration) repair(ctx context.Context, mq *bearmq.Context) error {
	if err := mq.CheckSchema(ctx); err == nil {
		return m.answer(repaired{Schema: m.schema}, fmt.Sprintf("Schema %q needs no repair: it was not restored from another cluster.", m.schema))
	} else if !errors.Is(err, bearmq.ErrRestored) {
		return err
	}
	if err := m.confirm(ctx, "This makes the jobs in the schema %q of the database %q on %s run here.\n"+
		"If the database that they were copied from is in use, they run there too.", "nothing was repaired", "repairs"); err != nil {
		return err
	}
	r, err := mq.Repair(ctx)
	if err != nil {
		return err
	}
	return m.answer(repaired{m.schema, r.Restored, r.Queued, r.Waiting, r.Lost, r.Failed},
		fmt.Sprintf("Schema %q is repaired: %d jobs are ready and %d wait. Of these %d were running and will run again; %d had been lost too often and failed.",
			m.schema, r.Queued, r.Waiting, r.Lost-r.Failed, r.Failed))
}

// confirm lets the user type the schema's name, unless --yes was given. The
// question names schema, database and host; otherwise it says what did not
// happen, and what --yes does.
func (m *migration) confirm(ctx context.Context, question, otherwise, does string) error {
	if m.yes {
		return nil
	}
	config, err := pgxpool.ParseConfig(m.url)
	if err != nil {
		return err
	}
	at := config.ConnConfig
	fmt.Fprintf(m.err, question+"\nType the schema's name to go on: ", m.schema, at.Database, at.Host)
	answer := make(chan string, 1)
	go func() { // not waited for: a read from a terminal ends with the program
		line, _ := bufio.NewReader(m.in).ReadString('\n')
		answer <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(m.err)
		return context.Cause(ctx)
	case typed := <-answer:
		if typed == "" || typed != m.schema {
			return fmt.Errorf("%s: the name that was typed is not %q (--yes %s without asking)", otherwise, m.schema, does)
		}
		return nil
	}
}

// answer writes text, or v as JSON.
func (m *migration) answer(v any, text string) error {
	if m.json {
		return writeJSON(m.out, v)
	}
	_, err := fmt.Fprintln(m.out, text)
	return err
}
