//go:build unix

package stress

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/bearmq/bearmq/internal/history"
)

// prepare makes the tables of the stress. Triggers write down how tickets come
// back, for they are deleted when their job is finished, and what retention
// deletes, for in the end everything is checked.
func prepare(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	s := pgx.Identifier{schema}.Sanitize()
	_, err := pool.Exec(ctx, `
		CREATE TABLE `+s+`.stress_probe (n bigint NOT NULL);
		INSERT INTO `+s+`.stress_probe VALUES (0);
		CREATE TABLE `+s+`.stress_effect (seq bigint NOT NULL, run bigint NOT NULL);
		CREATE TABLE `+s+`.stress_given (job_id bigint NOT NULL, at timestamptz NOT NULL, losses integer NOT NULL);
		CREATE FUNCTION `+s+`.stress_given() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO `+s+`.stress_given
				VALUES (NEW.job_id, clock_timestamp(), NEW.losses - CASE TG_OP WHEN 'UPDATE' THEN OLD.losses ELSE 0 END);
			RETURN NULL;
		END $$;
		CREATE TRIGGER stress_given AFTER INSERT ON `+s+`.ticket FOR EACH ROW WHEN (NEW.state <> 'c') EXECUTE FUNCTION `+s+`.stress_given();
		CREATE TRIGGER stress_back AFTER UPDATE ON `+s+`.ticket FOR EACH ROW
			WHEN (OLD.state = 'c' AND NEW.state <> 'c') EXECUTE FUNCTION `+s+`.stress_given();

		CREATE TABLE `+s+`.stress_job (id bigint NOT NULL, seq bigint, name text NOT NULL);
		CREATE TABLE `+s+`.stress_outcome (job_id bigint NOT NULL, state text NOT NULL, finished_at timestamptz NOT NULL, attempt smallint NOT NULL,
			run bigint, error text, deleted_at timestamptz NOT NULL);
		CREATE TABLE `+s+`.stress_session (pid integer NOT NULL, started_at timestamptz NOT NULL, expires_at timestamptz NOT NULL);
		CREATE FUNCTION `+s+`.stress_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			CASE TG_TABLE_NAME
			WHEN 'job' THEN
				INSERT INTO `+s+`.stress_job VALUES (OLD.id, (OLD.payload->>'s')::bigint, OLD.name);
			WHEN 'outcome' THEN
				INSERT INTO `+s+`.stress_outcome
					VALUES (OLD.job_id, OLD.state, OLD.finished_at, OLD.attempt, (OLD.result #>> '{}')::bigint, OLD.error, clock_timestamp());
			WHEN 'session' THEN
				INSERT INTO `+s+`.stress_session VALUES (OLD.pid, OLD.started_at, OLD.expires_at);
			END CASE;
			RETURN NULL;
		END $$;
		CREATE TRIGGER stress_deleted AFTER DELETE ON `+s+`.job FOR EACH ROW WHEN (OLD.name IS NOT NULL) EXECUTE FUNCTION `+s+`.stress_deleted();
		CREATE TRIGGER stress_deleted AFTER DELETE ON `+s+`.outcome FOR EACH ROW EXECUTE FUNCTION `+s+`.stress_deleted();
		CREATE TRIGGER stress_deleted AFTER DELETE ON `+s+`.session FOR EACH ROW EXECUTE FUNCTION `+s+`.stress_deleted()`)
	return err
}

// library lists the tables that are not of the stress.
func library(ctx context.Context, pool *pgxpool.Pool, schema string) ([]string, error) {
	rows, err := pool.Query(ctx, `SELECT tablename::text FROM pg_tables WHERE schemaname = $1 AND tablename NOT LIKE 'stress\_%' ORDER BY 1`, schema)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// deletedEarly finds the jobs that were deleted before their retention was over.
func deletedEarly(ctx context.Context, pool *pgxpool.Pool, c Config) ([]history.Violation, error) {
	var n int
	err := pool.QueryRow(ctx, "SELECT count(*) FROM "+table(c.Schema, "stress_outcome")+" WHERE deleted_at < finished_at + $1", c.retention()).Scan(&n)
	if err != nil || n == 0 {
		return nil, err
	}
	return []history.Violation{{Class: history.Lost, Text: fmt.Sprintf("%d jobs were deleted earlier than %v after their end", n, c.retention())}}, nil
}

func table(schema, name string) string { return pgx.Identifier{schema, name}.Sanitize() }

// gather reads the facts.
func gather(ctx context.Context, pool *pgxpool.Pool, c Config) (*history.Facts, error) {
	f := &history.Facts{Rules: history.Rules{Attempts: attempts, MaxLosses: maxLosses, Restart: c.Restart}}
	var err error
	if f.History, err = history.Read(c.Dir); err != nil {
		return nil, err
	}
	// Between the two clocks. Both are this machine's.
	ahead := history.Now() - time.Now().UnixNano()
	at := func(t *time.Time) int64 {
		if t == nil {
			return 0
		}
		return t.UnixNano() + ahead
	}
	schema := pgx.Identifier{c.Schema}.Sanitize()
	read := func(query string, scan func(pgx.Rows) error) {
		if err != nil {
			return
		}
		var rows pgx.Rows
		if rows, err = pool.Query(ctx, fmt.Sprintf(query, schema)); err != nil {
			return
		}
		defer rows.Close()
		for rows.Next() && err == nil {
			err = scan(rows)
		}
		if err == nil {
			err = rows.Err()
		}
	}
	read(`SELECT j.id, j.seq, j.name, coalesce(o.state, ''), o.finished_at, coalesce(o.attempt, 0), coalesce(o.run, 0), coalesce(o.error, '')
		FROM (SELECT id, (payload->>'s')::bigint AS seq, name FROM %[1]s.job WHERE name IS NOT NULL UNION ALL TABLE %[1]s.stress_job) j
		LEFT JOIN (SELECT job_id, state::text, finished_at, attempt, (result #>> '{}')::bigint AS run, error FROM %[1]s.outcome
			UNION ALL SELECT job_id, state, finished_at, attempt, run, error FROM %[1]s.stress_outcome) o ON o.job_id = j.id`, func(rows pgx.Rows) error {
		var j history.Job
		var name string
		var finished *time.Time
		err := rows.Scan(&j.ID, &j.Seq, &name, &j.State, &finished, &j.Attempt, &j.Run, &j.Error)
		j.Finished, j.Strict = at(finished), name == strict.Name()
		f.Jobs = append(f.Jobs, j)
		return err
	})
	read(`SELECT pid, started_at, expires_at FROM %[1]s.session UNION ALL TABLE %[1]s.stress_session`, func(rows pgx.Rows) error {
		var s history.Session
		var started, expire time.Time
		err := rows.Scan(&s.PID, &started, &expire)
		s.Started, s.Expire = at(&started), at(&expire)
		f.Sessions = append(f.Sessions, s)
		return err
	})
	read(`SELECT job_id, at, losses FROM %s.stress_given`, func(rows pgx.Rows) error {
		var g history.Given
		var t time.Time
		err := rows.Scan(&g.Job, &t, &g.Losses)
		g.At = at(&t)
		f.Given = append(f.Given, g)
		return err
	})
	read(`SELECT seq, run FROM %s.stress_effect`, func(rows pgx.Rows) error {
		var e history.Effect
		err := rows.Scan(&e.Seq, &e.Run)
		f.Effects = append(f.Effects, e)
		return err
	})
	return f, err
}

// quiet waits until every job has its end and nobody holds anything; it returns
// what is left where that takes too long.
func (r *coordinator) quiet(ctx context.Context) (left string) {
	for deadline := time.Now().Add(r.Quiet); ; {
		s, err := r.standing(ctx)
		switch {
		case err != nil:
			left = err.Error()
		case s.unended() == 0 && s.tickets == 0 && s.leases == 0:
			return ""
		default:
			left = fmt.Sprintf("%d jobs without an end, %d tickets, %d leases", s.unended(), s.tickets, s.leases)
		}
		if time.Now().After(deadline) || !wait(ctx, 100*time.Millisecond) {
			return left
		}
	}
}

// A standing is how far the jobs are.
type standing struct{ jobs, ended, tickets, leases int }

func (s standing) unended() int { return s.jobs - s.ended }

func (r *coordinator) standing(ctx context.Context) (s standing, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	schema := pgx.Identifier{r.Schema}.Sanitize()
	err = r.pool.QueryRow(ctx, fmt.Sprintf(`SELECT (SELECT count(*) FROM %[1]s.job WHERE name IS NOT NULL), (SELECT count(*) FROM %[1]s.outcome),
		(SELECT count(*) FROM %[1]s.ticket), (SELECT count(*) FROM %[1]s.lease WHERE NOT finished)`, schema)).Scan(&s.jobs, &s.ended, &s.tickets, &s.leases)
	return s, err
}

// connections waits until the processes, which have ended, have no connections
// any more; it returns what is left where that takes too long.
func (r *coordinator) connections(ctx context.Context) (left string) {
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := r.pool.QueryRow(ctx, `SELECT coalesce(string_agg(application_name || ' ' || state || ': ' || left(query, 60), '; '), '')
			FROM pg_stat_activity WHERE application_name LIKE $1`, r.application("%")).Scan(&left)
		if err != nil {
			left = err.Error()
		}
		if left == "" || time.Now().After(deadline) || !wait(ctx, 20*time.Millisecond) {
			return left
		}
	}
}
