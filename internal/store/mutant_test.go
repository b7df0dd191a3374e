package store

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A test that holds proves something only where it breaks when what it tests is taken away. Each mutant takes one
// protection out of the engine, in the schema of its test. The scenario that needs it says what is broken: on the engine as
// it is, nothing; on the mutant, something. (The faults that need many processes to meet have their mutants in
// internal/stress.)
func TestMutants(t *testing.T) {
	t.Parallel()
	for _, m := range []struct {
		name     string
		mutant   func(*rig)
		scenario func(*rig) (broken string)
	}{
		{"finish does not look whether its lease is finished", func(r *rig) {
			r.mutate("finish_v1", `(l\.id = u\.id AND l\.claim = u\.claim) AND NOT l\.finished`, "$1")
		}, aFinishAfterRecovery},
		{"finish takes a lease for another one of its id", func(r *rig) {
			r.mutate("finish_v1", `(l\.id = u\.id) AND l\.claim = u\.claim`, "$1")
		}, aFinishWithAnotherNonce},
		{"finish does not lock its lease", func(r *rig) {
			r.mutate("finish_v1", `(AND NOT l\.finished) FOR NO KEY UPDATE`, "$1")
		}, recoveryDuringAFinish},
		{"CompleteTx does not lock its lease", func(r *rig) {
			r.mutate("complete_tx_v1", `(AND NOT l\.finished) FOR KEY SHARE`, "$1")
		}, recoveryDuringACompleteTx},
		{"recovery is two transactions", func(r *rig) {
			r.exec(`CREATE PROCEDURE bearmq.recover_in_two(p_lease bigint, p_max_losses integer) LANGUAGE plpgsql AS $body$
				DECLARE v_ids bigint[];
				BEGIN
					SELECT array_agg(h.id) INTO v_ids FROM bearmq.lease l, bearmq.handed_out_v1(l) h WHERE l.id = p_lease AND NOT h.done;
					PERFORM bearmq.close_leases_v1(ARRAY[p_lease]);
					COMMIT;
					PERFORM bearmq.lose_jobs_v1(v_ids, NULL, NULL, p_max_losses, '');
				END $body$`)
			r.Store.sql["recover"] = r.sql("CALL bearmq.recover_in_two($1, $2)")
		}, aRecoveryThatDies},
		{"a tick and its job are two transactions", func(r *rig) {
			r.exec(`CREATE PROCEDURE bearmq.tick_in_two(p_name text, p_spec text, p_tick timestamptz, p_next timestamptz, p_overlap text,
				p_lane integer, p_payload json, p_group text, p_delay double precision) LANGUAGE plpgsql AS $body$
				BEGIN
					UPDATE bearmq.schedule SET next_at = p_next, last_at = p_tick WHERE name = p_name AND spec = p_spec AND next_at = p_tick;
					IF NOT FOUND THEN RETURN; END IF;
					COMMIT;
					INSERT INTO bearmq.job (lane, name, payload, group_key) VALUES (p_lane, p_name, p_payload, p_group);
				END $body$`)
			r.Store.sql["tick"] = r.sql("CALL bearmq.tick_in_two($1, $2, $3, $4, $5, $6, $7, $8, $9)")
		}, aTickThatDies},
		{"a tick does not look whether it was made", func(r *rig) {
			r.mutate("tick_v1", ` AND s\.next_at = p_tick`, "")
		}, aTickOfTwo},
		{"retention deletes what is young", func(r *rig) {
			r.mutate("delete_finished_v1", `o\.finished_at < CASE [^;]*? END`, "true")
		}, retentionOfYoungJobs},
		{"retention deletes an outcome and leaves its job", func(r *rig) {
			r.mutate("delete_finished_v1", `DELETE FROM bearmq\.job j WHERE j\.id = ANY \(v_ids\);`, "")
		}, retentionDuringALease},
		{"retention does not wait for the finish behind a CompleteTx", func(r *rig) {
			r.mutate("delete_finished_v1", `AND NOT EXISTS \(SELECT 1 FROM bearmq\.ticket t WHERE t\.job_id = o\.job_id OFFSET 0\)`, "")
		}, retentionAfterACompleteTx},
		{"closing a lease deletes the cursor of its lane", func(r *rig) {
			r.mutate("close_leases_v1", `AND \(l\.lane IS NULL OR .* > l\.id\)`, "")
		}, aClaimAfterEverythingWasFinished},
		{"a claim does not look whether its session lives", func(r *rig) {
			r.mutate("claim_log_v1", `AND NOT s\.dead `, "")
		}, aClaimOfADeadSession},
		{"a claim does not look whether it was given back", func(r *rig) {
			r.mutate("claim_log_v1", `AND NOT p_claim = ANY \(s\.returned\) `, "")
		}, aClaimThatWasGivenBack},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			require.Empty(t, m.scenario(newRig(t)), "the engine as it is")
			r := newRig(t)
			r.skip = true
			m.mutant(r)
			require.NotEmpty(t, m.scenario(r), "the mutant lives")
		})
	}
}

// mutate replaces what an expression matches in a function, which must be one place.
func (r *rig) mutate(function, expression, by string) {
	r.t.Helper()
	text := one[string](r, `SELECT pg_get_functiondef(p.oid) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE n.nspname = $1 AND p.proname = $2`, r.schema, function)
	_, err := r.pool.Exec(r.ctx(), r.swapped(function, text, expression, by))
	require.NoError(r.t, err)
}

func (r *rig) swapped(name, text, expression, by string) string {
	r.t.Helper()
	of := regexp.MustCompile(strings.ReplaceAll(expression, `bearmq\.`, regexp.QuoteMeta(r.sql("bearmq."))))
	require.Len(r.t, of.FindAllString(text, -1), 1, "%s does not read %s any more", name, expression)
	return of.ReplaceAllString(text, by)
}

// double says which jobs are finished and go on all the same.
func (r *rig) double() string {
	return strings.Join(all[string](r, `SELECT 'job ' || job_id || ' is finished and has a ticket' FROM bearmq.ticket JOIN bearmq.outcome USING (job_id) WHERE ticket.state <> 'c'`), ", ")
}

// A worker that was taken for dead finishes what it had.
func aFinishAfterRecovery(r *rig) string {
	r.plain(1)
	c := r.claim(1)
	r.kill(r.session)
	require.Len(r.t, r.recoverAll(), 1)
	_, err := r.Finish(r.ctx(), r.ending(c))
	require.NoError(r.t, err)
	return r.double()
}

// After a crash that lost an asynchronous commit, the sequence gives the same id again.
func aFinishWithAnotherNonce(r *rig) string {
	r.plain(1)
	f := r.ending(r.claim(1))
	f.Leases[0].Nonce++
	done, err := r.Finish(r.ctx(), f)
	require.NoError(r.t, err)
	if !done.Lost[f.Leases[0].ID] {
		return "a finish of another claim was accepted"
	}
	return ""
}

// Recovery comes while a finish is under way, of a session that has just ended.
func recoveryDuringAFinish(r *rig) string {
	r.plain(1)
	c := r.claim(1)
	r.exec(`CREATE FUNCTION bearmq.hold() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN PERFORM pg_advisory_xact_lock(hashtext('` + r.schema + `')); RETURN NEW; END $body$`)
	r.exec(`CREATE TRIGGER hold BEFORE INSERT ON bearmq.outcome FOR EACH ROW EXECUTE FUNCTION bearmq.hold()`)
	tx := r.begin()
	_, err := tx.Exec(r.ctx(), "SELECT pg_advisory_xact_lock(hashtext($1))", r.schema)
	require.NoError(r.t, err)
	finished := make(chan error, 1)
	go func() {
		_, err := r.Finish(r.ctx(), r.ending(c))
		finished <- err
	}()
	require.Eventually(r.t, func() bool {
		return one[bool](r, `SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = (hashtext($1)::bigint & 4294967295)::oid)`, r.schema)
	}, patience, 5*time.Millisecond, "the finish is under way")
	r.kill(r.session)
	r.recoverAll()
	require.NoError(r.t, tx.Commit(r.ctx()))
	require.NoError(r.t, <-finished)
	return r.double()
}

func recoveryDuringACompleteTx(r *rig) string {
	id := r.plain(1)[0]
	c := r.claim(1)
	tx := r.begin()
	require.NoError(r.t, r.CompleteTx(r.ctx(), tx, r.session, c.Lease, c.Nonce, id, "", 1, time.Millisecond, nil))
	r.kill(r.session)
	ctx, cancel := context.WithTimeout(r.ctx(), time.Second) // the mutant's waits for the outcome
	defer cancel()
	leases, _, err := r.DeadLeases(r.ctx(), 10, nil)
	require.NoError(r.t, err)
	for _, lease := range leases {
		switch lost, err := r.Recover(ctx, lease, 3); {
		case err != nil:
			return "recovery stands in line behind a handler's transaction: " + err.Error()
		case len(lost) > 0:
			return "a job is given to another worker that a handler's transaction is completing"
		}
	}
	require.NoError(r.t, tx.Commit(r.ctx()))
	r.recoverAll()
	return r.double()
}

// dies does something during which the process dies, when it inserts into a table.
func (r *rig) dies(at string, do func() error) {
	r.t.Helper()
	r.exec(`CREATE FUNCTION bearmq.die() RETURNS trigger LANGUAGE plpgsql AS $body$ BEGIN RAISE EXCEPTION 'the process dies here'; END $body$`)
	r.exec(`CREATE TRIGGER die BEFORE INSERT ON bearmq.` + at + ` FOR EACH ROW EXECUTE FUNCTION bearmq.die()`)
	require.ErrorContains(r.t, do(), "the process dies here")
	r.exec(`DROP TRIGGER die ON bearmq.` + at)
}

func aRecoveryThatDies(r *rig) string {
	id := r.plain(1)[0]
	lease := r.claim(1).Lease
	r.kill(r.session)
	r.dies("ticket", func() error {
		_, err := r.Recover(r.ctx(), lease, 3)
		return err
	})
	r.recoverAll()
	r.session = r.newSession()
	if c := r.due(1); len(c.Jobs) != 1 || c.Jobs[0].ID != id {
		return "the job is lost"
	}
	r.exec(`UPDATE bearmq.session SET expires_at = clock_timestamp(), ttl = '0', dead = true WHERE id = $1`, r.session)
	r.recoverAll()
	return ""
}

func (r *rig) tick(tick time.Time) error {
	_, _, err := r.Tick(r.ctx(), "work", "every 1h0m0s", tick, tick.Add(time.Hour), "queue", r.job(""))
	return err
}

func (r *rig) schedule() time.Time {
	r.t.Helper()
	tick := time.Now().UTC().Truncate(time.Hour)
	require.NoError(r.t, r.DeploySchedule(r.ctx(), "work", "every 1h0m0s", tick))
	return tick
}

func aTickThatDies(r *rig) string {
	tick := r.schedule()
	r.dies("job", func() error { return r.tick(tick) })
	require.NoError(r.t, r.tick(tick))
	if n := one[int](r, `SELECT count(*) FROM bearmq.job`); n != 1 {
		return "the slot has no job, or two"
	}
	if next := one[time.Time](r, `SELECT next_at FROM bearmq.schedule`); !next.Equal(tick.Add(time.Hour)) {
		return "the schedule did not go on"
	}
	return ""
}

// Two orchestrators saw that a tick is due.
func aTickOfTwo(r *rig) string {
	tick := r.schedule()
	for range 2 {
		require.NoError(r.t, r.tick(tick))
	}
	if n := one[int](r, `SELECT count(*) FROM bearmq.job`); n != 1 {
		return "the slot has two jobs"
	}
	return ""
}

func (r *rig) retain(keep time.Duration) (deleted int64) {
	r.t.Helper()
	deleted, _, _, err := r.DeleteFinished(r.ctx(), keep, keep, 0, 100)
	require.NoError(r.t, err)
	return deleted
}

func retentionOfYoungJobs(r *rig) string {
	r.plain(1)
	r.complete(r.claim(1))
	if r.retain(time.Hour) > 0 {
		return "a job was deleted before its time"
	}
	return ""
}

// Of a stretch of the log one job is finished and deleted, the other is not.
func retentionDuringALease(r *rig) string {
	two := r.plain(2)
	c := r.claim(2)
	r.complete(c, two[0])
	require.EqualValues(r.t, 1, r.retain(0))
	r.kill(r.session)
	for _, lost := range r.recoverAll() {
		if lost.Job == two[0] {
			return "a finished job is given to another worker"
		}
	}
	return ""
}

// The finish that follows a CompleteTx deletes the ticket of its job, and closes the lease.
func retentionAfterACompleteTx(r *rig) string {
	id := r.plain(1)[0]
	c := r.claim(1)
	require.NoError(r.t, r.CompleteTx(r.ctx(), r.pool, r.session, c.Lease, c.Nonce, id, "", 1, time.Millisecond, nil))
	if r.retain(0) > 0 {
		return "a job was deleted whose lease is not closed"
	}
	r.finish(r.ended(c, OpSettled, 0))
	return ""
}

func aClaimAfterEverythingWasFinished(r *rig) string {
	r.plain(1)
	r.complete(r.claim(1))
	r.plain(1)
	c, err := r.ClaimLog(r.ctx(), r.lane, r.session, 7, 10, 10)
	if err != nil {
		return err.Error()
	}
	require.Len(r.t, c.Jobs, 1, "and not the first again")
	r.complete(c)
	return ""
}

func aClaimOfADeadSession(r *rig) string {
	r.plain(1)
	r.kill(r.session)
	if c := r.claim(1); c.Status != Expired {
		return "a dead session was given jobs"
	}
	return ""
}

func aClaimThatWasGivenBack(r *rig) string {
	r.plain(1)
	require.NoError(r.t, r.ReturnClaim(r.ctx(), r.session, 7))
	c, err := r.ClaimLog(r.ctx(), r.lane, r.session, 7, 10, 10)
	require.NoError(r.t, err)
	if c.Status != Expired {
		return "a claim was made that nobody waits for"
	}
	return ""
}
