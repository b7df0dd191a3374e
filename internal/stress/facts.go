//go:build unix

package stress

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Facts are everything that is known after a run: what the processes wrote, and
// what the database holds. Times are of the monotonic clock.
type Facts struct {
	History  []Record
	Jobs     []Job
	Sessions []Session
	Given    []Given
	Effects  []Effect
}

// A Job is a job as the database holds it.
type Job struct {
	ID, Seq    int64
	Definition string
	State      string // of its outcome: c, f, x; "" while it has none
	Finished   int64
	Attempt    int
	Run        int64 // its result: whose end was accepted; 0: none
	Error      string
}

// A Session is the life of a worker.
type Session struct {
	PID             int64
	Started, Expire int64
}

// Given says that a job was given a ticket, or back by a lease that had it: the
// record that its next run needs.
type Given struct {
	Job    int64
	At     int64
	Losses int
}

// An Effect is what a job's CompleteTx committed with it.
type Effect struct{ Seq, Run int64 }

// prepare makes the tables of the stress. A trigger writes down how tickets
// come back, for they are deleted when their job is finished.
func prepare(ctx context.Context, pool *pgxpool.Pool, schema string) error {
	s := pgx.Identifier{schema}.Sanitize()
	_, err := pool.Exec(ctx, `
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
			WHEN (OLD.state = 'c' AND NEW.state <> 'c') EXECUTE FUNCTION `+s+`.stress_given()`)
	return err
}

// gather reads the facts.
func gather(ctx context.Context, pool *pgxpool.Pool, c Config) (*Facts, error) {
	f := &Facts{}
	var err error
	if f.History, err = readHistory(c.Dir); err != nil {
		return nil, err
	}
	// Between the two clocks. Both are this machine's.
	ahead := now() - time.Now().UnixNano()
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
	read(`SELECT j.id, (j.payload->>'s')::bigint, j.name, coalesce(o.state::text, ''), o.finished_at, coalesce(o.attempt, 0),
			coalesce((o.result #>> '{}')::bigint, 0), coalesce(o.error, '')
		FROM %[1]s.job j LEFT JOIN %[1]s.outcome o ON o.job_id = j.id WHERE j.name IS NOT NULL`, func(rows pgx.Rows) error {
		var j Job
		var finished *time.Time
		err := rows.Scan(&j.ID, &j.Seq, &j.Definition, &j.State, &finished, &j.Attempt, &j.Run, &j.Error)
		j.Finished = at(finished)
		f.Jobs = append(f.Jobs, j)
		return err
	})
	read(`SELECT pid, started_at, expires_at FROM %s.session`, func(rows pgx.Rows) error {
		var s Session
		var started, expire time.Time
		err := rows.Scan(&s.PID, &started, &expire)
		s.Started, s.Expire = at(&started), at(&expire)
		f.Sessions = append(f.Sessions, s)
		return err
	})
	read(`SELECT job_id, at, losses FROM %s.stress_given`, func(rows pgx.Rows) error {
		var g Given
		var t time.Time
		err := rows.Scan(&g.Job, &t, &g.Losses)
		g.At = at(&t)
		f.Given = append(f.Given, g)
		return err
	})
	read(`SELECT seq, run FROM %s.stress_effect`, func(rows pgx.Rows) error {
		var e Effect
		err := rows.Scan(&e.Seq, &e.Run)
		f.Effects = append(f.Effects, e)
		return err
	})
	return f, err
}
