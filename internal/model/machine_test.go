package model

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"pgregory.net/rapid"

	"github.com/bearmq/bearmq/internal/pgtest"
	"github.com/bearmq/bearmq/internal/store"
)

// A place to play: a migrated schema, which every case clears.
type site struct {
	pool   *pgxpool.Pool
	schema string
	store  *store.Store

	patience time.Duration // for making a failure shorter
	failed   time.Time     // first
	shortest []string      // what led to a failure
}

func newSite(t *testing.T) *site {
	t.Helper()
	config, err := pgxpool.ParseConfig(pgtest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	schema := pgtest.Schema(t)
	config.MaxConns = 8
	config.ConnConfig.RuntimeParams["synchronous_commit"] = "off" // no server crashes here
	config.ConnConfig.RuntimeParams["lock_timeout"] = "5s"        // nothing may wait for a lock: who holds it waits too
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	s := &site{pool: pool, schema: schema, patience: time.Minute}
	if s.store, err = store.New(pool, schema); err != nil {
		t.Fatal(err)
	}
	if err := s.store.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// sql is a text written for the schema "bearmq".
func (s *site) sql(text string) string {
	return strings.ReplaceAll(text, "bearmq.", pgx.Identifier{s.schema}.Sanitize()+".")
}

// A machine does at random what is done to a job system, and tells a model of it.
type machine struct {
	*site
	*model
	ctx    context.Context
	lanes  []int32
	until  [2]time.Time // by lane: when the last due ticket that was handed out was due
	actors [3]*actor
	trace  []string

	// Counted: steps, claims, transactions, sessions.
	step     int
	nonce    int64
	txs      int
	sessions int
}

// An actor is a producer and a worker with a session.
type actor struct {
	session  *session
	open     *producing
	claims   []*claim
	tx       pgx.Tx        // of a CompleteTx that is open
	entry    *entry        // that it completes
	finished *store.Finish // the last one
	ended    []ending      // of it
}

func newMachine(t *rapid.T, s *site) *machine {
	m := &machine{site: s, model: newModel(), ctx: context.Background()}
	t.Cleanup(m.close)
	// The sequences too: a case that is repeated must fail with the same words, or rapid does not shorten it.
	m.exec(t, `DO $$ BEGIN
		DELETE FROM bearmq.job; DELETE FROM bearmq.ticket; DELETE FROM bearmq.outcome; DELETE FROM bearmq.attempt_error;
		DELETE FROM bearmq.lease; DELETE FROM bearmq.log_interval; DELETE FROM bearmq.lane; DELETE FROM bearmq.session;
		DELETE FROM bearmq.group_anchor; DELETE FROM bearmq.job_group;
		PERFORM setval('bearmq.job_id', 1, false), setval('bearmq.lease_id', 1, false);
	END $$`)
	for _, channel := range []string{"x", "y"} {
		var lane int32
		if err := m.pool.QueryRow(m.ctx, m.sql("SELECT bearmq.make_lane_v1($1, 0::smallint)"), channel).Scan(&lane); err != nil {
			t.Fatal(err)
		}
		m.lanes = append(m.lanes, lane)
	}
	for i := range m.actors {
		m.actors[i] = &actor{}
		m.begin(t, m.actors[i])
	}
	return m
}

// close ends the transactions that a failed case has left open.
func (m *machine) close() {
	for _, a := range m.actors {
		if a != nil && a.open != nil {
			_ = a.open.db.Rollback(m.ctx)
		}
		if a != nil && a.tx != nil {
			_ = a.tx.Rollback(m.ctx)
		}
	}
}

func (m *machine) exec(t *rapid.T, text string, args ...any) {
	if _, err := m.pool.Exec(m.ctx, m.sql(text), args...); err != nil {
		m.fail(t, err)
	}
}

// say adds a line to what is told of a failure.
func (m *machine) say(format string, args ...any) {
	m.step++
	m.trace = append(m.trace, fmt.Sprintf("%3d  ", m.step)+fmt.Sprintf(format, args...))
}

func (m *machine) fail(t *rapid.T, err error) {
	t.Helper()
	if m.failed.IsZero() {
		m.failed = time.Now()
	}
	if m.shortest == nil || len(m.trace) < len(m.shortest) {
		m.shortest = append(m.trace, err.Error())
	}
	t.Fatal(err)
}

func (m *machine) check(t *rapid.T, err error) {
	if err != nil {
		m.fail(t, err)
	}
}

// pick draws one of some, or skips the action where there is none.
func pick[T any](t *rapid.T, label string, some []T) T {
	if len(some) == 0 {
		t.SkipNow()
	}
	return some[rapid.IntRange(0, len(some)-1).Draw(t, label)]
}

// actor draws one that can do something.
func (m *machine) actor(t *rapid.T, can func(*actor) bool) *actor {
	var some []*actor
	for _, a := range m.actors {
		if can(a) {
			some = append(some, a)
		}
	}
	return pick(t, "actor", some)
}

func anybody(*actor) bool { return true }

// only skips an action that would do nothing.
func only(t *rapid.T, useful bool) {
	if !useful {
		t.SkipNow()
	}
}

// lane draws a lane in which jobs stand that are so, committed or about to be.
func (m *machine) lane(t *rapid.T, so func(*job) bool) int {
	var some []int
	for lane := range m.lanes {
		if slices.ContainsFunc(m.jobs, func(j *job) bool { return j.lane == lane && j.tx.committed >= 0 && so(j) }) {
			some = append(some, lane)
		}
	}
	return pick(t, "lane", some)
}

var chance = rapid.Bool()

// actions are what may happen. After each, everything is verified. Rapid prefers the first ones.
func (m *machine) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){"": m.verify}
	for i, do := range []func(*rapid.T){
		m.finish, m.claimLog, m.enqueue, m.claimDue, m.completeTx, m.enqueueTx, m.commit, m.recover,
		m.wait, m.newSession, m.resume, m.open, m.expire, m.unlock, m.forget, m.replay,
		m.giveBack, m.giveBackFirst, m.commitTx, m.rollbackTx, m.rollback, m.renew, m.pause, m.collect,
	} {
		actions[fmt.Sprintf("%02d", i)] = do
	}
	return actions
}
